"""Configs of the pipeline's functions: frozen and checked.

Error messages name fields in backquotes; the options of the command line have the same names.
"""

import codecs
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.config_types import check_types
from pipeline.errors import InputError, check_range
from pipeline.schema import Compression, Deduplicate, Masks, Overflow, Pairing, compared_unit
from pipeline.storage.cache import CacheConfig
from pipeline.storage.encodings import UTF8, is_utf8
from pipeline.storage.files import match_files
from pipeline.storage.outputs import Output, check_outputs, outputs_of
from pipeline.storage.remote import is_remote, is_url, path_from

InputFormat = Literal["prose", "lines", "jsonl", "parquet"]
Masking = Literal["token", "whole-word", "span"]
Redacted = Literal["email", "phone", "ip", "iban"]

MAX_STREAMS = 512
"""One process may read all streams: it holds some 500 records of each in memory, and may have a
file of each open (a process may have 1,024)."""


POSITIONS_PER_PAIR = 16
"""Positions of a packed record for each pair that it can hold, by default."""

_NOT_OF_FILES = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape"})
"""Codecs of text that is in no file: of host names and of literals in Python's source."""

_WHOLE = frozenset({"iso2022_kr"})
"""Codecs that need a file's beginning: it names a character set that the rest uses (RFC 1557)."""

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


def is_language_code(text: str) -> bool:
    """Return whether a text has the form of an ISO 639 code: DE and german select nothing."""
    return bool(_LANGUAGE.fullmatch(text))


