"""Batches of encoded examples of similar length; the batches do not depend on the device count.

Shapes: B batch size, L positions of the longest example in the batch, rounded up; T texts of an
example, if they are encoded one by one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import tensorflow as tf

from model.tasks.encoded import Encoded
from model.tasks.task_kind import Task
from pipeline import schema

BATCHES_SORTED = 16
"""Number of consecutive batches whose examples are sorted by length. More would save little padding
and make the order less random."""

TEACHER_LOGITS = "teacher_logits"
"""Name of a feature: float32 [B, C] or [B, L, C], the teacher's outputs."""

LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Lengths that batches are padded to. Few, because the step is compiled once for each length."""


@dataclass(frozen=True)
class Batches:
    """Batches of encoded examples.

    Attributes:
        encoded: encoded examples.
        task: task of the examples.
        batch_size: examples in a global batch.
        pad_id: id of [PAD].
        max_seq_length: maximum number of positions of an example.
        fixed_length: whether all batches have length `max_seq_length`, as TPUs require.
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
        """Return the training batches of this process, as an infinite dataset.

        Args:
            context: index of this process, and number of devices.
            seed: seed of the order of examples.
            skip_examples: number of examples to skip, to resume training.

        Returns:
            Batches: int32 [B, L] input_ids, input_mask, segment_ids; task_labels, see `Encoded`,
            padded with `encoded.NO_LABEL`; example_weights float32 [B]: 1 for all examples. If the
            examples have T texts that are encoded one by one, the first three are [B, T, L].
        """

        @lru_cache(maxsize=2)  # a batch at the end of an epoch needs the orders of two
        def order(epoch: int) -> np.ndarray:
            return self._epoch(seed, epoch)

        def rows(batch: int) -> np.ndarray:
            first = skip_examples + batch * self.batch_size
            places = np.arange(first, first + self.batch_size)
            epochs = places // len(self)
            return np.array(
                [order(int(e))[p % len(self)] for e, p in zip(epochs, places, strict=True)]
            )

        return self._dataset(rows, self.arrays, self._groups, context, None)

    def _epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Return the order of the examples in an epoch: int64 [N].

        Examples are shuffled. In each window of `BATCHES_SORTED` batches they are then sorted by
        length, split into batches, and the batches are shuffled. A batch may contain the end of one
        epoch and the start of the next, so windows start at the first whole batch of the epoch.
        """
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self))
        size = self.batch_size
        # Examples at the start of the epoch that fill the last batch of the one before.
        first = -(epoch * len(order)) % size
        end = first + max(len(order) - first, 0) // size * size
        lengths = self._lengths[self._groups].max(axis=1)
        for start in range(first, end, BATCHES_SORTED * size):
            window = order[start : min(start + BATCHES_SORTED * size, end)]
            # Stable, so that equal lengths keep the random order, on every platform.
            by_length = window[np.argsort(lengths[window], kind="stable")].reshape(-1, size)
            # `permutation` shuffles the rows, which are batches.
            order[start : start + window.size] = rng.permutation(by_length).ravel()
        return order

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.encoded.input_ids])

    @cached_property
    def _groups(self) -> np.ndarray:
        """Indices of the encoded texts of each example: int32 [E, T]."""
        groups = self.encoded.groups
        return np.arange(len(self.encoded))[:, np.newaxis] if groups is None else groups

    @property
    def texts_per_example(self) -> int:
        """T: number of texts of an example that are encoded one by one."""
        return self._groups.shape[1]

    @cached_property
    def by_length(self) -> np.ndarray:
        """Indices of the encoded texts in the order of `evaluation`: int64 [N]."""
        return np.argsort(self._lengths, kind="stable")

    @property
    def evaluation_count(self) -> int:
        """Number of batches of `evaluation`."""
        return -(-len(self.encoded) // self.batch_size)

    def evaluation(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Return the batches of one pass over the encoded texts, in the order of `by_length`.

        The last batch is padded to the batch size with copies of a text that have weight 0.
        """

        def rows(batch: int) -> np.ndarray:
            first = batch * self.batch_size
            places = np.arange(first, first + self.batch_size)
            count = len(self.encoded)
            # Equal batch sizes: another one would compile the step once more.
            return np.where(places < count, self.by_length[places % count], -1)

        if self.encoded.groups is None:
            return self._dataset(rows, self.arrays, self._groups, context, self.evaluation_count)
        texts = np.arange(len(self.encoded))[:, np.newaxis]
        return self._dataset(rows, self._without_labels, texts, context, self.evaluation_count)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._groups)

    def _dataset(
        self,
        rows: Callable[[int], np.ndarray],
        arrays: Callable[[np.ndarray, int], dict[str, np.ndarray]],
        groups: np.ndarray,
        context: tf.distribute.InputContext,
        count: int | None,
    ) -> tf.data.Dataset:
        """Return the per-device batches of this process.

        Args:
            rows: returns the indices of a global batch's examples; -1 = filler.
            arrays: returns the features of examples, padded to a length.
            groups: int32 [E, T]. Indices of the encoded texts of each example.
            context: index of this process, and number of devices.
            count: number of global batches; None = infinite.
        """
        size = context.get_per_replica_batch_size(self.batch_size)
        # Devices of this process; `device_batch` numbers go round them.
        devices = context.num_replicas_in_sync // context.num_input_pipelines
        first_device = context.input_pipeline_id * devices
        first_rows = rows(0)[:size]
        empty = arrays(first_rows, self._padded_length(groups[first_rows]))

        def device_batch(number: np.ndarray) -> list[np.ndarray]:
            batch, device = divmod(int(number), devices)
            chosen = rows(batch)
            # The length of the global batch: all devices must run the same compiled step.
            length = self._padded_length(groups[chosen])
            first = (first_device + device) * size
            return list(arrays(chosen[first : first + size], length).values())

        @tf.autograph.experimental.do_not_convert
        def tensors(number: tf.Tensor) -> dict[str, tf.Tensor]:
            kinds = [values.dtype for values in empty.values()]
            # In NumPy: the examples stay in this process, and are no constants of the graph.
            values = tf.numpy_function(device_batch, [number], kinds)
            return {
                name: tf.ensure_shape(value, self._shape(name, like))
                for (name, like), value in zip(empty.items(), values, strict=True)
            }

        # The data are a function of the batch's number alone, so that a run resumes at any step.
        numbers = tf.data.Dataset.counter()
        if count is not None:
            numbers = numbers.take(count * devices)
        options = tf.data.Options()
        # Batches of a step belong together: in another order, devices would mix those of two steps.
        options.deterministic = True
        off = tf.data.experimental.AutoShardPolicy.OFF
        # Each process computes its own rows; TensorFlow would drop some of them once more.
        options.experimental_distribute.auto_shard_policy = off
        return numbers.map(tensors).prefetch(4).with_options(options)

    def _shape(self, name: str, like: np.ndarray) -> list[int | None]:
        """Return the static shape of a feature; its length is None unless `fixed_length`."""
        shape: list[int | None] = list(like.shape)
        is_long = like.ndim > 1 and name not in ("task_labels", TEACHER_LOGITS)
        is_long |= name == TEACHER_LOGITS and self.task.is_per_position
        if is_long or (name == "task_labels" and self.task.definition.labels_per_position):
            shape[-1] = self.max_seq_length if self.fixed_length else None
        return shape

    def _padded_length(self, texts: np.ndarray) -> int:
        """Return the length that encoded texts are padded to, from their indices."""
        if self.fixed_length:
            return self.max_seq_length
        longest = self._lengths[texts].max()
        return min(
            next((length for length in LENGTHS if length >= longest), self.max_seq_length),
            self.max_seq_length,
        )

    def arrays(self, rows: np.ndarray, length: int | None = None) -> dict[str, np.ndarray]:
        """Return the features of the given examples, by name.

        Args:
            rows: indices of the examples; -1 = filler.
            length: L. Default: the padded length of these examples.
        """
        groups = self._groups[rows]
        length = length or self._padded_length(groups)
        features = self.inputs_of(groups.ravel(), length)
        if self.encoded.groups is not None:
            shape = (*groups.shape, length)
            features = {name: values.reshape(shape) for name, values in features.items()}
        return {
            **features,
            "task_labels": self._labels(rows, length),
            "example_weights": (rows >= 0).astype(np.float32),
            **(self._teaching(rows, length) if self.encoded.teacher_logits else {}),
        }

    def _without_labels(self, texts: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Return the features of encoded texts that are only parts of examples."""
        weights = (texts >= 0).astype(np.float32)
        return {**self.inputs_of(texts, length), "example_weights": weights}

    def inputs_of(self, texts: np.ndarray, length: int | None = None) -> dict[str, np.ndarray]:
        """Return the model's inputs for encoded texts, or pairs of texts: int32 [N, L] each.

        Args:
            texts: int [N]. Indices of the encoded texts; -1 = filler.
            length: L. Default: the padded length of these texts.
        """
        length = length or self._padded_length(texts)
        encoded = self.encoded
        input_ids = np.full((len(texts), length), self.pad_id, np.int32)
        for place, text in enumerate(texts):
            # Filler (-1) is the last text: real pieces, whose weight is 0.
            input_ids[place, : self._lengths[text]] = encoded.input_ids[text]
        positions = np.arange(length)
        input_mask = positions < self._lengths[texts][:, np.newaxis]
        second = positions >= encoded.first_lengths[texts][:, np.newaxis]
        return {
            schema.INPUT_IDS: input_ids,
            schema.INPUT_MASK: input_mask.astype(np.int32),
            schema.SEGMENT_IDS: (input_mask & second).astype(np.int32),
        }

    def _teaching(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Return the teacher's logits, padded with 0, and which labels are known."""
        logits, are_labelled = self.encoded.teacher_logits, self.encoded.are_labelled
        shape = (length, self.task.num_outputs) if self.task.is_per_position else logits[0].shape
        padded = np.zeros((len(rows), *shape), np.float32)
        for place, row in enumerate(rows):
            padded[place, : len(logits[row])] = logits[row]
        known = np.ones(len(rows)) if are_labelled is None else are_labelled[rows]
        return {TEACHER_LOGITS: padded, "are_labelled": known.astype(np.float32)}

    def _labels(self, rows: np.ndarray, length: int) -> np.ndarray:
        labels, kind = self.encoded.labels, self.task.definition
        if labels is None:
            return np.zeros(len(rows), kind.label_dtype)
        return kind.padded_labels(labels, rows, length)
