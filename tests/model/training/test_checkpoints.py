"""Checkpoints: atomic writes, keeping the last three, reading the last undamaged one."""

import errno
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from model.training.checkpoints import Best, Checkpoints
from pipeline.errors import InputError, JobError
from pipeline.storage.remote import path_from

pytestmark = pytest.mark.usefixtures("printed_engine_notes")


def make_state(value: float = 0.0) -> dict:
    return {
        "model": {
            "layer/kernel": tf.Variable([value, value + 0.5]),
            "layer/bias": tf.Variable(value),
        },
        "step": tf.Variable(int(value), dtype=tf.int64),
    }


def values(state: dict) -> list:
    return [state["model"]["layer/kernel"].numpy().tolist(), int(state["step"])]


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (1, 20, 300, 4000):
        checkpoints.save(step, make_state(float(step)))
    checkpoints.wait()
    return checkpoints


def test_the_last_three_stay(saved: Checkpoints) -> None:
    assert saved.steps() == [20, 300, 4000]


def test_restore_reads_the_last(saved: Checkpoints) -> None:
    state = make_state()
    assert saved.restore(state) == 4000
    assert values(state) == [[4000.0, 4000.5], 4000]


@pytest.mark.parametrize("name", ["[b]", "b[0", "?", "*", "b\\b", "{a,b}"])
def test_a_path_with_the_characters_of_a_glob(name: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / name / "checkpoints")
    checkpoints.save(3, make_state(5.0))
    checkpoints.wait()
    state = make_state()
    assert checkpoints.restore(state) == 3
    assert values(state) == [[5.0, 5.5], 5]


def test_nothing_to_restore(tmp_path: Path) -> None:
    state = make_state(7.0)
    assert Checkpoints(tmp_path / "none").restore(state) is None
    assert values(state) == [[7.0, 7.5], 7]


def test_a_part_of_the_state_can_be_read(saved: Checkpoints) -> None:
    state = make_state()
    assert saved.restore({"model": state["model"]}) == 4000
    assert values(state) == [[4000.0, 4000.5], 0]


FILES = ["checkpoint.index", "checkpoint.data-00000-of-00001", "checksums.json"]


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("damage", ["remove", "truncate"])
@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_damaged_last_checkpoint_is_reported_and_the_previous_one_restored(
    saved: Checkpoints, capsys: pytest.CaptureFixture, name: str, damage: str, has_checksums: bool
) -> None:
    file = saved.directory / "step-00004000" / name
    if not has_checksums:  # as an earlier release wrote it
        (file.parent / "checksums.json").unlink()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    left = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    state = make_state()
    assert saved.restore(state) == 300
    assert values(state) == [[300.0, 300.5], 300]
    said = capsys.readouterr().err
    assert "step-00004000: damaged (" in said
    assert "); falling back to the one before" in said
    assert "step-00004000: kept as damaged-00004000" in said
    assert saved.steps() == [20, 300]
    aside = saved.directory / "damaged-00004000"  # nothing of it is lost
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == left


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_detected_everywhere(saved: Checkpoints, name: str) -> None:
    file = saved.directory / "step-00004000" / name
    whole = file.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        data = bytearray(whole)
        data[place] ^= 4
        file.write_bytes(data)
        state, other = make_state(), Checkpoints(saved.directory, writes=False)
        assert other.restore(state) == 300, place
        assert values(state) == [[300.0, 300.5], 300]
    file.write_bytes(whole)
    assert saved.restore(make_state()) == 4000


@pytest.mark.parametrize("text", ["[" * 100_000, '{"files": {}}', '{"files": []}', "{}", "\xff"])
def test_an_invalid_checksum_file_means_damage(
    saved: Checkpoints, text: str, capsys: pytest.CaptureFixture
) -> None:
    file = saved.directory / "step-00004000" / "checksums.json"
    file.write_text(text, encoding="latin-1")
    assert saved.restore(make_state()) == 300
    assert "step-00004000: damaged (checksums.json" in capsys.readouterr().err


def test_checkpoints_without_checksums_are_read(saved: Checkpoints) -> None:
    for file in saved.directory.glob("*/checksums.json"):
        file.unlink()
    state = make_state()
    assert saved.restore(state) == 4000
    assert values(state) == [[4000.0, 4000.5], 4000]


