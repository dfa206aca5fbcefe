"""Print the number of collectives in a training step and in an evaluation batch, as JSON.

A process of each of several workers, which its environment names.
"""

import json

from model.training.strategy import make_strategy

strategy = make_strategy("multi-worker")  # before any other TensorFlow operation

import tensorflow as tf  # noqa: E402

from model.bert.config import BertConfig  # noqa: E402
from model.tasks.kinds import heads  # noqa: E402
from model.training.config import Precision, TrainingConfig  # noqa: E402
from model.training.loop import Trainer, distribute  # noqa: E402
from model.training.losses import Pretraining  # noqa: E402
from tests.model.training.batches import batch_of_four  # noqa: E402


def counts(num_hidden_layers: int, precision: Precision) -> dict[str, int]:
    """Trace the loops for a model of this depth; return their collectives and its variables."""
    config = BertConfig(
        vocab_size=50,
        hidden_size=12,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=3,
        intermediate_size=20,
    )
    training = TrainingConfig(
        steps=9, batch_size=8, learning_rate=0.01, warmup_steps=2, weight_decay=0.1, seed=3,
        precision=precision,
    )  # fmt: skip
    trainer = Trainer(config, training, Pretraining(heads("nsp")), strategy, xla=False)
    batches = distribute(strategy, lambda _: tf.data.Dataset.from_tensors(batch_of_four()).repeat())
    return {
        "variables": len(trainer.model.trainable_variables),
        "train": collectives(trainer.train.get_concrete_function(batches, tf.constant(1))),
        "evaluate": collectives(trainer.evaluate.get_concrete_function(batches, tf.constant(1))),
    }


def collectives(traced: tf.types.experimental.ConcreteFunction) -> int:
    """Return the number of collectives in a graph and in its functions, each counted once."""
    graph = traced.graph.as_graph_def()
    functions = [graph.node, *(function.node_def for function in graph.library.function)]
    return sum(node.op.startswith("Collective") for nodes in functions for node in nodes)


print(
    json.dumps(
        {
            f"{layers} {name}": counts(layers, name)
            for layers in (1, 3)
            for name in ("float32", "bfloat16")
        }
    )
)
