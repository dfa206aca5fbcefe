"""Measure what training reads of a dataset: bytes of each process, and time to the first batch.

    make bench                            # with all other benchmarks
    python -m benchmarks.reading --quick  # a hundredth of the records, a smoke test

The dataset is synthetic: 10,000,000 records of few positions in 64 files. The files are hard
links to one, so it takes the disk space of one, and is in the page cache throughout: what is
measured is the work of the process, not the disk.
"""

import dataclasses
import gc
import itertools
import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.commands import BUILD
from benchmarks.preprocessing import Row
from clozeline.show.terminal import results, table
from model.training.record_streams import StreamReader
from model.training.stream_order import StreamOrder
from pipeline.configs import PreprocessConfig
from pipeline.manifest import MANIFEST, VOCABULARY, Manifest, Shard, sha256
from pipeline.quiet_imports import import_quietly
from pipeline.schema import SPECIAL_TOKENS, record_features
from pipeline.storage.files import crc32c
from pipeline.storage.shard_files import ShardFiles
from pipeline.storage.tfrecords import INDEX_RECORDS, record_bytes

FOLDER = BUILD / "reading"
FILES = 64
EXAMPLES = 10_000_000
LENGTH, PREDICTIONS = 8, 1
BATCH_SIZE = 64
SPLIT = "train"
PROCESSES = (1, 2, 4, 8)
MEASURED_SHARE = 1 / 10
"""Share of an epoch whose bytes are counted."""
PLACES = (0.0, 0.5, 0.99)
"""Shares of the epoch before the first batch."""
REPEATS = 9


