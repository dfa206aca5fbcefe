"""The order of records of an older dataset, whose manifest names no streams.

It stays as it was, so that runs which began with it resume exactly: each epoch shuffles the files,
interleaves several of them, and shuffles windows of records. Every process reads all records, and a
resumed run reads the epoch up to its position.

Shapes: B batch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from model.training.record_streams import FILLER
from pipeline.errors import InputError
from pipeline.manifest import Manifest
from pipeline.storage.tfrecords import check_records

# Records are already shuffled within a shard. Here it remains to vary the order between epochs:
# shuffle the files, interleave several of them, and shuffle windows of records. A window has about
# 2 MB of serialized records.
FILES_AT_ONCE = 8
RECORDS_IN_TURN = 16
WINDOW_EXAMPLES = 4096


def train_records(
    dataset: Path,
    manifest: Manifest,
    context: tf.distribute.InputContext,
    *,
    batch_size: int,
    seed: int,
    skip_examples: int,
) -> tf.data.Dataset:
    """Return serialized batches of the endless train stream: this process's share.

    Returns:
        Batches: the records' indices in the stream, int64 [B], and serialized records, string [B].
    """
    first_epoch, skip_in_epoch = divmod(skip_examples, manifest.examples("train"))
    files = _files(dataset, manifest, "train")
    epochs = tf.data.Dataset.counter(start=first_epoch)
    records = epochs.flat_map(lambda epoch: _shuffled_records(files, manifest, seed, epoch))
    indexed = records.skip(skip_in_epoch).enumerate(skip_examples)
    return _dealt(indexed, context, batch_size)


def eval_records(
    dataset: Path,
    manifest: Manifest,
    split: str,
    context: tf.distribute.InputContext,
    *,
    batch_size: int,
) -> tf.data.Dataset:
    """Return serialized batches of one pass over a split, as `train_records`.

    Filler at its end, copies of the first record, has the index `FILLER`.
    """
    filler_examples = -manifest.examples(split) % batch_size  # up to the next multiple
    records = _records(_files(dataset, manifest, split), manifest)
    filler = records.take(1).repeat(filler_examples)
    indexed = records.enumerate().concatenate(
        filler.map(lambda record: (tf.constant(FILLER, tf.int64), record))
    )
    return _dealt(indexed, context, batch_size)


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


def _dealt(
    indexed: tf.data.Dataset, context: tf.distribute.InputContext, batch_size: int
) -> tf.data.Dataset:
    """Return this process's batches: global batches are split by device, and the parts dealt.

    Args:
        indexed: pairs of index and serialized record.
        context: index of this process, and the number of processes and devices.
        batch_size: global batch size.
    """
    size = context.get_per_replica_batch_size(batch_size)
    # drop_remainder makes the shapes static, which XLA needs; the stream has full batches only.
    batches = indexed.batch(size, drop_remainder=True)
    if context.num_input_pipelines > 1:
        devices = context.num_replicas_in_sync // context.num_input_pipelines
        dealt = batches.batch(devices).shard(context.num_input_pipelines, context.input_pipeline_id)
        batches = dealt.unbatch()
    return batches
