"""Read the tokenizer of a Hugging Face directory; refuse it if ours would produce other ids.

If `tokenizer_config.json` and `tokenizer.json` disagree on text normalization, we follow the same
file as `transformers`, with a note: its BERT classes let `tokenizer_config.json` override
`tokenizer.json`, its generic classes use `tokenizer.json`. If they disagree on ids, neither can be
trusted, and the directory is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.interchange.files import (
    MAX_TOKENIZER_BYTES,
    CheckpointSettings,
    read_bytes,
    read_json,
    shown,
)
from model.interchange.foreign_checkpoint import ADDED_TOKEN, MIN_SEQ_LENGTH, as_bytes
from model.interchange.write_tokenizer import (
    NAMES,
    PAIR,
    SINGLE,
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY
from pipeline.schema import CLS, JOINER, SEP, SPECIAL_TOKENS, UNK
from pipeline.text.tokenizer import MAX_VOCABULARY_BYTES, split_pieces

ADDED_TOKENS = "added_tokens.json"

_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
"""Classes that tokenize like BERT; a suffix `Fast` may follow."""
_ANY_CLASS = ("PreTrainedTokenizer", "TokenizersBackend")
"""Generic classes, which do what `tokenizer.json` says."""

_RULES = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Names of settings in `tokenizer.json`'s normalizer, by their names in `tokenizer_config.json`."""

_FIXED: dict[str, tuple[type, Any]] = {
    "do_basic_tokenize": (bool, True),
    "clean_text": (bool, True),
    "wordpieces_prefix": (str, JOINER),
    "truncation_side": (str, "right"),
}
"""Other settings of `tokenizer_config.json`: types, and values that our tokenizer implements."""

_LEAST_WORD_CHARACTERS = 100
"""Longest word, in characters, that `transformers` splits (longer ones are [UNK]); our tokenizer
splits words of up to 800 bytes."""


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer described by a directory's files.

    Attributes:
        path: path of the vocabulary.
        vocabulary: contents of a `vocab.txt`.
        lower_case: whether texts are lower-cased and stripped of accents; None = not specified.
        max_length: largest sequence length, in pieces; None = not specified.
        notes: contradictions between files, and which file is followed; one line each.
    """

    path: Path
    vocabulary: bytes
    lower_case: bool | None
    max_length: int | None
    notes: tuple[str, ...]


def read_tokenizer(directory: Path, model: CheckpointSettings) -> TokenizerFiles:
    """Read the tokenizer of a Hugging Face directory.

    Args:
        directory: directory of the checkpoint.
        model: its `config.json`, which may name the tokenizer's class.

    Raises:
        InputError: there is no vocabulary, or our tokenizer would produce other ids.
    """
    config = read_json(directory, TOKENIZER_CONFIG) or CheckpointSettings(
        directory / TOKENIZER_CONFIG, {}
    )
    whole = read_json(directory, TOKENIZER, MAX_TOKENIZER_BYTES)
    if whole is not None:
        _check_algorithm(whole)
    # The class decides which of two contradicting files transformers follows.
    name = _class_name(config, model, whole is not None)
    lower_case, notes = _cleaning(config, whole, name)
    for key, (kind, needed) in _FIXED.items():
        value = config.get(key, kind)
        if value is not None and value != needed:
            raise config.error(
                key, f"{shown(value)}: Clozeline has {shown(needed)}, so the token ids would differ"
            )
    added = _added_tokens(directory, config, whole)
    path, vocabulary, ids = _read_vocabulary(directory, whole, added)
    if whole is not None:
        _check_template(whole.part("post_processor"), whole, ids)
    length, more = _max_length(config, whole)
    return TokenizerFiles(path, vocabulary, lower_case, length, (*notes, *more))


def _check_algorithm(whole: CheckpointSettings) -> None:
    """Raise `InputError` unless a `tokenizer.json` describes BERT's algorithm."""
    path = whole.path
    model, normalizer = whole.part("model"), whole.part("normalizer")
    required = [
        ("model", model, "type", "WordPiece"),
        ("normalizer", normalizer, "type", "BertNormalizer"),
        # It splits at white space and punctuation; another one would give other words.
        ("pre_tokenizer", whole.part("pre_tokenizer"), "type", "BertPreTokenizer"),
        ("unk_token", model, "unk_token", UNK),
        ("continuing_subword_prefix", model, "continuing_subword_prefix", JOINER),
    ]
    for name, part, key, value in required:
        if key not in part.values:
            raise InputError(f"{path}: not a BERT tokenizer: {part.within}{key} is missing")
        actual = part.values[key]
        if actual != value:
            raise InputError(
                f"{path}: not a BERT tokenizer: {name} is {shown(actual)}, not {value}"
            )
    if normalizer.get("clean_text", bool) is False:
        raise normalizer.error(
            "clean_text",
            "false: Clozeline drops control characters, so the token ids would differ",
        )
    most = model.get("max_input_chars_per_word", int)
    if most is not None and most < _LEAST_WORD_CHARACTERS:
        raise model.error(
            "max_input_chars_per_word",
            f"{shown(most)}: longer words become {UNK}, in Clozeline they do not; "
            f"must be at least {_LEAST_WORD_CHARACTERS}",
        )
    if whole.part("truncation").get("direction", str) == "Left":
        raise whole.error("truncation.direction", "Left: Clozeline truncates long texts at the end")


