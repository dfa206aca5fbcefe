"""The order of the train stream, skipping, the eval split, damaged files."""

import gzip
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

import clozeline
from model.training.input import corrupt_files_named, eval_batches, shard_files, train_batches
from pipeline.errors import InputError
from pipeline.manifest import MANIFEST, read_manifest

TRAIN, EVAL = 40, 11  # the fixture's records

Markers = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(params=["streams", "old"])
def take(
    request: pytest.FixtureRequest, dataset: Path, old_dataset: Path, markers: Markers
) -> Callable[..., list[int]]:
    """Return the markers of some examples of the train stream, of a dataset of either order."""
    directory = dataset if request.param == "streams" else old_dataset

    def of(examples: int, *, seed: int = 3, skip: int = 0, batch_size: int = 1) -> list[int]:
        stream = train_batches(
            directory,
            read_manifest(directory),
            batch_size=batch_size,
            seed=seed,
            skip_examples=skip,
        )
        batches = stream.take(examples // batch_size)
        return [int(m) for batch in batches for m in markers(batch["input_ids"].numpy())]

    return of


def test_every_epoch_has_every_record_once_in_another_order(take: Callable) -> None:
    stream = take(3 * TRAIN)
    epochs = [stream[i * TRAIN : (i + 1) * TRAIN] for i in range(3)]
    assert all(sorted(epoch) == list(range(TRAIN)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_depends_on_the_seed_alone(take: Callable) -> None:
    first = take(TRAIN)
    tf.random.set_seed(99)
    assert take(TRAIN) == first
    assert take(TRAIN, seed=4) != first


@pytest.mark.parametrize(("skip", "batch_size"), [(1, 1), (40, 1), (97, 1), (36, 12), (40, 8)])
def test_skipping_gives_the_rest_of_the_same_stream(
    take: Callable, skip: int, batch_size: int
) -> None:
    whole = take(skip + 72, batch_size=batch_size)
    assert take(72, skip=skip, batch_size=batch_size) == whole[skip:]


def test_processes_and_devices_share_the_same_batches(
    tmp_path: Path, make_dataset: Callable, markers: Markers
) -> None:
    """Each process has its rows of the global batch, in the parts of its devices."""
    dataset = tmp_path / "dataset"
    manifest = make_dataset(dataset, train=(150, 90), streams=4)

    def rows(processes: int, devices: int) -> list[list[int]]:
        parts = []
        for index in range(processes):
            context = tf.distribute.InputContext(processes, index, processes * devices)
            stream = train_batches(
                dataset, manifest, context, batch_size=12, seed=3, skip_examples=24
            )
            batches = stream.take(5 * devices).as_numpy_iterator()
            numbers = [markers(batch["input_ids"]) for batch in batches]
            assert {len(each) for each in numbers} == {12 // processes // devices}
            parts.append(np.reshape(numbers, [5, -1]))
        return np.concatenate(parts, axis=1).tolist()

    whole = rows(1, 1)
    assert len({tuple(row) for row in whole}) == 5
    for processes, devices in ((1, 2), (2, 1), (2, 3), (3, 2), (4, 1), (12, 1)):
        assert rows(processes, devices) == whole


def test_batches_run_across_the_ends_of_epochs(dataset: Path, markers: Markers) -> None:
    manifest = read_manifest(dataset)
    stream = train_batches(dataset, manifest, batch_size=32, seed=3, skip_examples=0)
    batches = [markers(batch["input_ids"].numpy()) for batch in stream.take(5)]
    assert [len(batch) for batch in batches] == [32] * 5
    assert np.bincount(np.concatenate(batches)).tolist() == [4] * TRAIN


def test_features_are_the_schema_in_int32(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    batches = train_batches(dataset, manifest, batch_size=4, seed=3, skip_examples=0)
    spec = batches.element_spec
    assert {name: (value.dtype, value.shape) for name, value in spec.items()} == {
        feature.name: (
            tf.float32 if feature.kind == "float32" else tf.int32,
            tf.TensorShape([4, feature.length]),
        )
        for feature in manifest.features
    } | {"example_weights": (tf.float32, tf.TensorShape([4]))}


@pytest.mark.parametrize(("batch_size", "count"), [(4, 3), (8, 2), (11, 1)])
def test_eval_split_comes_once_and_filler_has_no_weight(
    dataset: Path, markers: Markers, batch_size: int, count: int
) -> None:
    manifest = read_manifest(dataset)
    stream = eval_batches(dataset, manifest, "eval", batch_size=batch_size)
    batches = list(stream.as_numpy_iterator())
    assert [len(batch["example_weights"]) for batch in batches] == [batch_size] * count
    joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    weights = joined["example_weights"]
    numbers = markers(joined["input_ids"])[weights == 1]
    assert sorted(numbers) == list(range(TRAIN, TRAIN + EVAL))
    assert weights.sum() == EVAL
    assert not joined["masked_lm_weights"][weights == 0].any()
    assert joined["masked_lm_weights"][weights == 1].any(axis=1).all()


@pytest.fixture(params=[64, None], ids=["streams", "old"])
def broken(tmp_path: Path, make_dataset: Callable, request: pytest.FixtureRequest) -> Path:
    """A dataset of its own, to be damaged."""
    make_dataset(tmp_path / "broken", streams=request.param)
    return tmp_path / "broken"


def read_all(dataset: Path, *, before: Callable[[], None] = lambda: None) -> None:
    """Read an epoch and more, as a training does, after something has happened to the files."""
    manifest = read_manifest(dataset)
    files = shard_files(dataset, manifest)
    before()
    with corrupt_files_named(dataset, manifest, files):
        stream = train_batches(
            dataset, manifest, batch_size=8, seed=1, skip_examples=0, files=files
        )
        list(stream.take(9))


def test_a_damaged_record_is_named(broken: Path) -> None:
    file = broken / "train-00001-of-00002.tfrecord"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"train-00001-of-00002.tfrecord: record 8 is corrupt"):
        read_all(broken)


def test_a_deleted_file_is_named(broken: Path) -> None:
    with pytest.raises(InputError, match=r"train-00001-of-00002.tfrecord: is missing; put it back"):
        read_all(broken, before=(broken / "train-00001-of-00002.tfrecord").unlink)


LENGTH = struct.pack("<Q", 1 << 40)
CRC = google_crc32c.value(LENGTH)
LYING = LENGTH + struct.pack("<I", ((CRC >> 15 | CRC << 17) + 0xA282EAD8) & 0xFFFFFFFF) + b"tiny"
"""The beginning of a record of 2^40 bytes, by its length and the length's checksum."""

READ_THEM = """
import sys
from pathlib import Path
from model.training.input import corrupt_files_named, eval_batches, train_batches
from pipeline.errors import InputError
from pipeline.inspection import read_records
from pipeline.manifest import read_manifest
for dataset in map(Path, sys.argv[1:]):
    manifest = read_manifest(dataset)
    for stream in (
        lambda: train_batches(dataset, manifest, batch_size=8, seed=1, skip_examples=0).take(9),
        lambda: eval_batches(dataset, manifest, "eval", batch_size=8),
        lambda: read_records(dataset / manifest.splits["eval"][0].name, manifest),
    ):
        try:
            with corrupt_files_named(dataset, manifest):
                list(stream())
        except InputError as error:
            print(error)
"""


def append_a_terabyte(dataset: Path, compression: str) -> None:
    """Let every file of a dataset end with a record that lies about its length."""
    settings = json.loads((dataset / MANIFEST).read_text())
    settings["settings"]["compression"] = compression
    for split in ("train", "eval"):
        for shard in settings["splits"][split]:
            file = dataset / shard["name"]
            data = file.read_bytes() + LYING
            file.write_bytes(data if compression == "none" else gzip.compress(data))
            shard["size_bytes"] = file.stat().st_size
            shard["examples"] += 1
    (dataset / MANIFEST).write_text(json.dumps(settings))


@pytest.mark.slow
def test_a_length_of_a_terabyte_is_a_one_line_error(tmp_path: Path, make_dataset: Callable) -> None:
    datasets = []
    for streams in (64, None):
        for compression in ("none", "gzip"):
            datasets.append(tmp_path / f"{streams}-{compression}")
            make_dataset(datasets[-1], train=(23, 17), streams=streams)
            append_a_terabyte(datasets[-1], compression)
    # In a process of its own, which such a record used to end by a signal.
    done = subprocess.run(
        [sys.executable, "-c", READ_THEM, *map(str, datasets)],
        cwd=Path(clozeline.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 3 * len(datasets)
    for line, dataset in zip(lines, [each for each in datasets for _ in range(3)], strict=True):
        assert line.startswith(f"{dataset}/")
        assert ".tfrecord: record " in line
        assert "is corrupt or truncated" in line


def test_a_record_without_the_features_is_named(broken: Path) -> None:
    file = broken / "train-00000-of-00002.tfrecord"
    with tf.io.TFRecordWriter(str(file)) as writer:
        for _ in range(23):
            writer.write(tf.train.Example().SerializeToString())
    path = broken / MANIFEST
    settings = json.loads(path.read_text())
    settings["splits"]["train"][0]["size_bytes"] = file.stat().st_size
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"train-00000-of-00002.tfrecord: record 0 does not have"):
        read_all(broken)


def test_a_dataset_that_changes_while_it_trains(tmp_path: Path, make_dataset: Callable) -> None:
    """Another dataset with as many records takes the place of the one that the training reads."""
    make_dataset(tmp_path / "first", seed=1)
    second = make_dataset(tmp_path / "second", seed=2)

    def replace_files() -> None:
        for shard in second.splits["train"]:
            (tmp_path / "second" / shard.name).replace(tmp_path / "first" / shard.name)

    with pytest.raises(InputError) as refused:
        read_all(tmp_path / "first", before=replace_files)
    message = str(refused.value)
    assert re.search(r"train-0000\d-of-00002.tfrecord: has changed since the training", message)
    number = int(message.partition("train-")[2][:5])
    assert f"its CRC-32C is {second.splits['train'][number].crc32c}, in the manifest" in message


def test_files_that_are_written_again_with_the_same_bytes(
    tmp_path: Path, make_dataset: Callable
) -> None:
    make_dataset(tmp_path / "first")

    def copy_files() -> None:
        for path in (tmp_path / "first").glob("*.tfrecord"):
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)

    read_all(tmp_path / "first", before=copy_files)


def test_other_errors_pass_through(dataset: Path) -> None:
    with (
        pytest.raises(tf.errors.InvalidArgumentError),
        corrupt_files_named(dataset, read_manifest(dataset)),
    ):
        tf.reshape(tf.zeros([3]), [2])
