"""Print the losses of a few steps of a dataset on one device or on several, as JSON.

    python device_losses.py DATASET DEVICES

With one device, the strategy is "one"; with several, "mirrored".

A process of its own, because logical devices are set before TensorFlow starts.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
devices = int(sys.argv[2])
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)

from model.bert.config import BertConfig  # noqa: E402
from model.tasks.kinds import heads  # noqa: E402
from model.training.config import Precision, TrainingConfig  # noqa: E402
from model.training.input import eval_batches, train_batches  # noqa: E402
from model.training.loop import DATA_SECS, Trainer, distribute  # noqa: E402
from model.training.losses import Pretraining  # noqa: E402
from model.training.strategy import make_strategy  # noqa: E402
from pipeline.manifest import read_manifest  # noqa: E402

STEPS = 4
BATCH_SIZE = 12
RECIPE = {
    "initialization": "neighbours-and-matches",
    "next_sentence_weight": 0.2,
    "optimizer": "muon",
}
"""What is new in the recipe `cpu-hours`; the weight applies from the third step on."""


def losses(
    strategy_name: str,
    dataset: Path,
    *,
    xla: bool,
    dropout: float,
    accumulation_steps: int = 1,
    recompute: bool = False,
    optimizer: str = "adamw",
    precision: Precision = "float32",
    **recipe: Any,
) -> dict[str, Any]:
    """Return the sums of each step, and those of the eval split as the last; weights at the end."""
    manifest = read_manifest(dataset)
    strategy = make_strategy(strategy_name)
    config = BertConfig(
        vocab_size=manifest.vocab_size,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=20,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        # Large weights: the losses differ from step to step, and the clipping is at work.
        initializer_range=0.3,
    )
    training = TrainingConfig(
        steps=STEPS,
        batch_size=BATCH_SIZE,
        learning_rate=0.02,
        warmup_steps=1,
        weight_decay=0.1,
        seed=5,
        optimizer=optimizer,
        precision=precision,
        **recipe,
    )
    trainer = Trainer(
        config,
        training,
        Pretraining(heads("nsp")),
        strategy,
        xla=xla,
        accumulation_steps=accumulation_steps,
        recompute=recompute,
    )
    if trainer.loss_scale:
        # So large that the first steps overflow and are left out.
        trainer.loss_scale.state["power"].assign(17)
    batches = partial(
        train_batches, dataset, manifest, batch_size=BATCH_SIZE, seed=5, skip_examples=0
    )
    iterator = distribute(strategy, batches)
    sums = [trainer.train(iterator, tf.constant(1)) for _ in range(STEPS)]
    held_out = partial(eval_batches, dataset, manifest, "eval", batch_size=BATCH_SIZE)
    count = -(-manifest.examples("eval") // BATCH_SIZE)
    sums.append(trainer.evaluate(distribute(strategy, held_out), tf.constant(count)))
    found = [
        {name: float(value) for name, value in step.items() if name != DATA_SECS} for step in sums
    ]
    weights = {path: weight.numpy().ravel().tolist() for path, weight in trainer.weights.items()}
    state = trainer.loss_scale.state if trainer.loss_scale else {}
    scale = {name: int(value.numpy()) for name, value in state.items()}
    replicas = strategy.num_replicas_in_sync
    return {"replicas": replicas, "sums": found, "weights": weights, "scale": scale}


def main(dataset: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "xla 0.2": {},
        "graph 0.2": {"xla": False},
        "xla 0": {"dropout": 0},
        "in parts 0.2": {"accumulation_steps": 3},
        "recompute 0.2": {"recompute": True},
        "float16": {"dropout": 0, "precision": "float16"},
        "bfloat16": {"dropout": 0, "precision": "bfloat16"},
        "lamb 0.2": {"optimizer": "lamb"},
        "recipe 0": {"dropout": 0, **RECIPE},
    }
    strategy = "one" if devices == 1 else "mirrored"
    cases = {
        f"{strategy} {name}": losses(strategy, dataset, **{"xla": True, "dropout": 0.2} | given)
        for name, given in settings.items()
    }
    print(json.dumps(cases))


main(Path(sys.argv[1]))