def _class_name(config: CheckpointSettings, model: CheckpointSettings, has_whole: bool) -> str:
    """Return the tokenizer's class in `transformers`, without `Fast`.

    Raises:
        InputError: the class does not tokenize like BERT.
    """
    # As in `AutoTokenizer`: `tokenizer_config.json` first, then `config.json`.
    for settings in (config, model):
        name = settings.get("tokenizer_class", str)
        if name is not None:
            break
    else:
        if "auto_map" in config.values:
            raise config.error("auto_map", "names a tokenizer with custom code, which is never run")
        # Neither names a class: transformers takes the one of `model_type`, bert.
        return _CLASSES[0]
    name = name.removesuffix("Fast")
    if name not in _CLASSES and not (name in _ANY_CLASS and has_whole):
        raise settings.error("tokenizer_class", f"{shown(name)} does not tokenize like BERT")
    return name


def _cleaning(
    config: CheckpointSettings, whole: CheckpointSettings | None, name: str
) -> tuple[bool | None, list[str]]:
    """Return whether texts are lower-cased, and notes on files that contradict each other.

    Raises:
        InputError: our tokenizer does not implement this text normalization.
    """
    normalizer = whole.part("normalizer") if whole else CheckpointSettings(config.path, {})
    rules, notes = {}, []
    for key, their_key in _RULES.items():
        first, second = config.get(key, bool), normalizer.get(their_key, bool)
        rules[key] = second if first is None or name in _ANY_CLASS else first
        if None not in (first, second) and first != second:
            followed = TOKENIZER_CONFIG if name in _CLASSES else TOKENIZER
            notes.append(
                f"{TOKENIZER_CONFIG} has {key} {_json(first)}, {TOKENIZER} has {their_key} "
                f"{_json(second)}; {followed} is followed, as transformers does for {name}"
            )
    lower_case, strip_accents = rules["do_lower_case"], rules["strip_accents"]
    if lower_case is False and config.get("do_lower_case", bool) is None and name in _CLASSES:
        notes.append(
            f"{TOKENIZER_CONFIG} does not have do_lower_case, and {TOKENIZER} has lowercase false, "
            "which is followed; transformers lower-cases where the former is silent"
        )
    # None means "as lower-casing does", both in transformers and in tokenizers.
    if strip_accents not in (None, lower_case):
        raise InputError(
            f"{config.path}: strip_accents {strip_accents} with do_lower_case {lower_case}: "
            "Clozeline does both or neither, so the token ids would differ"
        )
    if rules["tokenize_chinese_chars"] is False:
        raise InputError(
            f"{config.path}: tokenize_chinese_chars false: Clozeline splits at every Chinese "
            "character, so the token ids would differ"
        )
    return lower_case, notes


def _json(value: bool | None) -> str:
    return str(value).lower()


