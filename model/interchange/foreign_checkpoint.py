"""The result of reading a checkpoint of any format, and functions that the readers share."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
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
from model.tasks.kinds import Head
from model.tasks.task_kind import Task
from pipeline.errors import InputError
from pipeline.progress import counted
from pipeline.text.tokenizer import Vocabulary

MIN_SEQ_LENGTH = 5
"""Smallest usable sequence length: [CLS], two texts of one piece, and a [SEP] after each."""

ADDED_TOKEN = (
    "which its tokenizer keeps whole; Clozeline would split it, so the token ids would differ"
)
"""End of the message about an added token that is not one of BERT's five special tokens."""

FORMAT_NAMES: dict[Format, str] = {
    "hugging_face": "Hugging Face directory",
    "google": "TensorFlow 1 checkpoint",
    "keras_hub": "KerasHub preset",
}


@dataclass(frozen=True)
class TextSettings:
    """How a checkpoint's model expects its texts.

    Attributes:
        vocabulary: contents of a `vocab.txt`.
        lower_case: whether texts are lower-cased and stripped of accents.
        max_seq_length: L, the largest sequence length, in pieces.
        notes: assumptions that were made, one line each.
    """

    vocabulary: bytes
    lower_case: bool
    max_seq_length: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MatchedWeights:
    """A checkpoint's weights, matched to those of our model.

    Attributes:
        weights: float32 values, by our path.
        heads: the pretraining heads whose weights are complete.
        missing: our paths of weights that the checkpoint lacks.
        unused: names of the checkpoint's weights that our model lacks.
    """

    weights: dict[str, np.ndarray]
    heads: tuple[Head, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True)
class Imported:
    """The contents of a checkpoint of another format.

    Attributes:
        path: directory of the checkpoint.
        form: format of the checkpoint.
        config: hyperparameters of the model.
        vocabulary: contents of a `vocab.txt` with one piece per row of the token embedding.
        lower_case: whether texts are lower-cased and stripped of accents.
        max_seq_length: L, the largest sequence length, in pieces.
        heads: the pretraining heads whose weights are complete.
        task: the task of a fine-tuned model; None for a pretraining model or a bare encoder.
        weights: float32 values, by our path.
        missing: our paths of weights that the checkpoint lacks.
        unused: names of the checkpoint's weights that our model lacks.
        notes: remarks for the user, one line each.
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
        texts: TextSettings,
        task: Task | None,
        matched: MatchedWeights,
        notes: Iterable[str] = (),
    ) -> "Imported":
        """Build the result from the parts that a reader has read."""
        return cls(
            path=path,
            form=form,
            config=config,
            vocabulary=texts.vocabulary,
            lower_case=texts.lower_case,
            max_seq_length=texts.max_seq_length,
            heads=matched.heads,
            task=task,
            weights=matched.weights,
            missing=matched.missing,
            unused=matched.unused,
            notes=(*texts.notes, *notes),
        )


@dataclass(frozen=True)
class WeightSource:
    """The weights in a checkpoint's files, read on demand.

    Attributes:
        path: path of the file, or of the index of several, for messages.
        shapes: shapes by name.
        read: function that returns the values of a name; raises `InputError`.
        files: path of the file that has a name; empty = all are in `path`.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    files: Mapping[str, Path] = field(default_factory=dict)


def find_weights(
    encoder: WeightSource, heads: WeightSource, form: Format, config: BertConfig, task: Task | None
) -> MatchedWeights:
    """Match a checkpoint's weights to those of our model, and read them.

    Args:
        encoder: source of the encoder's weights.
        heads: source of the heads' weights; may be the same.
        form: format of the checkpoint, which determines the names.
        config: hyperparameters of the model.
        task: the task of a fine-tuned model; None = look for pretraining heads.

    Raises:
        InputError: weights of the encoder (except its pooler) or of the task's head are missing, or
            a shape does not match the config.
    """
    # An untrusted config may claim billions of layers: check before their names are generated.
    if config.num_hidden_layers > len(encoder.shapes):
        raise InputError(
            f"{encoder.path}: {counted(len(encoder.shapes), 'weights')} in it, too few for the "
            f"{counted(config.num_hidden_layers, 'layers')} of the config; they must be of one "
            "model"
        )
    weights: dict[str, np.ndarray] = {}
    whole, missing = [], []
    unused = {(source.path, name) for source in (encoder, heads) for name in source.shapes}
    for part in _parts(encoder, heads, config, task):
        absent = part.absent(form)
        if absent and part.required:
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
    return MatchedWeights(
        weights=weights,
        heads=tuple(head for head in HEADS if head in whole),
        missing=tuple(missing),
        unused=tuple(sorted(name for _, name in unused)),
    )


def _example(source: WeightSource, name: str) -> str:
    """Return a remark with the checkpoint's weight whose name is most similar to `name`."""
    # Limit the number and length of names: the comparison takes quadratic time.
    known = [known for known in sorted(source.shapes) if len(known) <= 200][:1000]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return f"; a weight that it has is {shown(close[0])}" if close else ""


