"""The tokenizer, built from TensorFlow and TF Text ops that TensorFlow Serving also has."""

import codecs
import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.errors import InputError, unreadable
from pipeline.manifest import VOCABULARY, Manifest, sha256
from pipeline.schema import CLS, JOINER, MASK, PAD, SEP, SPECIAL_TOKENS, UNK
from pipeline.storage.encodings import why_not_utf8
from pipeline.storage.files import absence, read_bounded
from pipeline.storage.strict_json import JsonObject, to_json

MAX_VOCABULARY_BYTES = 32 * 2**20
"""Maximum size of a vocabulary file; the largest published ones (250,000 pieces) have 5 MB."""

MAX_PIECE_BYTES = 256
"""Limit of TF Text's `FastBertTokenizer`, in UTF-8 and without `JOINER`."""

CHINESE_RANGES = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip
"""First and last character of each block of CJK ideographs that is split into single characters
(google-research/bert, tokenization.py: `_is_chinese_char`). Blocks that Unicode added later are not
among them, so that published vocabularies give the same pieces."""


@dataclass(frozen=True)
class Vocabulary:
    """A WordPiece vocabulary, read from `vocab.txt` (one piece per line, in order of their ids)."""

    pieces: tuple[str, ...]
    sha256: str

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """Read a vocabulary file.

        Raises:
            InputError: it cannot be read, lacks a special token, or contains a piece twice.
            JobError: the machine fails to read it.
        """
        try:
            data = read_bounded(path, MAX_VOCABULARY_BYTES)
        except FileNotFoundError:
            why = absence(path) or "no such vocabulary; make one with clozeline vocab"
            raise InputError(f"{path}: {why}") from None
        except OSError as error:
            raise unreadable(path, error) from error
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> "Vocabulary":
        """Return the vocabulary in a file's bytes; the path is for error messages.

        Raises:
            InputError: it is not UTF-8, lacks a special token, contains a piece twice,
                or one that is too long.
        """
        pieces = split_pieces(data, path)
        first_line: dict[str, int] = {}
        for line, piece in enumerate(pieces, start=1):
            if first_line.setdefault(piece, line) != line:
                # The message does not quote the line: the path may point to a private file by
                # mistake, and messages are copied into logs and reports.
                raise InputError(
                    f"{path}: line {line} repeats line {first_line[piece]}; "
                    "a vocabulary has each piece once"
                )
            if len(piece.removeprefix(JOINER).encode()) > MAX_PIECE_BYTES:
                raise InputError(
                    f"{path}: line {line} has more than {MAX_PIECE_BYTES} bytes; "
                    "no tokenizer of WordPieces takes such a piece, so remove the line"
                )
        missing = [token for token in SPECIAL_TOKENS if token not in first_line]
        if missing:
            advice = "add the line, or make a vocabulary with clozeline vocab"
            if data.startswith(codecs.BOM_UTF8):
                advice = "it begins with a byte order mark; remove that: tail -c +4 OLD > NEW"
            raise InputError(f"{path}: no {' '.join(missing)} in this vocabulary; {advice}")
        return cls(pieces, sha256(data))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids by piece."""
        return {piece: index for index, piece in enumerate(self.pieces)}

    @property
    def pad_id(self) -> int:
        """Id of [PAD], which fills a record after its last piece."""
        return self.ids[PAD]

    @property
    def unk_id(self) -> int:
        """Id of [UNK], in place of a word that has no pieces."""
        return self.ids[UNK]

    @property
    def cls_id(self) -> int:
        """Id of [CLS], the first piece, whose vector is the text's."""
        return self.ids[CLS]

    @property
    def sep_id(self) -> int:
        """Id of [SEP], which ends each text."""
        return self.ids[SEP]

    @property
    def mask_id(self) -> int:
        """Id of [MASK], in place of a piece that is predicted."""
        return self.ids[MASK]

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.pieces)


