"""Detect a checkpoint's format from the files in its directory, and read it."""

import os
from dataclasses import replace
from pathlib import Path

from model.existing import check_checkpoint_directory
from model.interchange.files import read_json
from model.interchange.foreign_checkpoint import Imported
from model.interchange.google import CONFIG as GOOGLE_CONFIG
from model.interchange.google import has_checkpoint, read_google
from model.interchange.hugging_face import CONFIG, has_safetensors, read_hugging_face
from model.interchange.keras_hub import read_keras_hub
from model.interchange.sentence_transformers import (
    is_sentence_transformer,
    read_sentence_transformer,
)
from pipeline.errors import InputError
from pipeline.storage.cache import CacheConfig
from pipeline.storage.local_copies import local_copy

_RUN_KEYS = {"format", "model", "dataset"}
"""Keys that the `config.json` of a run has, and no other format's."""


def read_checkpoint(path: Path, caching: CacheConfig | None = None) -> Imported:
    """Read a directory of Hugging Face or sentence-transformers, a TF 1 checkpoint, or a preset.

    Args:
        path: directory of the checkpoint, local or remote.
        caching: local copies of the files of a remote one; None = in the default folder.

    Raises:
        InputError: the directory has none of these formats, holds an unsupported kind of model,
            or cannot be read.
    """
    check_checkpoint_directory(path)
    # The readers seek in the files, and resolve links in them, as only a disk can.
    with local_copy(path, caching or CacheConfig()) as local:
        return replace(_read(local), path=path)


def _read(path: Path) -> Imported:
    # First: its top directory is a Hugging Face directory as well, whose pooling would be lost.
    if is_sentence_transformer(path):
        return read_sentence_transformer(path)
    settings = read_json(path, CONFIG)
    # Several published directories have the files of both formats.
    has_google = os.path.lexists(path / GOOGLE_CONFIG)
    if settings is None and not has_google:
        raise InputError(
            f"{path}: neither {CONFIG} (Hugging Face, KerasHub) nor {GOOGLE_CONFIG} (TensorFlow 1) "
            "in it; give a checkpoint's directory"
        )
    if settings is not None and settings.values.keys() >= _RUN_KEYS:
        raise InputError(f"{path}: already a run; there is nothing to import")
    # Keras's serialization; Hugging Face's `config.json` has `architectures`.
    if settings is not None and "class_name" in settings.values:
        return read_keras_hub(path)
    has_both = has_google and has_checkpoint(path)
    # Among two formats, Hugging Face's says more: casing, labels, the tokenizer.
    if settings is None or (has_both and not has_safetensors(path)):
        return read_google(path)
    imported = read_hugging_face(path)
    if not has_both:
        return imported
    note = f"the directory also holds a TensorFlow 1 checkpoint ({GOOGLE_CONFIG}); it is ignored"
    return replace(imported, notes=(*imported.notes, note))