def main(*, quick: bool = False) -> None:
    """Measure, print, and write the figures to build/bench/reading.json.

    Args:
        quick: make a hundredth of the records, as a smoke test.
    """
    import_quietly("tensorflow")
    shutil.rmtree(FOLDER, ignore_errors=True)
    manifest = make_dataset(FOLDER, EXAMPLES // FILES // (100 if quick else 1))
    rows = [*bytes_read(manifest), *first_batch(manifest)]
    cells = [[*astuple(row)[:-1], "yes" if row.reached else "no"] for row in rows]
    columns = ("reading", "measured", "compared with", "ratio", "target", "met")
    results.print(table("", columns, cells))
    figures = BUILD / "reading.json"
    figures.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    results.print(f"figures: {figures}")
    shutil.rmtree(FOLDER)


def make_dataset(folder: Path, examples: int, files: int = FILES) -> Manifest:
    """Make a dataset of files with this number of records each, and return its manifest."""
    import tensorflow as tf

    folder.mkdir(parents=True)
    first = folder / "records"
    ends = [0]
    with tf.io.TFRecordWriter(str(first)) as writer:
        for record in _records(examples):
            writer.write(record)
            ends.append(ends[-1] + record_bytes(record))
    facts = (examples, examples * LENGTH, ends[-1], crc32c(first), tuple(ends[:-1:INDEX_RECORDS]))
    shards = [Shard(f"{SPLIT}-{n:05d}-of-{files:05d}.tfrecord", *facts) for n in range(files)]
    for shard in shards:
        os.link(first, folder / shard.name)
    vocabulary = "".join(f"{piece}\n" for piece in SPECIAL_TOKENS).encode()
    (folder / VOCABULARY).write_bytes(vocabulary)
    manifest = Manifest(
        settings={
            "pairing": "none", "masks": "static", "compression": "none",
            "streams": PreprocessConfig.streams,
        },
        vocab_sha256=sha256(vocabulary),
        vocab_size=len(SPECIAL_TOKENS),
        lower_case=True,
        max_seq_length=LENGTH,
        max_predictions=PREDICTIONS,
        splits={SPLIT: tuple(shards)},
        statistics={},
        dropped_documents={},
        versions={},
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


def _records(examples: int) -> Iterator[bytes]:
    """Yield records of random values."""
    from pipeline.records.serialization import encode_examples

    features = record_features(LENGTH, PREDICTIONS, "none")
    rng = np.random.default_rng(0)
    for first in range(0, examples, INDEX_RECORDS):
        count = min(INDEX_RECORDS, examples - first)
        values = {f.name: rng.integers(0, 200, (count, f.length)) for f in features}
        yield from encode_examples(values, features)


def bytes_read(manifest: Manifest) -> list[Row]:
    """Measure the bytes that each of P processes reads in the first tenth of an epoch."""
    rows: list[Row] = []
    alone = 0.0
    measured = int(manifest.examples(SPLIT) * MEASURED_SHARE) // BATCH_SIZE
    for processes in PROCESSES:
        share = BATCH_SIZE // processes
        read = []
        for index in {0, processes - 1}:
            before = _bytes_read_so_far()
            batches = _reader(manifest).rows(range(index * share, (index + 1) * share), 0)
            for _ in itertools.islice(batches, measured):
                pass
            read.append(_bytes_read_so_far() - before)
        alone = alone or read[0]
        ratio = max(read) / alone
        rows.append(
            Row(f"bytes of a process, a tenth of an epoch, P = {processes}",
                f"{max(read) / 1e6:,.0f} MB",
                f"{alone / 1e6:,.0f} MB (P = 1)", f"{ratio:.3f} ×", f"1/{processes}",
                ratio < 1.01 / processes)
        )  # fmt: skip
    return rows


def _reader(manifest: Manifest) -> StreamReader:
    order = StreamOrder.of(manifest, SPLIT, batch_size=BATCH_SIZE, seed=f"1/{SPLIT}")
    shards = manifest.splits[SPLIT]
    return StreamReader(order, shards, ShardFiles(FOLDER, shards), manifest.compression_type)


def _bytes_read_so_far() -> int:
    """Return the number of bytes that this process has read with system calls."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


@dataclass(frozen=True)
class Reading:
    """Resources used until the first batch: times in seconds, and bytes."""

    wall_secs: float
    cpu_secs: float
    size_bytes: int


def first_batch(manifest: Manifest) -> list[Row]:
    """Measure time and bytes to the first batch by position, also of an older dataset."""
    settings = {name: value for name, value in manifest.settings.items() if name != "streams"}
    older = dataclasses.replace(manifest, settings=settings)
    readings = _first_batches(manifest, REPEATS)
    most_bytes = max(reading.size_bytes for reading in readings.values())
    file_bytes = manifest.splits[SPLIT][0].size_bytes
    per_stream = most_bytes / PreprocessConfig.streams
    ratio = per_stream / file_bytes
    return [
        *_first_batch_rows("64 streams", readings, 1.3),
        Row("read of each stream until then, in the mean", f"{per_stream / 1e6:.2f} MB",
            f"{file_bytes / 1e6:.2f} MB (a file)", f"{ratio:.3f} ×", "≤ 1 ×", ratio <= 1),
        # An older dataset takes half a minute; its first reading also checks the files.
        *_first_batch_rows("without streams", _first_batches(older, 1), math.inf),
    ]  # fmt: skip


def _first_batches(manifest: Manifest, repeats: int) -> dict[float, Reading]:
    """Return the median reading by position.

    Positions are read in turns, since the load of the machine may change, and each in turn is the
    first one of a round. A first round, which traces TensorFlow's functions, does not count.
    """
    if repeats > 1:
        for place in PLACES:
            _first_batch(manifest, place)
    readings: dict[float, list[Reading]] = {place: [] for place in PLACES}
    for number in range(repeats):
        first = number % len(PLACES)
        for place in PLACES[first:] + PLACES[:first]:
            readings[place].append(_first_batch(manifest, place))
    return {
        place: Reading(*map(statistics.median, zip(*map(astuple, each), strict=True)))
        for place, each in readings.items()
    }


def _first_batch_rows(name: str, readings: Mapping[float, Reading], target: float) -> list[Row]:
    start = readings[0.0]
    rows = []
    for place, reading in readings.items():
        ratio = reading.wall_secs / start.wall_secs
        of_cpu = reading.cpu_secs / start.cpu_secs
        rows.append(
            Row(f"first batch at {place:.0%}, {name}",
                f"{reading.wall_secs:.2f} s, {reading.size_bytes / 1e6:,.0f} MB, "
                f"CPU {reading.cpu_secs:.2f} s",
                f"{start.wall_secs:.2f} s, CPU {start.cpu_secs:.2f} s (0 %)",
                f"{ratio:.2f} ×, CPU {of_cpu:.2f} ×",
                f"≤ {target} ×" if math.isfinite(target) else "",
                ratio <= target)
        )  # fmt: skip
    return rows


def _first_batch(manifest: Manifest, place: float) -> Reading:
    """Read the first batch at a position, with what a training opens for it."""
    from model.training.input import train_batches

    batches = int(manifest.examples(SPLIT) * place) // BATCH_SIZE
    gc.collect()  # else a later reading pays for what an earlier one left
    before = _bytes_read_so_far()
    began, cpu_began = time.perf_counter(), time.process_time()
    stream = train_batches(
        FOLDER, manifest, batch_size=BATCH_SIZE, seed=1, skip_examples=batches * BATCH_SIZE
    )
    next(iter(stream))
    secs, cpu_secs = time.perf_counter() - began, time.process_time() - cpu_began
    return Reading(secs, cpu_secs, _bytes_read_so_far() - before)


if __name__ == "__main__":
    tyro.cli(main)
