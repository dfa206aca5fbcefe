"""Batches of encoded examples: of like lengths, the same ones on any number of devices.

Shapes: B batch, L positions, of the longest example in the batch, rounded up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import tensorflow as tf

from model.tasks.encoded import Encoded
from model.tasks.kinds import Task
from pipeline import schema

BATCHES_SORTED = 16
"""Batches, after one another in an epoch, whose examples are dealt out by their length. More would
save little padding, and leave less to chance."""

LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""What a batch's length is rounded up to: each is compiled once."""


@dataclass(frozen=True)
class Batches:
    """Encoded examples, dealt out in batches.

    Attributes:
        encoded: the examples.
        task: theirs.
        batch_size: examples a global batch.
        pad_id: what fills input_ids up.
        max_seq_length: most positions of an example.
        fixed_length: whether all batches have that length, as a TPU needs them.
    """

    encoded: Encoded
    task: Task
    batch_size: int
    pad_id: int
    max_seq_length: int
    fixed_length: bool = False

    def train(
        self, context: tf.distribute.InputContext, *, seed: int, skip_examples: int
    ) -> tf.data.Dataset:
        """Return the endless train stream from one of its examples on, or a process's share of it.

        Args:
            context: which process this is, and how many devices there are.
            seed: of the order.
            skip_examples: number of examples of the stream to leave out at its start.

        Returns:
            Batches: int32 [B, L] input_ids, input_mask, segment_ids; task_labels, see `Encoded`,
            padded with `encoded.NO_LABEL`; example_weights float32 [B]: 1 everywhere.
        """

        @lru_cache(maxsize=2)
        def order(epoch: int) -> np.ndarray:
            return self._epoch(seed, epoch)

        def rows(batch: int) -> np.ndarray:
            first = skip_examples + batch * self.batch_size
            places = np.arange(first, first + self.batch_size)
            epochs = places // len(self.encoded)
            return np.array(
                [order(int(e))[p % len(self.encoded)] for e, p in zip(epochs, places, strict=True)]
            )

        return self._dataset(rows, context, None)

    def _epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Return the order of the examples in an epoch.

        Batches start where those of the whole stream do. Inside a window the examples are sorted by
        length and cut into batches, which are put in random order.
        """
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self.encoded))
        size = self.batch_size
        first = -(epoch * len(order)) % size
        end = first + max(len(order) - first, 0) // size * size
        lengths = self._lengths
        for start in range(first, end, BATCHES_SORTED * size):
            window = order[start : min(start + BATCHES_SORTED * size, end)]
            by_length = window[np.argsort(lengths[window], kind="stable")].reshape(-1, size)
            order[start : start + window.size] = rng.permutation(by_length).ravel()
        return order

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.encoded.input_ids])

    @cached_property
    def by_length(self) -> np.ndarray:
        """The order in which `evaluation` has the examples."""
        return np.argsort(self._lengths, kind="stable")

    @property
    def evaluation_count(self) -> int:
        """Number of batches of `evaluation`."""
        return -(-len(self.encoded) // self.batch_size)

    def evaluation(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Return all examples once, in the order of `by_length`; the last batch is filled up.

        Filler is copies of the first example, with weight 0.
        """

        def rows(batch: int) -> np.ndarray:
            first = batch * self.batch_size
            places = np.arange(first, first + self.batch_size)
            return np.where(places < len(self.encoded), self.by_length[places % len(self)], -1)

        return self._dataset(rows, context, self.evaluation_count)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.encoded)

    def _dataset(
        self,
        rows: Callable[[int], np.ndarray],
        context: tf.distribute.InputContext,
        count: int | None,
    ) -> tf.data.Dataset:
        """Return the batches whose examples `rows` gives by number, one device's after another.

        Args:
            rows: numbers of the examples of a global batch; -1 is filler.
            context: which process this is, and how many devices there are.
            count: number of global batches; None = endless.
        """
        size = context.get_per_replica_batch_size(self.batch_size)
        devices = context.num_replicas_in_sync // context.num_input_pipelines
        first_device = context.input_pipeline_id * devices
        empty = self.arrays(rows(0)[:size])

        def made(number: np.ndarray) -> list[np.ndarray]:
            batch, device = divmod(int(number), devices)
            chosen = rows(batch)
            length = self._padded_length(chosen)
            first = (first_device + device) * size
            return list(self.arrays(chosen[first : first + size], length).values())

        def tensors(number: tf.Tensor) -> dict[str, tf.Tensor]:
            kinds = [values.dtype for values in empty.values()]
            values = tf.numpy_function(made, [number], kinds)
            return {
                name: tf.ensure_shape(value, self._shape(name, like))
                for (name, like), value in zip(empty.items(), values, strict=True)
            }

        numbers = tf.data.Dataset.counter()
        if count is not None:
            numbers = numbers.take(count * devices)
        options = tf.data.Options()
        options.deterministic = True
        off = tf.data.experimental.AutoShardPolicy.OFF
        options.experimental_distribute.auto_shard_policy = off
        return numbers.map(tensors).prefetch(4).with_options(options)

    def _shape(self, name: str, like: np.ndarray) -> list[int | None]:
        """Return the static shape of a feature; its length is known only where it is fixed."""
        shape: list[int | None] = list(like.shape)
        is_long = like.ndim > 1 and name != "task_labels"
        if is_long or (name == "task_labels" and self.task.definition.labels_per_position):
            shape[1] = self.max_seq_length if self.fixed_length else None
        return shape

    def _padded_length(self, rows: np.ndarray) -> int:
        if self.fixed_length:
            return self.max_seq_length
        longest = max(self._lengths[row] for row in rows)
        return min(
            next((length for length in LENGTHS if length >= longest), self.max_seq_length),
            self.max_seq_length,
        )

    def arrays(self, rows: np.ndarray, length: int | None = None) -> dict[str, np.ndarray]:
        """Return some examples as arrays by name.

        Args:
            rows: their numbers; -1 is filler.
            length: L. Default: what fits them.
        """
        length = length or self._padded_length(rows)
        encoded = self.encoded
        input_ids = np.full((len(rows), length), self.pad_id, np.int32)
        for place, row in enumerate(rows):
            input_ids[place, : self._lengths[row]] = encoded.input_ids[row]
        positions = np.arange(length)
        input_mask = positions < self._lengths[rows][:, np.newaxis]
        second = positions >= encoded.first_lengths[rows][:, np.newaxis]
        return {
            schema.INPUT_IDS: input_ids,
            schema.INPUT_MASK: input_mask.astype(np.int32),
            schema.SEGMENT_IDS: (input_mask & second).astype(np.int32),
            "task_labels": self._labels(rows, length),
            "example_weights": (rows >= 0).astype(np.float32),
        }

    def _labels(self, rows: np.ndarray, length: int) -> np.ndarray:
        labels, kind = self.encoded.labels, self.task.definition
        if labels is None:
            return np.zeros(len(rows), kind.label_dtype)
        return kind.padded_labels(labels, rows, length)