def _added_tokens(
    directory: Path, config: CheckpointSettings, whole: CheckpointSettings | None
) -> dict[str, int]:
    """Return the ids of BERT's special tokens that files specify.

    Raises:
        InputError: a file has another added token or another name for a special token, or two
            files specify different ids.
    """
    special = read_json(directory, SPECIAL_TOKENS_MAP) or CheckpointSettings(
        directory / SPECIAL_TOKENS_MAP, {}
    )
    ids: dict[str, int] = {}
    for settings in (config, special):
        _check_names(settings)
    for settings, key, token, index in (
        *_listed(config),
        *_listed(special),
        *_numbered(directory, config, whole),
    ):
        if token not in SPECIAL_TOKENS:
            raise settings.error(key, f"has {shown(token)}, {ADDED_TOKEN}")
        if index is not None and ids.setdefault(token, index) != index:
            raise settings.error(
                key,
                f"gives {token} the id {index}, where another file of the directory gives it "
                f"{ids[token]}; keep the files that the model was trained with",
            )
    return ids


def _check_names(settings: CheckpointSettings) -> None:
    """Raise `InputError` unless a file uses BERT's names for the special tokens."""
    # Beginning and end of sequence are names of other models; as aliases of [CLS], [SEP] they do no
    # harm.
    for key in (*NAMES, "bos_token", "eos_token"):
        value = settings.values.get(key)
        if value is None:
            continue
        token, needed = _content(settings, key, value), NAMES.get(key)
        if token != needed and (needed or token not in SPECIAL_TOKENS):
            raise settings.error(
                key, f"is {shown(token)}: Clozeline has {needed or 'no such token'}"
            )


def _content(settings: CheckpointSettings, key: str, value: Any) -> str:
    """Return a token given as a string, or as an object with the key `content`."""
    token = value.get("content") if isinstance(value, dict) else value
    if not isinstance(token, str):
        raise settings.error(key, f"must be a token, not {shown(value)}")
    return token


_Added = tuple[CheckpointSettings, str, str, int | None]
"""An added token: the file and key that add it, the token, and its id (None = not specified)."""


def _listed(settings: CheckpointSettings) -> Iterator[_Added]:
    """Yield the tokens that a file adds without ids."""
    for key in ("additional_special_tokens", "extra_special_tokens", "never_split"):
        tokens = settings.values.get(key)
        if isinstance(tokens, dict) and key == "extra_special_tokens":
            tokens = [*tokens.values()]
        elif tokens is not None:
            tokens = settings.get(key, list)
        for token in tokens or ():
            yield settings, key, _content(settings, key, token), None


def _numbered(
    directory: Path, config: CheckpointSettings, whole: CheckpointSettings | None
) -> Iterator[_Added]:
    """Yield the tokens that files add with their ids."""
    if whole is not None:
        for token in whole.get("added_tokens", list) or ():
            content = _content(whole, "added_tokens", token)
            index = token.get("id") if isinstance(token, dict) else None
            yield whole, "added_tokens", content, _id(whole, "added_tokens", index)
    key = "added_tokens_decoder"
    for number, token in (config.get(key, dict) or {}).items():
        # `int` of a text of thousands of digits is slow, and raises above 4,300.
        index = int(number) if number.isdecimal() and len(number) < 10 else number
        yield config, key, _content(config, key, token), _id(config, key, index)
    added = read_json(directory, ADDED_TOKENS)
    for token, index in (added.values if added else {}).items():
        assert added is not None
        yield added, shown(token), token, _id(added, shown(token), index)


def _id(settings: CheckpointSettings, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise settings.error(key, f"has an id that is not a whole number from 0: {shown(value)}")
    return value


def _read_vocabulary(
    directory: Path, whole: CheckpointSettings | None, added: dict[str, int]
) -> tuple[Path, bytes, dict[str, int]]:
    """Return the vocabulary's path, its contents as a `vocab.txt`, and the ids by piece.

    Raises:
        InputError: there is none, it cannot be read, or two files specify different ids.
    """
    path = directory / VOCABULARY
    data = read_bytes(directory, VOCABULARY, MAX_VOCABULARY_BYTES)
    if data is None and whole is None:
        raise InputError(
            f"{directory}: no vocabulary ({VOCABULARY} or {TOKENIZER}); copy the model's there"
        )
    lines = () if data is None else split_pieces(data, path)
    if whole is None:
        ids = {piece: index for index, piece in enumerate(lines)}
        # The bytes stay as they are, so the run's vocabulary has the checkpoint's checksum.
        if data is not None and ids.items() >= added.items():
            return path, data, ids  # duplicate pieces are detected when it is parsed
    else:
        # The fast tokenizers of transformers read `tokenizer.json`; a `vocab.txt` next to it must
        # agree.
        path, ids = whole.path, _ids(whole)
    for token, index in added.items():
        if ids.setdefault(token, index) != index:
            raise InputError(
                f"{path}: gives {token} the id {ids[token]}, where another file of the directory "
                f"gives it {index}; keep the files that the model was trained with"
            )
    # An id is a row of the token embedding: a gap would shift all pieces after it.
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] != [*range(len(pieces))]:
        raise InputError(f"{path}: the ids of its {len(pieces)} pieces do not count up from 0")
    if data is not None and whole is not None:
        _check_agreement(directory / VOCABULARY, lines, pieces)
    if any("\n" in piece or "\r" in piece for piece in pieces):
        raise InputError(
            f"{path}: a piece with a line break in it; {VOCABULARY} has a line a piece"
        )
    return path, as_bytes(pieces), ids


