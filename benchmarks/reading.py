"""Measure what training reads of a dataset: bytes of each process, and time to the first batch.

    make bench                            # with all other benchmarks
    python -m benchmarks.reading --quick  # a hundredth of the records, a smoke test

The dataset is synthetic: 10,000,000 records of few positions in 64 files. The files are hard
links to one, so it takes the disk space of one, and is in the page cache throughout: what is
measured is the work of the process, not the disk.
"""

import dataclasses
import itertools
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple
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
REPEATS = 5


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


def first_batch(manifest: Manifest) -> list[Row]:
    """Measure time and bytes to the first batch by position, also of an older dataset."""
    settings = {name: value for name, value in manifest.settings.items() if name != "streams"}
    rows = []
    for name, each in (
        ("64 streams", manifest),
        ("without streams", dataclasses.replace(manifest, settings=settings)),
    ):
        at_start = 0.0
        for place in PLACES:
            # An older dataset takes half a minute; its first reading also checks the files.
            repeats = REPEATS if each.streams else 1
            secs, size_bytes = _first_batch(each, place, repeats)
            at_start = at_start or secs
            ratio = secs / at_start
            rows.append(
                Row(f"first batch at {place:.0%}, {name}",
                    f"{secs:.2f} s, {size_bytes / 1e6:,.0f} MB", f"{at_start:.2f} s (0 %)",
                    f"{ratio:.2f} ×", "≤ 1.3 ×" if each.streams else "",
                    ratio <= 1.3 or not each.streams)
            )  # fmt: skip
    return rows


def _first_batch(manifest: Manifest, place: float, repeats: int) -> tuple[float, int]:
    """Return the median time in seconds to the first batch, and the bytes read."""
    from model.training.input import train_batches

    batches = int(manifest.examples(SPLIT) * place) // BATCH_SIZE
    secs, before = [], _bytes_read_so_far()
    for _ in range(repeats):
        started = time.perf_counter()
        stream = train_batches(
            FOLDER, manifest, batch_size=BATCH_SIZE, seed=1, skip_examples=batches * BATCH_SIZE
        )
        next(iter(stream))
        secs.append(time.perf_counter() - started)
    return statistics.median(secs), (_bytes_read_so_far() - before) // repeats


if __name__ == "__main__":
    tyro.cli(main)
