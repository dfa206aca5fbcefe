import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from clozeline.main import main
from pipeline.errors import InputError
from pipeline.schema import SPECIAL_TOKENS
from pipeline.text.tokenizer import are_visible, build_tokenizer
from pipeline.text.vocabulary import ALPHABET, frequent_characters, learn_vocabulary
from tests.golden.unicode import category

COUNTS = {"low": 50, "lower": 20, "lowest": 15, "new": 40, "newer": 25, "wide": 10, ",": 90}


def test_layout_and_first_merges() -> None:
    pieces = learn_vocabulary(COUNTS, 30)
    assert pieces[:5] == list(SPECIAL_TOKENS)
    assert pieces[5:9] == [",", "l", "n", "w"]
    assert pieces[9:17] == ["##d", "##e", "##i", "##o", "##r", "##s", "##t", "##w"]
    # Most frequent pairs: "lo" stands 85 times and then "low" as often; "ne" and "new" 65 times.
    assert pieces[17:19] == ["lo", "low"]
    assert {"ne", "new"} <= set(pieces[19:22])
    assert len(pieces) == len(set(pieces)) <= 30


def test_counts_in_any_order_give_the_same() -> None:
    items = list(COUNTS.items())
    Random(1).shuffle(items)
    assert learn_vocabulary(dict(items), 25) == learn_vocabulary(COUNTS, 25)


def test_the_requested_size_is_reached_if_there_are_enough_merges() -> None:
    assert len(learn_vocabulary(COUNTS, 22)) == 22


def test_every_word_can_be_tokenized() -> None:
    tokenizer = build_tokenizer(learn_vocabulary(COUNTS, 24), lower_case=True)
    ids = tokenizer.tokenize(list(COUNTS)).to_list()
    assert all(1 not in word for word in ids)  # 1 = [UNK]


def test_huge_counts_do_not_drop_rare_characters() -> None:
    pieces = learn_vocabulary({"zebra": 1, "the": 5_000_000_000}, 40)
    assert {"z", "##b", "##r", "##a", "the"} <= set(pieces)


def test_alphabet_is_bounded_by_frequency() -> None:
    counts = {chr(0x4E00 + index): 2 for index in range(ALPHABET)} | {"ß": 1}
    pieces = learn_vocabulary(counts, 3000)
    assert "ß" not in pieces
    assert chr(0x4E00) in pieces


def test_a_script_of_thousands_is_covered() -> None:
    counts = {chr(0x4E00 + index): 9_000_000 // (index + 10) for index in range(6000)}
    pieces = learn_vocabulary({**counts, "the": 100}, 8000)
    ideographs = [piece for piece in pieces if piece in counts]
    covered = sum(counts[piece] for piece in ideographs) / sum(counts.values())
    assert 4000 < len(ideographs) < 6000
    assert 0.9995 <= covered < 0.9996
    ids = build_tokenizer(pieces, lower_case=True).tokenize(["一二丁七 the"]).to_list()[0]
    assert [pieces[index] for index in ids][:4] == list("一二丁七")


def test_nothing_to_learn_from() -> None:
    with pytest.raises(InputError, match=r"`input`: no words to learn a vocabulary from"):
        learn_vocabulary({}, 100)


def test_too_small_a_size() -> None:
    with pytest.raises(InputError, match=r"`size` 10: the special tokens .* take 17 pieces"):
        learn_vocabulary(COUNTS, 10)


@pytest.mark.slow
def test_same_file_from_renamed_files_and_several_workers(
    prose_corpus: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for index, path in enumerate(sorted(prose_corpus.iterdir(), reverse=True)):
        (renamed / f"{index:03d}.text").write_bytes(path.read_bytes())
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    for name, folder, flags in (("a", prose_corpus, []), ("b", renamed, workers)):
        where = ["--input", str(folder / "*"), "--output", str(tmp_path / f"{name}.txt")]
        assert main(["vocab", *where, "--size", "150", *flags]) == 0
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()


@pytest.mark.parametrize("lower_case", [True, False])
def test_case(lower_case: bool, prose_corpus: Path, tmp_path: Path) -> None:
    where = ["--input", str(prose_corpus / "*"), "--output", str(tmp_path / "v.txt")]
    flag = "--lower-case" if lower_case else "--no-lower-case"
    assert main(["vocab", *where, "--size", "150", flag]) == 0
    pieces = (tmp_path / "v.txt").read_text(encoding="utf-8").splitlines()
    assert ("the" if lower_case else "The") in pieces
    assert any(piece != piece.lower() for piece in pieces[5:]) == (not lower_case)


def test_the_alphabet_is_that_of_every_python() -> None:
    every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    found = dict(zip(every, are_visible(every), strict=True))
    assert {category(character)[0] for character in every if found[character]} == set("LMNPSC")
    # Those that TensorFlow knows and Unicode 14 does not have yet.
    assert {category(c) for c in every if found[c] and category(c)[0] in "ZC"} == {"Cn"}
    assert not [c for c in every if not found[c] and category(c)[0] not in "ZC"]
    # Unicode 15 has the first, 15.1 the second: Python 3.11, 3.12 and 3.13 do not agree on them.
    assert frequent_characters({"\U0001fae8": 1, "\U0002ebf0": 1, "\ue000": 1}) == {"\U0001fae8"}


def test_a_full_disk_names_the_file_of_the_learner(full_disk: Any) -> None:
    words = {f"{number:04}": number + 1 for number in range(3000)}
    learn_vocabulary(words, 100)  # imports libraries, of which some need files of their own
    with full_disk(10), pytest.raises(OSError, match=r"/words\.tsv'$"):
        learn_vocabulary(words, 100)
