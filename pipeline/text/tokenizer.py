"""The one tokenizer, made of TensorFlow and TF Text ops that a model server links too."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY, Manifest, sha256
from pipeline.schema import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK
from pipeline.storage.files import read_bounded

MAX_VOCABULARY_BYTES = 32 * 2**20
"""The largest vocabulary file; the 250,000 pieces of the largest published ones take 5 MB."""


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
            data = read_bounded(path, MAX_VOCABULARY_BYTES)
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
        pieces = split_pieces(data, path)
        first_line: dict[str, int] = {}
        for line, piece in enumerate(pieces, start=1):
            if first_line.setdefault(piece, line) != line:
                # The line itself is not quoted: the file may be another than the user thinks.
                raise InputError(
                    f"{path}: line {line} repeats line {first_line[piece]}; "
                    "a vocabulary has each piece once"
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


def split_pieces(data: bytes, path: Path) -> tuple[str, ...]:
    """Return the lines in a vocabulary file's bytes; the path is for messages.

    Only a line feed ends a line, with or without a carriage return before it: other white space,
    as U+2028, may be a piece.

    Raises:
        InputError: it is no UTF-8.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as a UTF-8 vocabulary: {error}") from error
    return tuple(line.rstrip("\r") for line in text.removesuffix("\n").split("\n"))


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


_DROPPED = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\p{Cf}\x{FFFD}]"
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

    texts = tf.strings.regex_replace(texts, f"{_DROPPED}+", "")
    if lower_case:
        texts = tf_text.normalize_utf8(tf.strings.lower(texts, encoding="utf-8"), "NFD")
        texts = tf.strings.regex_replace(texts, r"\p{Mn}+", "")
    return texts


_SPACES = r"[\t\n\r\p{Z}]+"
_CHINESE = (
    r"[\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}"
    r"\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{2F800}-\x{2FA1F}]"
)
_UNICODE_16 = (
    r"\x{1B4E}\x{1B4F}\x{1B7F}\x{10D6E}\x{113D4}\x{113D5}\x{113D7}\x{113D8}\x{11BE1}"
    r"\x{16D6D}-\x{16D6F}\x{1E5FF}"
)
"""Punctuation that TF Text's tokenizer knows and RE2's tables do not have yet."""
_PUNCTUATION = rf"[!-/:-@\[-`{{-~\p{{P}}{_UNICODE_16}]"
_ALONE = f"{_PUNCTUATION}|{_CHINESE}"
"""Characters that are words of their own: punctuation and CJK ideographs (google-research/bert,
tokenization.py: `_is_punctuation`, `_is_chinese_char`)."""
_ALONE_WHEN_LOWERED = r"[\x{1FEF}\x{2260}\x{226E}\x{226F}]"
"""Symbols that decompose into ASCII punctuation and an accent, which is stripped."""


def normalized_words(texts: Any, *, lower_case: bool) -> Any:
    """Return the words of string [N], normalized, as ragged string [N, (words)]."""
    import tensorflow_text as tf_text

    texts = normalize(texts, lower_case=lower_case)
    return tf_text.regex_split(texts, f"{_SPACES}|{_ALONE}", _ALONE)


def are_visible(characters: Sequence[str]) -> list[bool]:
    """Return whether each is a letter, mark, number, punctuation or symbol.

    Others are white space, controls, private use and code points without a character. TensorFlow's
    tables decide, as for the tokenizer, since those of `unicodedata` differ between Pythons.
    """
    import tensorflow as tf

    if not characters:
        return []
    visible = r"[\p{L}\p{M}\p{N}\p{P}\p{S}]"
    matched = tf.strings.regex_full_match(characters, visible)
    return [bool(each) for each in matched.numpy()]


