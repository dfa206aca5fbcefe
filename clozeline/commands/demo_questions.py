"""Questions of `clozeline demo` for the served model, made of held-out text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pipeline.errors import InputError

QUESTIONS = 10
"""Held-out sentences that the served model completes."""

FREQUENT_WORDS = 150
"""The most frequent words of the held-out text are not masked: most of them are function words."""


@dataclass(frozen=True)
class Masked:
    """A held-out sentence with one masked word.

    Attributes:
        text: the sentence, with `[MASK]` in place of the word.
        word: the masked word.
    """

    text: str
    word: str


@dataclass(frozen=True)
class DemoQuestions:
    """Requests made of held-out text.

    Attributes:
        masked: up to `QUESTIONS` sentences with a masked word.
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
        InputError: fewer than two held-out documents have two sentences of suitable length.
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
    candidates = []
    for path in match_files(globs):
        try:
            text, identity = read_document(next(read_whole_file(path)), made_with)
        except DroppedDocumentError:
            continue
        key = document_key(identity, made_with.seed)
        if made_with.shard_name(key).startswith(EVAL):
            sentences = text_sentences(text, made_with, made_with.language)
            # Long enough to give a context, and short enough to print.
            candidates.append((key, [s for s in sentences if 6 <= len(s.split()) <= 25]))
    # In the order of the keys, which is random and the same for every run.
    documents = [sentences for _, sentences in sorted(candidates) if len(sentences) >= 2]
    if len(documents) < 2:
        raise InputError(
            "the corpus is too small: fewer than two documents with sentences of 6 to 25 words "
            f"were held out (about one of {round(1 / made_with.eval_rate)} is); give more "
            "documents, 100 or more"
        )
    rng = Random(made_with.seed)
    masked = masked_sentences([each for document in documents for each in document], pieces, rng)
    return DemoQuestions(
        masked=tuple(rng.sample(masked, min(QUESTIONS, len(masked)))),
        true_pair=(documents[0][0], documents[0][1]),
        random_pair=(documents[0][0], documents[1][0]),
    )


def masked_sentences(sentences: Sequence[str], pieces: set[str], rng: Random) -> list[Masked]:
    """Return sentences with a masked word that is not among the `FREQUENT_WORDS`, if they have one.

    Args:
        sentences: the sentences.
        pieces: pieces of the vocabulary.
        rng: chooses the word of each sentence.
    """
    counts = Counter(word for sentence in sentences for word in sentence.lower().split())
    frequent = min(FREQUENT_WORDS, len(counts) // 4)  # a small corpus has few other words
    known = pieces - {word for word, _ in counts.most_common(frequent)}
    hidden = (hide_word(sentence, known, rng) for sentence in sentences)
    return [each for each in hidden if each]


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
