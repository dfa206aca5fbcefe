"""`clozeline inspect`: verify a dataset's checksums and counts, and print decoded examples."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from pipeline import schema
from pipeline.console import progress, results, table, warn
from pipeline.errors import InputError
from pipeline.manifest import Manifest, Shard, read_manifest
from pipeline.records.serialization import parse_examples
from pipeline.report import dataset_table, dataset_warnings
from pipeline.schema import IS_NEXT, Pairing
from pipeline.storage.files import crc32c
from pipeline.storage.tfrecords import check_records
from pipeline.text.tokenizer import Vocabulary, dataset_vocabulary

READ_BLOCK = 1024
LENGTH_BINS = 8
LABELS: dict[Pairing, list[str]] = {
    "nsp": ["true next", "random next"],
    "sop": ["in order", "swapped"],
    "none": ["sentences"],
}
"""Descriptions of the values 0 and 1 of `next_sentence_labels`, by pairing."""


def inspect_dataset(dataset: Path, split: str, examples: int) -> dict[str, Any]:
    """Check every shard against the manifest, then print totals, lengths and examples.

    Raises:
        InputError: a shard's bytes, its records or the vocabulary do not match the manifest.
    """
    manifest = read_manifest(dataset)
    vocabulary = dataset_vocabulary(dataset, manifest)
    if split not in manifest.splits:
        raise InputError(f"--split {split}: {dataset} has only {', '.join(manifest.splits)}")
    lengths: Counter[int] = Counter()
    pieces = np.zeros(manifest.vocab_size, np.int64)
    with progress() as bar:
        total = sum(map(manifest.examples, manifest.splits))
        task = bar.add_task("checking", total=total, unit="examples", status="")
        for shard in (shard for shards in manifest.splits.values() for shard in shards):
            for batch in check_shard(dataset, shard, manifest):
                lengths.update(batch[schema.INPUT_MASK].sum(axis=1).tolist())
                pieces += np.bincount(text_pieces(batch, vocabulary), minlength=len(pieces))
                bar.advance(task, len(batch[schema.INPUT_IDS]))
    results.print(dataset_table(str(dataset), manifest))
    results.print(length_table(lengths, manifest.max_seq_length))
    entropy = entropy_nats(pieces)
    unknown_rate = float(pieces[vocabulary.unk_id] / pieces.sum())
    results.print(f"Unigram entropy of the pieces: {entropy:.3f} nats")
    results.print(f"Unknown pieces ([UNK]): {unknown_rate:.1%}", markup=False)
    warnings = dataset_warnings(manifest)
    warn(warnings)
    first = next(read_records(dataset / manifest.splits[split][0].name, manifest))
    for row in range(min(examples, len(first[schema.INPUT_IDS]))):
        record = {name: values[row] for name, values in first.items()}
        results.print(decoded(record, vocabulary, manifest.pairing))
    results.print(f"Checked {total:,} examples: checksums, records and counts agree.")
    return {
        "dataset": str(dataset),
        "examples": {name: manifest.examples(name) for name in manifest.splits},
        "statistics": manifest.statistics,
        "unigram_entropy_nats": entropy,
        "unknown_rate": unknown_rate,
        "warnings": warnings,
        "lengths": dict(sorted(lengths.items())),
    }


def text_pieces(batch: dict[str, np.ndarray], vocabulary: Vocabulary) -> np.ndarray:
    """Return the original pieces of a batch, int64 [n]: unmasked, without special tokens."""
    restored = batch[schema.INPUT_IDS].copy()
    if schema.MASKED_LM_WEIGHTS in batch:
        positions, labels, weights = (batch[name] for name in schema.MASKED_LM_FEATURES)
        row, slot = np.nonzero(weights)
        restored[row, positions[row, slot]] = labels[row, slot]
    special = [vocabulary.cls_id, vocabulary.sep_id]
    return restored[(batch[schema.INPUT_MASK] == 1) & ~np.isin(restored, special)]


def entropy_nats(counts: np.ndarray) -> float:
    """Return the entropy in nats of the distribution given by `counts` (Shannon 1948, eq. 7).

    It is the cross-entropy of a unigram model: the loss of a model that knows each piece's
    frequency and ignores the context. A model that uses the context has a lower loss.
    """
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def check_shard(dataset: Path, shard: Shard, manifest: Manifest) -> Iterator[dict[str, np.ndarray]]:
    """Check a shard, yielding its records in batches.

    Raises:
        InputError: the checksum or the number of records does not match the manifest, or a record
            does not parse.
    """
    path = dataset / shard.name
    if crc32c(path) != shard.crc32c:
        raise InputError(f"{path}: corrupt (its CRC-32C is not the manifest's); make it again")
    examples = 0
    for batch in read_records(path, manifest):
        examples += len(batch[schema.INPUT_IDS])
        yield batch
    if examples != shard.examples:
        raise InputError(f"{path}: {examples:,} records where the manifest says {shard.examples:,}")


def read_records(path: Path, manifest: Manifest) -> Iterator[dict[str, np.ndarray]]:
    """Yield the parsed records of a TFRecord file, in batches of `READ_BLOCK`.

    Raises:
        InputError: the file is truncated or a record does not parse.
    """
    import tensorflow as tf

    check_records(path, manifest.compression_type)
    try:
        records = tf.data.TFRecordDataset(str(path), manifest.compression_type)
        for serialized in records.batch(READ_BLOCK):
            parsed = parse_examples(serialized, manifest.features)
            yield {name: values.numpy() for name, values in parsed.items()}
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise InputError(f"{path}: corrupt or truncated: {error.message}") from error


def length_table(lengths: Counter[int], max_seq_length: int) -> Any:
    """Return a histogram of the number of real positions per example, as a table."""
    width = -(-max_seq_length // LENGTH_BINS)
    bins: Counter[int] = Counter()
    for length, count in lengths.items():
        bins[(length - 1) // width] += count
    most = max(bins.values())
    rows = [
        (f"{index * width + 1}-{min((index + 1) * width, max_seq_length)}", bins[index],
         "█" * round(24 * bins[index] / most))
        for index in range(LENGTH_BINS)
        if index * width < max_seq_length
    ]  # fmt: skip
    return table("Lengths", ["pieces", "examples", ""], rows, frozenset({0, 2}))


def decoded(record: dict[str, np.ndarray], vocabulary: Vocabulary, pairing: Pairing) -> Text:
    """Return one record as colored text: A plain, B cyan, predictions as `label→input piece`."""
    predictions = (record.get(name, ()) for name in schema.MASKED_LM_FEATURES)
    labels = {
        int(position): vocabulary.pieces[label]
        for position, label, weight in zip(*predictions, strict=True)
        if weight
    }
    label = record[schema.NEXT_SENTENCE_LABELS][0] if pairing != "none" else IS_NEXT
    text = Text(f"\n{LABELS[pairing][label]}:", style="bold")
    for position in range(int(record[schema.INPUT_MASK].sum())):
        piece = vocabulary.pieces[record[schema.INPUT_IDS][position]]
        style = "cyan" if record[schema.SEGMENT_IDS][position] else ""
        if position in labels:
            text.append(f" {labels[position]}→{piece}", style="bold magenta")
        else:
            text.append(f" {piece}", style=style)
    return text
