"""Read google-research/bert's TensorFlow 1 checkpoints, with a `bert_config.json` next to them."""

import re
from dataclasses import fields, replace
from pathlib import Path

import tensorflow as tf

from model.bert.config import BertConfig
from model.interchange.files import CheckpointSettings, read_bytes, read_json, regular_file
from model.interchange.foreign_checkpoint import (
    Imported,
    WeightSource,
    find_weights,
    make_config,
    make_texts,
)
from model.interchange.tensor_bundle import open_bundle
from model.tasks.kinds import numbered_labels
from model.tasks.task_kind import Task, all_kinds
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY
from pipeline.text.tokenizer import MAX_VOCABULARY_BYTES

CONFIG = "bert_config.json"

_LATEST = "checkpoint"
"""Name of the file that records which of several checkpoints is the latest."""
_MAX_LATEST_BYTES = 2**20

_TRAINING = re.compile(r"(/adam_[mv]|^global_step|/AdamWeightDecayOptimizer(_1)?)$")
"""Names of optimizer state, which is stored with the weights."""

_ACTIVATIONS = {"gelu": "gelu_new"}
"""Activations that google-research/bert names differently: its `gelu` is the tanh form."""


def read_google(path: Path) -> Imported:
    """Read the checkpoint in a directory.

    Raises:
        InputError: the model is not a supported BERT, or a file cannot be read.
    """
    settings = read_json(path, CONFIG) or CheckpointSettings(path / CONFIG, {})
    ours = {field.name for field in fields(BertConfig)} & settings.values.keys()
    # The default of google-research/bert's `BertConfig`.
    activation = settings.get("hidden_act", str) or "gelu"
    config = make_config(
        settings.path,
        {name: settings.values[name] for name in ours}
        | {"hidden_act": _ACTIVATIONS.get(activation, activation)},
    )
    source = _open(path)
    task = _task(source)
    matched = find_weights(source, source, "google", config, task)
    data = read_bytes(path, VOCABULARY, MAX_VOCABULARY_BYTES)
    if data is None:
        raise InputError(
            f"{path / VOCABULARY}: no vocabulary: No such file or directory; copy it there"
        )
    longest = config.max_position_embeddings
    # No file says whether the model is cased: upstream it is a flag, `--do_lower_case`.
    texts = make_texts(path / VOCABULARY, data, None, longest, config.vocab_size)
    return Imported.of(path, "google", config, texts, task, matched)


def _task(source: WeightSource) -> Task | None:
    """Return the task that `run_classifier.py` or `run_squad.py` trained; labels are not stored."""
    for kind in all_kinds():
        if kind.foreign_head is None or kind.foreign_head.google is None:
            continue
        # Stored as [outputs, inputs], so the first dimension is the number of outputs.
        name = f"{kind.foreign_head.google}/output_weights".removeprefix("/")
        outputs = next(iter(source.shapes.get(name, ())), 0)
        if outputs and kind.fits_head(outputs, None, takes_pairs=False):
            return kind.imported_task(numbered_labels(outputs))
    return None


def has_checkpoint(path: Path) -> bool:
    """Return whether a directory contains a checkpoint's index file."""
    return any(path.glob("*.index"))


def _open(path: Path) -> WeightSource:
    """Return the weights of a directory's checkpoint, without optimizer state.

    Raises:
        InputError: there is no checkpoint, there are several, or it cannot be read.
    """
    source = open_bundle(_prefix(path))
    shapes = {name: shape for name, shape in source.shapes.items() if not _TRAINING.search(name)}
    return replace(source, shapes=shapes)


def _prefix(path: Path) -> Path:
    """Return the path prefix of the directory's checkpoint; of several, the latest one's."""
    prefixes = {file.with_suffix("") for file in path.glob("*.index")}
    if len(prefixes) > 1 and regular_file(path, _LATEST, _MAX_LATEST_BYTES):
        # The file contains a path on the machine that trained it; only the name is used.
        state = tf.train.get_checkpoint_state(str(path))
        latest = path / Path(state.model_checkpoint_path).name if state else None
        prefixes = {latest} if latest in prefixes else prefixes
    if len(prefixes) != 1:
        many = "several checkpoints, and no file that names the latest"
        raise InputError(
            f"{path}: {many if prefixes else 'no *.index'}; give a directory with one checkpoint"
        )
    return prefixes.pop()
