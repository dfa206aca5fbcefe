"""Read Hugging Face directories: `config.json`, safetensors, `vocab.txt` or `tokenizer.json`."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from model.bert.config import BertConfig
from model.interchange.files import CheckpointSettings, read_json, regular_file, shown
from model.interchange.foreign_checkpoint import (
    Imported,
    WeightSource,
    find_weights,
    make_config,
    make_texts,
)
from model.interchange.names import ENCODER_PREFIX
from model.interchange.read_tokenizer import read_tokenizer
from model.tasks.kinds import Head
from model.tasks.task_kind import Task, all_kinds
from pipeline.errors import InputError, reason, unreadable
from pipeline.progress import counted

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

_SUPPORTED = {
    "model_type": ("bert",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    # Our masked-LM head multiplies by the token embedding; an output matrix of its own has no
    # place.
    "tie_word_embeddings": (True,),
    "pruned_heads": ({}, []),
    "quantization_config": (),
}
"""Supported values by setting; a setting that is missing or null is accepted too."""

PRETRAINING: dict[tuple[Head, ...], str] = {
    ("masked_lm", "next_sentence"): "BertForPreTraining",
    ("masked_lm",): "BertForMaskedLM",
    ("next_sentence",): "BertForNextSentencePrediction",
    (): "BertModel",
}
"""Class in `transformers` by the pretraining heads of the model."""

TAKES_PAIRS = "takes_pairs"
"""Our own setting in a classifier's `config.json`: whether it takes two texts."""

_PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
"""Values of `problem_type` in `transformers`."""

# Quantized checkpoints store integers or float8, which mean nothing without their scales.
_FLOATS = ("F64", "F32", "F16", "BF16")

_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
"""Buffers that older files store in addition to weights."""

_TWINS = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Tied weights that files may store twice: the masked-LM head's matrix is the token embedding."""

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def read_hugging_face(path: Path) -> Imported:
    """Read the model and tokenizer in a directory.

    Raises:
        InputError: the model is not a supported BERT, or a file cannot be read.
    """
    settings = read_json(path, CONFIG) or CheckpointSettings(path / CONFIG, {})
    for name, supported in _SUPPORTED.items():
        value = settings.values.get(name)
        if value is not None and value not in supported:
            raise InputError(
                f"{settings.path}: {name} {shown(value)}: not a supported kind of BERT encoder"
            )
    ours = [field.name for field in fields(BertConfig) if field.name in settings.values]
    config = make_config(settings.path, {name: settings.values[name] for name in ours})
    source, names = _open(path, settings)
    task, notes = _task(settings, source)
    matched = find_weights(source, source, "hugging_face", config, task)
    # For the user: the names as the files have them, with `bert.` or `gamma`.
    matched = replace(matched, unused=tuple(names[name] for name in matched.unused))
    files = read_tokenizer(path, settings)
    # A tokenizer may allow more pieces than the model has positions (transformers' "no limit").
    longest = config.max_position_embeddings
    texts = make_texts(
        files.path,
        files.vocabulary,
        files.lower_case,
        min(longest, files.max_length or longest),
        config.vocab_size,
    )
    return Imported.of(path, "hugging_face", config, texts, task, matched, (*files.notes, *notes))


def _task(settings: CheckpointSettings, source: WeightSource) -> tuple[Task | None, list[str]]:
    """Return the task of a fine-tuned model, and a note if the task is not supported."""
    architecture = _architecture(settings)
    problem = settings.get("problem_type", str)
    if problem not in (None, *_PROBLEMS):
        raise settings.error("problem_type", f"{shown(problem)}: must be one of {_PROBLEMS}")
    by_kind = [(kind, kind.foreign_head) for kind in all_kinds() if kind.foreign_head]
    fitting = [(kind, head) for kind, head in by_kind if head.architecture == architecture]
    if not fitting:
        return None, []
    head = f"{fitting[0][1].hugging_face}.weight"
    # Torch stores a matrix as [outputs, inputs]: the first dimension is the number of classes.
    count = next(iter(source.shapes.get(head, ())), 0)
    if count == 0:
        raise InputError(f"{source.path}: no {head} in it, which {architecture} requires")
    # transformers has one class for single texts and for pairs; only a directory that we wrote
    # says.
    takes_pairs = settings.get(TAKES_PAIRS, bool) is True
    for kind, _ in fitting:
        if kind.fits_head(count, problem, takes_pairs=takes_pairs):
            labels = _labels(settings, count)
            return kind.imported_task(labels, takes_pairs=takes_pairs), []
    # A classifier of independent labels, for example: the encoder is still worth importing.
    return None, [
        f"{problem} with {counted(count, 'outputs')} is not supported; only the encoder is imported"
    ]


def _labels(settings: CheckpointSettings, count: int) -> tuple[str, ...]:
    """Return the labels of a head's rows, in order.

    As in `transformers`, a row without a label is called `LABEL_` and its index.

    Raises:
        InputError: a label has no row, or two rows have the same label.
    """
    names = settings.get("id2label", dict) or {}
    # The keys of a JSON object are strings; "00" and "-1" name no row.
    rows = {str(index): None for index in range(count)}
    for index, name in names.items():
        if index not in rows:
            raise settings.error(
                "id2label",
                f"names a row {shown(index)} ({shown(name)}), but the head has "
                f"{counted(count, 'rows')}, counted from 0; config and weights must "
                "belong to the same model",
            )
        # Published configs have numbers as labels, too.
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise settings.error("id2label", f"names row {index} {shown(name)}: not a string")
    labels = tuple(str(names.get(row, f"LABEL_{row}")) for row in rows)
    row_of: dict[str, str] = {}
    for row, label in zip(rows, labels, strict=True):
        if row_of.setdefault(label, row) != row:
            raise settings.error(
                "id2label",
                f"names both row {row_of[label]} and row {row} {shown(label)}; "
                "give each row a different name",
            )
    return labels