def test_damaged_twice(saved: Checkpoints) -> None:
    for again in (False, True):
        if again:
            saved.save(4000, make_state(4000.0))
            saved.wait()
        (saved.directory / "step-00004000" / "checkpoint.index").write_bytes(b"")
        assert saved.restore(make_state()) == 300
    aside = sorted(path.name for path in saved.directory.glob("damaged-*"))
    assert aside == ["damaged-00004000", "damaged-00004000-2"]


def test_all_are_damaged(saved: Checkpoints) -> None:
    for file in saved.directory.glob("*/checkpoint.index"):
        file.unlink()
    with pytest.raises(
        InputError, match=r"every checkpoint is damaged \(3 in all\); put one back fr"
    ):
        saved.restore(make_state())
    assert saved.steps() == [20, 300, 4000]  # left for a person to look at


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("name", FILES)
def test_an_unreadable_checkpoint_is_not_reported_as_damaged(
    saved: Checkpoints, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    before = sorted(saved.directory.rglob("*"))
    place = saved.directory / "step-00004000" / name
    opened = Path.open

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == place:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)
    reason = os.strerror(number)
    kind = InputError if number == errno.EACCES else JobError
    with pytest.raises(kind, match=rf"step-00004000: cannot be read: .*{reason}.*nothing was"):
        saved.restore(make_state())
    assert sorted(saved.directory.rglob("*")) == before


def test_a_directory_that_cannot_be_listed_is_not_empty(
    saved: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Path.iterdir

    def fail(path: Path) -> Iterator[Path]:
        if path == saved.directory:
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(InputError, match="checkpoints: cannot be read: Permission denied"):
        saved.restore(make_state())


def test_a_checkpoint_of_another_model_is_not_reported_as_damaged(saved: Checkpoints) -> None:
    other = {"model": {"layer/kernel": tf.Variable([0.0, 0.0, 0.0])}}
    with pytest.raises(InputError, match=r"step-00004000: does not fit the run's config.json: "):
        saved.restore(other)
    assert saved.steps() == [20, 300, 4000]


def test_other_names_are_not_checkpoints(saved: Checkpoints) -> None:
    names = ["step-20.bak", "step-00000020.bak", "step-00009000~", "step-x", "step-9", "step-"]
    for name in names:
        (saved.directory / name).mkdir()
    assert saved.steps() == [20, 300, 4000]
    assert saved.restore(make_state()) == 4000
    saved.save(5000, make_state(5.0))
    saved.wait()
    assert all((saved.directory / name).exists() for name in names)


def test_a_reader_retries_with_checkpoints_that_a_training_wrote_meanwhile(
    saved: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = tf.train.Checkpoint.read

    def read_late(checkpoint: tf.train.Checkpoint, path: str) -> Any:
        if "step-00004000" in os.path.realpath(path):
            for step in (5000, 6000, 7000):
                saved.save(step, make_state(float(step)))
            saved.wait()
        return read(checkpoint, path)

    monkeypatch.setattr(tf.train.Checkpoint, "read", read_late)
    state = make_state()
    assert Checkpoints(saved.directory, writes=False).restore(state) == 7000
    assert values(state) == [[7000.0, 7000.5], 7000]


def test_files_of_a_killed_save_are_not_a_checkpoint(saved: Checkpoints) -> None:
    partial = saved.directory / "partial-5000"
    partial.mkdir()
    (partial / "checkpoint.index").write_bytes(b"half")
    (saved.directory / "partial-mine").mkdir()
    assert saved.restore(make_state()) == 4000
    assert not partial.exists()
    assert (saved.directory / "partial-mine").exists()


def test_a_checkpoint_contains_the_state_at_the_time_of_the_save(tmp_path: Path) -> None:
    checkpoints, state = Checkpoints(tmp_path), make_state(5.0)
    checkpoints.save(5, state)
    state["model"]["layer/kernel"].assign([0.0, 0.0])  # training continues
    checkpoints.wait()
    found = make_state()
    assert checkpoints.restore(found) == 5
    assert values(found) == [[5.0, 5.5], 5]


def test_the_best_checkpoint_is_kept_besides_the_last_three(saved: Checkpoints) -> None:
    saved.mark_best(300, "f1", 0.25)
    for step in (5000, 6000, 7000, 8000):
        saved.save(step, make_state(float(step)))
    saved.wait()
    assert saved.steps() == [300, 6000, 7000, 8000]
    assert Checkpoints(saved.directory).best == Best(300, "f1", 0.25)
    text = (saved.directory / "best.json").read_text()
    assert json.loads(text) == {"step": 300, "metric": "f1", "value": 0.25}
    state = make_state()
    assert saved.restore_best(state) == 300
    assert values(state) == [[300.0, 300.5], 300]
    saved.mark_best(7000, "f1", 0.5)
    assert saved.steps() == [6000, 7000, 8000]


def test_no_best_checkpoint(saved: Checkpoints) -> None:
    assert saved.best is None
    with pytest.raises(InputError, match="no best checkpoint; train with `eval_every_steps`"):
        saved.restore_best(make_state())


def test_best_json_of_an_earlier_release(saved: Checkpoints) -> None:
    (saved.directory / "best.json").write_text('{"step": 300, "loss": 0.75}')
    assert saved.best == Best(300, None, 0.75)
    state = make_state()
    assert saved.restore_best(state) == 300
    assert values(state) == [[300.0, 300.5], 300]


def test_a_damaged_or_missing_best_checkpoint(saved: Checkpoints) -> None:
    saved.mark_best(300, "f1", 0.25)
    file = saved.directory / "step-00000300" / "checkpoint.index"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(
        InputError,
        match=r"step-00000300: the best checkpoint is damaged \(checkpoint.index does not have the "
        r"checksum of checksums.json\); .*or give `checkpoint` last",
    ):
        saved.restore_best(make_state())
    assert saved.steps() == [20, 300, 4000]
    shutil.rmtree(file.parent)
    with pytest.raises(InputError, match=r"step-00000300: the best checkpoint is missing; put it"):
        saved.restore_best(make_state())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"step": 300}',
        '{"step": 300, "metric": "f1"}',
        '{"step": Infinity, "metric": "f1", "value": 0.5}',
    ],
)
def test_a_damaged_best_json(saved: Checkpoints, text: str) -> None:
    (saved.directory / "best.json").write_text(text)
    with pytest.raises(InputError, match=r"best.json: damaged: .*; remove it: the next evaluation"):
        saved.restore_best(make_state())


