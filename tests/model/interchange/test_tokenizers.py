"""Imported tokenizers against the libraries that made them: equal ids, or refused."""

import itertools
import json
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import keras_hub
import pytest
from tokenizers import Tokenizer, normalizers

from model.interchange import read_checkpoint
from model.interchange.files import CheckpointSettings
from model.interchange.read_tokenizer import TokenizerFiles, read_tokenizer
from pipeline.errors import InputError
from pipeline.schema import SPECIAL_TOKENS
from pipeline.text.tokenizer import Vocabulary, build_tokenizer
from tests.golden.unicode import category

GOLDEN = Path(__file__).parents[2] / "golden"
HUGGING_FACE = sorted(path for path in (GOLDEN / "hugging_face").iterdir() if path.is_dir())
SINGLE = GOLDEN / "hugging_face" / "single"

# Known differences of the tokenizers library to BERT's own tokenizer, which
# `tests/pipeline/test_tokenizer_parity.py` keeps: a final sigma, private use, capitals of
# Unicode 14, and characters of its older tables.
LATE_CAPITALS = [0x2C2F, 0xA7C0, 0xA7D0, 0xA7D6, 0xA7D8, *range(0x10570, 0x10596)]


def known_differences() -> set[str]:
    """Characters that the golden file says are treated otherwise."""
    fates = json.loads((GOLDEN / "tokenizer.json").read_text())["characters"]
    ends = [
        part.split("-")
        for mode in fates.values()
        for ranges in mode["huggingface"].values()
        for part in ranges.split()
    ]
    codes = {code for end in ends for code in range(int(end[0], 16), int(end[-1], 16) + 1)}
    return set(map(chr, codes.union(LATE_CAPITALS))) | {"Σ"}


@cache
def blocks() -> list[str]:
    """A text for each 256 code points: every character alone, between letters, and in a row."""
    differ = known_differences()
    texts = []
    for first in range(0, sys.maxunicode, 256):
        characters = [
            character
            for character in map(chr, range(first, first + 256))
            if category(character) not in ("Cn", "Cs", "Co") and character not in differ
        ]
        # In a row, 90 letters at most, once syllables of Hangul are taken apart: the library takes
        # words of more than 100 for unknown.
        rows = ["".join(characters[start : start + 30]) for start in range(0, len(characters), 30)]
        texts += [" ".join([*characters, *(f"a{c}b" for c in characters), *rows])] * bool(rows)
    return texts


def ours(files: TokenizerFiles, texts: list[str]) -> list[list[int]]:
    """The ids that a run of the import gives."""
    pieces = Vocabulary.parse(files.vocabulary, files.path).pieces
    assert files.lower_case is not None
    return build_tokenizer(pieces, lower_case=files.lower_case).tokenize(texts).to_list()


def read(path: Path) -> TokenizerFiles:
    return read_tokenizer(path, CheckpointSettings(path / "config.json", {}))


def edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; `...` removes one."""
    settings = (json.loads(path.read_text()) if path.exists() else {}) | values
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


def copy_of(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    shutil.copytree(SINGLE, path)
    return path


def with_every_character(path: Path) -> None:
    """Give a directory a vocabulary that spells every word, white space and all."""
    characters = sorted({*"".join(blocks()).lower(), *"".join(blocks())} - {"\n", "\r"})
    pieces = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    whole = json.loads((path / "tokenizer.json").read_text())
    whole["model"]["vocab"] = ids
    for token in whole["added_tokens"]:
        token["id"] = ids[token["content"]]
    for token in whole["post_processor"]["special_tokens"].values():
        token["ids"] = [ids[token["id"]]]
    (path / "tokenizer.json").write_text(json.dumps(whole))


@pytest.mark.parametrize("path", HUGGING_FACE, ids=lambda path: path.name)
def test_every_directory_gives_the_ids_of_its_tokenizer(path: Path) -> None:
    imported, theirs = read_checkpoint(path), Tokenizer.from_file(str(path / "tokenizer.json"))
    pieces = Vocabulary.parse(imported.vocabulary, path).pieces
    found = build_tokenizer(pieces, lower_case=imported.lower_case).tokenize(blocks()).to_list()
    assert any(id not in (imported.vocabulary.index(b"[UNK]"), 2) for ids in found for id in ids)
    for text, ids in zip(blocks(), found, strict=True):
        assert ids == theirs.encode(text, add_special_tokens=False).ids, hex(ord(text[0]))


@pytest.mark.parametrize("lower_case", [True, False])
def test_a_vocabulary_of_every_character(lower_case: bool, tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    with_every_character(path)
    edit(path / "tokenizer_config.json", do_lower_case=lower_case)
    theirs = Tokenizer.from_file(str(path / "tokenizer.json"))
    theirs.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    for text, ids in zip(blocks(), ours(read(path), blocks()), strict=True):
        assert ids == theirs.encode(text, add_special_tokens=False).ids, hex(ord(text[0]))


FLAGS = {
    "clean_text": (True, False),
    "handle_chinese_chars": (True, False),
    "strip_accents": (None, True, False),
    "lowercase": (True, False),
}
CONFIG = {
    "do_lower_case": (..., True, False),
    "strip_accents": (..., True, False),
    "tokenize_chinese_chars": (..., True, False),
}
HARD = "The Dog, un\u0301able café CAFÉ 狗s 狗cat \x00cat\u200bs a\u2028the Not!"


@pytest.mark.parametrize("name", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_every_combination_of_cleaning(name: str, tmp_path: Path) -> None:
    """The ids of the file that `transformers` follows, and a note where the other differs."""
    path = copy_of(tmp_path)
    edit(path / "tokenizer.json", normalizer=...)
    whole = json.loads((path / "tokenizer.json").read_text())
    vocabulary = whole["model"]["vocab"]
    for piece in ("狗", "##狗", "##cat"):
        vocabulary.setdefault(piece, len(vocabulary))
    accepted = 0
    by_casing = {}
    for flags in itertools.product(*FLAGS.values()):
        normalizer = dict(zip(FLAGS, flags, strict=True))
        whole["normalizer"] = {"type": "BertNormalizer", **normalizer}
        (path / "tokenizer.json").write_text(json.dumps(whole))
        for values in itertools.product(*CONFIG.values()):
            config = dict(zip(CONFIG, values, strict=True))
            edit(path / "tokenizer_config.json", **config, tokenizer_class=name)
            try:
                files = read(path)
            except InputError:
                continue
            accepted += 1
            effective = dict(normalizer)
            if name == "BertTokenizer":
                theirs = ("lowercase", "strip_accents", "handle_chinese_chars")
                effective |= {
                    key: value
                    for key, value in zip(theirs, config.values(), strict=True)
                    if value is not ...
                }
            tokenizer = Tokenizer.from_str(json.dumps(whole))
            tokenizer.normalizer = normalizers.BertNormalizer(**effective)
            if files.lower_case not in by_casing:
                by_casing[files.lower_case] = ours(files, [HARD])[0]
            found = by_casing[files.lower_case]
            assert found == tokenizer.encode(HARD, add_special_tokens=False).ids, (config, flags)
            pairs = zip(config.values(), (flags[3], flags[2], flags[1]), strict=True)
            differ = [(a, b) for a, b in pairs if a is not ... and b is not None and a != b]
            assert sum("is followed, as" in note for note in files.notes) == len(differ)
    assert len(by_casing) == 2
    # Refused: no cleaning, Chinese characters inside words, lower-casing and accents apart.
    assert accepted == (90 if name == "BertTokenizer" else 108)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("added_tokens.json", {"<user>": 26}, "<user> has <user>, which its tokenizer keeps whole"),
        ("added_tokens.json", {"[CLS]": 9}, r"\[CLS\] gives \[CLS\] the id 9, where another file"),
        ("tokenizer_config.json", {"additional_special_tokens": ["[E1]"]}, r"has \[E1\], which"),
        ("tokenizer_config.json", {"extra_special_tokens": {"x": "[E1]"}}, r"has \[E1\], which"),
        ("tokenizer_config.json", {"extra_special_tokens": ["[E1]"]}, r"has \[E1\], which"),
        ("tokenizer_config.json", {"never_split": ["covid"]}, "never_split has covid, which its"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"6": {"content": "the"}}},
         "added_tokens_decoder has the, which its tokenizer keeps"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"6": {"content": "[CLS]"}}},
         r"added_tokens_decoder|added_tokens gives \[CLS\] the id"),
        ("tokenizer_config.json", {"do_basic_tokenize": False}, "do_basic_tokenize False: Cloze"),
        ("tokenizer_config.json", {"clean_text": False}, "clean_text False: Clozeline has"),
        ("tokenizer_config.json", {"wordpieces_prefix": "_"}, "wordpieces_prefix _: Clozeline"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side left: Clozeline"),
        ("tokenizer_config.json", {"cls_token": "<s>"}, r"cls_token is <s>: Clozeline has \[C"),
        ("tokenizer_config.json", {"bos_token": "<s>"}, "bos_token is <s>: Clozeline has no"),
        ("tokenizer_config.json", {"auto_map": {}, "tokenizer_class": ...}, "auto_map names a tok"),
        ("special_tokens_map.json", {"additional_special_tokens": [{"content": "[E1]"}]},
         r"additional_special_tokens has \[E1\], which"),
        ("special_tokens_map.json", {"unk_token": "<unk>"}, r"unk_token is <unk>: Clozeline has"),
        ("tokenizer.json", {"added_tokens": [{"id": 6, "content": "the"}]}, "added_tokens has the"),
        ("tokenizer.json", {"added_tokens": [{"id": 6, "content": "[CLS]"}]},
         r"gives \[CLS\] the id 3, where another file"),
        ("tokenizer.json", {"post_processor": ...}, "post_processor does not produce"),
        ("tokenizer.json", {"post_processor": {"type": "RobertaProcessing"}}, "post_processor do"),
        ("tokenizer.json", {"post_processor": {"type": "BertProcessing", "cls": ["[CLS]", 4],
                                               "sep": ["[SEP]", 3]}}, "post_processor does not"),
        ("tokenizer.json", {"truncation": {"direction": "Left", "max_length": 9}},
         "truncation.direction Left: Clozeline truncates long texts at the end"),
        ("vocab.txt", "[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nthe\n",
         "vocab.txt: line 7 differs from the piece with id 6 in tokenizer.json; keep"),
        ("vocab.txt", "[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\na\n",
         "vocab.txt: 8 pieces, but tokenizer.json has 26; keep"),
    ],
)  # fmt: skip
def test_tokenizers_with_other_ids_are_refused(
    name: str, values: dict[str, Any] | str, message: str, tmp_path: Path
) -> None:
    path = copy_of(tmp_path)
    if isinstance(values, str):
        (path / name).write_text(values)
    else:
        edit(path / name, **values)
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)


def test_a_word_that_is_too_long_for_the_other_tokenizer_only(tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    whole = json.loads((path / "tokenizer.json").read_text())
    whole["model"]["max_input_chars_per_word"] = 12
    (path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match="max_input_chars_per_word 12: longer words become"):
        read(path)


def test_a_tokenizer_class_named_in_config_json_only(tmp_path: Path) -> None:
    """As the Japanese models have it; their words are cut by MeCab."""
    path = copy_of(tmp_path)
    edit(path / "tokenizer_config.json", tokenizer_class=...)
    edit(path / "config.json", tokenizer_class="BertJapaneseTokenizer")
    message = r"config\.json: tokenizer_class BertJapaneseTokenizer does not tokenize like BERT"
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)


def test_a_special_token_that_only_another_file_adds(tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    whole = json.loads((path / "tokenizer.json").read_text())
    pieces = [piece for piece in whole["model"]["vocab"] if piece != "[MASK]"]
    (path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"vocab.txt: no \[MASK\] in this vocabulary"):
        read_checkpoint(path)
    edit(path / "added_tokens.json", **{"[MASK]": 25})
    files = read(path)
    assert Vocabulary.parse(files.vocabulary, path).mask_id == 25
    assert read_checkpoint(path).vocabulary.startswith(files.vocabulary)
    edit(path / "added_tokens.json", **{"[MASK]": 27})
    with pytest.raises(InputError, match="the ids of its 26 pieces do not count up from 0"):
        read_checkpoint(path)


def test_a_vocabulary_in_two_files(tmp_path: Path) -> None:
    """White space at the end of a line makes no other piece: the library cuts it off."""
    path = copy_of(tmp_path)
    vocabulary = read(path).vocabulary
    (path / "vocab.txt").write_bytes(vocabulary.replace(b"cat\n", b"cat \r\n") + b"\n\n")
    assert read(path).vocabulary == vocabulary


def test_a_note_says_which_file_is_followed(tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    edit(path / "tokenizer_config.json", do_lower_case=True)
    edit(path / "tokenizer.json", truncation={"max_length": 9, "direction": "Right"})
    files = read(path)
    assert files.lower_case
    assert files.notes == (
        "tokenizer_config.json has do_lower_case true, tokenizer.json has lowercase false; "
        "tokenizer_config.json is followed, as transformers does for BertTokenizer",
        "tokenizer_config.json has model_max_length 16, tokenizer.json truncates texts to 9 "
        "pieces; tokenizer_config.json is followed, as transformers does",
    )
    edit(path / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    files = read(path)
    assert not files.lower_case
    assert "tokenizer.json is followed, as transformers does for PreTrainedTok" in files.notes[0]
    edit(path / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=...)
    files = read(path)
    assert not files.lower_case
    assert files.notes[0].endswith("transformers lower-cases where the former is silent")
    assert read_checkpoint(path).notes[:1] == files.notes[:1] or files.notes[0] in (
        read_checkpoint(path).notes
    )


@pytest.mark.parametrize("length", [10**30, 1e30, 512.0, None])
def test_lengths_beyond_the_positions(length: float | None, tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    edit(path / "tokenizer_config.json", model_max_length=length)
    assert read_checkpoint(path).max_seq_length == 17


# KerasHub's tokenizer


def preset(tmp_path: Path, pieces: list[str], **settings: Any) -> Path:
    """A preset with a small model and a tokenizer."""
    path = tmp_path / "preset"
    backbone = keras_hub.models.BertBackbone(len(pieces), 1, 2, 4, 8, max_sequence_length=16)
    backbone.save_to_preset(str(path))
    keras_hub.models.BertTokenizer(pieces, **settings).save_to_preset(str(path))
    return path


def test_ids_of_a_preset_but_for_controls_and_spaces(tmp_path: Path) -> None:
    characters = [c for c in map(chr, range(0x3000)) if category(c) not in ("Cn", "Cs")]
    letters = [c for c in characters if category(c)[0] not in "CZ"]
    path = preset(tmp_path, [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)])
    imported = read_checkpoint(path)
    assert "splits words at format characters" in imported.notes[-1]
    texts = [f"a{character}b" for character in characters]
    pieces = Vocabulary.parse(imported.vocabulary, path).pieces
    found = build_tokenizer(pieces, lower_case=False).tokenize(texts).to_list()
    rows = keras_hub.models.BertTokenizer.from_preset(str(path))(texts)
    wanted = [[int(index) for index in row] for row in rows]
    differ = {
        category(character)
        for character, one, other in zip(characters, found, wanted, strict=True)
        if one != other
    }
    assert differ == {"Cc", "Cf", "Zs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": False}, "config.split False: Clozeline has True, so the token ids would"),
        ({"strip_accents": True}, "config.strip_accents true without lowercase: Clozeline do"),
        ({"special_tokens_in_strings": True, "special_tokens": ["[E1]"]}, r"has \[E1\], which its"),
        ({"suffix_indicator": "_"}, "config.suffix_indicator _: Clozeline has ##, so"),
        ({"lowercase": "no"}, "config.lowercase must be true or false, not no"),
    ],
)
def test_presets_whose_tokenizer_gives_other_ids(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = preset(tmp_path, [*SPECIAL_TOKENS, "a", "[E1]"])
    whole = json.loads((path / "tokenizer.json").read_text())
    edit(path / "tokenizer.json", config=whole["config"] | settings)
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)


def test_a_preset_that_lower_cases(tmp_path: Path) -> None:
    path = preset(tmp_path, [*SPECIAL_TOKENS, "a"], lowercase=True)
    assert read_checkpoint(path).notes[-1] == (
        "KerasHub's tokenizer splits words at format characters and not at no-break spaces, folds "
        "compatibility forms (ß, ½), keeps accents; texts are cleaned as google-research/bert does"
    )
