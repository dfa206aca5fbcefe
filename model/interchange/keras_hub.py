"""Read KerasHub presets as `save_to_preset` writes them: JSON files and HDF5 weights."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from model.interchange.files import CheckpointSettings, read_bytes, read_json, regular_file, shown
from model.interchange.foreign_checkpoint import (
    ADDED_TOKEN,
    Imported,
    TextSettings,
    WeightSource,
    by,
    find_weights,
    make_config,
    make_texts,
)
from model.tasks.kinds import numbered_labels
from model.tasks.task_kind import Task, all_kinds
from pipeline.errors import InputError, unreadable
from pipeline.schema import JOINER, SPECIAL_TOKENS, UNK
from pipeline.text.tokenizer import MAX_VOCABULARY_BYTES

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
"""Our setting names by KerasHub's names."""

# KerasHub computes the tanh approximation, which Hugging Face calls gelu_new.
_FIXED = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-12}
"""Settings that KerasHub's `BertBackbone` hard-codes."""

# A forged count would make as many labels before any weight is looked at.
_MOST_CLASSES = 1_000_000

_MOST_COMPRESSION = 4
"""Limit on the compression ratio of weights, against decompression bombs. Trained weights hardly
compress; 4 leaves room for weights that are still zero."""

_TOKENIZES: dict[str, tuple[type, Any]] = {
    "split": (bool, True),
    "split_on_cjk": (bool, True),
    "suffix_indicator": (str, JOINER),
    "oov_token": (str, UNK),
}
"""Settings of KerasHub's tokenizer: their types, and the values that our tokenizer implements."""

_HEAD_DIFFERS = (
    "KerasHub computes its masked-LM head with the exact GELU and epsilon 1e-5; "
    "here it has the encoder's, so its scores differ a little"
)


def read_keras_hub(path: Path) -> Imported:
    """Read the preset in a directory.

    Raises:
        InputError: the model is not a supported BERT, or a file cannot be read.
    """
    settings = _config(path, CONFIG, "BertBackbone")
    missing = _SETTINGS.keys() - settings.values.keys()
    if missing:
        raise InputError(f"{path / CONFIG}: no {min(missing)} in it; save the preset again")
    values = {ours: settings.values[theirs] for theirs, ours in _SETTINGS.items()}
    # KerasHub has one rate for both kinds of dropout.
    values |= {"attention_probs_dropout_prob": settings.values["dropout"]}
    their_names = {ours: theirs for theirs, ours in _SETTINGS.items()}
    config = make_config(path / CONFIG, values | _FIXED, their_names)
    encoder = _open(path, WEIGHTS)
    task = _task(path)
    has_more = task or (path / TASK_WEIGHTS).exists()
    # A preset of a task has its head in a file of its own; a backbone's has no heads.
    heads = _open(path, TASK_WEIGHTS) if has_more else encoder
    matched = find_weights(encoder, heads, "keras_hub", config, task)
    texts = _texts(path, config.vocab_size, config.max_position_embeddings)
    notes = [_HEAD_DIFFERS] if "masked_lm" in matched.heads else []
    return Imported.of(path, "keras_hub", config, texts, task, matched, notes)


def _config(path: Path, name: str, class_name: str) -> CheckpointSettings:
    """Return the config in a file that describes a KerasHub object.

    Raises:
        InputError: the file is missing, or describes an object of another class.
    """
    settings = read_json(path, name)
    if settings is None:
        raise InputError(f"{path / name}: does not exist; give a complete preset")
    described = settings.get("class_name", str)
    if described != class_name or "config" not in settings.values:
        raise InputError(f"{path / name}: describes {shown(described)}, not {class_name}")
    return settings.part("config")


def _task(path: Path) -> Task | None:
    """Return the task of a classifier preset; presets do not store labels."""
    described = read_json(path, TASK)
    name = described.get("class_name", str) if described else None
    if name != "BertTextClassifier":
        return None
    settings = _config(path, TASK, name)
    count = settings.get("num_classes", int) or 0
    if not 1 <= count <= _MOST_CLASSES:
        raise settings.error(
            "num_classes", f"{shown(count)}: must be a whole number from 1 to {_MOST_CLASSES}"
        )
    kind = next(
        kind
        for kind in all_kinds()
        if kind.foreign_head
        and kind.foreign_head.keras_hub
        # A preset does not say whether it takes pairs; `takes_pairs` of the import does.
        and kind.fits_head(count, None, takes_pairs=False)
    )
    return kind.imported_task(numbered_labels(count))


