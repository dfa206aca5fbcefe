"""Verify a dataset's checksums and counts, and read some of its examples."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import schema
from pipeline.configs import InspectConfig
from pipeline.dataset_warnings import dataset_warnings
from pipeline.errors import InputError
from pipeline.manifest import Manifest, Shard, read_manifest
from pipeline.progress import counted, progress
from pipeline.records.serialization import parse_examples
from pipeline.storage.cache import CacheConfig
from pipeline.storage.files import crc32c
from pipeline.storage.local_copies import local_copy
from pipeline.storage.tfrecords import check_records
from pipeline.text.tokenizer import Vocabulary, dataset_vocabulary

READ_BLOCK = 1024


@dataclass(frozen=True)
class Inspection:
    """A dataset that was found intact.

    Attributes:
        dataset: its folder.
        manifest: its manifest.
        vocabulary: its vocabulary.
        lengths: number of examples by number of real positions.
        unigram_entropy_nats: entropy of the pieces of the text.
        unknown_rate: share of [UNK] among the pieces of the text (0 to 1).
        warnings: remarks on what a model cannot learn from it, one line each.
        records: the examples asked for; each is its features by name, without a batch axis.
    """

    dataset: Path
    manifest: Manifest
    vocabulary: Vocabulary
    lengths: dict[int, int]
    unigram_entropy_nats: float
    unknown_rate: float
    warnings: tuple[str, ...]
    records: tuple[dict[str, np.ndarray], ...]


def inspect_dataset(config: InspectConfig) -> Inspection:
    """Check every shard of a dataset against its manifest, and read some examples.

    Raises:
        InputError: a shard's bytes, its records or the vocabulary do not match the manifest.
    """
    dataset, split = config.dataset, config.split
    manifest = read_manifest(dataset)
    vocabulary = dataset_vocabulary(dataset, manifest)
    if split not in manifest.splits:
        raise InputError(f"`split` {split}: {dataset} has only {', '.join(manifest.splits)}")
    lengths: Counter[int] = Counter()
    pieces = np.zeros(manifest.vocab_size, np.int64)
    with progress() as bar:
        total = sum(map(manifest.examples, manifest.splits))
        task = bar.add_task("checking", total=total, unit="examples", status="")
        for shard in (shard for shards in manifest.splits.values() for shard in shards):
            for batch in check_shard(dataset, shard, manifest, config.caching):
                lengths.update(batch[schema.INPUT_MASK].sum(axis=1).tolist())
                pieces += np.bincount(text_pieces(batch, vocabulary), minlength=len(pieces))
                bar.advance(task, len(batch[schema.INPUT_IDS]))
    with local_copy(dataset / manifest.splits[split][0].name, config.caching) as shard_path:
        # One block is enough for `examples`, at most 1,024.
        first = next(read_records(shard_path, manifest))
    shown = range(min(config.examples, len(first[schema.INPUT_IDS])))
    return Inspection(
        dataset=dataset,
        manifest=manifest,
        vocabulary=vocabulary,
        lengths=dict(sorted(lengths.items())),
        unigram_entropy_nats=entropy_nats(pieces),
        unknown_rate=float(pieces[vocabulary.unk_id] / pieces.sum()),
        warnings=tuple(dataset_warnings(manifest)),
        records=tuple({name: values[row] for name, values in first.items()} for row in shown),
    )


def text_pieces(batch: dict[str, np.ndarray], vocabulary: Vocabulary) -> np.ndarray:
    """Return the original pieces of a batch, int64 [n]: unmasked, without special tokens."""
    # Statistics are of the text, not of [MASK].
    restored = batch[schema.INPUT_IDS].copy()
    if schema.MASKED_LM_WEIGHTS in batch:
        positions, labels, weights = (batch[name] for name in schema.MASKED_LM_FEATURES)
        # Slots without a mask have weight 0 and position 0, [CLS].
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


def check_shard(
    dataset: Path, shard: Shard, manifest: Manifest, caching: CacheConfig
) -> Iterator[dict[str, np.ndarray]]:
    """Check a shard, yielding its records in batches.

    Raises:
        InputError: the checksum or the number of records does not match the manifest, or a record
            does not parse.
    """
    with local_copy(dataset / shard.name, caching) as path:
        # The whole file first: a record's own checksum does not notice records that are missing.
        if crc32c(path) != shard.crc32c:
            raise InputError(f"{path}: corrupt (its CRC-32C is not the manifest's); make it again")
        examples = 0
        for batch in read_records(path, manifest):
            examples += len(batch[schema.INPUT_IDS])
            yield batch
        if examples != shard.examples:
            raise InputError(
                f"{path}: {counted(examples, 'records')} where the manifest says {shard.examples:,}"
            )


def read_records(path: Path, manifest: Manifest) -> Iterator[dict[str, np.ndarray]]:
    """Yield the parsed records of a TFRecord file, in batches of `READ_BLOCK`.

    Raises:
        InputError: the file is truncated or a record does not parse.
    """
    import tensorflow as tf

    # TensorFlow ends quietly at some kinds of truncation; this check does not.
    check_records(path, manifest.compression_type)
    try:
        records = tf.data.TFRecordDataset(str(path), manifest.compression_type)
        for serialized in records.batch(READ_BLOCK):
            parsed = parse_examples(serialized, manifest.features)
            yield {name: values.numpy() for name, values in parsed.items()}
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise InputError(f"{path}: corrupt or truncated: {error.message}") from error