def _architecture(settings: CheckpointSettings) -> str | None:
    """Return the model's class name in `transformers`; None if the file does not contain it."""
    names = settings.get("architectures", list) or []
    if not all(isinstance(name, str) for name in names):
        raise settings.error("architectures", f"must be a list of strings, not {shown(names)}")
    return next(iter(names), None)


def has_safetensors(path: Path) -> bool:
    """Return whether a directory contains safetensors weights."""
    return (path / WEIGHTS).exists() or (path / INDEX).exists()


def _open(path: Path, settings: CheckpointSettings) -> tuple[WeightSource, dict[str, str]]:
    """Return a directory's weights under the names of `model.interchange.names`.

    Returns:
        The weights, and the names in the files by the names of `model.interchange.names`.

    Raises:
        InputError: the directory has no weights that can be read.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    stored: dict[str, tuple[Any, str, Path]] = {}  # the open file, the name there, and its path
    # The files stay open, because a tensor is read only when its weight is matched.
    for file in _files(path, settings):
        with _reading(file):
            file.open("rb").close()  # safetensors calls every failure to open a missing file
            opened = safe_open(file, "np")
            for name in map(str, opened.keys()):
                ours = _table_name(name)
                if ours in _BUFFERS:
                    continue
                if ours in stored:
                    _, other, elsewhere = stored[ours]
                    raise InputError(
                        f"{file}: {shown(name)} is the same weight as {shown(other)} in "
                        f"{elsewhere.name}; remove one of them"
                    )
                shapes[ours] = tuple(opened.get_slice(name).get_shape())
                stored[ours] = opened, name, file

    def read(name: str) -> np.ndarray:
        opened, their_name, file = stored[name]
        with _reading(file):
            kind = opened.get_slice(their_name).get_dtype()
            if kind not in _FLOATS:
                raise InputError(f"{file}: {shown(their_name)} is {kind}, not floating point")
            return opened.get_tensor(their_name)

    for twin, original in _TWINS.items():
        # transformers saves tied weights once; which of the names stays depends on the release.
        if twin in shapes and original not in shapes:
            shapes[original], stored[original] = shapes.pop(twin), stored.pop(twin)
        # A copy that differs stays, and is reported as unused: the model was trained untied.
        elif twin in shapes and np.array_equal(read(twin), read(original)):
            del shapes[twin]
    source = path / (WEIGHTS if (path / WEIGHTS).exists() else INDEX)
    files = {ours: file for ours, (_, _, file) in stored.items()}
    names = {ours: name for ours, (_, name, _) in stored.items()}
    return WeightSource(source, shapes, read, files), names


def _table_name(name: str) -> str:
    """Return a weight's name in `model.interchange.names`; `gamma` and `beta` are older names."""
    name = name.removeprefix(ENCODER_PREFIX)
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        name = name.replace(f"LayerNorm.{old}", f"LayerNorm.{new}")
    return name


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Convert the library's errors to an `InputError` or `JobError` that names the file."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {reason(error)}") from error


def _files(path: Path, settings: CheckpointSettings) -> list[Path]:
    """Return the safetensors files of a directory.

    Raises:
        InputError: there are none, or a file that the index lists is missing or elsewhere.
    """
    # As in transformers, one file has priority over an index of several.
    whole = regular_file(path, WEIGHTS)
    if whole is not None:
        return [whole]
    index = read_json(path, INDEX)
    if index is None:
        raise InputError(_no_weights(path, settings))
    names = (index.get("weight_map", dict) or {}).values()
    if not names:
        raise InputError(f"{index.path}: no weight_map in it; download it again")
    for name in names:
        # The index is untrusted: `../other` would read a file outside the checkpoint.
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(f"{index.path}: lists {shown(name)}, which is not in its directory")
    files = {name: regular_file(path, name) for name in sorted(set(names))}
    for name, file in files.items():
        if file is None:
            raise InputError(f"{index.path}: lists {shown(name)}, which is not in its directory")
    return [file for file in files.values() if file]


def _no_weights(path: Path, settings: CheckpointSettings) -> str:
    """Return the error message for a directory without safetensors."""
    pickle = next((name for name in _PICKLES if (path / name).exists()), None)
    if pickle is None:
        return f"{path}: no {WEIGHTS}; give a directory with one"
    # The user may run this command, so no text from the untrusted checkpoint may enter it.
    tuned = {kind.foreign_head.architecture for kind in all_kinds() if kind.foreign_head}
    known = {*tuned, *PRETRAINING.values()}
    name = _architecture(settings)
    model = name if name in known else "BertModel"
    program = (
        f"import sys, transformers as t; "
        f"t.{model}.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    )
    return (
        f"{path / pickle}: a pickle, which can execute any code, so it is never read; if you "
        f"trust it and have transformers, convert it: "
        f"{shlex.join(['python', '-c', program, str(path), 'NEW'])}, and copy the vocabulary"
    )
