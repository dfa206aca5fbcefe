"""The gate compares every output, and rejects every wrong one."""

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.run import Run
from pipeline.errors import JobError
from serving.export import fresh_process, gate
from serving.export.golden import Golden, Reference, largest_difference
from serving.export.signatures import TextModel
from serving.export.warmup_requests import write_warm_up
from serving.tf_serving import WARM_UP_FILE

Answers = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def signatures(trained_run: Run) -> Any:
    return TextModel(trained_run, trained_run.load_model()).signatures()


@pytest.fixture(scope="module")
def asked(trained_run: Run, signatures: Any) -> dict[str, tuple[Golden, Answers]]:
    """Each signature's golden request, and the graph's outputs."""
    goldens = Reference(trained_run, trained_run.load_model()).golden(signatures)
    return {
        golden.signature: (
            golden,
            {
                name: value.numpy()
                for name, value in signatures[golden.signature](
                    **{name: tf.constant(value) for name, value in golden.inputs.items()}
                ).items()
            },
        )
        for golden in goldens
    }


def test_right_answers_pass(trained_run: Run, asked: Any, signatures: Any) -> None:
    assert asked.keys() == signatures.keys()
    for golden, answer in asked.values():
        assert largest_difference(golden, answer, trained_run.vocabulary.ids) < 1e-5


def test_every_wrong_output_is_detected(trained_run: Run, asked: Any) -> None:
    """Each output of each signature, changed at one place of one row."""
    for signature, (golden, answer) in asked.items():
        for name, values in answer.items():
            wrong = values.copy()
            place = np.unravel_index(0, values.shape)
            if values.dtype.kind == "O":
                wrong[place] = b"owl" if values[place] != b"owl" else b"fox"
            elif values.dtype.kind == "b":
                wrong[place] = not values[place]
            else:
                wrong[place] += 1
            ids = trained_run.vocabulary.ids
            assert largest_difference(golden, {**answer, name: wrong}, ids) > 1e-3, (
                signature,
                name,
            )
            if values.dtype.kind == "f":
                wrong[place] = np.nan
                assert largest_difference(golden, {**answer, name: wrong}, ids) == np.inf


def test_missing_padding_is_detected(trained_run: Run, asked: Any) -> None:
    golden, answer = asked["embed_tokens"]
    for name, value in (("vectors", 0.5), ("tokens", b"owl")):
        wrong = answer[name].copy()
        wrong[0, -1] = value  # of a short text in a batch with a long one
        changed = {**answer, name: wrong}
        assert largest_difference(golden, changed, trained_run.vocabulary.ids) > 0.05


def test_fillings_as_likely_as_each_other_may_change_places() -> None:
    row = {
        "fillings": np.array([[0.4, 0.3, 0.3 - 1e-7]], np.float32),
        "positions": np.array([1], np.int32),
    }
    golden = Golden("fill_mask", {}, [row])
    ids = {"boat": 0, "owl": 1, "fox": 2}

    def answer(*tokens: bytes) -> Answers:
        return {
            "tokens": np.array([[tokens]], object),
            "probabilities": np.array([[[0.4, 0.3]]], np.float32),
            "positions": np.array([[1]], np.int32),
        }

    assert largest_difference(golden, answer(b"boat", b"owl"), ids) < 1e-6
    assert largest_difference(golden, answer(b"boat", b"fox"), ids) < 1e-6
    assert largest_difference(golden, answer(b"owl", b"boat"), ids) > 0.05
    assert largest_difference(golden, answer(b"boat", b""), ids) == np.inf


@pytest.mark.parametrize("answered", [b"pos", b"", b"positive\0"])
def test_a_text_that_begins_like_the_expected_one_is_wrong(answered: bytes) -> None:
    golden = Golden("classify", {}, [{"label": np.array(b"positive", object)}])
    assert largest_difference(golden, {"label": np.array([b"positive"], object)}, {}) == 0
    assert largest_difference(golden, {"label": np.array([answered], object)}, {}) == np.inf


def test_a_wrong_warm_up_request_is_not_published(
    trained_run: Run, exported: Path, signatures: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    write_warm_up(
        copy / WARM_UP_FILE, "fox", {"emded": signatures["embed"]}, trained_run.vocabulary
    )
    with pytest.raises(JobError, match=r"not exported.*cannot run it: KeyError: 'emded'"):
        gate.check(copy, [], trained_run.vocabulary, 1e-5)


@pytest.mark.parametrize("module", ["keras", "keras_hub", "serving.export.signatures", "model"])
def test_the_fresh_process_has_no_keras_and_nothing_of_ours(module: str) -> None:
    script = (
        "import runpy, sys\n"
        "forbid = runpy.run_path(sys.argv[1])['Forbid']\n"
        "sys.meta_path.insert(0, forbid())\n"
        "import json, numpy\n"
        f"import {module}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, fresh_process.__file__], capture_output=True, text=True
    )
    assert "is not there in a model server" in done.stderr


EXPORTING = "import subprocess, sys; subprocess.run(sys.argv[1:])"


def test_the_fresh_process_ends_when_the_export_is_killed(tmp_path: Path) -> None:
    """It waits for requests, from a pipe into which nothing is written."""
    tf.saved_model.save(tf.Module(), str(tmp_path / "model"))
    requests = tmp_path / "requests"
    os.mkfifo(requests)
    program = [fresh_process.__file__, str(tmp_path / "model"), str(requests), "answers"]
    alive, write_end = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", EXPORTING, sys.executable, *program], stdout=write_end
    ) as exporting:
        os.close(write_end)
        held = None
        while held is None and exporting.poll() is None:
            try:
                held = os.open(requests, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                time.sleep(0.05)
        assert held is not None
        exporting.kill()
    try:
        has_ended, _, _ = select.select([alive], [], [], 120)
        assert has_ended  # it has no standard output any more
    finally:
        os.close(held)  # else it would wait for ever
        os.close(alive)