def _ids(whole: CheckpointSettings) -> dict[str, int]:
    """Return the ids by piece of a `tokenizer.json`."""
    model = whole.part("model")
    vocabulary = model.get("vocab", dict) or {}
    return {piece: _id(model, "vocab", index) for piece, index in vocabulary.items()}


def _check_agreement(path: Path, lines: tuple[str, ...], pieces: list[str]) -> None:
    """Raise `InputError` unless a `vocab.txt` has the same pieces as the `tokenizer.json`.

    Trailing white space in lines and empty lines at the end of the file are ignored.
    """
    ours, theirs = ([piece.rstrip() for piece in listed] for listed in (lines, pieces))
    while ours and not ours[-1] and len(ours) > len(theirs):
        ours.pop()
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            raise InputError(
                f"{path}: line {index + 1} differs from the piece with id {index} in {TOKENIZER}; "
                "keep the file that the model was trained with"
            )
    # Special tokens may be in `tokenizer.json` alone, after the others.
    if len(ours) > len(theirs) or not {*theirs[len(ours) :]} <= {*SPECIAL_TOKENS}:
        raise InputError(
            f"{path}: {len(ours)} pieces, but {TOKENIZER} has {len(theirs)}; "
            "keep the file that the model was trained with"
        )


def _check_template(
    processor: CheckpointSettings, whole: CheckpointSettings, ids: dict[str, int]
) -> None:
    """Raise `InputError` unless special tokens are placed around texts as in BERT."""
    kind = processor.get("type", str)
    is_ours = False
    # tokenizers' own `BertWordPieceTokenizer` writes this form.
    if kind == "BertProcessing":
        around = [processor.values.get(name) for name in ("cls", "sep")]
        is_ours = around == [[CLS, ids.get(CLS)], [SEP, ids.get(SEP)]]
    elif kind == "TemplateProcessing":
        special = processor.part("special_tokens")
        numbers = [special.part(token).values.get("ids") for token in (CLS, SEP)]
        templates = [processor.values.get(name) for name in ("single", "pair")]
        is_ours = templates == [SINGLE, PAIR] and numbers == [[ids.get(CLS)], [ids.get(SEP)]]
    if not is_ours:
        raise whole.error(
            "post_processor", f"does not produce {CLS} A {SEP} and {CLS} A {SEP} B {SEP}"
        )


def _max_length(
    config: CheckpointSettings, whole: CheckpointSettings | None
) -> tuple[int | None, list[str]]:
    """Return the largest sequence length that files specify, and a note if two files disagree.

    Raises:
        InputError: the value is not a valid length.
    """
    key = "model_max_length"
    value = config.values.get(key)
    other = whole.part("truncation").get("max_length", int) if whole else None
    if value is None:
        return None, []
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not value >= MIN_SEQ_LENGTH:
        raise config.error(
            key, f"must be a number of pieces of at least {MIN_SEQ_LENGTH}, not {shown(value)}"
        )
    # transformers writes 1e30 for "no limit".
    length = int(min(value, 2**31))
    if other is None or other == length:
        return length, []
    return length, [
        f"{TOKENIZER_CONFIG} has {key} {shown(value)}, {TOKENIZER} truncates texts to "
        f"{shown(other)} pieces; {TOKENIZER_CONFIG} is followed, as transformers does"
    ]
