"""Hugging Face's tokenizer files, read and written: `tokenizer.json` and what stands beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.interchange.imported import as_bytes, read_json
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY
from pipeline.schema import CLS, JOINER, MASK, PAD, SEP, UNK
from pipeline.tokenizer import MAX_WORD_BYTES, Vocabulary

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"

_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
"""Those that cut texts as BERT does, without the `Fast` that may follow."""
_ANY_CLASS = ("PreTrainedTokenizer", "TokenizersBackend")
"""Those that do what `tokenizer.json` says."""

_NAMES = {
    "unk_token": UNK,
    "sep_token": SEP,
    "pad_token": PAD,
    "cls_token": CLS,
    "mask_token": MASK,
}


@dataclass(frozen=True)
class TokenizerFiles:
    """What a directory says of its tokenizer.

    Attributes:
        path: of the vocabulary.
        vocabulary: the bytes of a `vocab.txt`.
        lower_case: whether texts are lower-cased and stripped of accents; None = nothing says so.
        max_length: the longest sequence, in pieces; None = nothing says so.
    """

    path: Path
    vocabulary: bytes
    lower_case: bool | None
    max_length: int | None


def read_tokenizer(directory: Path) -> TokenizerFiles:
    """Read the tokenizer of a Hugging Face directory.

    Raises:
        InputError: there is no vocabulary, or texts are cut in a way that ours are not.
    """
    path = directory / TOKENIZER_CONFIG
    config = read_json(path) or {}
    whole = read_json(directory / TOKENIZER)
    normalizer: Mapping[str, Any] = {}
    if whole is not None:
        _check_algorithm(directory / TOKENIZER, whole)
        normalizer = whole["normalizer"]
    name = str(config.get("tokenizer_class") or _CLASSES[0]).removesuffix("Fast")
    if name not in _CLASSES and not (name in _ANY_CLASS and whole):
        raise InputError(f"{path}: tokenizer_class {name} does not cut texts as BERT does")

    def setting(key: str, their_key: str) -> Any:
        return config[key] if config.get(key) is not None else normalizer.get(their_key)

    lower_case = setting("do_lower_case", "lowercase")
    strip_accents = setting("strip_accents", "strip_accents")
    if strip_accents not in (None, lower_case):
        raise InputError(
            f"{path}: strip_accents {strip_accents} with do_lower_case {lower_case}: "
            "ours does both or neither, and would give the model other pieces"
        )
    if setting("tokenize_chinese_chars", "handle_chinese_chars") is False:
        raise InputError(
            f"{path}: tokenize_chinese_chars false: ours takes every Chinese character for a word, "
            "and would give the model other pieces"
        )
    length = config.get("model_max_length")
    is_length = isinstance(length, int) and length > 0
    vocabulary = _read_vocabulary(directory, whole)
    return TokenizerFiles(*vocabulary, lower_case, length if is_length else None)


def _check_algorithm(path: Path, whole: Mapping[str, Any]) -> None:
    """Raise `InputError` unless a `tokenizer.json` describes BERT's algorithm."""
    try:
        found = {
            "model": whole["model"]["type"],
            "normalizer": whole["normalizer"]["type"],
            "pre_tokenizer": whole["pre_tokenizer"]["type"],
            "unk_token": whole["model"]["unk_token"],
            "continuing_subword_prefix": whole["model"]["continuing_subword_prefix"],
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a BERT tokenizer: {error} is not there") from error
    wanted = {
        "model": "WordPiece",
        "normalizer": "BertNormalizer",
        "pre_tokenizer": "BertPreTokenizer",
        "unk_token": UNK,
        "continuing_subword_prefix": JOINER,
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise InputError(f"{path}: not a BERT tokenizer: {name} is {found[name]}, not {value}")


def _read_vocabulary(directory: Path, whole: Mapping[str, Any] | None) -> tuple[Path, bytes]:
    """Return where the vocabulary is and its bytes; `vocab.txt` first."""
    path = directory / VOCABULARY
    if path.exists():
        try:
            return path, path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if whole is None:
        raise InputError(
            f"{directory}: no vocabulary ({VOCABULARY} or {TOKENIZER}); copy the model's there"
        )
    path = directory / TOKENIZER
    try:
        ids = {**whole["model"]["vocab"]}
        ids |= {token["content"]: token["id"] for token in whole.get("added_tokens") or ()}
        pieces = sorted(ids, key=ids.__getitem__)
        data = as_bytes(pieces)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the vocabulary cannot be read: {error}") from error
    if [ids[piece] for piece in pieces] != [*range(len(pieces))]:
        raise InputError(f"{path}: the ids of its {len(pieces)} pieces do not count up from 0")
    if any("\n" in piece or "\r" in piece for piece in pieces):
        raise InputError(
            f"{path}: a piece with a line break in it; {VOCABULARY} has a line a piece"
        )
    return path, data


def tokenizer_files(
    vocabulary: Vocabulary, *, lower_case: bool, max_length: int
) -> dict[str, dict[str, Any]]:
    """Return the contents of the files that `transformers` makes our tokenizer of, by name."""
    common = {
        **_NAMES,
        "do_lower_case": lower_case,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
    }
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": max_length, **common}
    return {
        TOKENIZER: _whole(vocabulary, lower_case),
        TOKENIZER_CONFIG: config,
        SPECIAL_TOKENS_MAP: _NAMES,
    }


def _whole(vocabulary: Vocabulary, lower_case: bool) -> dict[str, Any]:
    """Return the contents of `tokenizer.json`."""
    special = sorted(_NAMES.values(), key=vocabulary.ids.__getitem__)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)

    def part(name: str, segment: int) -> dict[str, Any]:
        kind = "Sequence" if name in "AB" else "SpecialToken"
        return {kind: {"id": name, "type_id": segment}}

    first = [part(CLS, 0), part("A", 0), part(SEP, 0)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocabulary.ids[token], "content": token, **flags, "special": True}
            for token in special
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": lower_case,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": [*first, part("B", 1), part(SEP, 1)],
            "special_tokens": {
                token: {"id": token, "ids": [vocabulary.ids[token]], "tokens": [token]}
                for token in (CLS, SEP)
            },
        },
        "decoder": {"type": "WordPiece", "prefix": JOINER, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": UNK,
            "continuing_subword_prefix": JOINER,
            # Ours counts bytes, theirs characters. `transformers` itself insists on 100.
            "max_input_chars_per_word": MAX_WORD_BYTES,
            "vocab": vocabulary.ids,
        },
    }