def _check_encoding(encoding: str, input_format: InputFormat) -> None:
    """Check that files of a format can be read in an encoding.

    Raises:
        InputError: Python has no such codec, files have no such encoding, or the format needs
            another one.
    """
    try:
        line_break = "\n".encode(encoding)
    except (LookupError, ValueError, TypeError):  # `rot13` and `hex` encode no text
        raise InputError(
            f"`encoding` {encoding}: unknown; expected for example windows-1252"
        ) from None
    name = codecs.lookup(encoding).name
    if name in _NOT_OF_FILES:
        raise InputError(
            f"`encoding` {encoding}: text files have no such encoding; expected for example "
            "windows-1252"
        )
    if is_utf8(encoding):
        return
    if input_format == "parquet":
        raise InputError(f"`encoding` {encoding}: `input_format` parquet has text in UTF-8")
    if input_format != "prose" and (line_break != b"\n" or name in _WHOLE):
        raise InputError(
            f"`encoding` {encoding}: `input_format` {input_format} is split at line breaks of one "
            "byte, and this encoding cannot be; convert the files to UTF-8"
        )


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Input files and their format.

    Attributes:
        input: paths or globs of text files.
        input_format: `prose`: one document per file. `lines`: one sentence per line, blank lines
            between documents. `jsonl`: one JSON object per line. `parquet`: one document per row.
        text_column: column of `jsonl` and `parquet` that holds the text.
        id_column: column that identifies a document; None = its text identifies it.
        language: ISO 639 code for the sentence splitter; not used for `lines`.
        lower_case: lower-case and strip accents (an uncased model).
        skip_damaged_files: True = use a damaged file up to the damage; False = fail.
        encoding: encoding of the files, a name of one of Python's codecs; `parquet` has UTF-8.
        repair: repair mojibake and HTML entities, and remove invisible characters.
        languages: ISO 639 codes of the languages to keep; empty = all, and none is identified.
        language_threshold: smallest probability of a document's language (0 to 1).
        decontaminate: paths or globs of evaluation files, one example on a line; documents that
            share a run of 13 words with one are dropped.
        redact: kinds of private data to replace by markers.
        quality: files of quality rules: `c4`, `fineweb`, `gopher`, or paths of YAML files.
    """

    input: tuple[str, ...]
    input_format: InputFormat = "prose"
    text_column: str = "text"
    id_column: str | None = None
    language: str = "en"
    lower_case: bool = True
    skip_damaged_files: bool = False
    encoding: str = UTF8
    repair: bool = False
    languages: tuple[str, ...] = ()
    language_threshold: float = 0.5
    decontaminate: tuple[str, ...] = ()
    redact: tuple[Redacted, ...] = ()
    quality: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: no input, or an unknown encoding.
        """
        check_types(self)
        if not self.input:
            raise InputError("`input`: expected at least one file or glob")
        _check_encoding(self.encoding, self.input_format)
        if not is_language_code(self.language):
            raise InputError(
                f"`language` {self.language}: expected an ISO 639 code in lower case, such as en"
            )
        check_range("language_threshold", self.language_threshold, 0, 1)


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig(CorpusConfig):
    """Config of learning a vocabulary.

    Attributes:
        output: output file, one piece per line.
        size: number of pieces, including special tokens (5 to 1000000).
        overwrite: replace the file if it exists.
    """

    output: Path
    size: int = 30522
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: no input, or a size out of range.
        """
        super().__post_init__()
        check_range("size", self.size, 5, 1_000_000)

    @property
    def outputs(self) -> list[Output]:
        """The file that is written."""
        return outputs_of("file" if self.overwrite else "new file", output=self.output)

    def check_replaces_no_input(self) -> None:
        """Check that the file that is written is none of those that the job reads.

        Raises:
            InputError: it is one of them, or a glob matches no file.
        """
        if not self.output.exists():
            return
        read = [*self.quality]
        for field_name in ("input", "decontaminate"):
            globs = getattr(self, field_name)
            # A file in a bucket is none on the disk, and listing buckets takes requests.
            alike = [glob for glob in globs if is_url(glob) == is_remote(self.output)]
            read += match_files(alike, field_name)
        reads = tuple(map(path_from, read))
        check_outputs(replace(output, reads=reads) for output in self.outputs)


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(CorpusConfig):
    """Config of making a dataset.

    Attributes:
        vocab: vocabulary file.
        output: dataset folder, a local path or a URL.
        max_seq_length: positions in a record (5 to 65536). With several lengths, one pass over the
            corpus writes one dataset per length, in folders named after the lengths.
        max_predictions: maximum number of masked positions in a record, one value per length;
            empty = `mask_rate` of the positions, rounded up.
        pairing: `nsp`: segment A and the next or a random sentence B. `sop`: A and B in order or
            swapped. `none`: whole sentences, no pairs.
        overflow: `cut`: pieces of a pair above the maximum length are in no record. `carry`: the
            next pair begins with them.
        packing: put several short pairs into a record; they do not see each other.
        max_pairs: K, maximum number of pairs in a record (2 to 4096), for `packing`; None = one
            for each `POSITIONS_PER_PAIR` positions.
        masks: `static`: masked once, in the records. `dynamic`: masked again in each epoch.
        masking: unit of masking: a piece, a whole word, or a span of whole words.
        mask_rate: share of the pieces to predict (above 0, to 1).
        short_seq_rate: share of pairs with a random target length below the maximum (0 to 1).
        duplicates: passes over the corpus, each with different pairs and masks (1 to 10000).
        deduplicate: duplicates to drop. `documents`: those whose text, or id, occurred before.
            `near`: also near-duplicates, by MinHash over word 5-grams. `paragraphs`, `lines`:
            duplicate documents, and all but one of each repeated paragraph or line.
            `near+paragraphs`, `near+lines`: both.
        minhash_bands: number of bands of a signature (1 to 256), for `near`.
        minhash_rows: number of values in a band (1 to 64). Documents of Jaccard similarity J are
            near-duplicates with the probability 1 - (1 - J^rows)^bands.
        min_document_pieces: drop documents with fewer pieces.
        max_unreadable_rate: maximum share of unreadable documents (0 to 1).
        shards: number of training files (1 to 99999); None = one per 16 MB of text.
        streams: number of record streams that training interleaves (1 to 512). Of P processes, each
            reads 1/P of the records if P divides this number.
        rejected: folder to write the rejected documents to, a local path or a URL; None = none.
        eval_rate: share of the documents held out for evaluation (0 to 0.5).
        compression: compression of the record files.
        seed: the same seed and corpus give the same bytes on any machine.
        overwrite: replace an existing dataset when the new one is complete.
    """

    vocab: Path
    output: str
    max_seq_length: tuple[int, ...] = (128,)
    max_predictions: tuple[int, ...] = ()
    pairing: Pairing = "nsp"
    overflow: Overflow = "cut"
    packing: bool = False
    max_pairs: int | None = None
    masks: Masks = "static"
    masking: Masking = "token"
    mask_rate: float = 0.15
    short_seq_rate: float = 0.1
    duplicates: int = 1
    deduplicate: Deduplicate = "none"
    minhash_bands: int = 14
    minhash_rows: int = 8
    min_document_pieces: int = 1
    max_unreadable_rate: float = 0.1
    shards: int | None = None
    streams: int = 64
    rejected: str | None = None
    eval_rate: float = 0.01
    compression: Compression = "none"
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: no input, or a number out of range.
        """
        super().__post_init__()
        if len({*self.max_seq_length}) != len(self.max_seq_length) or not self.max_seq_length:
            raise InputError("`max_seq_length`: expected one or more different lengths")
        if self.max_predictions and len(self.max_predictions) != len(self.max_seq_length):
            raise InputError("`max_predictions`: expected as many numbers as `max_seq_length` has")
        for length in self.max_seq_length:
            # 5: [CLS] A [SEP] B [SEP] with a piece in each text.
            check_range("max_seq_length", length, 5, 65536)
        for predictions, length in zip(self.max_predictions, self.max_seq_length, strict=False):
            check_range("max_predictions", predictions, 1, length)
        # The range below includes 0, with which no record has a label. NaN fails here, too.
        if not self.mask_rate > 0:
            raise InputError(f"`mask_rate` {self.mask_rate:g}: must be above 0")
        # `/` would be the root of the filesystem, or of a store.
        if not self.output.strip("/"):
            raise InputError(f"`output` {self.output!r}: expected a folder")
        if self.rejected is not None and not self.rejected.strip("/"):
            raise InputError(f"`rejected` {self.rejected!r}: expected a folder")
        same = {*map(os.path.normpath, (self.output, *self.datasets))}
        if self.rejected is not None and os.path.normpath(self.rejected) in same:
            raise InputError(f"`rejected` {self.rejected}: is the dataset; choose another folder")
        check_range("mask_rate", self.mask_rate, 0, 1)
        check_range("short_seq_rate", self.short_seq_rate, 0, 1)
        check_range("seed", self.seed, -(2**63), 2**63 - 1)
        check_range("duplicates", self.duplicates, 1, 10_000)
        if self.input_format == "lines" and compared_unit(self.deduplicate) == "paragraphs":
            raise InputError(
                f"`deduplicate` {self.deduplicate}: `input_format` lines has one sentence on a "
                "line and no paragraphs; compare lines"
            )
        if self.pairing == "none" and self.overflow != "cut":
            raise InputError("`overflow` carry: `pairing` none has whole sentences, so none is cut")
        if self.pairing == "none" and self.packing:
            raise InputError("`packing`: `pairing` none already fills records with sentences")
        if self.max_pairs is not None:
            if not self.packing:
                raise InputError("`max_pairs`: needs `packing`; without it a record has one pair")
            check_range("max_pairs", self.max_pairs, 2, 4096)
        check_range("minhash_bands", self.minhash_bands, 1, 256)
        check_range("minhash_rows", self.minhash_rows, 1, 64)
        check_range("min_document_pieces", self.min_document_pieces, 1, 1 << 31)
        check_range("max_unreadable_rate", self.max_unreadable_rate, 0, 1)
        check_range("eval_rate", self.eval_rate, 0, 0.5)
        if self.shards is not None:
            check_range("shards", self.shards, 1, 99_999)
        check_range("streams", self.streams, 1, MAX_STREAMS)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The dataset folder of each length: `output`, or folders in it if there are several."""
        if len(self.max_seq_length) == 1:
            return (self.output,)
        return tuple(f"{self.output.rstrip('/')}/{length}" for length in self.max_seq_length)

    @property
    def outputs(self) -> list[Output]:
        """The folders that are written."""
        datasets = [Output("output", path_from(dataset), "folder") for dataset in self.datasets]
        rejected = path_from(self.rejected) if self.rejected is not None else None
        return [*datasets, *outputs_of("folder", rejected=rejected)]


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Config of `inspect`, which checks all records and shows some examples.

    Attributes:
        dataset: dataset folder, or a folder of rejected documents.
        split: split of the examples to show.
        examples: number of examples to show (0 to 1024), of rejected documents for each rule.
        caching: local copies of remote files.
    """

    dataset: Path
    split: Literal["train", "eval"] = "train"
    examples: int = 3
    caching: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a number out of range.
        """
        check_types(self)
        check_range("examples", self.examples, 0, 1024)
