from random import Random

import pytest

from pipeline.errors import InputError
from pipeline.schema import SPECIAL_TOKENS
from pipeline.tokenizer import build_tokenizer
from pipeline.vocabulary import MAX_ALPHABET, learn_vocabulary

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


def test_exact_size_where_there_is_enough_to_merge() -> None:
    assert len(learn_vocabulary(COUNTS, 22)) == 22


def test_every_word_can_be_tokenized() -> None:
    tokenizer = build_tokenizer(learn_vocabulary(COUNTS, 24), lower_case=True)
    ids = tokenizer.tokenize(list(COUNTS)).to_list()
    assert all(1 not in word for word in ids)  # 1 = [UNK]


def test_huge_counts_do_not_drop_rare_characters() -> None:
    pieces = learn_vocabulary({"zebra": 1, "the": 5_000_000_000}, 40)
    assert {"z", "##b", "##r", "##a", "the"} <= set(pieces)


def test_alphabet_is_bounded_by_frequency() -> None:
    counts = {chr(0x4E00 + index): 2 for index in range(MAX_ALPHABET)} | {"ß": 1}
    pieces = learn_vocabulary(counts, 3000)
    assert "ß" not in pieces
    assert chr(0x4E00) in pieces


def test_nothing_to_learn_from() -> None:
    with pytest.raises(InputError, match=r"--input: no words to learn a vocabulary from"):
        learn_vocabulary({}, 100)


def test_too_small_a_size() -> None:
    with pytest.raises(InputError, match=r"--size 10: the special tokens .* take 17 pieces"):
        learn_vocabulary(COUNTS, 10)