def _texts(path: Path, size: int, longest: int) -> TextSettings:
    """Read the preset's tokenizer; a preset of a bare backbone has none and is refused."""
    if not (path / TOKENIZER).exists():
        raise InputError(
            f"{path}: no vocabulary ({TOKENIZER} and {VOCABULARY}): save_to_preset of a task "
            "writes one, and so does a tokenizer's"
        )
    settings = _config(path, TOKENIZER, "BertTokenizer")
    for key, (kind, needed) in _TOKENIZES.items():
        value = settings.get(key, kind)
        if value is not None and value != needed:
            raise settings.error(
                key, f"{shown(value)}: Clozeline has {shown(needed)}, so the token ids would differ"
            )
    lower_case, strip_accents = (settings.get(key, bool) for key in ("lowercase", "strip_accents"))
    if strip_accents and not lower_case:
        raise settings.error(
            "strip_accents",
            "true without lowercase: Clozeline does both or neither, so the token ids would differ",
        )
    if settings.get("special_tokens_in_strings", bool):
        for token in settings.get("special_tokens", list) or []:
            if token not in SPECIAL_TOKENS:
                raise settings.error("special_tokens", f"has {shown(token)}, {ADDED_TOKEN}")
    data = read_bytes(path, str(VOCABULARY), MAX_VOCABULARY_BYTES)
    if data is None:
        raise InputError(f"{path / VOCABULARY}: no vocabulary: No such file; save the preset again")
    texts = make_texts(path / VOCABULARY, data, lower_case, longest, size)
    note = _cleaning_differs(texts.lower_case, bool(strip_accents))
    return replace(texts, notes=(*texts.notes, note))


def _cleaning_differs(lower_case: bool, strip_accents: bool) -> str:
    """Return a note on how KerasHub's text normalization differs from BERT's."""
    others = ["splits words at format characters and not at no-break spaces"]
    if lower_case:
        others.append("folds compatibility forms (ß, ½)")
    if lower_case and not strip_accents:
        others.append("keeps accents")
    return (
        f"KerasHub's tokenizer {', '.join(others)}; texts are cleaned as google-research/bert does"
    )


def _open(path: Path, name: str) -> WeightSource:
    """Return the weights in an HDF5 file.

    Raises:
        InputError: the file is missing or cannot be read, refers to other files, or declares more
            data than it stores.
    """
    file_path = regular_file(path, name) or path / name
    shapes: dict[str, tuple[int, ...]] = {}
    needed = 0

    def note(name: str, item: Any) -> None:
        nonlocal needed
        # Groups have no data, and a saved training also has the optimizer's state.
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer/"):
            return
        # External and virtual datasets would read any other file of this machine.
        if item.external or item.is_virtual or item.dtype.kind != "f" or item.shape is None:
            raise InputError(f"{file_path}: {name} is not an array of floats in this file")
        # HDF5 returns zeros for data that are not stored: a few bytes can declare gigabytes.
        if item.chunks is None and item.id.get_storage_size() < item.nbytes:
            raise InputError(
                f"{file_path}: {name} has the shape {by(item.shape)}, but "
                f"{item.id.get_storage_size():,} bytes are stored of it; save the preset again"
            )
        shapes[name], needed = item.shape, needed + item.nbytes

    with _reading(file_path), h5py.File(file_path) as file:
        file.visititems(note)
        stored = file_path.stat().st_size
    if needed > _MOST_COMPRESSION * stored:
        raise InputError(
            f"{file_path}: {needed:,} bytes of weights in a file of {stored:,}; "
            f"compressed weights are read up to {_MOST_COMPRESSION} times the size of the file"
        )

    def read(name: str) -> np.ndarray:
        with _reading(file_path), h5py.File(file_path) as file:
            return file[name][()]

    return WeightSource(file_path, shapes, read)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Convert the library's errors to an `InputError` or `JobError` that names the file."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        # HDF5 gives the number of an error of the operating system; damage has none.
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, OSError(error.errno, os.strerror(error.errno))) from error
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path}: cannot be read as HDF5: {reason}") from error