WordUnit = Literal["bert", "whitespace"]
"""bert: words between white space, punctuation and CJK ideographs, which are words of their own, as
the tokenizer splits them. whitespace: words between white space, as in files of tagged words."""


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

    def tokenize_words(self, words: Any, vocabulary: Vocabulary) -> Any:
        """Return the pieces of words, string [N], as ragged int32 [N, (pieces)], [UNK] for none.

        A word of nothing but controls has no pieces, and every word is to have an answer.
        """
        import tensorflow as tf

        pieces = self.tokenize(words)
        missing = tf.cast(pieces.row_lengths() == 0, tf.int64)
        unknown = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(missing)], vocabulary.unk_id), missing
        )
        return tf.concat([pieces, unknown], axis=1)

    def split_words(self, texts: Any, unit: WordUnit = "bert") -> tuple[Any, Any, Any]:
        """Return the words of each text that the tokenizer reads, and their places in it.

        A word begins and ends with characters that `normalize` keeps; one without any is left out.
        So the pieces of the words, one after another, are the pieces of the text. A model server
        has all the operations.

        Args:
            texts: string [N], UTF-8.
            unit: what a word is.

        Returns:
            Ragged [N, (words)] each: the words without control characters, string; the byte of the
            text where each begins, and the byte after its end, int64.
        """
        import tensorflow as tf
        import tensorflow_text as tf_text

        # The splitting operation ends a text at its first NUL. U+0001 has as many bytes, and is
        # dropped as well.
        texts = tf.strings.regex_replace(texts, r"\x00", "\x01")
        alone = f"{_ALONE}|{_ALONE_WHEN_LOWERED}" if self.lower_case else _ALONE
        delimiters, kept = (_SPACES, "") if unit == "whitespace" else (f"{_SPACES}|{alone}", alone)
        words, starts, limits = tf_text.regex_split_with_offsets(texts, delimiters, kept)
        dropped = rf"(?:{_DROPPED}|\p{{Mn}})*" if self.lower_case else f"{_DROPPED}*"
        is_read = words.with_flat_values(~tf.strings.regex_full_match(words.flat_values, dropped))
        words, starts, limits = (
            tf.ragged.boolean_mask(part, is_read) for part in (words, starts, limits)
        )
        begun = tf.strings.regex_replace(words.flat_values, f"^{_DROPPED}+", "")
        trimmed = tf.strings.regex_replace(begun, f"{_DROPPED}+$", "")
        head, tail = (
            tf.cast(tf.strings.length(longer) - tf.strings.length(shorter), tf.int64)
            for longer, shorter in ((words.flat_values, begun), (begun, trimmed))
        )
        return (
            words.with_flat_values(tf.strings.regex_replace(trimmed, r"\p{Cc}+", "")),
            starts.with_flat_values(starts.flat_values + head),
            limits.with_flat_values(limits.flat_values - tail),
        )


def _matchable(pieces: Sequence[str]) -> list[str]:
    """Return the pieces, those with white space or controls replaced by others that no text has.

    Words contain neither, so such a piece stands for no text. TF Text's op, however, finds white
    space between two words and returns one piece too many, and uses some controls itself.
    """

    def is_in_words(character: str) -> bool:
        return not character.isspace() and unicodedata.category(character) != "Cc"

    # `normalize` drops U+FFFD.
    return [
        piece if all(map(is_in_words, piece)) else f"\ufffd{index}"
        for index, piece in enumerate(pieces)
    ]


def build_tokenizer(pieces: Sequence[str], *, lower_case: bool) -> Tokenizer:
    """Return the tokenizer of a vocabulary."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    wordpiece = tf_text.FastBertTokenizer(
        _matchable(pieces),
        token_out_type=tf.int32,
        unknown_token=UNK,
        max_bytes_per_word=MAX_WORD_BYTES,
    )
    return Tokenizer(wordpiece, lower_case)


def combine(vocabulary: Vocabulary, pieces: Sequence[Any], max_seq_length: int) -> Any:
    """Return one or two segments as the model takes them, their ends cut off where they must be.

    The longer segment loses its last piece first, as in google-research/bert.

    Args:
        vocabulary: the pieces.
        pieces: ragged int32 [N, (pieces)], one or two.
        max_seq_length: L.

    Returns:
        input_ids and segment_ids, ragged int32 [N, (up to L)]: [CLS] A [SEP], or [CLS] A [SEP] B
        [SEP]; and truncated, bool [N].
    """
    import tensorflow as tf
    import tensorflow_text as tf_text

    room = max_seq_length - 1 - len(pieces)
    trimmed = tf_text.RoundRobinTrimmer(room).trim(list(pieces))
    input_ids, segment_ids = tf_text.combine_segments(trimmed, vocabulary.cls_id, vocabulary.sep_id)
    lengths = [part.row_lengths() for part in pieces]
    return input_ids, segment_ids, tf.add_n(lengths) > room
