"""Small datasets written by the contract: schema, manifest, `tf.train.Example`."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from pipeline.manifest import MANIFEST, VOCABULARY, Manifest, Shard, sha256
from pipeline.schema import SPECIAL_TOKENS, record_features

MAX_SEQ_LENGTH = 16
MAX_PREDICTIONS = 3
VOCAB_SIZE = 50
MASK_ID = SPECIAL_TOKENS.index("[MASK]")


def make_example(
    rng: np.random.Generator,
    marker: int,
    *,
    max_seq_length: int = MAX_SEQ_LENGTH,
    max_predictions: int = MAX_PREDICTIONS,
    vocab_size: int = VOCAB_SIZE,
) -> dict[str, np.ndarray]:
    """Return one record's features.

    `marker` stands in positions 1 and 2, in base 40, so a test can tell records apart.
    """
    length = int(rng.integers(max_seq_length // 2, max_seq_length + 1))
    split = int(rng.integers(4, length - 2))
    ids = np.zeros(max_seq_length, np.int64)
    ids[:length] = rng.integers(5, vocab_size, length)
    ids[0], ids[split], ids[length - 1] = 2, 3, 3
    ids[1:3] = 5 + marker // 40, 5 + marker % 40
    candidates = [i for i in range(3, length - 1) if i != split]
    used = int(rng.integers(1, max_predictions + 1))
    chosen = np.sort(rng.choice(candidates, min(used, len(candidates)), replace=False))
    positions, labels = np.zeros((2, max_predictions), np.int64)
    weights = np.zeros(max_predictions, np.float32)
    positions[: len(chosen)], labels[: len(chosen)] = chosen, ids[chosen]
    weights[: len(chosen)] = 1
    ids[chosen] = MASK_ID
    inside = np.arange(max_seq_length)
    return {
        "input_ids": ids,
        "input_mask": (inside < length).astype(np.int64),
        "segment_ids": ((inside > split) & (inside < length)).astype(np.int64),
        "masked_lm_positions": positions,
        "masked_lm_ids": labels,
        "masked_lm_weights": weights,
        "next_sentence_labels": np.array([marker % 2]),
    }


def marker_of(input_ids: np.ndarray) -> np.ndarray:
    """Return the markers of records, from input_ids [B, L]."""
    return (input_ids[:, 1] - 5) * 40 + input_ids[:, 2] - 5


def serialize(example: dict[str, np.ndarray], max_seq_length: int, max_predictions: int) -> bytes:
    """Return a record as the pipeline writes it."""
    made = tf.train.Example()
    for feature in record_features(max_seq_length, max_predictions):
        values = made.features.feature[feature.name]
        target = values.int64_list if feature.kind == "int64" else values.float_list
        target.value.extend(example[feature.name].tolist())
    return made.SerializeToString()


def write_dataset(
    path: Path,
    *,
    train: Iterable[int] = (23, 17),
    evaluation: Iterable[int] = (11,),
    seed: int = 1,
    word: str = "word",
    max_seq_length: int = MAX_SEQ_LENGTH,
    max_predictions: int = MAX_PREDICTIONS,
    vocab_size: int = VOCAB_SIZE,
    streams: int | None = 64,
) -> Manifest:
    """Write a dataset with shards of these numbers of records, and return its manifest.

    Without streams it is one of an older release.
    """
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    sizes = {"max_seq_length": max_seq_length, "max_predictions": max_predictions}
    splits: dict[str, tuple[Shard, ...]] = {}
    marker = 0
    for split, counts in (("train", list(train)), ("eval", list(evaluation))):
        shards = []
        for index, count in enumerate(counts):
            name = f"{split}-{index:05d}-of-{len(counts):05d}.tfrecord"
            tokens = 0
            with tf.io.TFRecordWriter(str(path / name)) as writer:
                for _ in range(count):
                    example = make_example(rng, marker, vocab_size=vocab_size, **sizes)
                    writer.write(serialize(example, **sizes))
                    tokens += int(example["input_mask"].sum())
                    marker += 1
            data = (path / name).read_bytes()
            crc32c = f"{google_crc32c.value(data):08x}"
            shards.append(Shard(name, count, tokens, len(data), crc32c))
        if shards:
            splits[split] = tuple(shards)
    pieces = [*SPECIAL_TOKENS, *(f"{word}{i}" for i in range(vocab_size - len(SPECIAL_TOKENS)))]
    vocabulary = "".join(f"{piece}\n" for piece in pieces).encode()
    (path / VOCABULARY).write_bytes(vocabulary)
    settings = {"seed": seed, "pairing": "nsp", "masks": "static", "compression": "none"}
    manifest = Manifest(
        settings=settings | ({"streams": streams} if streams else {}),
        vocab_sha256=sha256(vocabulary),
        vocab_size=vocab_size,
        lower_case=True,
        splits=splits,
        statistics={},
        dropped_documents={},
        versions={},
        **sizes,
    )
    (path / MANIFEST).write_text(manifest.to_json())
    return manifest


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Manifest]:
    """The writer of small datasets."""
    return write_dataset


@pytest.fixture(scope="session")
def markers() -> Callable[[np.ndarray], np.ndarray]:
    """What tells a dataset's records apart: numbers from 0, in the order they were written."""
    return marker_of


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 40 train and 11 eval records, not to be changed."""
    path = tmp_path_factory.mktemp("synthetic") / "dataset"
    write_dataset(path)
    return path


@pytest.fixture(scope="session")
def old_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same records as an older release wrote them: the manifest names no streams."""
    path = tmp_path_factory.mktemp("synthetic") / "old"
    write_dataset(path, streams=None)
    return path


@pytest.fixture(scope="session")
def small_config() -> BertConfig:
    """A config in which no two numbers are the same."""
    return BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        hidden_act="gelu_new",
        hidden_dropout_prob=0.15,
        attention_probs_dropout_prob=0.25,
        max_position_embeddings=MAX_SEQ_LENGTH,
        type_vocab_size=4,
        initializer_range=0.3,
        layer_norm_eps=1e-3,
    )


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings draw no curves, which takes a tenth of one of a few steps.

    Runs of fixtures with a larger scope still have theirs.
    """
    monkeypatch.setattr("model.training.run_log.draw_curves", lambda *_: None)


@pytest.fixture
def small_model(tmp_path: Path, small_config: BertConfig) -> str:
    """The same config with one layer, as a file for `--model`."""
    path = tmp_path / "small.json"
    path.write_text(dataclasses.replace(small_config, num_hidden_layers=1).to_json())
    return str(path)
