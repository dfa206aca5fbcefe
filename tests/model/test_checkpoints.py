"""Checkpoints: whole or not there, the last three, and the last that can be read."""

from pathlib import Path

import pytest
import tensorflow as tf

from model.checkpoints import Checkpoints
from pipeline.errors import InputError


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
