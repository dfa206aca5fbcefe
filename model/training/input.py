"""Batches from a dataset directory, in an order that is a pure function of the seed.

The train stream is endless: each epoch has another order of records, and batches cross the ends of
epochs, so no record is dropped and every batch is full. The batch of a step depends only on the
step, so a resumed run sees the same batches as an uninterrupted one. Datasets say in their manifest
how many streams they have (`model.training.stream_order`); older ones without streams have the
order of `model.training.file_order`.

Records of a dataset with dynamic masks are masked here, seeded by their number: masks, too, are a
pure function of seed, epoch and record.

Shapes: B batch, L positions, P masked positions.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.training import file_order
from model.training.feeding import fed
from model.training.record_streams import FILLER, Record, StreamReader
from model.training.stream_order import StreamOrder
from pipeline import schema
from pipeline.errors import InputError
from pipeline.manifest import Manifest
from pipeline.records.masking import Masker, record_seeds
from pipeline.records.packing import pack, unpack
from pipeline.records.serialization import parse_examples
from pipeline.schema import Arrays
from pipeline.storage.shard_files import ShardFiles
from pipeline.storage.tfrecords import check_records
from pipeline.text.tokenizer import dataset_vocabulary

Element = dict[str, np.ndarray | tf.Tensor]
"""Records by name: their numbers, and the serialized records or their features."""

Mask = Callable[[Mapping[str, np.ndarray]], Element]
"""A function from the numbers and serialized records of a chunk to their masked features."""

READ_RECORDS = 256
"""Records in an element of the queue, or more if a batch has more: an element costs as much as some
dozen records."""

READ_AHEAD = 4
"""Elements to keep ready. Streams read a block at a time, and many of them may need their next
block in the same step."""

NUMBERS, RECORDS = "numbers", "records"
"""Names of tensors before parsing: the records' numbers, and the serialized records."""

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
    files: ShardFiles | None = None,
) -> tf.data.Dataset:
    """Return the endless train stream, or this process's share of it.

    Args:
        dataset: directory of the dataset.
        manifest: its manifest.
        context: index of this process, and the number of processes and devices.
        batch_size: global batch size; B = batch_size / number of devices.
        seed: seed of the order.
        skip_examples: number of examples to skip at the start of the stream; a multiple of the
            batch size if the dataset has streams.
        files: access to the dataset's files; None = in its directory.

    Returns:
        Batches: the features by name, int32 or float32 [B, length], and
        example_weights: float32 [B]. 1 everywhere.
    """
    split = "train"
    masks = f"{seed}/{split}/masks"
    if not manifest.streams:
        batches = file_order.train_records(
            dataset,
            manifest,
            context,
            batch_size=batch_size,
            seed=seed,
            skip_examples=skip_examples,
        )
        return _of_older_dataset(batches, dataset, manifest, masks)
    order = StreamOrder.of(manifest, split, batch_size=batch_size, seed=f"{seed}/{split}")
    reader = _stream_reader(order, dataset, manifest, split, files)
    rows = _rows(context, batch_size)
    reader.files.expect(reader.shards_in_order_of_use(rows, skip_examples))
    mask = _masking(dataset, manifest, masks)
    read = _read(lambda: reader.rows(rows, skip_examples), len(rows), manifest, mask)
    return _parsed(read, manifest, context.get_per_replica_batch_size(batch_size))


