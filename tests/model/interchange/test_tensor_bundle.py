"""The reader of TensorFlow's checkpoints against TensorFlow's own writer."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model.interchange import tensor_bundle
from model.interchange.tensor_bundle import open_bundle
from pipeline.errors import InputError

RNG = np.random.default_rng(8)
TENSORS = {
    # Every 16th name is written in full, the others share a prefix with the one before.
    **{f"bert/layer_{n:02}/kernel": RNG.normal(size=(2, n)).astype(np.float32) for n in range(40)},
    "scalar": np.float32(0.5),
    "half": RNG.normal(size=3).astype(np.float16),
    "global_step": np.int64(7),
}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    path = tmp_path / "model.ckpt-1"
    names, values = zip(*TENSORS.items(), strict=True)
    tf.raw_ops.SaveV2(
        prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names),
        tensors=[tf.constant(value) for value in values],
    )  # fmt: skip
    return path


def test_every_tensor_is_read_as_it_was_written(prefix: Path) -> None:
    source = open_bundle(prefix)
    assert source.shapes == {name: np.shape(value) for name, value in TENSORS.items()}
    for name, value in TENSORS.items():
        if name != "global_step":
            found = source.read(name)
            np.testing.assert_array_equal(found, value, strict=isinstance(value, np.ndarray))


def test_a_checkpoint_of_several_files(tmp_path: Path) -> None:
    for part, names in enumerate((["a", "c"], ["b"])):
        tf.raw_ops.SaveV2(
            prefix=str(tmp_path / f"part{part}"), tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.fill([3], float(ord(name))) for name in names],
        )  # fmt: skip
    parts = [str(tmp_path / "part0"), str(tmp_path / "part1")]
    whole = tmp_path / "whole"
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(whole))
    source = open_bundle(whole)
    assert {name: source.read(name).tolist() for name in source.shapes} == {
        name: [float(ord(name))] * 3 for name in "abc"
    }


def test_integers_are_not_weights(prefix: Path) -> None:
    with pytest.raises(InputError, match="global_step is int64, not floating point"):
        open_bundle(prefix).read("global_step")


@pytest.mark.parametrize("at", [0, 60, -60])
def test_a_changed_bit_is_noticed(prefix: Path, at: int) -> None:
    """In the data when the tensor is read, in the index when it is opened."""
    data = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[at] ^= 1
    data.write_bytes(content)
    source = open_bundle(prefix)
    with pytest.raises(InputError, match="is damaged: its checksum differs"):
        [source.read(name) for name in TENSORS if name != "global_step"]
    index = prefix.with_name(f"{prefix.name}.index")
    content = bytearray(index.read_bytes())
    content[at] ^= 1
    index.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        open_bundle(prefix)


@pytest.mark.parametrize(
    ("data", "number"), [(b"\x01", 1), (b"\xac\x02", 300), (b"\xff" * 9 + b"\x01", 2**64 - 1)]
)
def test_varints(data: bytes, number: int) -> None:
    """300 is the example of Protocol Buffers' documentation."""
    assert tensor_bundle._varints(data, 0, 1) == ([number], len(data))


def test_an_endless_varint_is_bounded() -> None:
    (number,), end = tensor_bundle._varints(b"\xff" * 1000, 0, 1)
    assert end == 10
    assert number < 2**71
