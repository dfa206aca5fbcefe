"""Count the words of a corpus with Beam and learn a WordPiece vocabulary from the counts."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.configs import VocabularyConfig
from pipeline.corpus.readers import CorpusFormat
from pipeline.corpus.remarks import hints
from pipeline.corpus.rules.build import cleaning_of
from pipeline.errors import InputError
from pipeline.jobs.count_words import count_words
from pipeline.storage.files import write_atomically
from pipeline.storage.locks import only_writer_of_outputs
from pipeline.text.vocabulary import learn_vocabulary

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VocabularyReport:
    """A vocabulary that was written.

    Attributes:
        path: the file.
        pieces: number of pieces, special tokens included.
        words: number of words in the corpus.
        distinct_words: number of different words.
        dropped_documents: number of documents by reason.
        warnings: remarks on files of the corpus, one line each.
    """

    path: Path
    pieces: int
    words: int
    distinct_words: int
    dropped_documents: dict[str, int]
    warnings: tuple[str, ...]


def make_vocabulary(config: VocabularyConfig, beam_flags: Sequence[str] = ()) -> VocabularyReport:
    """Learn a vocabulary from a corpus and write it.

    Args:
        config: the corpus, the size, the file.
        beam_flags: flags for Apache Beam, such as "--runner=FlinkRunner".

    Raises:
        InputError: no input, no words, a size too small for the alphabet, or a file that exists or
            that another process writes.
        JobError: the Beam job failed.
    """
    with only_writer_of_outputs(config.outputs):
        config.check_replaces_no_input()
        return _make_vocabulary(config, beam_flags)


def _make_vocabulary(config: VocabularyConfig, beam_flags: Sequence[str]) -> VocabularyReport:
    # The same reading and cleaning as in `preprocess`, so both see the same words.
    counted = count_words(
        config.input,
        CorpusFormat(
            input_format=config.input_format,
            language=config.language,
            text_column=config.text_column,
            encoding=config.encoding,
            id_column=config.id_column,
            cleaning=cleaning_of(config),
        ),
        beside=config.output,
        lower_case=config.lower_case,
        skip_damaged_files=config.skip_damaged_files,
        beam_flags=beam_flags,
    )
    counts = counted.words
    _log.info("learning from %s distinct words", f"{len(counts):,}")
    if not counts:
        dropped = ", ".join(f"{number:,} {rule}" for rule, number in counted.dropped.items())
        remedy = f"documents dropped: {dropped}" if dropped else "give it some text"
        raise InputError(
            f"`input`: no words to learn a vocabulary from; {remedy}{hints(counted.remarks)}"
        )
    pieces = learn_vocabulary(counts, config.size)
    write_atomically(config.output, ("\n".join(pieces) + "\n").encode("utf-8"))
    # No error: a small corpus has fewer words, and the vocabulary is complete.
    if len(pieces) < config.size:
        _log.info(
            "The corpus gives no more than %s of the %s pieces asked.",
            f"{len(pieces):,}",
            f"{config.size:,}",
        )
    return VocabularyReport(
        config.output,
        len(pieces),
        sum(counts.values()),
        len(counts),
        counted.dropped,
        tuple(map(str, counted.remarks)),
    )
