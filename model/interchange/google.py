"""Reads google-research/bert's TensorFlow 1 checkpoints, with `bert_config.json` beside them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from math import prod
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.config import BertConfig
from model.interchange.files import Settings, read_bytes, read_json, regular_file, shown
from model.interchange.imported import (
    Imported,
    Source,
    find_weights,
    make_config,
    make_texts,
)
from model.tasks import Task
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY
from pipeline.tokenizer import MAX_VOCABULARY_BYTES

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
    prefix = _prefix(path)
    stored_bytes = _stored_bytes(prefix)
    with _reading(prefix):
        reader = tf.train.load_checkpoint(str(prefix))
        dtypes = reader.get_variable_to_dtype_map()
        shapes = {
            name: tuple(shape)
            for name, shape in reader.get_variable_to_shape_map().items()
            if not _TRAINING.search(name)
        }
    # TensorFlow allocates what an index says before it looks at the data.
    needed = sum(
        prod(shape) * dtypes[name].size
        for name, shape in shapes.items()
        if dtypes[name].is_numpy_compatible and dtypes[name] != tf.string
    )
    if needed > stored_bytes or any(min(shape, default=0) < 0 for shape in shapes.values()):
        raise InputError(
            f"{prefix}: cannot be read as a checkpoint: its index lists {needed:,} bytes of "
            f"weights, its data files have {stored_bytes:,}; copy all of its files again"
        )

    def read(name: str) -> np.ndarray:
        if not dtypes[name].is_floating:
            raise InputError(f"{prefix}: {shown(name)} is {dtypes[name].name}, no float")
        with _reading(prefix):
            return reader.get_tensor(name)

    return Source(prefix, shapes, read)


def _stored_bytes(prefix: Path) -> int:
    """Return the size of a checkpoint's data files.

    Raises:
        InputError: one of its files is not a regular one.
    """
    files = [
        file for file in prefix.parent.iterdir() if file.name.startswith(f"{prefix.name}.data-")
    ]
    for file in (prefix.with_name(f"{prefix.name}.index"), *files):
        regular_file(file.parent, file.name)
    return sum(file.stat().st_size for file in files)


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
