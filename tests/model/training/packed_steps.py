"""Print what three steps on the same pairs give, in unpacked and in packed records, as JSON.

    python packed_steps.py

A process of its own, because logical devices are set before TensorFlow starts.
"""

import json
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, str(Path(__file__).parents[3]))

from model.bert.config import BertConfig  # noqa: E402
from model.tasks.kinds import heads  # noqa: E402
from model.training.config import TrainingConfig  # noqa: E402
from model.training.loop import DATA_SECS, Trainer, distribute  # noqa: E402
from model.training.losses import Pretraining  # noqa: E402
from model.training.strategy import make_strategy  # noqa: E402
from tests.model.conftest import MAX_SEQ_LENGTH, VOCAB_SIZE  # noqa: E402
from tests.model.training.packed_pairs import packed_batch, plain_batch  # noqa: E402

STEPS = 3
OF_RECORDS = (DATA_SECS, "positions", "real_positions")
"""Sums that count padding, or filler."""


def steps(
    batch: dict[str, tf.Tensor], strategy_name: str, *, xla: bool, accumulation_steps: int = 1
) -> dict[str, Any]:
    """Return the sums of each step; each depends on the gradients of the steps before it."""
    strategy = make_strategy(strategy_name)
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=MAX_SEQ_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )
    rows = len(batch["input_ids"])
    training = TrainingConfig(
        steps=STEPS,
        batch_size=rows,
        learning_rate=0.002,
        warmup_steps=1,
        weight_decay=0.1,
        seed=5,
    )
    trainer = Trainer(
        config,
        training,
        Pretraining(heads("nsp"), packed=True),
        strategy,
        xla=xla,
        accumulation_steps=accumulation_steps,
    )

    def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        size = context.get_per_replica_batch_size(rows)
        return tf.data.Dataset.from_tensor_slices(batch).batch(size, drop_remainder=True).repeat()

    iterator = distribute(strategy, batches)
    sums = [trainer.train(iterator, tf.constant(1)) for _ in range(STEPS)]
    return {
        "replicas": strategy.num_replicas_in_sync,
        "sums": [
            {name: float(value) for name, value in step.items() if name not in OF_RECORDS}
            for step in sums
        ],
    }


def main() -> None:
    plain, packed = plain_batch(), packed_batch()
    cases = {
        "plain one": steps(plain, "one", xla=True),
        "packed mirrored": steps(packed, "mirrored", xla=True),
        "packed in parts": steps(packed, "one", xla=True, accumulation_steps=2),
    }
    print(json.dumps(cases))


main()