def split_pieces(data: bytes, path: Path) -> tuple[str, ...]:
    r"""Return the lines in a vocabulary file's bytes; the path is for error messages.

    Lines end with \n or \r\n only, unlike `str.splitlines`: other line separators, such as U+2028,
    may be pieces.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        why = why_not_utf8(data.split(b"\n"))
        raise InputError(f"{path}: cannot be read as a vocabulary: {why}") from error
    return tuple(line.rstrip("\r") for line in text.removesuffix("\n").split("\n"))


def dataset_vocabulary(dataset: Path, manifest: Manifest) -> Vocabulary:
    """Return the vocabulary of a dataset.

    Raises:
        InputError: it cannot be read, or its hash differs from the manifest's.
    """
    vocabulary = Vocabulary.read(dataset / VOCABULARY)
    if vocabulary.sha256 != manifest.vocab_sha256:
        raise InputError(
            f"{dataset / VOCABULARY}: not the vocabulary that the dataset was made with (sha256 "
            f"{vocabulary.sha256[:12]}, manifest {manifest.vocab_sha256[:12]}); make it again"
        )
    return vocabulary


_DROPPED = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\p{Cf}\x{FFFD}]"
"""Characters that normalization removes: control characters, format characters (zero-width joiners,
soft hyphens, …) and U+FFFD."""

MAX_WORD_BYTES = 800
"""Words longer than this become [UNK]; google-research/bert's limit is 200 characters, and a
character has up to 4 bytes."""


def normalize(texts: Any, *, lower_case: bool) -> Any:
    """Remove control characters; for uncased models, lower-case and strip accents.

    Equivalent to google-research/bert's `BasicTokenizer` and Hugging Face's BERT tokenizers. TF
    Text's `FastBertNormalizer` differs: it also folds compatibility forms ("…" to "...", "ß" to
    "ss", "½" to "1⁄2") and splits words at control characters, so that published checkpoints would
    receive ids that they were not trained on.

    Args:
        texts: string [N], UTF-8.
        lower_case: whether to lower-case and strip accents.

    Returns:
        string [N], in NFD if lower-cased.
    """
    import tensorflow as tf
    import tensorflow_text as tf_text

    texts = tf.strings.regex_replace(texts, f"{_DROPPED}+", "")
    if lower_case:
        # In the order of `BasicTokenizer`. Without `encoding`, TensorFlow lowers ASCII only.
        texts = tf_text.normalize_utf8(tf.strings.lower(texts, encoding="utf-8"), "NFD")
        texts = tf.strings.regex_replace(texts, r"\p{Mn}+", "")
    return texts


_SPACES = r"[\t\n\r\p{Z}]+"
_CHINESE = "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in CHINESE_RANGES)
_UNICODE_16 = (
    r"\x{1B4E}\x{1B4F}\x{1B7F}\x{10D6E}\x{113D4}\x{113D5}\x{113D7}\x{113D8}\x{11BE1}"
    r"\x{16D6D}-\x{16D6F}\x{1E5FF}"
)
"""Punctuation of Unicode 16, which TF Text's tokenizer knows and RE2's tables do not."""
# All ASCII characters but letters, digits and controls, including those that Unicode calls symbols
# (^ $ +); beyond ASCII, Unicode's punctuation.
_PUNCTUATION = rf"[!-/:-@\[-`{{-~\p{{P}}{_UNICODE_16}]"
_ALONE = f"{_PUNCTUATION}|[{_CHINESE}]"
"""Characters that are always separate words: punctuation and CJK ideographs (google-research/bert,
tokenization.py: `_is_punctuation`)."""
_ALONE_WHEN_LOWERED = r"[\x{1FEF}\x{2260}\x{226E}\x{226F}]"
"""Symbols whose NFD form is ASCII punctuation and an accent (≠ is = and U+0338): punctuation in an
uncased model, because accents are stripped."""


def normalized_words(texts: Any, *, lower_case: bool) -> Any:
    """Return the normalized words of string [N]: ragged string [N, (words)]."""
    import tensorflow_text as tf_text

    texts = normalize(texts, lower_case=lower_case)
    return tf_text.regex_split(texts, f"{_SPACES}|{_ALONE}", _ALONE)


def are_visible(characters: Sequence[str]) -> list[bool]:
    """Return whether each character is a letter, mark, number, punctuation or symbol.

    All others are white space, control, private-use or unassigned characters. TensorFlow's Unicode
    tables are used, as in the tokenizer: those of `unicodedata` depend on the Python version.
    """
    import tensorflow as tf

    if not characters:
        return []
    visible = r"[\p{L}\p{M}\p{N}\p{P}\p{S}]"
    matched = tf.strings.regex_full_match(characters, visible)
    return [bool(each) for each in matched.numpy()]


WordUnit = Literal["bert", "whitespace"]
"""How text is split into words. bert: as the tokenizer does, at white space, with every punctuation
character and CJK ideograph a separate word. whitespace: at white space only, as in files of tagged
words."""


@dataclass(frozen=True)
class Tokenizer:
    """Tokenizes text into pieces, in eager mode and in graphs; created by `build_tokenizer`.

    Attributes:
        wordpiece: TF Text's tokenizer for normalized text.
        lower_case: whether texts are lower-cased and accents stripped.
        pieces: pieces in order of their ids, as by `_matchable`.
    """

    wordpiece: Any
    lower_case: bool
    pieces: Sequence[str]

    def tokenize(self, texts: Any) -> Any:
        """Return the piece ids of string [N]: ragged int32 [N, (pieces)], without special tokens.

        Special tokens in the text, such as `[MASK]`, are tokenized like other text.
        """
        return self.wordpiece.tokenize(normalize(texts, lower_case=self.lower_case))

    def tokenize_list(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids that `tokenize` does, in eager mode.

        Texts in ASCII, most of a corpus in English, are tokenized by `nanotoken`, which is faster.

        Returns:
            int32 [pieces of all texts], and the number of pieces of each text, int64 [N].
        """
        is_ascii = np.array([text.isascii() for text in texts], bool)
        lengths = np.empty(len(texts), np.int64)
        parts = []
        for which, tokenize in ((is_ascii, self._ascii_arrays), (~is_ascii, self._arrays)):
            ids, lengths[which] = tokenize([*itertools.compress(texts, which.tolist())])
            parts.append((which, ids))
        pieces = np.empty(lengths.sum(), np.int32)
        for which, ids in parts:
            pieces[np.repeat(which, lengths)] = ids
        return pieces, lengths

    def _arrays(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids and lengths of texts."""
        import tensorflow as tf

        ragged = self.tokenize(tf.constant(texts, tf.string))
        return ragged.flat_values.numpy(), ragged.row_lengths().numpy()

    def _ascii_arrays(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the same of texts in ASCII."""
        if self._nanotoken is None:
            return self._arrays(texts)
        # On one thread: the Beam job already has a worker for every core.
        ids, row_splits = self._nanotoken.encode_batch(
            texts, add_special_tokens=False, parallel=False
        )
        return ids, np.diff(row_splits)

    @cached_property
    def _nanotoken(self) -> Any:
        """Hugging Face's tokenizer in the fast version of `nanotoken`; None if not installed.

        Its ids are ours for ASCII; outside it, the two split and normalize differently.
        """
        try:
            from nanotoken import WordPieceTokenizer
        except ImportError:
            return None
        normalizer: JsonObject = {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,  # as `lowercase`
            "lowercase": self.lower_case,
        }
        model: JsonObject = {
            "type": "WordPiece",
            "unk_token": UNK,
            "continuing_subword_prefix": JOINER,
            "max_input_chars_per_word": MAX_WORD_BYTES,  # a character is a byte in ASCII
            "vocab": {piece: index for index, piece in enumerate(self.pieces)},
        }
        splitter: JsonObject = {"type": "BertPreTokenizer"}
        parts: JsonObject = {"normalizer": normalizer, "pre_tokenizer": splitter, "model": model}
        return WordPieceTokenizer.from_json(to_json(parts))

    def tokenize_words(self, words: Any, vocabulary: Vocabulary) -> Any:
        """Return the piece ids of words, string [N]: ragged int32 [N, (pieces)], at least one each.

        A word of control characters only has no pieces; it becomes [UNK], because a tagging model
        must return a tag for every word.
        """
        import tensorflow as tf

        pieces = self.tokenize(words)
        missing = tf.cast(pieces.row_lengths() == 0, tf.int64)
        unknown = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(missing)], vocabulary.unk_id), missing
        )
        return tf.concat([pieces, unknown], axis=1)

    def split_words(self, texts: Any, unit: WordUnit = "bert") -> tuple[Any, Any, Any]:
        """Return the words of each text and their byte offsets.

        No word begins or ends with a control or format character, and words that `normalize` would
        leave empty are dropped. So the pieces of the words, concatenated, are the pieces of the
        text. TensorFlow Serving has all the ops.

        Args:
            texts: string [N], UTF-8.
            unit: how the text is split into words.

        Returns:
            Ragged [N, (words)] each: the words without control characters (string), the byte offset
            of each word in its text, and the byte offset after its end (int64).
        """
        import tensorflow as tf
        import tensorflow_text as tf_text

        # The op stops at the first NUL of a text. U+0001 also has one byte, so offsets do not
        # change, and `normalize` drops it as well.
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
            # Control characters inside of words, and the U+0001 that stands for a NUL.
            words.with_flat_values(tf.strings.regex_replace(trimmed, r"\p{Cc}+", "")),
            starts.with_flat_values(starts.flat_values + head),
            limits.with_flat_values(limits.flat_values - tail),
        )


def _matchable(pieces: Sequence[str]) -> list[str]:
    """Return the pieces, with those containing white space or control characters replaced.

    Words contain neither, so such a piece never matches. TF Text's op, however, would match white
    space between two words and return an additional piece, and it uses some control characters
    internally. The replacements contain a character that no normalized text contains.
    """

    def is_in_words(character: str) -> bool:
        return not character.isspace() and unicodedata.category(character) != "Cc"

    # `normalize` removes U+FFFD, so no text matches these pieces.
    return [
        piece if all(map(is_in_words, piece)) else f"\ufffd{index}"
        for index, piece in enumerate(pieces)
    ]


def build_tokenizer(pieces: Sequence[str], *, lower_case: bool) -> Tokenizer:
    """Return a tokenizer for a vocabulary."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    matchable = _matchable(pieces)
    wordpiece = tf_text.FastBertTokenizer(
        matchable,
        token_out_type=tf.int32,
        unknown_token=UNK,
        max_bytes_per_word=MAX_WORD_BYTES,
    )
    return Tokenizer(wordpiece, lower_case, matchable)
