"""The compiled training loop: per-replica gradients, their all-reduce, the optimizer step.

One call of `train` runs many steps. Each replica computes its forward and backward pass in one XLA
program; outside of it the gradients are summed over the replicas, clipped and applied.

Shapes: B examples per replica, G seed generators (one per dropout layer).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.initialization import INITIALIZERS
from model.bert.kernels import FIRST_EXAMPLE, fused_on_cpu
from model.bert.network import recompute_layers, weights_by_name
from model.tasks.kinds import Head
from model.training.checkpoints import State
from model.training.config import TrainingConfig
from model.training.loss_scale import LossScale, counter
from model.training.losses import Objective, global_loss, texts_per_example
from model.training.optimizer import OPTIMIZERS, AdamW, OptimizerSettings, make_schedule
from model.training.precision import dtype_policy
from model.training.predictor import Predictor
from model.training.strategy import is_on_cpu
from model.training.sums import Batch, Sums
from model.training.workers import Workers
from pipeline import schema

NORM = "gradient_norm"
"""Name of a sum over steps: the global norm of the gradients before clipping."""

POSITIONS, REAL_POSITIONS = "positions", "real_positions"
"""Names of two sums: the number of positions, and of those that are not padding."""

DATA_SECS = "data_secs"
"""Name of a sum: the time spent waiting for batches, in seconds."""

NEXT_SENTENCE: Head = "next_sentence"

FULL_WARMUPS = 2
"""Multiple of the warm-up after which `TrainingConfig.next_sentence_weight` applies."""


class Trainer:
    """A model, its optimizer and its step counter on the devices of a strategy.

    Attributes:
        strategy: distribution strategy of the replicas.
        accumulation_steps: number of gradient-accumulation steps per optimizer step.
        times_data: whether the wait for batches is measured; TensorFlow refuses that if operations
            must be deterministic.
        objective: the losses to minimise.
        config: hyperparameters of the model.
        model: the objective's model.
        predictor: the model for inference.
        optimizer: the optimizer of the model's weights.
        step: int64 []. Number of optimizer steps done.
        position: int64 []. Number of batches consumed from the train stream: steps plus batches
            skipped after a divergence.
    """

    def __init__(
        self,
        config: BertConfig,
        training: TrainingConfig,
        objective: Objective,
        strategy: tf.distribute.Strategy,
        *,
        xla: bool,
        accumulation_steps: int = 1,
        recompute: bool = False,
        times_data: bool = True,
    ) -> None:
        self.config = config
        self.strategy = strategy
        self.accumulation_steps = accumulation_steps
        self.times_data = times_data
        self.objective = objective
        self.seed = training.seed
        self._next_sentence_weight = training.next_sentence_weight
        self._full_steps = FULL_WARMUPS * training.warmup_steps
        self.schedule = make_schedule(
            training.schedule, training.learning_rate, training.warmup_steps, training.steps
        )
        # Before the model: the initial weights are drawn while it is built.
        keras.utils.set_random_seed(training.seed)
        with strategy.scope(), dtype_policy(training.precision):
            self.model = _initial_model(config, training, objective)
            if recompute:
                recompute_layers(self.model)
            self.weights = weights_by_name(self.model)
            self.optimizer = self._make_optimizer(training)
            self.step = counter(0)
            self.position = counter(0)
            # Small gradients underflow in float16, so the loss is scaled up as far as possible.
            self.loss_scale = LossScale() if training.precision == "float16" else None
        # With bfloat16 products the gradients have no more digits than bfloat16 anyway; sending
        # them between workers as bfloat16 halves the traffic.
        several = Workers(strategy).count > 1
        self._sends_bfloat16 = several and training.precision == "bfloat16"
        # Keras's other variables: the state of each dropout layer's seed generator.
        weights = {id(weight) for weight in self.model.weights}
        self._seed_states = [v for v in self.model.variables if id(v) not in weights]
        self._compile(xla=xla)

    def _make_optimizer(self, training: TrainingConfig) -> AdamW:
        """Return the optimizer of the model's weights, in the scope of the strategy."""
        settings = OptimizerSettings(
            weight_decay=training.weight_decay,
            compute_dtype="bfloat16" if training.precision == "bfloat16" else "float32",
        )
        return OPTIMIZERS[training.optimizer](
            {weight.path: weight.value for weight in self.model.trainable_variables},
            self.schedule,
            settings,
            self.objective.learning_rate_factor,
        )

    def _compile(self, *, xla: bool) -> None:
        """Make the compiled functions: gradients, measures and predictions."""
        # On CPUs matrix products are faster outside of XLA: see model/bert/kernels.py.
        self._fuse = xla and is_on_cpu(self.strategy)
        whole = xla and not self._fuse
        self._gradients = tf.function(self._gradients_and_sums, jit_compile=whole, autograph=False)
        self._measures = tf.function(self._forward_sums, jit_compile=whole, autograph=False)
        self._outputs = tf.function(self._training_outputs, jit_compile=whole, autograph=False)
        self._backward = tf.function(self._output_gradients, jit_compile=whole, autograph=False)
        parts = self.strategy.num_replicas_in_sync * self.accumulation_steps
        self._gathers = self.objective.needs_whole_batch and parts > 1
        self.predictor = Predictor(self.model, self.strategy, xla=xla)

    @property
    def steps_done(self) -> int:
        """Number of optimizer steps done, as a Python integer."""
        return int(self.step.numpy())

    @property
    def state(self) -> State:
        """The variables that a checkpoint stores, by name."""
        return {
            "model": self.weights,
            "momentum": self.optimizer.momentum,
            "velocity": self.optimizer.velocity,
            "step": self.step,
            "position": self.position,
            **({"loss_scale": self.loss_scale.state} if self.loss_scale else {}),
        }

    @tf.function
    def train(self, batches: Iterator[Batch], steps: tf.Tensor) -> Sums:
        """Run optimizer steps and return the sums over them, float32 [] each, by name.

        The sums are those of the objective, and `NORM`, `POSITIONS`, `REAL_POSITIONS`, `DATA_SECS`.

        Args:
            batches: per-replica batches of the train stream.
            steps: int32 []. Number of steps.
        """
        names = (*self.objective.sum_names, NORM, POSITIONS, REAL_POSITIONS)
        totals = dict.fromkeys(names, tf.zeros([]))
        data_secs = tf.zeros([], tf.float64)
        for _ in tf.range(steps):
            # Start the clock after the previous step, or the wait for that would be counted too.
            with tf.control_dependencies(list(totals.values())):
                requested = self._now()
            with tf.control_dependencies([requested]):
                batch = next(batches)
            parts = tf.nest.flatten(batch, expand_composites=True)
            with tf.control_dependencies(parts):
                received = self._now()
            # The step after the clock: with one core, it could run first and be counted.
            with tf.control_dependencies([received]):
                parts = [tf.identity(part) for part in parts]
            batch = tf.nest.pack_sequence_as(batch, parts, expand_composites=True)
            data_secs += received - requested
            sums = self._first(self.strategy.run(self._train_replica, args=(batch,)))
            if self.loss_scale:
                sums[NORM] = self.loss_scale.updated(sums[NORM])
            totals = {name: totals[name] + sums[name] for name in totals}
            self.step.assign_add(1)
            self.position.assign_add(1)
        if self.times_data:
            totals[DATA_SECS] = tf.cast(data_secs, tf.float32)
        return totals

    @tf.autograph.experimental.do_not_convert
    def _now(self) -> tf.Tensor:
        """Return the time in seconds, float64 []; 0 if times are not measured."""
        return tf.timestamp() if self.times_data else tf.zeros([], tf.float64)

    @tf.function
    def evaluate(self, batches: Iterator[Batch], count: tf.Tensor) -> Sums:
        """Return the sums of the objective over some batches, float64 [] each, by name.

        Args:
            batches: per-replica batches.
            count: int32 []. Number of global batches.
        """
        totals = dict.fromkeys(self.objective.sum_names, tf.zeros([], tf.float64))
        for _ in tf.range(count):
            # Batches are independent: two in parallel keep the cores busy, and more (TensorFlow's
            # default is ten) only need memory.
            tf.autograph.experimental.set_loop_options(parallel_iterations=2)
            sums = self._first(self.strategy.run(self._measure_replica, args=(next(batches),)))
            totals = {name: totals[name] + tf.cast(sums[name], tf.float64) for name in totals}
        return totals

    @tf.autograph.experimental.do_not_convert
    def _first(self, sums: Mapping[str, tf.distribute.DistributedValues]) -> Sums:
        """Return the first replica's values, for sums that are equal in every replica."""
        return {
            name: self.strategy.experimental_local_results(values)[0]
            for name, values in sums.items()
        }

    def _in_loss(self, weights: Sums) -> Sums:
        """Return the weights by which the loss divides the heads' sums in this step.

        A larger one lets a head count less: see `TrainingConfig.next_sentence_weight`.
        """
        if self._next_sentence_weight == 1 or NEXT_SENTENCE not in weights:
            return weights
        is_early = self.step < self._full_steps
        factor = tf.where(is_early, 1.0, self._next_sentence_weight)
        return {**weights, NEXT_SENTENCE: weights[NEXT_SENTENCE] / factor}

    @tf.autograph.experimental.do_not_convert  # nothing in it needs that, and it takes seconds
    def _train_replica(self, batch: Batch) -> Sums:
        """Do one step in a replica's context and return the sums over all replicas."""
        replica = tf.distribute.get_replica_context()
        # Weights of the global batch before the gradients: each replica divides its loss by them,
        # so that the sum over replicas is the gradient of the global mean.
        weights = replica.all_reduce(tf.distribute.ReduceOp.SUM, self.objective.weights(batch))
        weights = self._in_loss(weights)
        # Dropout masks depend on the index in the global batch, so that they do not depend on the
        # number of devices.
        first_example = replica.replica_id_in_sync_group * batch["example_weights"].shape[0]
        scale = self.loss_scale.value() if self.loss_scale else tf.ones([])
        compute = self._of_whole_batch if self._gathers else self._accumulated
        gradients, sums = compute(batch, weights, first_example, scale)
        sums |= {
            POSITIONS: tf.cast(tf.size(batch[schema.INPUT_MASK]), tf.float32),
            REAL_POSITIONS: tf.reduce_sum(tf.cast(batch[schema.INPUT_MASK], tf.float32)),
        }
        if self._sends_bfloat16:
            gradients = [tf.cast(gradient, tf.bfloat16) for gradient in gradients]
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        # Norm and moments need float32: in bfloat16 a small addend does not change a large sum.
        gradients = [tf.cast(gradient, tf.float32) for gradient in gradients]
        norm = self.optimizer.apply(gradients, tf.identity(self.step), scale)
        return {**sums, NORM: norm}

    def _accumulated(
        self,
        batch: Batch,
        weights: Sums,
        first_example: tf.Tensor,
        scale: tf.Tensor,
    ) -> tuple[list[tf.Tensor], Sums]:
        """Return the gradients and sums of a replica's batch, with gradient accumulation.

        Args:
            batch: the replica's batch.
            weights: weights of the global batch, by head.
            first_example: int32 []. Index in the global batch of the replica's first example.
            scale: float32 []. Factor on the gradients (loss scaling).
        """
        if self.accumulation_steps == 1:
            seeds = self._dropout_seeds(first_example * texts_per_example(batch))
            return self._gradients(batch, weights, seeds, scale)

        def add_part(index: tf.Tensor, gradients: list[tf.Tensor], sums: Sums) -> Any:
            part, seeds = self._part(batch, index, first_example)
            more_gradients, more_sums = self._gradients(part, weights, seeds, scale)
            gradients = [a + b for a, b in zip(gradients, more_gradients, strict=True)]
            return index + 1, gradients, {name: sums[name] + more_sums[name] for name in sums}

        start = (
            tf.constant(0),
            [tf.zeros(weight.shape) for weight in self.model.trainable_variables],
            dict.fromkeys(self.objective.sum_names, tf.zeros([])),
        )
        _, gradients, sums = self._each_part(add_part, start)
        return gradients, sums

    def _each_part(self, body: Callable[..., Any], start: tuple[Any, ...]) -> Any:
        """Run a loop over the accumulation steps; the first loop variable is the step's index."""
        return tf.while_loop(
            lambda index, *_: index < self.accumulation_steps,
            body,
            start,
            parallel_iterations=1,  # only one part's activations in memory at a time
        )

    def _part(
        self, batch: Batch, index: tf.Tensor, first_example: tf.Tensor
    ) -> tuple[Batch, tf.Tensor]:
        """Return the batch of an accumulation step, and its dropout states."""
        size = batch["example_weights"].shape[0] // self.accumulation_steps
        first = index * size
        part = {
            # XLA needs static shapes, and a slice that begins at a tensor has none.
            name: tf.ensure_shape(values[first : first + size], [size, *values.shape[1:]])
            for name, values in batch.items()
        }
        first_text = (first_example + first) * texts_per_example(batch)
        return part, self._dropout_seeds(first_text)

    def _of_whole_batch(
        self, batch: Batch, weights: Sums, first_example: tf.Tensor, scale: tf.Tensor
    ) -> tuple[list[tf.Tensor], Sums]:
        """Return what `_accumulated` does, for a loss that compares the examples of the batch.

        First the outputs of all parts and replicas are computed and gathered, then the loss of the
        global batch and its gradients by the outputs, and last, part by part, the gradients by the
        weights. The dropout is the same in both passes.

        Source: Gao et al. 2021, https://arxiv.org/abs/2101.06983, section 3.2 (GradCache).
        """
        labels = {name: batch[name] for name in batch if name not in schema.ENCODER_INPUTS}
        own_outputs = self._all_outputs(batch, first_example)
        outputs, gathered_labels = self._gathered(own_outputs, labels)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            sums = self.objective.sums(outputs, gathered_labels)
            loss = global_loss(sums, weights) * scale
        by_output = tape.gradient(loss, outputs)
        # The sums are of the global batch in every replica, and are added up over the replicas.
        replica = tf.distribute.get_replica_context()
        is_first = tf.cast(replica.replica_id_in_sync_group == 0, tf.float32)
        sums = {name: value * is_first for name, value in sums.items()}
        size = batch["example_weights"].shape[0]
        mine = {name: values[first_example:][:size] for name, values in by_output.items()}

        def add_part(index: tf.Tensor, gradients: list[tf.Tensor]) -> Any:
            part, seeds = self._part(batch, index, first_example)
            count = size // self.accumulation_steps
            upstream = {name: values[index * count :][:count] for name, values in mine.items()}
            more = self._backward(part, seeds, upstream)
            return index + 1, [a + b for a, b in zip(gradients, more, strict=True)]

        zeros = [tf.zeros(weight.shape) for weight in self.model.trainable_variables]
        _, gradients = self._each_part(add_part, (tf.constant(0), zeros))
        return gradients, sums

    def _all_outputs(self, batch: Batch, first_example: tf.Tensor) -> Batch:
        """Return the outputs for a replica's batch, computed part by part."""

        def add_part(index: tf.Tensor, outputs: dict[str, tf.TensorArray]) -> Any:
            part, seeds = self._part(batch, index, first_example)
            more = self._outputs(part, seeds)
            return index + 1, {name: outputs[name].write(index, more[name]) for name in more}

        # A `TensorArray` needs the shapes before the loop begins.
        specs = self._outputs.get_concrete_function(
            *self._part(batch, tf.constant(0), first_example)
        ).structured_outputs
        start = {
            name: tf.TensorArray(spec.dtype, self.accumulation_steps, element_shape=spec.shape)
            for name, spec in specs.items()
        }
        _, outputs = self._each_part(add_part, (tf.constant(0), start))
        return {name: values.concat() for name, values in outputs.items()}

    def _gathered(self, *batches: Batch) -> list[Batch]:
        """Return the batches of all replicas as one, in the order of the replicas.

        A sum of batches that are zero outside of their own rows works under every strategy.
        """
        count = self.strategy.num_replicas_in_sync
        if count == 1:
            return list(batches)
        replica = tf.distribute.get_replica_context()
        own = replica.replica_id_in_sync_group

        def placed(values: tf.Tensor) -> tf.Tensor:
            # Strategies sum tensors of one dtype at a time, and keep integers on the host. Labels
            # are below 2^24, so float32 holds them exactly.
            values = tf.cast(values, tf.float32)
            rows = [tf.where(own == other, values, tf.zeros_like(values)) for other in range(count)]
            return tf.concat(rows, axis=0)

        own_rows = tf.nest.map_structure(placed, list(batches))
        whole = replica.all_reduce(tf.distribute.ReduceOp.SUM, own_rows)
        return [
            {name: tf.cast(values, before[name].dtype) for name, values in after.items()}
            for before, after in zip(batches, whole, strict=True)
        ]

    @tf.autograph.experimental.do_not_convert
    def _measure_replica(self, batch: Batch) -> Sums:
        # A compiled function must be called in the replica's context, or it uses the variables of
        # another device.
        sums = self._measures(batch)
        replica = tf.distribute.get_replica_context()
        summed: Sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        return summed

    def _dropout_seeds(self, first_text: tf.Tensor | int) -> tf.Tensor:
        """Return the dropout states (see `model.bert.kernels`) of all layers, int64 [G, 2].

        Args:
            first_text: index in the global batch of the first text, or pair of texts, of the
                replica's part.
        """
        # From seed and step alone: a resumed run draws the numbers that it would have drawn.
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.identity(self.step)])
        layers = len(self._seed_states)
        # By name: TensorFlow's default algorithm differs between kinds of devices.
        seeds = tf.random.stateless_uniform(
            [2, layers], seed, minval=0, maxval=FIRST_EXAMPLE, dtype=tf.int64, alg="philox"
        )
        # The index of the first example stands in the upper 32 bits, see
        # `model.bert.kernels._dropped`.
        first = tf.cast(first_text, tf.int64) * FIRST_EXAMPLE
        return tf.stack([seeds[0], first + seeds[1]], axis=1)

    def _gradients_and_sums(
        self, batch: Batch, weights: Sums, seeds: tf.Tensor, scale: tf.Tensor
    ) -> tuple[list[tf.Tensor], Sums]:
        """Return the gradients of this replica's share of the scaled loss, and its sums."""
        if self._fuse:
            batch = self.objective.compacted(batch)
        with self._training(seeds):
            with tf.GradientTape() as tape:
                outputs = self.objective.outputs(self.model, batch, training=True)
                sums = self.objective.sums(outputs, batch)
                loss = global_loss(sums, weights) * scale
            return self._by_weights(tape, loss), sums

    @contextmanager
    def _training(self, seeds: tf.Tensor) -> Iterator[None]:
        """Call the model inside of this context with the dropout states `seeds`, int64 [G, 2]."""
        # In a StatelessScope Keras's seed generators return our states and update none of theirs.
        states = zip(self._seed_states, tf.unstack(seeds, len(self._seed_states)), strict=True)
        with fused_on_cpu(self._fuse), keras.StatelessScope(state_mapping=list(states)):
            yield

    def _by_weights(
        self, tape: tf.GradientTape, target: Any, upstream: Any = None
    ) -> list[tf.Tensor]:
        """Return the gradients of a target by the trained weights."""
        variables = [weight.value for weight in self.model.trainable_variables]
        # The weights of a head without a loss get gradients of zero instead of None.
        gradients = tape.gradient(target, variables, upstream, unconnected_gradients="zero")
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _training_outputs(self, batch: Batch, seeds: tf.Tensor) -> Batch:
        """Return the model's outputs in training: float32."""
        with self._training(seeds):
            outputs = self.objective.outputs(self.model, batch, training=True)
        return {name: tf.cast(values, tf.float32) for name, values in outputs.items()}

    def _output_gradients(self, batch: Batch, seeds: tf.Tensor, upstream: Batch) -> list[tf.Tensor]:
        """Return the gradients by the weights, given those by the outputs of a batch."""
        with self._training(seeds):
            with tf.GradientTape() as tape:
                outputs = self.objective.outputs(self.model, batch, training=True)
                outputs = {name: tf.cast(values, tf.float32) for name, values in outputs.items()}
            return self._by_weights(tape, outputs, upstream)

    def _forward_sums(self, batch: Batch) -> Sums:
        if self._fuse:
            batch = self.objective.compacted(batch)
        with fused_on_cpu(self._fuse):
            outputs = self.objective.outputs(self.model, batch, training=False)
            return self.objective.sums(outputs, batch)


def _initial_model(
    config: BertConfig, training: TrainingConfig, objective: Objective
) -> keras.Model:
    """Return the objective's model with the weights that training from scratch starts from."""
    model = objective.build_model(config.with_dropout(training.dropout))
    if initialize := INITIALIZERS[training.initialization]:
        initialize(model.get_layer("encoder"), config, training.seed)
    return model


def distribute(
    strategy: tf.distribute.Strategy,
    batches: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> Iterator[Batch]:
    """Return an iterator over per-replica batches.

    Args:
        strategy: distribution strategy of the replicas.
        batches: function that returns the batches of one process, round-robin over its devices.
    """
    if strategy.num_replicas_in_sync == 1:
        return iter(batches(tf.distribute.InputContext()))

    def endless(context: tf.distribute.InputContext) -> tf.data.Dataset:
        # Declare the dataset infinite (callers never read past its end): for a finite one
        # TensorFlow prepares for a partial last batch, and with several workers the static shapes
        # that XLA needs are lost.
        infinite = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return batches(context).apply(infinite)

    return iter(strategy.distribute_datasets_from_function(endless))
