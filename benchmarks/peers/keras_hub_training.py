"""Train KerasHub's BertMaskedLM with Keras's `fit` on batches that we wrote, without NSP.

    python keras_hub_training.py settings.json

Prints a JSON object with the speed.
"""

import json
import sys
import time
from pathlib import Path

import keras
import keras_hub
import numpy as np
import tensorflow as tf

UNTIMED_STEPS = 3  # the first steps include compilation


class Clock(keras.callbacks.Callback):
    """Callback that records the time at the end of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Record the time."""
        del batch, logs
        self.times.append(time.perf_counter())


def main(settings: dict) -> None:
    """Train, and print the speed."""
    sizes = settings["model"]
    keras.config.set_dtype_policy("mixed_bfloat16" if settings["bfloat16"] else "float32")
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=sizes["vocab_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        hidden_dim=sizes["hidden_size"],
        intermediate_dim=sizes["intermediate_size"],
    )
    model = keras_hub.models.BertMaskedLM(backbone)
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.AdamW(settings["learning_rate"], weight_decay=0.01),
        jit_compile=settings["compile"],
    )
    arrays = {name: values.astype(np.int32) for name, values in np.load(settings["train"]).items()}
    examples, length = arrays["input_ids"].shape[1:]
    features = {
        "token_ids": arrays["input_ids"],
        "padding_mask": arrays["input_mask"],
        "segment_ids": arrays["segment_ids"],
        "mask_positions": arrays["masked_lm_positions"],
    }
    labels, weights = arrays["masked_lm_ids"], arrays["masked_lm_weights"].astype(np.float32)
    batches = tf.data.Dataset.from_tensor_slices((features, labels, weights)).repeat()
    clock = Clock()
    model.fit(batches, steps_per_epoch=settings["steps"], verbose=0, callbacks=[clock])
    timed = clock.times[UNTIMED_STEPS - 1 :]
    speed = (len(timed) - 1) * examples * length / (timed[-1] - timed[0])
    print(json.dumps({"tokens_per_sec": speed}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
