"""Reads google-research/bert's TensorFlow 1 checkpoints, with `bert_config.json` beside them."""

import re
from dataclasses import fields, replace
from pathlib import Path

import tensorflow as tf

from model.bert.config import BertConfig
from model.interchange.files import Settings, read_bytes, read_json, regular_file
from model.interchange.foreign_checkpoint import (
    Imported,
    Source,
    find_weights,
    make_config,
    make_texts,
)
from model.interchange.tensor_bundle import open_bundle
from model.tasks.kinds import Task
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY
from pipeline.text.tokenizer import MAX_VOCABULARY_BYTES

CONFIG = "bert_config.json"

_LATEST = "checkpoint"
"""Names the latest of several checkpoints."""
_MAX_LATEST_BYTES = 2**20

_TRAINING = re.compile(r"(/adam_[mv]|^global_step|/AdamWeightDecayOptimizer(_1)?)$")
"""What the trainer kept beside the weights."""

_ACTIVATIONS = {"gelu": "gelu_new"}
"""What google-research/bert calls otherwise: its `gelu` is the tanh approximation."""


def read_google(path: Path) -> Imported:
    """Read a directory.

    Raises:
        InputError: it is no BERT of a kind that we have, or something in it cannot be read.
    """
    settings = read_json(path, CONFIG) or Settings(path / CONFIG, {})
    ours = {field.name for field in fields(BertConfig)} & settings.values.keys()
    activation = settings.get("hidden_act", str) or "gelu"
    config = make_config(
        settings.path,
        {name: settings.values[name] for name in ours}
        | {"hidden_act": _ACTIVATIONS.get(activation, activation)},
    )
    source = _open(path)
    task = _task(source)
    found = find_weights(source, source, "google", config, task)
    data = read_bytes(path, VOCABULARY, MAX_VOCABULARY_BYTES)
    if data is None:
        raise InputError(
            f"{path / VOCABULARY}: no vocabulary: No such file or directory; copy it there"
        )
    longest = config.max_position_embeddings
    texts = make_texts(path / VOCABULARY, data, None, longest, config.vocab_size)
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


def has_checkpoint(path: Path) -> bool:
    """Return whether a directory has a checkpoint's index."""
    return any(path.glob("*.index"))


def _open(path: Path) -> Source:
    """Return a checkpoint's weights.

    Raises:
        InputError: there is none, or several, or it cannot be read.
    """
    source = open_bundle(_prefix(path))
    shapes = {name: shape for name, shape in source.shapes.items() if not _TRAINING.search(name)}
    return replace(source, shapes=shapes)


def _prefix(path: Path) -> Path:
    """Return what the names of a directory's checkpoint begin with; of several, the latest."""
    prefixes = {file.with_suffix("") for file in path.glob("*.index")}
    if len(prefixes) > 1 and regular_file(path, _LATEST, _MAX_LATEST_BYTES):
        # The file names the folder where it was trained; only the last part counts.
        state = tf.train.get_checkpoint_state(str(path))
        latest = path / Path(state.model_checkpoint_path).name if state else None
        prefixes = {latest} if latest in prefixes else prefixes
    if len(prefixes) != 1:
        many = "several checkpoints, and no file that names the latest"
        raise InputError(
            f"{path}: {many if prefixes else 'no *.index'}; give a directory with one checkpoint"
        )
    return prefixes.pop()
