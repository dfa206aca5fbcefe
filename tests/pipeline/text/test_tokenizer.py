import os
import sys
import unicodedata
from pathlib import Path

import pytest
from tokenizers import BertWordPieceTokenizer

from pipeline.errors import InputError
from pipeline.text.tokenizer import Vocabulary, build_tokenizer

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "un",
    "##aff",
    "##able",
    "cafe",
    "!",
    "中",
    "Cafe",
]


def write(path: Path, pieces: list[str]) -> Path:
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return path


def test_ids_are_line_numbers(tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(write(tmp_path / "v.txt", PIECES))
    ids = (vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id, vocabulary.sep_id)
    assert (*ids, vocabulary.mask_id, len(vocabulary)) == (0, 1, 2, 3, 4, 12)


def test_special_tokens_may_be_on_any_line(tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(write(tmp_path / "v.txt", PIECES[::-1]))
    assert (vocabulary.pad_id, vocabulary.mask_id) == (11, 7)


def test_missing_mask_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", [piece for piece in PIECES if piece != "[MASK]"])
    with pytest.raises(InputError, match=r"v\.txt: no \[MASK\] in this vocabulary"):
        Vocabulary.read(path)


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", PIECES)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(InputError, match=r"no \[PAD\] in .* byte order mark; remove that: tail"):
        Vocabulary.read(path)


def test_repeated_piece_is_named_with_both_lines(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 13 repeats line 6; a") as caught:
        Vocabulary.read(write(tmp_path / "v.txt", [*PIECES, "un"]))
    assert "un" not in str(caught.value).split()  # the file may be a private one


@pytest.mark.parametrize("joiner", ["", "##"])
def test_a_piece_may_be_as_long_as_the_tokenizer_takes(joiner: str, tmp_path: Path) -> None:
    pieces = [*PIECES, joiner + "é" * 128]
    build_tokenizer(Vocabulary.read(write(tmp_path / "v.txt", pieces)).pieces, lower_case=False)
    with pytest.raises(InputError, match=r"v.txt: line 13 has more than 256 bytes; no tok"):
        Vocabulary.read(write(tmp_path / "v.txt", [*PIECES, joiner + "é" * 128 + "a"]))


def test_a_path_that_is_not_a_vocabulary_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match=f"{path}: not a regular file; give a file on a disk"):
            Vocabulary.read(path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="large: larger than 33,554,432 bytes, the limit"):
        Vocabulary.read(tmp_path / "large")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such vocabulary; make one with clozeline vocab"):
        Vocabulary.read(tmp_path / "nothing.txt")


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_bytes(b"[PAD]\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"cannot be read as a vocabulary: line 2: the byte 0xe9"):
        Vocabulary.read(tmp_path / "v.txt")


@pytest.mark.parametrize(
    ("lower_case", "text", "ids"),
    [
        (True, "Unaffable café!", [5, 6, 7, 8, 9]),
        (True, "中中 x", [10, 10, 1]),
        (False, "Cafe café", [11, 1]),
        (True, "", []),
    ],
)
def test_pieces(lower_case: bool, text: str, ids: list[int]) -> None:
    tokenizer = build_tokenizer(PIECES, lower_case=lower_case)
    assert tokenizer.tokenize([text]).to_list() == [ids]


def test_pieces_with_white_space_or_controls_stand_for_no_text() -> None:
    """Words contain none, but published vocabularies have such pieces."""
    characters = map(chr, range(sys.maxunicode))
    spaces = [c for c in characters if c.isspace() or unicodedata.category(c) == "Cc"]
    words = [
        *PIECES,
        "a",
        "##a",
        *spaces,
        *(f"##{c}" for c in spaces if c != "\n"),
        "a a",
        "a\u2028a",
    ]
    texts = [f"a{space}a {space} a{space} {space}a aa" for space in spaces]
    vocabulary = {piece: index for index, piece in enumerate(words)}
    assert len(spaces) == 84
    for lower_case in (False, True):
        theirs = BertWordPieceTokenizer(vocabulary, lowercase=lower_case)
        ours = build_tokenizer(words, lower_case=lower_case).tokenize(texts).to_list()
        for text, ids in zip(texts, ours, strict=True):
            assert ids == theirs.encode(text, add_special_tokens=False).ids, repr(text)
