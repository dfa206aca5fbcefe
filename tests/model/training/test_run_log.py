"""The log of a remote run: written locally, uploaded in the background."""

import json

from model.training import run_log
from model.training.run_log import RunLog
from pipeline.storage.remote import path_from
from pipeline.storage.uploads import Uploads

VALUES = {"masked_lm_loss": 2.5}


def steps(store) -> list[int]:
    lines = store.objects["bucket/run/metrics.jsonl"].splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_log_of_a_remote_run_arrives_while_it_trains(store, monkeypatch):
    monkeypatch.setattr(run_log, "UPLOAD_EVERY_SECS", 0.0)
    uploads = Uploads()
    log = RunLog(path_from("gs://bucket/run"), 0, uploads=uploads)
    log.add(10, "train", VALUES)
    uploads.wait()
    assert steps(store) == [10]
    assert any(key.startswith("bucket/run/logs/events") for key in store.objects)
    log.add(20, "train", VALUES)
    log.sync()
    uploads.wait()
    assert steps(store) == [10, 20]
    assert store.objects["bucket/run/curves.png"].startswith(b"\x89PNG")


def test_a_resumed_log_continues_the_remote_one(store):
    run = path_from("gs://bucket/run")
    log = RunLog(run, 0)
    for step in (10, 20):
        log.add(step, "train", VALUES)
    log.draw()
    resumed = RunLog(run, 10)
    assert [line["step"] for line in resumed.lines()] == [10]
    resumed.add(15, "train", VALUES)
    resumed.draw()
    assert steps(store) == [10, 15]


def test_log_of_a_worker_that_is_not_the_chief_uploads_nothing(store):
    log = RunLog(path_from("gs://bucket/run"), 0, writes=False)
    log.add(10, "train", VALUES)
    log.draw()
    assert store.objects == {}
