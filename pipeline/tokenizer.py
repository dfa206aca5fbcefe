"""The one tokenizer, made of TensorFlow and TF Text ops that a model server links too."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY, Manifest, sha256
from pipeline.schema import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK


@dataclass(frozen=True)
class Vocabulary:
    """The pieces by id, read from `vocab.txt` (one piece a line, the line number is the id)."""

    pieces: tuple[str, ...]
    sha256: str

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """Read a vocabulary file.

        Raises:
            InputError: it cannot be read, lacks a special token, or has a piece twice.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise InputError(f"{path}: no such vocabulary; make one with clozeline vocab") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read as a UTF-8 vocabulary: {error}") from error
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> "Vocabulary":
        """Return the vocabulary in a file's bytes; the path is for messages.

        Raises:
            InputError: it is no UTF-8, lacks a special token, or has a piece twice.
        """
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: cannot be read as a UTF-8 vocabulary: {error}") from error
        pieces = tuple(line.rstrip("\r") for line in text.removesuffix("\n").split("\n"))
        first_line: dict[str, int] = {}
        for line, piece in enumerate(pieces, start=1):
            if first_line.setdefault(piece, line) != line:
                raise InputError(
                    f"{path}: line {line} repeats line {first_line[piece]} ({piece!r}); "
                    "every piece must stand once"
                )
        missing = [token for token in SPECIAL_TOKENS if token not in first_line]
        if missing:
            raise InputError(
                f"{path}: no {' '.join(missing)} in this vocabulary; "
                "add the line, or make a vocabulary with clozeline vocab"
            )
        return cls(pieces, sha256(data))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Piece to id."""
        return {piece: index for index, piece in enumerate(self.pieces)}

    @property
    def pad_id(self) -> int:
        """Id of [PAD]."""
        return self.ids[PAD]

    @property
    def unk_id(self) -> int:
        """Id of [UNK]."""
        return self.ids[UNK]

    @property
    def cls_id(self) -> int:
        """Id of [CLS]."""
        return self.ids[CLS]

    @property
    def sep_id(self) -> int:
        """Id of [SEP]."""
        return self.ids[SEP]

    @property
    def mask_id(self) -> int:
        """Id of [MASK]."""
        return self.ids[MASK]

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.pieces)


def dataset_vocabulary(dataset: Path, manifest: Manifest) -> Vocabulary:
    """Return a dataset's vocabulary.

    Raises:
        InputError: it cannot be read, or is not the one its manifest names.
    """
    vocabulary = Vocabulary.read(dataset / VOCABULARY)
    if vocabulary.sha256 != manifest.vocab_sha256:
        raise InputError(
            f"{dataset / VOCABULARY}: not the vocabulary that the dataset was made with (sha256 "
            f"{vocabulary.sha256[:12]}, manifest {manifest.vocab_sha256[:12]}); make it again"
        )
    return vocabulary


_DROPPED = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\p{Cf}\x{FFFD}]+"
"""Controls, format characters (zero-width joiners, soft hyphens, …) and U+FFFD."""

MAX_WORD_BYTES = 800
"""A longer word becomes [UNK]. google-research/bert says 200 characters, of up to four bytes."""


def normalize(texts: Any, *, lower_case: bool) -> Any:
    """Drop what is no text; lower-case and strip accents where asked.

    As google-research/bert's `BasicTokenizer` and Hugging Face's BERT tokenizers do. TF Text's own
    `FastBertNormalizer` goes further: it folds compatibility forms ("…" to "...", "ß" to "ss", "½"
    to "1⁄2") and cuts words at controls, so published checkpoints would be given ids that they were
    not trained on.

    Args:
        texts: string [N], UTF-8.
        lower_case: for an uncased model.

    Returns:
        string [N], in NFD where lower-cased.
    """
    import tensorflow as tf
    import tensorflow_text as tf_text

    texts = tf.strings.regex_replace(texts, _DROPPED, "")
    if lower_case:
        texts = tf_text.normalize_utf8(tf.strings.lower(texts, encoding="utf-8"), "NFD")
        texts = tf.strings.regex_replace(texts, r"\p{Mn}+", "")
    return texts


@dataclass(frozen=True)
class Tokenizer:
    """Text to pieces, in eager code and in graphs; made by `build_tokenizer`."""

    wordpiece: Any
    lower_case: bool

    def tokenize(self, texts: Any) -> Any:
        """Return the pieces of string [N] as ragged int32 [N, (pieces)], without special tokens.

        Special tokens written in the text, `[MASK]` for one, are text like any other.
        """
        return self.wordpiece.tokenize(normalize(texts, lower_case=self.lower_case))


def build_tokenizer(pieces: Sequence[str], *, lower_case: bool) -> Tokenizer:
    """Return the tokenizer of a vocabulary."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    wordpiece = tf_text.FastBertTokenizer(
        list(pieces),
        token_out_type=tf.int32,
        unknown_token=UNK,
        max_bytes_per_word=MAX_WORD_BYTES,
    )
    return Tokenizer(wordpiece, lower_case)
