"""Checkpoints: whole or not there, the last three, and the last that can be read."""

import math
from pathlib import Path

import pytest
import tensorflow as tf

from model.checkpoints import Checkpoints
from pipeline.errors import InputError, JobError


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


def test_nothing_to_restore(tmp_path: Path) -> None:
    state = make_state(7.0)
    assert Checkpoints(tmp_path / "none").restore(state) is None
    assert values(state) == [[7.0, 7.5], 7]


def test_a_part_of_the_state_can_be_read(saved: Checkpoints) -> None:
    state = make_state()
    assert saved.restore({"model": state["model"]}) == 4000
    assert values(state) == [[4000.0, 4000.5], 0]


@pytest.mark.parametrize("name", ["checkpoint.index", "checkpoint.data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["remove", "truncate"])
def test_an_unreadable_last_one_is_said_and_the_one_before_used(
    saved: Checkpoints, capsys: pytest.CaptureFixture, name: str, damage: str
) -> None:
    file = saved.directory / "step-00004000" / name
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    state = make_state()
    assert saved.restore(state) == 300
    assert values(state) == [[300.0, 300.5], 300]
    assert "step-00004000: cannot be read; going back" in capsys.readouterr().err
    assert saved.steps() == [20, 300]


def test_a_flipped_bit_is_noticed(saved: Checkpoints) -> None:
    file = saved.directory / "step-00004000" / "checkpoint.data-00000-of-00001"
    data = bytearray(file.read_bytes())
    data[1] ^= 4
    file.write_bytes(data)
    assert saved.restore(make_state()) == 300


def test_none_can_be_read(saved: Checkpoints) -> None:
    for file in saved.directory.glob("*/checkpoint.index"):
        file.unlink()
    with pytest.raises(InputError, match=r"none of the 3 checkpoints can be read; remove the dir"):
        saved.restore(make_state())
    assert saved.steps() == [20, 300, 4000]  # left for a person to look at


def test_what_a_killed_save_leaves_is_no_checkpoint(saved: Checkpoints) -> None:
    partial = saved.directory / "partial-5000"
    partial.mkdir()
    (partial / "checkpoint.index").write_bytes(b"half")
    assert saved.restore(make_state()) == 4000
    assert not partial.exists()


def test_what_is_written_is_the_state_at_the_save(tmp_path: Path) -> None:
    checkpoints, state = Checkpoints(tmp_path), make_state(5.0)
    checkpoints.save(5, state)
    state["model"]["layer/kernel"].assign([0.0, 0.0])  # the training goes on
    checkpoints.wait()
    found = make_state()
    assert checkpoints.restore(found) == 5
    assert values(found) == [[5.0, 5.5], 5]


def test_the_best_stays_beside_the_last_three(saved: Checkpoints) -> None:
    saved.mark_best(300, 2.5)
    for step in (5000, 6000, 7000, 8000):
        saved.save(step, make_state(float(step)))
    saved.wait()
    assert saved.steps() == [300, 6000, 7000, 8000]
    assert Checkpoints(saved.directory).best == (300, 2.5)
    state = make_state()
    assert saved.restore_best(state) == 300
    assert values(state) == [[300.0, 300.5], 300]
    saved.mark_best(7000, 2.25)
    assert saved.steps() == [6000, 7000, 8000]


def test_no_best_one(saved: Checkpoints) -> None:
    assert saved.best is None
    with pytest.raises(InputError, match="no best checkpoint; train with --eval-every-steps"):
        saved.restore_best(make_state())


def test_roll_back(saved: Checkpoints) -> None:
    state = make_state(4.0)
    saved.hold(state)
    state["model"]["layer/kernel"].assign([math.nan, 0.0])
    saved.roll_back(state)
    assert values(state) == [[4.0, 4.5], 4]


def test_a_save_that_fails_is_said_and_leaves_nothing(
    saved: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    saved.save(5000, make_state(5.0))
    with pytest.raises(JobError, match=r"step-00005000: cannot be written: No space left .* whole"):
        saved.wait()
    assert saved.steps() == [20, 300, 4000]
    assert not list(saved.directory.glob("partial-*"))


def test_only_the_writer_changes_the_directory(saved: Checkpoints) -> None:
    (saved.directory / "partial-5000").mkdir()
    other = Checkpoints(saved.directory, writes=False)
    assert other.restore(make_state()) == 4000
    other.save(9000, make_state(9.0))
    other.mark_best(4000, 1.0)
    other.wait()
    assert saved.steps() == [20, 300, 4000]
    assert saved.best is None
    assert (saved.directory / "partial-5000").exists()
