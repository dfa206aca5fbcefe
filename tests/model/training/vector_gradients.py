"""Print losses and gradients of compared texts, on several devices and in parts, as JSON.

    python vector_gradients.py DEVICES PARTS [PARTS ...]

A process of its own, because logical devices are set before TensorFlow starts, and a process has
one group of devices.
"""

import json
import sys
from typing import Any

import numpy as np
import tensorflow as tf

DEVICES = int(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * DEVICES)

from model.bert.config import BertConfig  # noqa: E402
from model.tasks.batches import Batches  # noqa: E402
from model.tasks.encoded import Encoded  # noqa: E402
from model.tasks.objective import Tuning  # noqa: E402
from model.tasks.task_kind import Task  # noqa: E402
from model.tasks.vectors import VectorSettings  # noqa: E402
from model.training.config import TrainingConfig  # noqa: E402
from model.training.loop import NORM, Trainer, distribute  # noqa: E402
from model.training.strategy import make_strategy  # noqa: E402

BATCH_SIZE = 8
CONFIG = BertConfig(
    vocab_size=40,
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=3,
    intermediate_size=20,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    max_position_embeddings=16,
    initializer_range=0.3,
)
TRAINING = TrainingConfig(
    steps=4, batch_size=BATCH_SIZE, learning_rate=0.02, warmup_steps=0, weight_decay=0.1, seed=5
)
TASK = Task(
    "similarity",
    (),
    takes_pairs=False,
    vectors=VectorSettings(dimensions=(12, 5), both_directions=True),
)


def triplets() -> Batches:
    """Return triplets of random texts."""
    rng = np.random.default_rng(3)
    texts = [
        np.array([2, *rng.integers(5, 40, rng.integers(1, 12)), 3], np.int32) for _ in range(40)
    ]
    groups = rng.permutation(40)[:36].reshape(-1, 3).astype(np.int32)
    lengths = np.array([len(text) for text in texts], np.int32)
    encoded = Encoded(texts, lengths, groups, np.arange(40, dtype=np.int32), groups=groups)
    # All batches have one length: nothing is traced twice.
    return Batches(encoded, TASK, BATCH_SIZE, pad_id=0, max_seq_length=16, fixed_length=True)


def steps(parts: int) -> dict[str, Any]:
    """Return the gradients of the first step, and losses and gradient norms of two steps."""
    strategy = make_strategy("one" if DEVICES == 1 else "mirrored")
    trainer = Trainer(
        CONFIG, TRAINING, Tuning(TASK, 1), strategy, xla=parts > 1, accumulation_steps=parts
    )
    batches = triplets()
    data = distribute(strategy, lambda context: batches.train(context, seed=1, skip_examples=0))
    sums = [trainer.train(data, tf.constant(1))]
    # After one step AdamW's momentum is the clipped gradient times 1 - beta1.
    momentum = trainer.state["momentum"]
    gradients = {name: value.numpy().ravel().tolist() for name, value in momentum.items()}
    sums.append(trainer.train(data, tf.constant(1)))
    losses = [float(step["task_loss"] / step["task_weight"]) for step in sums]
    norms = [float(step[NORM]) for step in sums]
    return {"losses": losses, "norms": norms, "gradients": gradients}


if __name__ == "__main__":
    print(json.dumps({parts: steps(int(parts)) for parts in sys.argv[2:]}))
