"""Recognises a checkpoint's format by looking at its directory, and reads it."""

from pathlib import Path

from model.interchange.google import CONFIG as GOOGLE_CONFIG
from model.interchange.google import read_google
from model.interchange.hugging_face import CONFIG, read_hugging_face
from model.interchange.imported import Imported, read_json
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
    if (path / GOOGLE_CONFIG).exists():
        return read_google(path)
    settings = read_json(path / CONFIG)
    if settings is None:
        raise InputError(
            f"{path}: neither {CONFIG} (Hugging Face, KerasHub) nor {GOOGLE_CONFIG} (TensorFlow 1) "
            "in it; give a checkpoint's directory"
        )
    if settings.keys() >= _RUN_KEYS:
        raise InputError(f"{path}: is a run already; there is nothing to import")
    return read_keras_hub(path) if "class_name" in settings else read_hugging_face(path)
