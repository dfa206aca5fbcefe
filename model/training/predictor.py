"""A model for inference on the devices of a strategy."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.bert.kernels import fused_on_cpu
from model.training.losses import model_outputs
from model.training.strategy import is_on_cpu
from model.training.sums import Batch


class Predictor:
    """A model for inference on the devices of a strategy.

    Attributes:
        strategy: distribution strategy of the replicas.
        name: which model it is, for messages.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        *,
        xla: bool,
        name: object = "the model",
    ) -> None:
        self.strategy = strategy
        self.name = name
        self._model = model
        self._fuse = xla and is_on_cpu(strategy)
        self._outputs = tf.function(
            self._forward, jit_compile=xla and not self._fuse, autograph=False
        )

    def predict(self, batch: Any) -> dict[str, np.ndarray]:
        """Return the model's outputs for a global batch, in order; equal on every worker.

        Args:
            batch: per-replica batches.
        """
        outputs = self._over_replicas(batch)
        return {
            name: self.strategy.gather(values, axis=0).numpy() for name, values in outputs.items()
        }

    @tf.function(autograph=False)
    def _over_replicas(self, batch: Any) -> Any:
        # Called in the replica's context, for the same reason as in `Trainer._measure_replica`.
        return self.strategy.run(lambda replica: self._outputs(replica), args=(batch,))

    def _forward(self, batch: Batch) -> Batch:
        with fused_on_cpu(self._fuse):
            return model_outputs(self._model, batch, training=False)
