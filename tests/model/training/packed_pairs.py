"""The same pairs in unpacked and in packed records."""

import numpy as np
import tensorflow as tf

from pipeline.records.packing import pack, pairs_of_records
from pipeline.schema import ENCODER_INPUTS
from tests.model.conftest import MAX_SEQ_LENGTH, make_example

PAIRS, LENGTH, PREDICTIONS, MAX_PAIRS = 22, 40, 8, 5


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    examples = [make_example(rng, marker) for marker in range(PAIRS)]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _batch(arrays: dict[str, np.ndarray], rows: int) -> dict[str, tf.Tensor]:
    """Return a batch of this size; copies of the first record fill it and have no weight."""
    count = len(arrays["input_ids"])
    chosen = np.r_[0:count, np.zeros(rows - count, int)]
    weights = (np.arange(rows) < count).astype(np.float32)
    batch = {name: values[chosen] for name, values in arrays.items()}
    batch["masked_lm_weights"] = batch["masked_lm_weights"] * weights[:, None]
    return {
        name: tf.constant(values, tf.float32 if values.dtype == np.float32 else tf.int32)
        for name, values in {**batch, "example_weights": weights}.items()
    }


def plain_batch() -> dict[str, tf.Tensor]:
    """Return records of one pair, with 16 positions."""
    return _batch(_arrays(), PAIRS + 2)


def packed_batch() -> dict[str, tf.Tensor]:
    """Return records of several of these pairs, with 40 positions."""
    arrays = _arrays()
    for name in ENCODER_INPUTS:
        arrays[name] = np.pad(arrays[name], ((0, 0), (0, LENGTH - MAX_SEQ_LENGTH)))
    records = pairs_of_records(
        arrays["input_mask"].sum(axis=1).tolist(),
        arrays["masked_lm_weights"].sum(axis=1).astype(int).tolist(),
        max_seq_length=LENGTH,
        max_predictions=PREDICTIONS,
        max_pairs=MAX_PAIRS,
    )
    order = np.concatenate(records)
    packed = pack(
        {name: values[order] for name, values in arrays.items()},
        np.repeat(np.arange(len(records)), [len(record) for record in records]),
        max_predictions=PREDICTIONS,
        max_pairs=MAX_PAIRS,
        pad_id=0,
    )
    return _batch(packed, len(records) + 2 - len(records) % 2)
