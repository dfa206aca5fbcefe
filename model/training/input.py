"""Batches from a dataset directory, in an order that is a pure function of (seed, epoch).

The train stream is endless: each epoch has a different order of files and records, and batches
cross the ends of epochs, so no record is dropped and every batch is full. The batch of a step
depends only on the step, so a resumed run sees the same batches as an uninterrupted one. Records of
a dataset with dynamic masks are masked here, seeded by their index in the stream: masks, too, are a
pure function of seed, epoch and record.

Shapes: B batch, L positions, P masked positions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import schema
from pipeline.errors import InputError
from pipeline.manifest import Manifest
from pipeline.records.masking import Masker, record_seeds
from pipeline.records.serialization import parse_examples
from pipeline.schema import record_features
from pipeline.storage.tfrecords import check_records
from pipeline.text.tokenizer import dataset_vocabulary

# Records are already shuffled within a shard. Here it remains to vary the order between epochs:
# shuffle the files, interleave several of them, and shuffle windows of records. A window has about
# 2 MB of serialized records.
FILES_AT_ONCE = 8
RECORDS_IN_TURN = 16
WINDOW_EXAMPLES = 4096

MASKED_FEATURES = (schema.INPUT_IDS, *schema.MASKED_LM_FEATURES)
"""Features that masking computes from a record's pieces."""


ALONE = tf.distribute.InputContext()
"""The context of one process with one device."""


def train_batches(
    dataset: Path,
    manifest: Manifest,
    context: tf.distribute.InputContext = ALONE,
    *,
    batch_size: int,
    seed: int,
    skip_examples: int,
) -> tf.data.Dataset:
    """Return the endless train stream, or this process's share of it.

    Args:
        dataset: directory of the dataset.
        manifest: its manifest.
        context: index of this process, and the number of processes and devices.
        batch_size: global batch size; B = batch_size / number of devices.
        seed: seed of the order.
        skip_examples: number of examples to skip at the start of the stream.

    Returns:
        Batches: the features by name, int32 or float32 [B, length], and
        example_weights: float32 [B]. 1 everywhere.
    """
    first_epoch, skip_in_epoch = divmod(skip_examples, manifest.examples("train"))
    files = _files(dataset, manifest, "train")
    epochs = tf.data.Dataset.counter(start=first_epoch)
    records = epochs.flat_map(lambda epoch: _shuffled_records(files, manifest, seed, epoch))
    weighted = records.skip(skip_in_epoch).map(lambda record: (record, 1.0))
    stream = f"{seed}/train/masks"
    return _batches(weighted, dataset, manifest, context, batch_size, (stream, skip_examples))


def eval_batches(
    dataset: Path,
    manifest: Manifest,
    split: str,
    context: tf.distribute.InputContext = ALONE,
    *,
    batch_size: int,
) -> tf.data.Dataset:
    """Return one pass over a split, in the order of its files, in full batches.

    The last batch is padded with copies of the first record that have weight 0.

    Args:
        dataset: directory of the dataset.
        manifest: its manifest.
        split: name of the split.
        context: index of this process, and the number of processes and devices.
        batch_size: global batch size; B = batch_size / number of devices.

    Returns:
        Batches: the features by name, int32 or float32 [B, length], and
        example_weights: float32 [B]. 1 = an example of the split, 0 = filler.
    """
    filler_examples = -manifest.examples(split) % batch_size  # up to the next multiple
    records = _records(_files(dataset, manifest, split), manifest)
    filler = records.take(1).repeat(filler_examples)
    weighted = records.map(lambda record: (record, 1.0)).concatenate(
        filler.map(lambda record: (record, 0.0))
    )
    # The same masks in every evaluation, so that their results are comparable.
    return _batches(weighted, dataset, manifest, context, batch_size, (f"{split}/masks", 0))


def _files(dataset: Path, manifest: Manifest, split: str) -> list[str]:
    return [str(dataset / shard.name) for shard in manifest.splits[split]]


def _records(files: Any, manifest: Manifest) -> tf.data.Dataset:
    """Return the serialized records of some files, in order."""
    names = tf.data.Dataset.from_tensor_slices(tf.reshape(files, [-1]))
    checked = names.map(_checking(manifest.compression_type))
    return tf.data.TFRecordDataset(checked, manifest.compression_type)


