"""Reads KerasHub's presets as `save_to_preset` writes them: JSON files and HDF5 weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from model.interchange.imported import (
    Imported,
    Source,
    Texts,
    find_weights,
    make_config,
    make_texts,
    read_json,
)
from model.tasks import Task
from pipeline.errors import InputError

CONFIG, TASK, TOKENIZER = "config.json", "task.json", "tokenizer.json"
WEIGHTS, TASK_WEIGHTS = "model.weights.h5", "task.weights.h5"
VOCABULARY = Path("assets", "tokenizer", "vocabulary.txt")

_SETTINGS = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "max_sequence_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
}
"""KerasHub's names of ours."""

_FIXED = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-12}
"""What its `BertBackbone` has no setting for."""

_MOST_CLASSES = 1_000_000

_HEAD_DIFFERS = (
    "KerasHub computes its masked-LM head with the exact GELU and epsilon 1e-5; "
    "here it has the encoder's, so its scores differ a little"
)


def read_keras_hub(path: Path) -> Imported:
    """Read a directory.

    Raises:
        InputError: it is no BERT of a kind that we have, or something in it cannot be read.
    """
    settings = _config(path / CONFIG, "BertBackbone")
    missing = _SETTINGS.keys() - settings.keys()
    if missing:
        raise InputError(f"{path / CONFIG}: no {min(missing)} in it; save the preset again")
    values = {ours: settings[theirs] for theirs, ours in _SETTINGS.items()}
    values |= {"attention_probs_dropout_prob": settings["dropout"]}
    config = make_config(path / CONFIG, values | _FIXED)
    encoder = _open(path / WEIGHTS)
    task = _task(path / TASK) if (path / TASK).exists() else None
    has_more = task or (path / TASK_WEIGHTS).exists()
    heads = _open(path / TASK_WEIGHTS) if has_more else encoder
    found = find_weights(encoder, heads, "keras_hub", config, task)
    texts = _texts(path, config.vocab_size, config.max_position_embeddings)
    notes = [_HEAD_DIFFERS] if "masked_lm" in found.heads else []
    return Imported.of(path, "keras_hub", config, texts, task, found, notes)


def _config(path: Path, wanted: str) -> Mapping[str, Any]:
    """Return the settings in a file that describes an object of KerasHub's.

    Raises:
        InputError: it describes another one.
    """
    settings = read_json(path)
    if settings is None:
        raise InputError(f"{path}: is not there; give a whole preset")
    if settings.get("class_name") != wanted or not isinstance(settings.get("config"), dict):
        raise InputError(f"{path}: describes {settings.get('class_name')}, not {wanted}")
    return settings["config"]


def _task(path: Path) -> Task | None:
    """Return what a classifier is for; a preset names no labels."""
    name = (read_json(path) or {}).get("class_name")
    if name != "BertTextClassifier":
        return None
    count = _config(path, name).get("num_classes")
    if not isinstance(count, int) or not 1 <= count <= _MOST_CLASSES:
        raise InputError(
            f"{path}: num_classes {count}: must be a whole number from 1 to {_MOST_CLASSES}"
        )
    if count == 1:
        return Task("regression", (), takes_pairs=False)
    return Task("single", tuple(f"LABEL_{index}" for index in range(count)), takes_pairs=False)


def _texts(path: Path, size: int, longest: int) -> Texts:
    """Return what is known of the texts; a preset of a backbone alone has no tokenizer."""
    if not (path / TOKENIZER).exists():
        raise InputError(
            f"{path}: no vocabulary ({TOKENIZER} and {VOCABULARY}): save_to_preset of a task "
            "writes one, and so does a tokenizer's"
        )
    settings = _config(path / TOKENIZER, "BertTokenizer")
    try:
        data = (path / VOCABULARY).read_bytes()
    except OSError as error:
        raise InputError(f"{path / VOCABULARY}: no vocabulary: {error.strerror}") from error
    return make_texts(path / VOCABULARY, data, settings.get("lowercase"), longest, size)


def _open(path: Path) -> Source:
    """Return the weights in a file.

    Raises:
        InputError: it is not there or cannot be read, or points to other files.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer/"):
            return
        if item.external or item.is_virtual or item.dtype.kind != "f":
            raise InputError(f"{path}: {name} is not an array of floats in this file")
        shapes[name] = item.shape

    with _reading(path), h5py.File(path) as file:
        file.visititems(note)

    def read(name: str) -> np.ndarray:
        with _reading(path), h5py.File(path) as file:
            return file[name][()]

    return Source(path, shapes, read)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the library's errors into one that names the file."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as HDF5: {reason}") from error