def eval_batches(
    dataset: Path,
    manifest: Manifest,
    split: str,
    context: tf.distribute.InputContext = ALONE,
    *,
    batch_size: int,
    files: ShardFiles | None = None,
) -> tf.data.Dataset:
    """Return one pass over a split in full batches, or this process's share of it.

    The last batch is padded with copies of the first record that have weight 0. The records of an
    older dataset are in the order of its files.

    Args:
        dataset: directory of the dataset.
        manifest: its manifest.
        split: name of the split.
        context: index of this process, and the number of processes and devices.
        batch_size: global batch size; B = batch_size / number of devices.
        files: access to the dataset's files; None = in its directory.

    Returns:
        Batches: the features by name, int32 or float32 [B, length], and
        example_weights: float32 [B]. 1 = an example of the split, 0 = filler.
    """
    masks = f"{split}/masks"  # the same in every evaluation, so that results are comparable
    size = context.get_per_replica_batch_size(batch_size)
    rows = _rows(context, batch_size)
    # Batches per device: a process with several devices takes one for each of them per step.
    batches = -(-manifest.examples(split) // batch_size) * (len(rows) // size)
    if not manifest.streams:
        records = file_order.eval_records(dataset, manifest, split, context, batch_size=batch_size)
        return _of_older_dataset(records, dataset, manifest, masks).take(batches)
    order = StreamOrder.of(manifest, split, batch_size=batch_size, seed=None)
    reader = _stream_reader(order, dataset, manifest, split, files)
    mask = _masking(dataset, manifest, masks)
    read = _read(lambda: reader.rows_once(rows), len(rows), manifest, mask)
    return _parsed(read, manifest, size).take(batches)


def shard_files(dataset: Path, manifest: Manifest) -> ShardFiles:
    """Return the files of a dataset directory."""
    return ShardFiles(dataset, (s for shards in manifest.splits.values() for s in shards))


def _stream_reader(
    order: StreamOrder, dataset: Path, manifest: Manifest, split: str, files: ShardFiles | None
) -> StreamReader:
    files = files or shard_files(dataset, manifest)
    return StreamReader(order, manifest.splits[split], files, manifest.compression_type)


def _rows(context: tf.distribute.InputContext, batch_size: int) -> range:
    """Return the rows of the global batch that belong to this process."""
    count = batch_size // context.num_input_pipelines
    first = context.input_pipeline_id * count
    return range(first, first + count)


def _read(
    rows: Callable[[], Iterator[list[Record]]], count: int, manifest: Manifest, mask: Mask | None
) -> tf.data.Dataset:
    """Return the rows of a process in chunks of one or more global batches, without end.

    Args:
        rows: returns the rows of each global batch that belong to this process.
        count: number of these rows.
        manifest: manifest of the dataset.
        mask: function that masks the records of the dataset; None = they are masked.

    Returns:
        As `_parsed` takes them.
    """
    # Whole global batches: a chunk must not end within one.
    batches = max(1, READ_RECORDS // count)

    def elements() -> Iterator[Element]:
        read = rows()
        while True:
            numbers, records = zip(*chain.from_iterable(islice(read, batches)), strict=True)
            # Objects: NumPy's own type for bytes cuts zeros at their end.
            element = {NUMBERS: np.array(numbers), RECORDS: np.array(records, object)}
            yield mask(element) if mask else element

    return fed(elements, _signature(batches * count, manifest, mask), ahead=READ_AHEAD)


def _of_older_dataset(
    batches: tf.data.Dataset, dataset: Path, manifest: Manifest, masks: str
) -> tf.data.Dataset:
    """Return parsed batches of a dataset without streams; arguments as `_parsed`."""
    named = batches.map(lambda numbers, records: {NUMBERS: numbers, RECORDS: records})
    size = named.element_spec[NUMBERS].shape[0]
    mask = _masking(dataset, manifest, masks)
    if mask is None:
        return _parsed(named, manifest, size)
    masked = partial(map, mask, named.as_numpy_iterator())
    return _parsed(fed(masked, _signature(size, manifest, mask), ahead=READ_AHEAD), manifest, size)


def _signature(rows: int, manifest: Manifest, mask: Mask | None) -> dict[str, tf.TensorSpec]:
    """Return the types of some records, serialized or masked."""
    numbers = {NUMBERS: tf.TensorSpec([rows], tf.int64)}
    if mask is None:
        return numbers | {RECORDS: tf.TensorSpec([rows], tf.string)}
    return numbers | {
        feature.name: tf.TensorSpec([rows, feature.length], feature.kind)
        for feature in manifest.masked_features
    }


def _parsed(read: tf.data.Dataset, manifest: Manifest, size: int) -> tf.data.Dataset:
    """Return batches of features.

    Args:
        read: batches, or chunks of several: `NUMBERS`, int64 [N], where `FILLER` is filler; and
            `RECORDS`, string [N], or the features of masked records.
        manifest: manifest of the dataset.
        size: number of rows of a batch; N is a multiple of it.
    """

    @tf.autograph.experimental.do_not_convert
    def parse(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        example_weights = tf.cast(batch.pop(NUMBERS) != FILLER, tf.float32)
        if RECORDS in batch:
            batch = parse_examples(batch[RECORDS], manifest.features)
        batch = {name: _narrow(values) for name, values in batch.items()}
        # Filler records have masked pieces too; these must not count either.
        batch[schema.MASKED_LM_WEIGHTS] *= example_weights[:, tf.newaxis]
        return {**batch, "example_weights": example_weights}

    @tf.autograph.experimental.do_not_convert
    def split(chunk: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            name: tf.reshape(values, [-1, size, *values.shape[1:]])
            for name, values in parse(chunk).items()
        }

    is_chunk = read.element_spec[NUMBERS].shape[0] > size
    batches = read.map(split).unbatch() if is_chunk else read.map(parse)
    options = tf.data.Options()
    options.deterministic = True
    # Auto-sharding must be off: each process reads only its own rows.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(2).with_options(options)


def _masking(dataset: Path, manifest: Manifest, stream: str) -> Mask | None:
    """Return what parses and masks records: a dataset with dynamic masks stores none.

    Args:
        dataset: directory of the dataset, which contains the vocabulary.
        manifest: its manifest.
        stream: name of the random stream for masks.
    """
    if manifest.masks != "dynamic":
        return None
    settings = manifest.settings
    vocabulary = dataset_vocabulary(dataset, manifest)
    masker = Masker(
        vocabulary,
        masking=settings["masking"],
        mask_rate=settings["mask_rate"],
        max_predictions=manifest.max_predictions,
    )

    def mask(read: Mapping[str, np.ndarray]) -> Element:
        tensors = parse_examples(read[RECORDS], manifest.features)
        parsed = {name: values.numpy() for name, values in tensors.items()}
        numbers = read[NUMBERS]
        if manifest.max_pairs == 1:
            return {NUMBERS: numbers, **parsed, **masked(parsed, numbers)}
        pairs, record_of, slot = unpack(parsed, vocabulary.pad_id)
        # Each pair is masked as a record of its own; no two of them have the same number.
        pairs |= masked(pairs, numbers[record_of] * manifest.max_pairs + slot)
        packed = pack(
            pairs,
            record_of,
            max_predictions=manifest.max_predictions,
            max_pairs=manifest.max_pairs,
            pad_id=vocabulary.pad_id,
        )
        return {NUMBERS: numbers, **packed}

    def masked(arrays: Mapping[str, np.ndarray], numbers: np.ndarray) -> Arrays:
        seeds = record_seeds(stream, numbers)
        return masker(arrays[schema.INPUT_IDS], arrays[schema.INPUT_MASK], seeds)

    return mask


def _narrow(values: tf.Tensor) -> tf.Tensor:
    """Cast int64 values to int32, which accelerators support better; return others unchanged."""
    return tf.cast(values, tf.int32) if values.dtype == tf.int64 else values


@contextmanager
def corrupt_files_named(
    dataset: Path, manifest: Manifest, files: ShardFiles | None = None
) -> Iterator[None]:
    """Convert TensorFlow's error about a record or file into one that names the file.

    Args:
        dataset: directory of the dataset.
        manifest: its manifest.
        files: the files that the batches are read from, which keep their error; None = check all.

    Raises:
        InputError: a TFRecord file is missing, corrupt or changed, or a record does not match the
            manifest.
        JobError: a file cannot be read now.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if files and files.fault:
            raise files.fault from error
        kinds = tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError
        if isinstance(error, kinds):
            for shards in manifest.splits.values():
                for shard in shards:
                    opened = files.opened(shard) if files else nullcontext(dataset / shard.name)
                    _check_file(dataset / shard.name, opened, manifest)
        raise


def _check_file(file: Path, opened: AbstractContextManager[Path], manifest: Manifest) -> None:
    """Read a whole TFRecord file.

    Args:
        file: its path, for messages.
        opened: yields its local path.
        manifest: manifest of the dataset.

    Raises:
        InputError: the file is missing, or a record is damaged or lacks a feature.
    """
    good = 0
    try:
        with opened as local:
            check_records(local, manifest.compression_type)
            for record in tf.data.TFRecordDataset(str(local), manifest.compression_type):
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
