"""Questions of `clozeline demo` for the served model, made of held-out text."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pipeline.errors import InputError

QUESTIONS = 10
"""Held-out passages that the served model completes."""

FEWEST_WORDS, MOST_WORDS = 6, 25
"""Length of a sentence with a masked word: enough to be understood alone, and short to print."""

PASSAGE_WORDS = 35
"""Length of a sentence together with those around it: of docstrings, with the demo's vocabulary,
99 % of such passages are not longer than the model's 64 positions."""


@dataclass(frozen=True)
class Masked:
    """A held-out text with one masked word.

    Attributes:
        text: a sentence or a passage, with `[MASK]` in place of the word.
        word: the masked word.
    """

    text: str
    word: str


@dataclass(frozen=True)
class DemoQuestions:
    """Requests made of held-out text.

    Attributes:
        masked: up to `QUESTIONS` passages with a masked word.
        true_pair: two consecutive sentences.
        random_pair: two sentences of different documents.
    """

    masked: tuple[Masked, ...]
    true_pair: tuple[str, str]
    random_pair: tuple[str, str]


def held_out_questions(
    vocab: Path, globs: tuple[str, ...], settings: dict[str, Any]
) -> DemoQuestions:
    """Return requests made of documents that the model was not trained on.

    Raises:
        InputError: fewer than two held-out documents have two suitable sentences in a row.
    """
    from pipeline.corpus.readers import (
        DroppedDocumentError,
        read_document,
        read_whole_file,
        text_sentences,
    )
    from pipeline.corpus.rules.settings import NO_CLEANING
    from pipeline.records.shard import EVAL, Settings, document_key
    from pipeline.storage.files import match_files
    from pipeline.text.tokenizer import Vocabulary

    pieces = set(Vocabulary.read(vocab).pieces)
    # The seed and the document decide the split, as in the job: no list of held-out documents is
    # kept.
    made_with = Settings(**settings | {"cleaning": NO_CLEANING})
    held_out = []
    for path in match_files(globs):
        try:
            # A file is one document, which is the default of --input-format.
            text, identity = read_document(next(read_whole_file(path)), made_with)
        except DroppedDocumentError:
            continue
        key = document_key(identity, made_with.seed)
        if made_with.shard_name(key).startswith(EVAL):
            held_out.append((key, text_sentences(text, made_with, made_with.language)))
    # In the order of the keys, which is random and the same for every run.
    documents = [sentences for _, sentences in sorted(held_out)]
    pairs = [pair for sentences in documents if (pair := consecutive_sentences(sentences))]
    if len(pairs) < 2:
        raise InputError(
            "the corpus is too small: fewer than two documents with two sentences of "
            f"{FEWEST_WORDS} to {MOST_WORDS} words, one after the other, were held out (about one "
            f"of {round(1 / made_with.eval_rate)} is); give more documents, 100 or more"
        )
    rng = Random(made_with.seed)
    masked = masked_passages(documents, pieces, rng)
    return DemoQuestions(
        masked=tuple(rng.sample(masked, min(QUESTIONS, len(masked)))),
        true_pair=pairs[0],
        random_pair=(pairs[0][0], pairs[1][0]),
    )


def consecutive_sentences(sentences: Sequence[str]) -> tuple[str, str] | None:
    """Return the first two sentences in a row that are both of suitable length, if there are."""
    both = (pair for pair in itertools.pairwise(sentences) if all(map(_is_suitable, pair)))
    return next(both, None)


def _is_suitable(sentence: str) -> bool:
    return FEWEST_WORDS <= len(sentence.split()) <= MOST_WORDS


def masked_passages(
    documents: Iterable[Sequence[str]], pieces: set[str], rng: Random
) -> list[Masked]:
    """Return a passage for each sentence of suitable length that has a word to mask.

    The words masked are content words, by scikit-learn's list of stop words, which is English.

    Args:
        documents: the sentences of each document.
        pieces: pieces of the vocabulary.
        rng: chooses the word of each sentence.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    content = pieces - ENGLISH_STOP_WORDS
    passages = []
    for sentences in documents:
        for index, sentence in enumerate(sentences):
            if _is_suitable(sentence) and (masked := hide_word(sentence, content, rng)):
                first, end = passage_around([len(each.split()) for each in sentences], index)
                inside = [*sentences[first:index], masked.text, *sentences[index + 1 : end]]
                passages.append(Masked(" ".join(inside), masked.word))
    return passages


def passage_around(lengths: Sequence[int], index: int) -> tuple[int, int]:
    """Return the range of whole sentences around one, of up to `PASSAGE_WORDS` words in all.

    The model was trained on several sentences at a time, and their topic says much about a word.

    Args:
        lengths: the number of words of each sentence of a document.
        index: the sentence, which is in the range however long it is.
    """
    first, end = index, index + 1

    def fits(first: int, end: int) -> bool:
        return first >= 0 and end <= len(lengths) and sum(lengths[first:end]) <= PASSAGE_WORDS

    while True:
        if fits(first - 1, end):
            first -= 1
        elif fits(first, end + 1):
            end += 1
        else:
            return first, end


def hide_word(sentence: str, pieces: set[str], rng: Random) -> Masked | None:
    """Mask a word that is one of some pieces of the vocabulary; None if there is no such word."""
    words = sentence.split(" ")
    known = [
        index
        for index, word in enumerate(words)
        # Words of one piece only: the model fills one position.
        if word.isalpha() and len(word) >= 3 and word.lower() in pieces
    ]
    if not known:
        return None
    hidden = rng.choice(known)
    return Masked(" ".join([*words[:hidden], "[MASK]", *words[hidden + 1 :]]), words[hidden])