def _checking(compression: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a pass-through function of file names that checks each file once before it is read.

    TensorFlow's reader would abort the process on a corrupt length. The check takes as long as
    reading the file once, in the first epoch only.
    """
    known = set()

    def check(name: bytes) -> bytes:
        path = Path(name.decode())
        try:
            status = path.stat()
            version = path, status.st_size, status.st_mtime_ns
            if version not in known:
                check_records(path, compression)
                known.add(version)
        except OSError:
            pass  # TensorFlow's reader reports a missing or unreadable file
        except InputError as error:
            raise ValueError(str(error)) from error  # becomes an InvalidArgumentError in the graph
        return name

    def checked(file: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(check, [file], tf.string), [])

    return checked


def _shuffled_records(
    files: list[str], manifest: Manifest, seed: int, epoch: tf.Tensor
) -> tf.data.Dataset:
    """Return the serialized records of an epoch in their shuffled order."""
    epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
    shuffled = tf.random.experimental.stateless_shuffle(tf.constant(files), epoch_seed)
    records = tf.data.Dataset.from_tensor_slices(shuffled).interleave(
        lambda file: _records(file, manifest),
        cycle_length=FILES_AT_ONCE,
        block_length=RECORDS_IN_TURN,
    )
    windows = records.batch(WINDOW_EXAMPLES).enumerate()
    return windows.map(
        lambda index, window: tf.random.experimental.stateless_shuffle(
            window, tf.random.experimental.stateless_fold_in(epoch_seed, index)
        )
    ).unbatch()


def _batches(
    weighted: tf.data.Dataset,
    dataset: Path,
    manifest: Manifest,
    context: tf.distribute.InputContext,
    batch_size: int,
    masks: tuple[str, int],
) -> tf.data.Dataset:
    """Return batches of parsed records, masked here if the dataset has dynamic masks.

    Global batches are split by device, and the parts are distributed over the processes before
    parsing: every process reads all records, but parses and masks only its own.

    Args:
        weighted: pairs of serialized record and weight.
        dataset: directory of the dataset, which contains the vocabulary.
        manifest: its manifest.
        context: index of this process, and the number of processes and devices.
        batch_size: global batch size.
        masks: name of the random stream for masks, and the first record's index in it.
    """
    is_dynamic = manifest.masks == "dynamic"
    masked = _masking(dataset, manifest, *masks) if is_dynamic else None

    def parse(number: tf.Tensor, weighted: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        records, example_weights = weighted
        parsed = parse_examples(records, manifest.features)
        if masked:
            parsed |= masked(parsed, number)
        batch = {name: _narrow(values) for name, values in parsed.items()}
        # Filler records have masked pieces too; these must not count either.
        batch[schema.MASKED_LM_WEIGHTS] *= example_weights[:, tf.newaxis]
        return {**batch, "example_weights": example_weights}

    # drop_remainder makes the shapes static, which XLA needs; the stream has full batches only.
    size = context.get_per_replica_batch_size(batch_size)
    batches = weighted.batch(size, drop_remainder=True).enumerate()
    if context.num_input_pipelines > 1:
        devices = context.num_replicas_in_sync // context.num_input_pipelines
        dealt = batches.batch(devices).shard(context.num_input_pipelines, context.input_pipeline_id)
        batches = dealt.unbatch()
    batches = batches.map(parse)
    options = tf.data.Options()
    options.deterministic = True
    # Auto-sharding must be off: batches are distributed over the processes above.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(2).with_options(options)


def _masking(
    dataset: Path, manifest: Manifest, stream: str, first_record: int
) -> Callable[[dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]:
    """Return a function from a parsed batch and its index to the features that masking computes."""
    settings = manifest.settings
    masker = Masker(
        dataset_vocabulary(dataset, manifest),
        masking=settings["masking"],
        mask_rate=settings["mask_rate"],
        max_predictions=manifest.max_predictions,
    )
    static = record_features(manifest.max_seq_length, manifest.max_predictions)
    computed = [feature for feature in static if feature.name in MASKED_FEATURES]

    def mask(input_ids: np.ndarray, input_mask: np.ndarray, number: np.ndarray) -> list[np.ndarray]:
        rows = len(input_ids)
        seeds = record_seeds(stream, first_record + number * rows + np.arange(rows))
        masked = masker(input_ids, input_mask, seeds)
        return [masked[feature.name] for feature in computed]

    def masked_features(parsed: dict[str, tf.Tensor], number: tf.Tensor) -> dict[str, tf.Tensor]:
        input_ids = parsed[schema.INPUT_IDS]
        kinds = [tf.as_dtype(feature.kind) for feature in computed]
        values = tf.numpy_function(mask, [input_ids, parsed[schema.INPUT_MASK], number], kinds)
        return {
            feature.name: tf.ensure_shape(value, [input_ids.shape[0], feature.length])
            for feature, value in zip(computed, values, strict=True)
        }

    return masked_features


def _narrow(values: tf.Tensor) -> tf.Tensor:
    """Cast int64 values to int32, which accelerators support better; return others unchanged."""
    return tf.cast(values, tf.int32) if values.dtype == tf.int64 else values


@contextmanager
def corrupt_files_named(dataset: Path, manifest: Manifest) -> Iterator[None]:
    """Convert TensorFlow's error about a record or file into one that names the file.

    Raises:
        InputError: a TFRecord file is missing or corrupt, or a record does not match the manifest.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
        for split in manifest.splits:
            for file in _files(dataset, manifest, split):
                _check_file(file, manifest)
        raise


def _check_file(file: str, manifest: Manifest) -> None:
    """Read a whole TFRecord file.

    Raises:
        InputError: the file is missing, or a record is damaged or lacks a feature.
    """
    good = 0
    try:
        check_records(Path(file), manifest.compression_type)
        for record in tf.data.TFRecordDataset(file, manifest.compression_type):
            parse_examples(record[tf.newaxis], manifest.features)
            good += 1
    except (tf.errors.NotFoundError, FileNotFoundError) as error:
        raise InputError(
            f"{file}: is missing; put it back and repeat the command, which resumes from the last "
            "checkpoint"
        ) from error
    except tf.errors.DataLossError as error:
        raise InputError(
            f"{file}: record {good} is corrupt or truncated; make the dataset again"
        ) from error
    except tf.errors.InvalidArgumentError as error:
        raise InputError(
            f"{file}: record {good} does not have the features of the manifest; "
            "make the dataset again"
        ) from error