@pytest.mark.parametrize("last", [99, 9000])
def test_a_plain_file_with_the_name_of_a_checkpoint_is_ignored(
    saved: Checkpoints, last: int
) -> None:
    (saved.directory / f"step-{last:08}").write_text("a user's notes")
    assert saved.steps() == [20, 300, 4000]
    assert Checkpoints(saved.directory).restore(make_state()) == 4000
    assert (saved.directory / f"step-{last:08}").read_text() == "a user's notes"


def test_roll_back(saved: Checkpoints) -> None:
    state = make_state(4.0)
    saved.hold(state)
    state["model"]["layer/kernel"].assign([math.nan, 0.0])
    saved.roll_back(state)
    assert values(state) == [[4.0, 4.5], 4]


def test_a_failed_save_is_reported_and_leaves_no_files(
    saved: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    saved.save(5000, make_state(5.0))
    with pytest.raises(
        JobError, match=r"step-00005000: cannot be written: No space left .* intact"
    ):
        saved.wait()
    assert saved.steps() == [20, 300, 4000]
    assert not list(saved.directory.glob("partial-*"))


def test_only_the_writer_modifies_the_directory(saved: Checkpoints) -> None:
    (saved.directory / "partial-5000").mkdir()
    other = Checkpoints(saved.directory, writes=False)
    assert other.restore(make_state()) == 4000
    other.save(9000, make_state(9.0))
    other.mark_best(4000, "loss", 1.0)
    other.wait()
    assert saved.steps() == [20, 300, 4000]
    assert saved.best is None
    assert (saved.directory / "partial-5000").exists()


@pytest.fixture
def remote(store: Any) -> Checkpoints:
    checkpoints = Checkpoints(path_from("gs://bucket/run/checkpoints"), keep=2)
    for step in (1, 20, 300):
        checkpoints.save(step, make_state(float(step)))
    checkpoints.wait()
    return checkpoints


def test_remote_checkpoints_are_kept_and_restored(store: Any, remote: Checkpoints) -> None:
    assert remote.steps() == [20, 300]
    state = make_state()
    assert Checkpoints(remote.directory, writes=False).restore(state) == 300
    assert values(state) == [[300.0, 300.5], 300]
    assert {key.split("/")[3] for key in store.objects} == {"step-00000020", "step-00000300"}


def test_checksums_of_a_remote_checkpoint_are_written_last_and_removed_first(
    store: Any, remote: Checkpoints
) -> None:
    for method, step in (("put", 300), ("rm", 1)):
        names = [
            key.rsplit("/", 1)[1]
            for what, key in store.requests
            if what == method and f"step-{step:08d}" in key
        ]
        assert sorted(names) == sorted(FILES)
        assert names.index("checksums.json") == (2 if method == "put" else 0)


def test_best_remote_checkpoint_stays(remote: Checkpoints) -> None:
    remote.mark_best(20, "loss", 1.5)
    for step in (400, 500):
        remote.save(step, make_state(float(step)))
    remote.wait()
    assert remote.steps() == [20, 400, 500]
    state = make_state()
    again = Checkpoints(remote.directory, writes=False)
    assert again.best == Best(20, "loss", 1.5)
    assert again.restore_best(state) == 20


def test_remote_best_points_to_a_whole_checkpoint_at_all_times(
    store: Any, remote: Checkpoints
) -> None:
    remote.mark_best(300, "loss", 1.5)
    remote.wait()

    def check(method: str, key: str) -> None:
        marked = json.loads(store.objects["bucket/run/checkpoints/best.json"])["step"]
        assert f"bucket/run/checkpoints/step-{marked:08d}/checksums.json" in store.objects

    store.fail = check
    for step in (400, 500, 600):
        remote.save(step, make_state(float(step)))
    remote.mark_best(600, "loss", 1.0)
    remote.save(700, make_state(700.0))
    remote.save(800, make_state(800.0))
    remote.wait()
    assert remote.steps() == [600, 700, 800]


@pytest.mark.parametrize("missing", [1, 2])
def test_a_partially_uploaded_checkpoint_is_removed(
    store: Any, remote: Checkpoints, missing: int
) -> None:
    for name in [*FILES[::-1]][:missing]:
        del store.objects[f"bucket/run/checkpoints/step-00000300/{name}"]
    state = make_state()
    assert Checkpoints(remote.directory, writes=False).restore(state) == 20
    assert Checkpoints(remote.directory).restore(state) == 20
    assert not any("step-00000300" in key for key in store.objects)


def test_damaged_remote_checkpoint_is_set_aside(
    store: Any, remote: Checkpoints, capsys: pytest.CaptureFixture
) -> None:
    store.objects[f"bucket/run/checkpoints/step-00000300/{FILES[1]}"] += b"x"
    state = make_state()
    assert remote.restore(state) == 20
    assert "gs://bucket/run/checkpoints/step-00000300: damaged" in capsys.readouterr().err
    assert f"bucket/run/checkpoints/damaged-00000300/{FILES[1]}" in store.objects
    assert remote.steps() == [20]


def test_uploads_run_in_the_background(store: Any, remote: Checkpoints) -> None:
    may_go_on = threading.Event()
    store.fail = lambda method, key: may_go_on.wait(60) and None
    remote.save(400, make_state(400.0))
    remote.hold(make_state(401.0))  # returns while the upload waits
    remote.mark_best(400, "loss", 1.0)
    remote.check()
    may_go_on.set()
    remote.wait()
    assert remote.steps() == [300, 400]
    assert remote.best == Best(400, "loss", 1.0)


def test_a_failed_upload_is_reported_once_and_earlier_checkpoints_stay(
    store: Any, remote: Checkpoints
) -> None:
    def fail(method: str, key: str) -> None:
        if method == "put":
            raise ConnectionResetError("cut")

    store.fail = fail
    remote.save(400, make_state(400.0))
    with pytest.raises(JobError, match=r"gs://bucket/run/checkpoints/step-00000400/.*: cut"):
        remote.wait()
    assert remote.steps() == [20, 300]
