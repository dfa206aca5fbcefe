"""What a reader of any format returns, and what the readers share."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.bert.config import BertConfig
from model.interchange.files import shown
from model.interchange.names import (
    HEADS,
    POOLER,
    Format,
    Weight,
    encoder_weights,
    head_weights,
    task_weights,
)
from model.tasks.kinds import Head, Task
from pipeline.errors import InputError
from pipeline.text.tokenizer import Vocabulary

MIN_SEQ_LENGTH = 5
"""The shortest sequence: [CLS], two texts of a piece, and a [SEP] after each."""

ADDED_TOKEN = (
    "which its tokenizer finds in texts before it cuts them; ours would cut it into pieces, "
    "and give the model other ids"
)
"""What is wrong with a token that is none of BERT's five special ones."""

FORMAT_NAMES: dict[Format, str] = {
    "hugging_face": "Hugging Face directory",
    "google": "TensorFlow 1 checkpoint",
    "keras_hub": "KerasHub preset",
}


@dataclass(frozen=True)
class Texts:
    """What a checkpoint says of the texts that it takes.

    Attributes:
        vocabulary: the bytes of a `vocab.txt`.
        lower_case: whether texts are lower-cased and stripped of accents.
        max_seq_length: L, the longest sequence that it takes, in pieces.
        notes: what was taken for granted, a line each.
    """

    vocabulary: bytes
    lower_case: bool
    max_seq_length: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """The weights that were taken from a checkpoint.

    Attributes:
        weights: float32, by our path.
        heads: the pretraining heads that are whole.
        missing: paths of those of our model that the checkpoint has not.
        unused: names of what else it has.
    """

    weights: dict[str, np.ndarray]
    heads: tuple[Head, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True)
class Imported:
    """A checkpoint of another format, read.

    Attributes:
        path: its directory.
        form: its format.
        config: the model's numbers.
        vocabulary: the bytes of a `vocab.txt` with a piece for every row of the embedding.
        lower_case: whether texts are lower-cased and stripped of accents.
        max_seq_length: L, the longest sequence that it takes, in pieces.
        heads: the pretraining heads that are whole.
        task: what it was tuned for; None of a pretraining model or a bare encoder.
        weights: float32, by our path.
        missing: paths of those weights of our model that the checkpoint has not.
        unused: names of what else it has.
        notes: what a person should know, a line each.
    """

    path: Path
    form: Format
    config: BertConfig
    vocabulary: bytes
    lower_case: bool
    max_seq_length: int
    heads: tuple[Head, ...]
    task: Task | None
    weights: dict[str, np.ndarray]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        path: Path,
        form: Format,
        config: BertConfig,
        texts: Texts,
        task: Task | None,
        found: Found,
        notes: Iterable[str] = (),
    ) -> "Imported":
        """Return the whole of what a reader found."""
        return cls(
            path=path,
            form=form,
            config=config,
            vocabulary=texts.vocabulary,
            lower_case=texts.lower_case,
            max_seq_length=texts.max_seq_length,
            heads=found.heads,
            task=task,
            weights=found.weights,
            missing=found.missing,
            unused=found.unused,
            notes=(*texts.notes, *notes),
        )


