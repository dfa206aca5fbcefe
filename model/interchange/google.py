"""Reads google-research/bert's TensorFlow 1 checkpoints, with `bert_config.json` beside them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.config import BertConfig
from model.interchange.imported import (
    Imported,
    Source,
    find_weights,
    make_config,
    make_texts,
    read_json,
)
from model.tasks import Task
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY

CONFIG = "bert_config.json"

_TRAINING = re.compile(r"(/adam_[mv]|^global_step|/AdamWeightDecayOptimizer(_1)?)$")
"""What the trainer kept beside the weights."""

_ACTIVATIONS = {"gelu": "gelu_new"}
"""What google-research/bert calls otherwise: its `gelu` is the tanh approximation."""


def read_google(path: Path) -> Imported:
    """Read a directory.

    Raises:
        InputError: it is no BERT of a kind that we have, or something in it cannot be read.
    """
    settings = read_json(path / CONFIG) or {}
    ours = {field.name for field in fields(BertConfig)} & settings.keys()
    activation = str(settings.get("hidden_act", "gelu"))
    config = make_config(
        path / CONFIG,
        {name: settings[name] for name in ours}
        | {"hidden_act": _ACTIVATIONS.get(activation, activation)},
    )
    source = _open(path)
    task = _task(source)
    found = find_weights(source, source, "google", config, task)
    vocabulary = path / VOCABULARY
    try:
        data = vocabulary.read_bytes()
    except OSError as error:
        raise InputError(f"{vocabulary}: no vocabulary: {error.strerror}; copy it there") from error
    texts = make_texts(vocabulary, data, None, config.max_position_embeddings, config.vocab_size)
    return Imported.of(path, "google", config, texts, task, found)


def _task(source: Source) -> Task | None:
    """Return what `run_classifier.py` or `run_squad.py` tuned; the checkpoint names no labels."""
    if "cls/squad/output_weights" in source.shapes:
        return Task("span", (), takes_pairs=True)
    outputs = next(iter(source.shapes.get("output_weights", ())), 0)
    if outputs == 0:
        return None
    if outputs == 1:
        return Task("regression", (), takes_pairs=False)
    return Task("single", tuple(f"LABEL_{index}" for index in range(outputs)), takes_pairs=False)


def _open(path: Path) -> Source:
    """Return a checkpoint's weights.

    Raises:
        InputError: there is none, or several, or it cannot be read.
    """
    prefix = _prefix(path)
    with _reading(prefix):
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = {
            name: tuple(shape)
            for name, shape in reader.get_variable_to_shape_map().items()
            if not _TRAINING.search(name)
        }

    def read(name: str) -> np.ndarray:
        with _reading(prefix):
            return reader.get_tensor(name)

    return Source(prefix, shapes, read)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn TensorFlow's errors into one that names the file."""
    try:
        yield
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as a checkpoint: {reason}") from error


def _prefix(path: Path) -> Path:
    """Return what the names of a directory's checkpoint begin with; of several, the latest."""
    found = {file.with_suffix("") for file in path.glob("*.index")}
    if len(found) > 1:
        # The `checkpoint` file names the folder where it was trained; only the last part counts.
        state = tf.train.get_checkpoint_state(str(path))
        latest = path / Path(state.model_checkpoint_path).name if state else None
        found = {latest} if latest in found else found
    if len(found) != 1:
        many = "several checkpoints, and no file that names the latest" if found else "no *.index"
        raise InputError(f"{path}: {many}; give a directory with one checkpoint")
    return found.pop()
