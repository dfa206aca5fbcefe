"""Paragraphs and lines of documents: the units of text that are compared over a whole corpus.

CCNet (Wenzek et al. 2020, arXiv 1911.00359, section 3.1) removes every paragraph that occurred
before, compared by a hash of its normalized text: in lower case, without punctuation and accents,
every digit as 0. Dolma (Soldaini et al. 2024, arXiv 2402.00159) compares them as they are, in a
Bloom filter. Here units are compared by their words in lower case, without punctuation, as
near-duplicates are: white space, quotation marks and case differ between copies of a notice, but
another number makes another statement.
"""

import hashlib
import itertools
import re
from collections.abc import Sequence

import numpy as np

from pipeline.corpus.minhash import hashed_words
from pipeline.corpus.readers import CorpusFormat, text_sentences
from pipeline.records.document import UNIT
from pipeline.records.masking import split_mix
from pipeline.schema import Unit
from pipeline.text.sentences import PARAGRAPH_END

_ENDS: dict[Unit, re.Pattern[str]] = {"paragraphs": PARAGRAPH_END, "lines": re.compile("\n")}


def text_units(text: str, unit: Unit) -> list[str]:
    """Return the paragraphs or lines of a text in order, without blank ones."""
    return [part for part in _ENDS[unit].split(text) if part.strip()]


def split_units(
    text: str, how: CorpusFormat, language: str, unit: Unit | None
) -> list[tuple[str, list[str]]]:
    """Return the units of a text with the sentences of each; without a kind of unit, one: the text.

    Args:
        text: the text.
        how: format of the corpus.
        language: ISO 639 code for the sentence splitter.
        unit: kind of unit. A sentence ends where a line does if lines are the units.
    """
    units = text_units(text, unit) if unit else [text]
    return [(each, text_sentences(each, how, language)) for each in units]


def packed_units(
    documents: Sequence[Sequence[tuple[str, list[str]]]], has_piece: np.ndarray
) -> list[bytes]:
    """Return the units of each document that have a piece: bytes of `UNIT` [units].

    Args:
        documents: units of each document, as by `split_units`.
        has_piece: bool [sentences]. False for sentences without a piece, which are left out.
    """
    units = [unit for document in documents for unit in document]
    owners = np.repeat(np.arange(len(units)), [len(sentences) for _, sentences in units])
    rows = np.empty(len(units), UNIT)
    rows["hash"] = unit_hashes([text for text, _ in units])
    rows["sentences"] = np.bincount(owners[has_piece], minlength=len(units))
    ends = [0, *itertools.accumulate(map(len, documents))]
    of_documents = (rows[start:end] for start, end in itertools.pairwise(ends))
    return [each[each["sentences"] > 0].tobytes() for each in of_documents]


def unit_hashes(units: Sequence[str]) -> np.ndarray:
    """Return a hash of each unit's words and their order, uint64 [units].

    A unit without a word, such as a line of asterisks, has the hash of its characters.
    """
    blocks = [*hashed_words(units)]
    words = np.concatenate([np.empty(0, np.uint64), *(words for words, _ in blocks)])
    numbers = np.concatenate([np.empty(0, np.int64), *(numbers for _, numbers in blocks)])
    counts = np.bincount(numbers, minlength=len(units))
    ends = np.cumsum(counts)
    index = np.arange(len(words)) - np.repeat(ends - counts, counts)  # of each word in its unit
    # Mixed with its index: the order of words counts. Running sums wrap around modulo 2^64, and so
    # does the difference of two, which is the sum of a unit's words.
    sums = np.append(np.uint64(0), np.cumsum(split_mix(words ^ split_mix(index.astype(np.uint64)))))
    hashes = split_mix(sums[ends] - sums[ends - counts])
    for unit in np.flatnonzero(counts == 0).tolist():
        digest = hashlib.blake2b(units[unit].strip().encode("utf-8", "replace"), digest_size=8)
        hashes[unit] = int.from_bytes(digest.digest(), "little")
    return hashes
