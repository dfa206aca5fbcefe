"""Learn a WordPiece vocabulary from word counts: SentencePiece merges, in BERT's format."""

import io
import itertools
from collections import Counter
from collections.abc import Mapping

from pipeline.errors import InputError
from pipeline.schema import JOINER, SPECIAL_TOKENS
from pipeline.storage.files import naming
from pipeline.storage.locks import temporary_folder
from pipeline.text.tokenizer import are_visible

ALPHABET, CHARACTER_COVERAGE = 1000, 0.9995
"""The alphabet: at least so many of the most frequent characters, and more if they cover a smaller
share of the text, as in scripts with thousands of characters (SentencePiece recommends the share).
A word with another character becomes [UNK]."""

MAX_PIECE_CHARACTERS = 50

_RESERVED = "▁"  # SentencePiece's symbol for a space

_INNER = 0xF0000
"""First code point of a private-use plane. WordPiece distinguishes a character that starts a word
from the same character inside a word (`##a`), SentencePiece does not. So the n-th character of the
alphabet is passed to SentencePiece as code point `_INNER + n` if it is inside a word."""


def learn_vocabulary(word_counts: Mapping[str, int], size: int) -> list[str]:
    """Learn a vocabulary by merging the most frequent pairs of pieces (BPE, Sennrich et al. 2016).

    Hugging Face's WordPiece trainer uses the same algorithm. Here SentencePiece's trainer does the
    merging, from counts, in one thread, and with ties broken by the pieces themselves, so the same
    counts give the same vocabulary in any order and on any machine.

    Args:
        word_counts: number of occurrences of each normalized word.
        size: maximum number of pieces, special tokens and alphabet included.

    Returns:
        The special tokens, the alphabet by code point (first as starts of words, then as
        continuations), and the merged pieces in the order of their merges. Fewer than `size` if no
        more merges are possible.

    Raises:
        InputError: there are no words, or `size` is too small for the alphabet.
    """
    alphabet = frequent_characters(word_counts)
    words = {word: count for word, count in word_counts.items() if alphabet.issuperset(word)}
    if not words:
        raise InputError("`input`: no words to learn a vocabulary from; give it some text")
    first = sorted({word[0] for word in words})
    inner = sorted({character for word in words for character in word[1:]})
    pieces = [*SPECIAL_TOKENS, *first, *(JOINER + character for character in inner)]
    if len(pieces) > size:
        raise InputError(
            f"`size` {size}: the special tokens and the alphabet alone take {len(pieces)} pieces; "
            "ask for more"
        )
    return [*pieces, *merged_pieces(words, size - len(pieces))]


def frequent_characters(word_counts: Mapping[str, int]) -> frozenset[str]:
    """Return the most frequent characters; ties are broken by code point."""
    counts: Counter[str] = Counter()
    for word, count in word_counts.items():
        for character in word:
            counts[character] += count
    characters = list(counts)
    for character, visible in zip(characters, are_visible(characters), strict=True):
        # Normalized words contain no white space or control characters.
        if character == _RESERVED or not visible:
            del counts[character]
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    reached = itertools.accumulate(counts[character] for character in ranked)
    # And the character that reaches the share.
    needed = sum(so_far < CHARACTER_COVERAGE * counts.total() for so_far in reached) + 1
    return frozenset(ranked[: max(ALPHABET, needed)])


def merged_pieces(words: Mapping[str, int], limit: int) -> list[str]:
    """Return the pieces with at least two characters, in the order of their merges.

    Args:
        words: number of occurrences of each word.
        limit: maximum number of pieces to return.
    """
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    alphabet = "".join(sorted({character for word in words for character in word}))
    to_inner = {ord(character): _INNER + index for index, character in enumerate(alphabet)}
    symbols = {word[0] + word[1:].translate(to_inner): count for word, count in words.items()}
    single = {symbol for word in symbols for symbol in word}
    model = io.BytesIO()
    with temporary_folder() as folder:
        counts = folder / "words.tsv"
        lines = (f"{word}\t{count}\n" for word, count in sorted(symbols.items()))
        with naming(counts):
            counts.write_text("".join(lines), encoding="utf-8")
        SentencePieceTrainer.train(
            input=str(counts),
            input_format="tsv",
            model_writer=model,
            model_type="bpe",
            vocab_size=1 + len(single) + limit,  # 1: SentencePiece's <unk>
            hard_vocab_limit=False,  # fewer merges are no error
            # The alphabet is chosen, and words are normalized and split; all that is left is
            # merging.
            character_coverage=1.0,
            required_chars="".join(sorted(single)),
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            split_by_unicode_script=False,
            split_by_number=False,
            max_sentencepiece_length=MAX_PIECE_CHARACTERS,
            bos_id=-1,  # no such piece
            eos_id=-1,
            minloglevel=2,
        )
    learned = SentencePieceProcessor(model_proto=model.getvalue())
    pieces = map(learned.id_to_piece, range(1, learned.get_piece_size()))
    return [_wordpiece(piece, alphabet) for piece in pieces if len(piece) > 1][:limit]


def _wordpiece(symbols: str, alphabet: str) -> str:
    """Return a SentencePiece piece as a WordPiece piece."""
    text = "".join(
        alphabet[ord(symbol) - _INNER] if ord(symbol) >= _INNER else symbol for symbol in symbols
    )
    return JOINER + text if ord(symbols[0]) >= _INNER else text