@dataclass(frozen=True)
class _Part:
    """Weights that are used only if all of them are present.

    Attributes:
        name: name of the part, for messages; for a head, the head's name.
        source: source of the weights.
        weights: the weights of the part.
        required: whether to refuse the checkpoint if these are missing.
    """

    name: str
    source: WeightSource
    weights: list[Weight]
    required: bool

    def absent(self, form: Format) -> list[str]:
        """Return the names of missing weights; our paths if the format has no name for them."""
        names = [
            weight.stored[form].name if form in weight.stored else weight.path
            for weight in self.weights
        ]
        return [name for name in names if name not in self.source.shapes]


def _parts(
    encoder: WeightSource, heads: WeightSource, config: BertConfig, task: Task | None
) -> list[_Part]:
    """Return the parts of our model: encoder, pooler, and the task's or the pretraining heads."""
    weights = encoder_weights(config)
    pooler = [weight for weight in weights if weight.path.startswith(f"{POOLER}/")]
    body = [weight for weight in weights if weight not in pooler]
    # Published masked-LM and tagging models often lack the pooler; only heads that read it need it.
    is_pooled = task is not None and not task.is_per_position
    parts = [_Part("encoder", encoder, body, True), _Part("pooler", encoder, pooler, is_pooled)]
    if task:
        return [*parts, _Part(f"{task.kind} head", heads, task_weights(config, task), True)]
    return parts + [_Part(head, heads, head_weights(config, head), False) for head in HEADS]


def _read(source: WeightSource, weight: Weight, form: Format) -> np.ndarray:
    stored = weight.stored[form]
    shape = source.shapes[stored.name]
    file = source.files.get(stored.name, source.path)
    if shape != stored.shape:
        raise InputError(
            f"{file}: {stored.name} has the shape {by(shape)}, but the config requires "
            f"{by(stored.shape)}; config and weights must belong to the same model"
        )
    # The shape is compared before the values are read: a forged one would be allocated.
    values = weight.to_ours(source.read(stored.name), form)
    if not np.isfinite(values).all():
        raise InputError(
            f"{file}: {stored.name} contains NaN or infinity; "
            "it was saved after its training diverged"
        )
    return values


def by(shape: Iterable[int]) -> str:
    """Return a shape for a message, for example 2×3."""
    return "×".join(map(str, shape)) or "()"


def make_config(
    path: Path, settings: Mapping[str, Any], their_names: Mapping[str, str] | None = None
) -> BertConfig:
    """Build the model's config from a file's settings.

    Args:
        path: path of the file, for messages.
        settings: values by our names.
        their_names: the file's names by our names, if they differ, for messages.

    Raises:
        InputError: a value is missing or not supported.
    """
    try:
        return BertConfig.from_dict(settings)
    except ValueError as error:
        names = their_names or {}
        # The config's errors use our field names; the user knows those of the file.
        message = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(error))
        raise InputError(f"{path}: {message}") from error


def make_texts(
    path: Path, data: bytes, lower_case: bool | None, max_seq_length: int, size: int
) -> TextSettings:
    """Validate a checkpoint's vocabulary, and pad it to the rows of the embedding.

    Args:
        path: path of the vocabulary.
        data: its contents, one piece per line.
        lower_case: whether texts are lower-cased; None = no file says so, guess from the pieces.
        max_seq_length: L, the largest sequence length, in pieces.
        size: V, rows of the token embedding. More rows than pieces are common; they are unused.

    Raises:
        InputError: the vocabulary is invalid or has more pieces than the embedding has rows, or
            the sequence length is too small for any text.
    """
    if max_seq_length < MIN_SEQ_LENGTH:
        raise InputError(
            f"{path.parent}: takes sequences of {counted(max_seq_length, 'pieces')}, too short for "
            f"a text; {MIN_SEQ_LENGTH} at least are needed"
        )
    pieces, notes = Vocabulary.parse(data, path).pieces, []
    if len(pieces) > size:
        raise InputError(
            f"{path}: {len(pieces)} pieces, but the config's vocab_size is {size}; "
            "config and vocabulary must belong to the same model"
        )
    if len(pieces) < size:
        lacking = counted(size - len(pieces), "rows")
        notes.append(f"{lacking} of the embedding without a piece in the vocabulary, named [rowN]")
        data = as_bytes([*pieces, *(f"[row{index}]" for index in range(len(pieces), size))])
    if lower_case is None:
        lower_case = not any(map(is_cased, pieces))
        how = "no piece has a capital: uncased" if lower_case else "pieces have capitals: cased"
        notes.append(f"no file says whether texts are lower-cased, and {how}")
    return TextSettings(data, lower_case, max_seq_length, tuple(notes))


def is_cased(piece: str) -> bool:
    """Return whether a piece contains a capital letter; False for special ones like [UNK]."""
    return piece != piece.lower() and not (piece.startswith("[") and piece.endswith("]"))


def as_bytes(pieces: Iterable[str]) -> bytes:
    """Return the contents of a `vocab.txt` with these pieces."""
    return "".join(f"{piece}\n" for piece in pieces).encode()


def by_layer(names: Iterable[str]) -> str:
    """Summarize weights as their layers, each with its number of weights."""
    counts = Counter(name.replace(".", "/").split("/")[0] for name in names)
    return ", ".join(f"{layer} ({count})" for layer, count in counts.items())