@dataclass(frozen=True)
class Source:
    """The weights in a checkpoint's files, read one at a time.

    Attributes:
        path: where they are, for messages.
        shapes: by name.
        read: returns the values of a name; raises `InputError`.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def find_weights(
    encoder: Source, heads: Source, form: Format, config: BertConfig, task: Task | None
) -> Found:
    """Return the weights of our model that a checkpoint has.

    Args:
        encoder: where the encoder's weights are.
        heads: where the others are; may be the same.
        form: how they are called there.
        config: the model's numbers.
        task: what the model was tuned for. Pretraining heads are looked for only without one.

    Raises:
        InputError: a weight of the encoder, its pooler excepted, or of the task is not there, or
            one has another shape than the config says.
    """
    if config.num_hidden_layers > len(encoder.shapes):  # before so many names are made
        raise InputError(
            f"{encoder.path}: {len(encoder.shapes)} weights in it, too few for the "
            f"{config.num_hidden_layers} layers of the config; they must be of one model"
        )
    weights: dict[str, np.ndarray] = {}
    whole, missing = [], []
    unused = {(source.path, name) for source in (encoder, heads) for name in source.shapes}
    for part in _parts(encoder, heads, config, task):
        absent = part.absent(form)
        if absent and part.is_needed:
            raise InputError(
                f"{part.source.path}: no {absent[0]} in it ({len(absent)} of {len(part.weights)} "
                f"weights of the {part.name} are missing{_example(part.source, absent[0])}); "
                "give a whole BERT checkpoint"
            )
        if absent:
            missing += [weight.path for weight in part.weights]
            continue
        whole.append(part.name)
        for weight in part.weights:
            weights[weight.path] = _read(part.source, weight, form)
            unused.discard((part.source.path, weight.stored[form].name))
    return Found(
        weights=weights,
        heads=tuple(head for head in HEADS if head in whole),
        missing=tuple(missing),
        unused=tuple(sorted(name for _, name in unused)),
    )


def _example(source: Source, name: str) -> str:
    """Return a remark that names the weight in a checkpoint whose name is most like another."""
    # Not too many and not too long: comparing takes time.
    known = [known for known in sorted(source.shapes) if len(known) <= 200][:1000]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return f"; a weight that it has is {shown(close[0])}" if close else ""


@dataclass(frozen=True)
class _Part:
    """Weights that are there together, or not used.

    Attributes:
        name: for messages; a head's own.
        source: where they are.
        weights: which.
        is_needed: whether the model is none without them.
    """

    name: str
    source: Source
    weights: list[Weight]
    is_needed: bool

    def absent(self, form: Format) -> list[str]:
        """Return the names of those that are not there; our paths where a format has no name."""
        names = [
            weight.stored[form].name if form in weight.stored else weight.path
            for weight in self.weights
        ]
        return [name for name in names if name not in self.source.shapes]


def _parts(encoder: Source, heads: Source, config: BertConfig, task: Task | None) -> list[_Part]:
    """Return what our model is made of."""
    weights = encoder_weights(config)
    pooler = [weight for weight in weights if weight.path.startswith(f"{POOLER}/")]
    body = [weight for weight in weights if weight not in pooler]
    is_pooled = task is not None and not task.is_per_position
    parts = [_Part("encoder", encoder, body, True), _Part("pooler", encoder, pooler, is_pooled)]
    if task:
        return [*parts, _Part(f"{task.kind} head", heads, task_weights(config, task), True)]
    return parts + [_Part(head, heads, head_weights(config, head), False) for head in HEADS]


def _read(source: Source, weight: Weight, form: Format) -> np.ndarray:
    stored = weight.stored[form]
    shape = source.shapes[stored.name]
    if shape != stored.shape:
        raise InputError(
            f"{source.path}: {stored.name} has the shape {by(shape)}, where the config asks for "
            f"{by(stored.shape)}; config and weights must be of one model"
        )
    values = weight.to_ours(source.read(stored.name), form)
    if not np.isfinite(values).all():
        raise InputError(
            f"{source.path}: {stored.name} has values that are no numbers; "
            "it was saved after its training had blown up"
        )
    return values


def by(shape: Iterable[int]) -> str:
    """Return a shape as messages show it, 2×3 for instance."""
    return "×".join(map(str, shape)) or "()"


def make_config(
    path: Path, settings: Mapping[str, Any], their_names: Mapping[str, str] | None = None
) -> BertConfig:
    """Return the config of what a file says.

    Args:
        path: of the file, for messages.
        settings: under our names.
        their_names: what the file calls them, by ours, where it has other names.

    Raises:
        InputError: a value is missing or one that we do not have.
    """
    try:
        return BertConfig.from_dict(settings)
    except ValueError as error:
        names = their_names or {}
        message = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(error))
        raise InputError(f"{path}: {message}") from error


def make_texts(
    path: Path, data: bytes, lower_case: bool | None, max_seq_length: int, size: int
) -> Texts:
    """Return what is known of a checkpoint's texts.

    Args:
        path: of the vocabulary.
        data: its pieces, one a line.
        lower_case: whether texts are lower-cased; None where no file says so, and the pieces must.
        max_seq_length: L, the longest sequence, in pieces.
        size: V, rows of the embedding. More rows than pieces are common: they are never used.

    Raises:
        InputError: the vocabulary is not valid, or has more pieces than there are rows; or
            sequences are too short for any text.
    """
    if max_seq_length < MIN_SEQ_LENGTH:
        raise InputError(
            f"{path.parent}: takes sequences of {max_seq_length} pieces, too short for a text; "
            f"{MIN_SEQ_LENGTH} at least are needed"
        )
    pieces, notes = Vocabulary.parse(data, path).pieces, []
    if len(pieces) > size:
        raise InputError(
            f"{path}: {len(pieces)} pieces, but the config's vocab_size is {size}; "
            "config and vocabulary must be of one model"
        )
    if len(pieces) < size:
        notes.append(
            f"{size - len(pieces)} rows of the embedding have no piece; they are called [rowN]"
        )
        data = as_bytes([*pieces, *(f"[row{index}]" for index in range(len(pieces), size))])
    if lower_case is None:
        lower_case = not any(map(is_cased, pieces))
        how = "no piece has a capital: uncased" if lower_case else "pieces have capitals: cased"
        notes.append(f"no file says whether texts are lower-cased, and {how}")
    return Texts(data, lower_case, max_seq_length, tuple(notes))


def is_cased(piece: str) -> bool:
    """Return whether a piece has a capital; special ones as [UNK] do not count."""
    return piece != piece.lower() and not (piece.startswith("[") and piece.endswith("]"))


def as_bytes(pieces: Iterable[str]) -> bytes:
    """Return the contents of a `vocab.txt`."""
    return "".join(f"{piece}\n" for piece in pieces).encode()


def by_layer(names: Iterable[str]) -> str:
    """Return the layers that weights are of, each with their number."""
    counts = Counter(name.replace(".", "/").split("/")[0] for name in names)
    return ", ".join(f"{layer} ({count})" for layer, count in counts.items())
