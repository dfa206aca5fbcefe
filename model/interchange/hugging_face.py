"""Reads Hugging Face's directories: `config.json`, safetensors, `vocab.txt` or `tokenizer.json`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from model.config import BertConfig
from model.interchange.imported import (
    Imported,
    Source,
    find_weights,
    make_config,
    make_texts,
    read_json,
)
from model.interchange.names import ENCODER_PREFIX
from model.interchange.tokenizer_files import read_tokenizer
from model.tasks import Task, TaskKind
from pipeline.errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

_WANTED = {
    "model_type": ("bert",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
    "pruned_heads": ({}, []),
    "quantization_config": (),
}
"""What settings must be for the model to be ours; one that is not there, or null, is fine."""

PER_POSITION: dict[str, TaskKind] = {
    "BertForTokenClassification": "tagging",
    "BertForQuestionAnswering": "span",
}
CLASSIFIER = "BertForSequenceClassification"

TAKES_PAIRS = "takes_pairs"
"""What we note of a classifier in `config.json`; others do not say it."""

_FLOATS = ("F64", "F32", "F16", "BF16")

_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
"""What older files have beside the weights."""

_TWINS = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""What files may have twice: the masked-LM head's matrix is the token embedding."""

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def read_hugging_face(path: Path) -> Imported:
    """Read a directory.

    Raises:
        InputError: it is no BERT of a kind that we have, or something in it cannot be read.
    """
    file = path / CONFIG
    settings = read_json(file) or {}
    for name, wanted in _WANTED.items():
        value = settings.get(name)
        if value is not None and value not in wanted:
            raise InputError(f"{file}: {name} {value}: not a BERT encoder of the kind we have")
    ours = [field.name for field in fields(BertConfig)]
    config = make_config(file, {name: settings[name] for name in ours if name in settings})
    source, names = _open(path, settings)
    task, notes = _task(file, settings, source)
    found = find_weights(source, source, "hugging_face", config, task)
    found = replace(found, unused=tuple(names[name] for name in found.unused))
    files = read_tokenizer(path)
    longest = config.max_position_embeddings
    texts = make_texts(
        files.path,
        files.vocabulary,
        files.lower_case,
        min(longest, files.max_length or longest),
        config.vocab_size,
    )
    return Imported.of(path, "hugging_face", config, texts, task, found, notes)


def _task(file: Path, settings: Mapping[str, Any], source: Source) -> tuple[Task | None, list[str]]:
    """Return what a directory's model was tuned for, and a note where ours cannot be."""
    architecture = _architecture(settings)
    problem = settings.get("problem_type")
    count = next(iter(source.shapes.get("classifier.weight", ())), 0)
    if architecture in PER_POSITION:
        kind = PER_POSITION[architecture]
    elif architecture != CLASSIFIER:
        return None, []
    elif count == 0:
        raise InputError(f"{source.path}: no classifier.weight in it, which {architecture} has")
    elif problem == "multi_label_classification" or (problem == "regression" and count != 1):
        return None, [f"{problem} with {count} outputs is no task of ours; the encoder is read"]
    else:
        kind = "regression" if count == 1 else "single"
    names = settings.get("id2label") or {}
    if not isinstance(names, dict):
        raise InputError(f"{file}: id2label must be an object of labels by index, not {names!r}")
    labels = [str(names.get(str(index), f"LABEL_{index}")) for index in range(count)]
    takes_pairs = settings.get(TAKES_PAIRS) is True
    if kind == "single" and takes_pairs:
        kind = "pair"
    has_classes = kind not in ("regression", "span")
    try:
        return Task(kind, tuple(labels) * has_classes, takes_pairs or kind == "span"), []
    except ValueError as error:
        raise InputError(f"{file}: id2label: {error}") from error


def _architecture(settings: Mapping[str, Any]) -> str | None:
    """Return the name of the model's class in `transformers`, where there is one."""
    names = settings.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def _open(path: Path, settings: Mapping[str, Any]) -> tuple[Source, dict[str, str]]:
    """Return a directory's weights under the table's names, and the files' names by those.

    Raises:
        InputError: there are none, or none that can be read.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    stored: dict[str, tuple[Any, str]] = {}  # the open file, and the name there
    for file in _files(path, settings):
        with _reading(file):
            opened = safe_open(file, "np")
            for name in map(str, opened.keys()):
                described, ours = opened.get_slice(name), _table_name(name)
                if ours in _BUFFERS:
                    continue
                if described.get_dtype() not in _FLOATS:
                    raise InputError(f"{file}: {name} is {described.get_dtype()}, no float")
                shapes[ours], stored[ours] = tuple(described.get_shape()), (opened, name)

    def read(name: str) -> np.ndarray:
        opened, their_name = stored[name]
        with _reading(path / WEIGHTS):
            return opened.get_tensor(their_name)

    for twin, original in _TWINS.items():
        if twin in shapes and original not in shapes:
            shapes[original], stored[original] = shapes.pop(twin), stored.pop(twin)
        elif twin in shapes and np.array_equal(read(twin), read(original)):
            del shapes[twin]
    return Source(path / WEIGHTS, shapes, read), {ours: name for ours, (_, name) in stored.items()}


def _table_name(name: str) -> str:
    """Return what the table calls a weight; `gamma` and `beta` are older names."""
    name = name.removeprefix(ENCODER_PREFIX)
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        name = name.replace(f"LayerNorm.{old}", f"LayerNorm.{new}")
    return name


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the library's errors into one that names the file."""
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error


def _files(path: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Return the safetensors files of a directory.

    Raises:
        InputError: there are none, or one that the index names is not beside it.
    """
    if (path / WEIGHTS).exists():
        return [path / WEIGHTS]
    index = read_json(path / INDEX)
    if index is None:
        raise InputError(_no_weights(path, settings))
    try:
        names = sorted({str(name) for name in index["weight_map"].values()})
    except (KeyError, AttributeError) as error:
        raise InputError(f"{path / INDEX}: no weight_map in it; download it again") from error
    for name in names:
        if Path(name).name != name or not (path / name).is_file():
            raise InputError(f"{path / INDEX}: names {name}, which is not beside it")
    return [path / name for name in names]


def _no_weights(path: Path, settings: Mapping[str, Any]) -> str:
    """Return the message for a directory without safetensors."""
    pickle = next((name for name in _PICKLES if (path / name).exists()), None)
    if pickle is None:
        return f"{path}: no {WEIGHTS}; give a directory with one"
    model = _architecture(settings) or "BertModel"
    return (
        f"{path / pickle}: a pickle, which can run any program, so it is never read; where you "
        f'trust it and have transformers, convert it: python -c "import transformers as t; '
        f"t.{model}.from_pretrained('{path}').save_pretrained('NEW')\", and copy the vocabulary"
    )
