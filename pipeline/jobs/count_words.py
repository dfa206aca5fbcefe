"""The Beam job behind `clozeline vocab`: count how often each word occurs in the corpus."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam

from pipeline.corpus.cleaning import DocumentCleaner, RejectedDocument
from pipeline.corpus.readers import (
    DROPPED,
    REMARKS,
    CorpusFormat,
    ReadDocuments,
    batch_documents,
    check_columns,
    collected,
    text_sentences,
)
from pipeline.corpus.remarks import DAMAGED_FILE, Remark, remarks_from
from pipeline.jobs.beam_options import beam_options, running_pipeline
from pipeline.jobs.shared_folder import OnSharedStorage, folder_beside
from pipeline.jobs.tally import Tally, reading, watch
from pipeline.storage.files import match_files
from pipeline.storage.locks import temporary_folder
from pipeline.storage.remote_files import joined, open_to_read, open_to_write
from pipeline.storage.strict_json import JsonObject, to_json
from pipeline.text.tokenizer import normalized_words

MAX_WORDS = 2_000_000
"""Largest number of distinct words for the vocabulary learner; the most frequent are kept."""


def count_in(texts: Sequence[str], *, lower_case: bool) -> dict[str, int]:
    """Return the number of occurrences of each normalized word in some texts."""
    import tensorflow as tf

    # The tokenizer's own normalization, so the vocabulary learns words as they will be looked up.
    words = normalized_words(texts, lower_case=lower_case).flat_values
    unique, _, counts = tf.unique_with_counts(words)
    return {
        word.decode("utf-8", "ignore"): int(count)
        for word, count in zip(unique.numpy(), counts.numpy(), strict=True)
        if word
    }


@dataclass(frozen=True)
class Counted:
    """The result of the job.

    Attributes:
        words: number of occurrences by word, for the `MAX_WORDS` most frequent words.
        dropped: number of dropped documents by reason, and of damaged files.
        remarks: remarks on files of the corpus.
    """

    words: dict[str, int]
    dropped: dict[str, int]
    remarks: list[Remark]


class CountWords(beam.DoFn):
    """Batches of documents (bytes) → (word, count).

    For each document that cannot be used, the rule goes to the side output `DROPPED`.
    """

    def __init__(self, how: CorpusFormat, *, lower_case: bool, tally: str | None) -> None:
        self._how = how
        self._lower_case = lower_case
        self._tally_folder = tally

    def setup(self) -> None:
        """Make this worker's rules and open its tally."""
        self._clean = DocumentCleaner(self._how)
        self._tally = Tally(self._tally_folder)

    def process(self, documents: list[bytes]) -> Iterator[Any]:
        """Yield every distinct word of the batch with its count."""
        sentences: list[str] = []
        for document in documents:
            outcome = self._clean(document)
            if isinstance(outcome, RejectedDocument):
                yield beam.pvalue.TaggedOutput(DROPPED, outcome.rejection.rule)
            else:
                sentences += text_sentences(outcome.text, self._how, outcome.language)
        if sentences:
            # Counted in the batch first: far fewer elements reach Beam's shuffle.
            yield from count_in(sentences, lower_case=self._lower_case).items()
        self._tally.add(read=sum(map(len, documents)), documents=len(documents))


def write_report(
    words: Iterable[tuple[str, int]], dropped: dict[str, int], remarks: Iterable[Any], path: str
) -> None:
    """Write the workers' results to a file, as one JSON object."""
    report: JsonObject = {"words": dict(words), "dropped": dropped, "remarks": list(remarks)}
    with open_to_write(path) as file:
        file.write(to_json(report).encode("utf-8"))


def count_words(
    globs: Sequence[str],
    how: CorpusFormat,
    *,
    beside: Path,
    lower_case: bool,
    skip_damaged_files: bool,
    beam_flags: Sequence[str] | None,
) -> Counted:
    """Run the job.

    Args:
        globs: globs of the corpus files.
        how: format of the files.
        beside: path of the vocabulary file that will be written. The job's temporary folder is
            created in the same directory, or in Beam's `--temp_location`.
        lower_case: whether words are lower-cased and stripped of accents.
        skip_damaged_files: True = use a damaged file up to the damage; False = fail the job.
        beam_flags: flags for Beam.

    Raises:
        InputError: a flag that Beam does not have, no input, no text column, or a damaged file.
        JobError: the job failed.
    """
    options = beam_options(beam_flags or [])
    files = match_files(globs)
    check_columns(list(files), how, skip_damaged=skip_damaged_files)
    progress = {"read": reading("counting words", sum(files.values()))}
    with (
        temporary_folder() as tally,
        # Next to the output, on storage that all workers share.
        folder_beside(beside, options) as temporary,
        watch(tally, progress),
    ):
        result = joined(temporary, "word_counts.json")
        with running_pipeline(options) as pipeline:
            read = pipeline | ReadDocuments(files, how, skip_damaged=skip_damaged_files)
            counted = (
                read["documents"]
                | batch_documents()
                | beam.ParDo(OnSharedStorage(temporary))
                | beam.ParDo(CountWords(how, lower_case=lower_case, tally=str(tally))).with_outputs(
                    DROPPED, main="words"
                )
            )
            _write_report(counted, collected(read[REMARKS]), result)
        with open_to_read(result) as file:
            report = json.loads(file.read())
    return _counted(report)


def _write_report(counted: Any, remarks: Any, path: str) -> None:
    """Add the steps that sum the counts and write the job's report to a pipeline."""
    dropped = counted[DROPPED] | beam.combiners.Count.PerElement()
    _ = (
        counted.words
        | beam.CombinePerKey(sum)
        # The word breaks ties, so that the result does not depend on the runner.
        | beam.combiners.Top.Of(MAX_WORDS, key=lambda pair: (pair[1], pair[0]))
        | beam.Map(write_report, beam.pvalue.AsDict(dropped), beam.pvalue.AsList(remarks), path)
    )


def _counted(report: dict[str, Any]) -> Counted:
    remarks = remarks_from(report["remarks"])
    damaged = {remark.kind: remark.files for remark in remarks if remark.kind == DAMAGED_FILE}
    dropped = dict(sorted((report["dropped"] | damaged).items()))
    return Counted(report["words"], dropped, remarks)
