"""Recognises a checkpoint's format by looking at its directory, and reads it."""

import os
from dataclasses import replace
from pathlib import Path

from model.interchange.files import read_json
from model.interchange.foreign_checkpoint import Imported
from model.interchange.google import CONFIG as GOOGLE_CONFIG
from model.interchange.google import has_checkpoint, read_google
from model.interchange.hugging_face import CONFIG, has_safetensors, read_hugging_face
from model.interchange.keras_hub import read_keras_hub
from pipeline.errors import InputError

_RUN_KEYS = {"format", "model", "dataset"}


def read_checkpoint(path: Path) -> Imported:
    """Read a Hugging Face directory, a TensorFlow 1 checkpoint's or a KerasHub preset.

    Args:
        path: the directory.

    Raises:
        InputError: it is none of these, no BERT of a kind that we have, or cannot be read.
    """
    if not path.is_dir():
        kind = "not a directory; give the one that it is in" if path.exists() else "is not there"
        raise InputError(f"{path}: {kind}")
    settings = read_json(path, CONFIG)
    # Several published directories have the files of both formats.
    has_google = os.path.lexists(path / GOOGLE_CONFIG)
    if settings is None and not has_google:
        raise InputError(
            f"{path}: neither {CONFIG} (Hugging Face, KerasHub) nor {GOOGLE_CONFIG} (TensorFlow 1) "
            "in it; give a checkpoint's directory"
        )
    if settings is not None and settings.values.keys() >= _RUN_KEYS:
        raise InputError(f"{path}: is a run already; there is nothing to import")
    if settings is not None and "class_name" in settings.values:
        return read_keras_hub(path)
    has_both = has_google and has_checkpoint(path)
    if settings is None or (has_both and not has_safetensors(path)):
        return read_google(path)
    imported = read_hugging_face(path)
    if not has_both:
        return imported
    note = f"the TensorFlow 1 checkpoint of {GOOGLE_CONFIG} in it is not read; the safetensors are"
    return replace(imported, notes=(*imported.notes, note))
