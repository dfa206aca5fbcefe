"""Word counts to a WordPiece vocabulary: merges by SentencePiece, laid out the BERT way."""

import io
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import InputError
from pipeline.schema import SPECIAL_TOKENS

JOINER = "##"
"""Begins a piece that continues a word."""

MAX_ALPHABET = 1000
"""Characters kept, the most frequent first; a word with another one becomes [UNK]."""

MAX_PIECE_CHARACTERS = 50

_WORD_START = "▁"  # how SentencePiece marks the beginning of a word


def learn_vocabulary(word_counts: Mapping[str, int], size: int) -> list[str]:
    """Learn a vocabulary by merging the most frequent pairs of pieces (BPE, Sennrich et al. 2016).

    This is how Hugging Face's WordPiece trainer learns, too. SentencePiece's trainer does the
    merging, from counts, in one thread and with ties broken by the pieces themselves, so the same
    counts give the same vocabulary in any order and on any machine.

    Args:
        word_counts: occurrences of each normalized word.
        size: pieces wanted, special tokens and alphabet included.

    Returns:
        The special tokens, the alphabet by code point (first as word beginnings, then as
        continuations), and the merged pieces, most frequent merge first. Shorter than `size` where
        the words give no more.

    Raises:
        InputError: no words, or a size too small for the alphabet.
    """
    alphabet = frequent_characters(word_counts)
    words = {word: count for word, count in word_counts.items() if alphabet.issuperset(word)}
    if not words:
        raise InputError("--input: no words to learn a vocabulary from; give it some text")
    first = sorted({word[0] for word in words})
    inner = sorted({character for word in words for character in word[1:]})
    pieces = [*SPECIAL_TOKENS, *first, *(JOINER + character for character in inner)]
    if len(pieces) > size:
        raise InputError(
            f"--size {size}: the special tokens and the alphabet alone take {len(pieces)} pieces; "
            "ask for more"
        )
    # Single characters, and the mark in front of each, are SentencePiece's own and come on top.
    merges = merged_pieces(words, size + 2 * len(alphabet))
    return [*pieces, *merges[: size - len(pieces)]]


def frequent_characters(word_counts: Mapping[str, int]) -> frozenset[str]:
    """Return the `MAX_ALPHABET` most frequent characters; ties go to the lower code point."""
    counts: Counter[str] = Counter()
    for word, count in word_counts.items():
        for character in word:
            counts[character] += count
    for character in list(counts):
        # White space, controls and SentencePiece's own mark never stand inside a word of ours.
        if character == _WORD_START or unicodedata.category(character)[0] in "ZC":
            del counts[character]
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return frozenset(ranked[:MAX_ALPHABET])


def merged_pieces(words: Mapping[str, int], limit: int) -> list[str]:
    """Return the pieces of two characters or more, in the order they were merged.

    Args:
        words: occurrences of each word.
        limit: the most pieces SentencePiece may hold, its own alphabet included.
    """
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "words.tsv"
        lines = (f"{word}\t{count}\n" for word, count in sorted(words.items()))
        counts.write_text("".join(lines), encoding="utf-8")
        SentencePieceTrainer.train(
            input=str(counts),
            input_format="tsv",
            model_writer=model,
            model_type="bpe",
            vocab_size=limit,
            hard_vocab_limit=False,
            character_coverage=1.0,
            required_chars="".join(sorted({character for word in words for character in word})),
            normalization_rule_name="identity",
            split_by_unicode_script=False,
            split_by_number=False,
            max_sentencepiece_length=MAX_PIECE_CHARACTERS,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    learned = SentencePieceProcessor(model_proto=model.getvalue())
    return list(_wordpieces(map(learned.id_to_piece, range(1, learned.get_piece_size()))))


def _wordpieces(pieces: Iterable[str]) -> Iterable[str]:
    for piece in pieces:
        starts_word = piece.startswith(_WORD_START)
        characters = piece.removeprefix(_WORD_START)
        if len(characters) > 1:
            yield characters if starts_word else JOINER + characters
