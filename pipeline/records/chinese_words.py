"""Words of Chinese text, whose pieces are single characters.

BERT puts spaces around Chinese characters, so a piece tells nothing about words. For whole-word
masking, Chinese BERT-wwm segments the text (Cui et al. 2019, arXiv 1906.08101, section 2.2) with
LTP; here it is `rjieba`, the Rust port of jieba, whose dictionary and model are inside its wheel.
The words are those of the characters in a record, so masks depend on nothing but the record.

Shapes: N records, L positions, V pieces.
"""

from collections.abc import Iterable

import numpy as np

from pipeline.text.tokenizer import CHINESE_RANGES

_BREAK = ord("\n")


def han_characters(pieces: Iterable[str]) -> np.ndarray:
    """Return the code point of each piece that is a single ideograph, 0 for others: uint32 [V]."""
    codes = np.array([ord(piece) if len(piece) == 1 else 0 for piece in pieces], np.uint32)
    is_han = np.zeros(len(codes), bool)
    for first, last in CHINESE_RANGES:
        is_han |= (first <= codes) & (codes <= last)
    return np.where(is_han, codes, np.uint32(0))


def continues_chinese_word(characters: np.ndarray) -> np.ndarray:
    """Return which positions continue the Chinese word of the position before.

    Args:
        characters: uint32 [N, L]. Code points of ideographs, 0 at other positions.

    Returns:
        bool [N, L].
    """
    is_han = characters > 0
    if not (is_han[:, 1:] & is_han[:, :-1]).any():
        return np.zeros_like(is_han)
    import rjieba

    # Other positions become line breaks, and each row gets one more: no word reaches over them.
    text = np.full((len(characters), characters.shape[1] + 1), _BREAK, np.uint32)
    text[:, :-1][is_han] = characters[is_han]
    words = rjieba.cut(text.astype("<u4").tobytes().decode("utf-32-le"))
    continues = np.ones(text.size, bool)
    # A word begins where the one before it ends; the last sum is the end of the text.
    continues[np.cumsum([0, *map(len, words)])[:-1]] = False
    return continues.reshape(text.shape)[:, :-1] & is_han
