"""A dataset's `manifest.json`: what is in the directory, how it was made, and how to check it."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, JobError
from pipeline.schema import Compression, Feature, Masks, Pairing, record_features
from pipeline.storage.strict_json import from_json, to_json

MANIFEST = "manifest.json"
VOCABULARY = "vocab.txt"
FORMAT = "clozeline-dataset/1"


@dataclass(frozen=True)
class Shard:
    """One TFRecord file.

    Attributes:
        name: file name inside the dataset.
        examples: number of records.
        tokens: number of real pieces in them (input_mask ones).
        size_bytes: length of the file.
        crc32c: CRC-32C of the whole file, as eight hexadecimal digits.
    """

    name: str
    examples: int
    tokens: int
    size_bytes: int
    crc32c: str


@dataclass(frozen=True)
class Manifest:
    """Everything a reader of the dataset needs to know; nothing in it depends on time or place.

    Attributes:
        settings: every setting of the job that made the dataset, the seed among them.
        vocab_sha256: of `vocab.txt`, as hexadecimal digits.
        vocab_size: number of pieces.
        lower_case: whether texts were lower-cased and stripped of accents.
        max_seq_length: L, positions in a record.
        max_predictions: P, masked positions in a record, used or not.
        splits: shards by split name, `train` and, where there is one, `eval`.
        statistics: totals over the corpus and the records, by split where they differ.
        dropped_documents: number of documents left out, by reason.
        versions: of the libraries that made it.
    """

    settings: dict[str, Any]
    vocab_sha256: str
    vocab_size: int
    lower_case: bool
    max_seq_length: int
    max_predictions: int
    splits: dict[str, tuple[Shard, ...]]
    statistics: dict[str, Any]
    dropped_documents: dict[str, int]
    versions: dict[str, str]

    @property
    def pairing(self) -> Pairing:
        """What a record is made of."""
        return self.settings["pairing"]

    @property
    def masks(self) -> Masks:
        """Whether the records are masked, or to be masked while they are trained on."""
        return self.settings["masks"]

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features of every record."""
        return record_features(self.max_seq_length, self.max_predictions, self.pairing, self.masks)

    @property
    def compression_type(self) -> str:
        """The shards' compression, by TensorFlow's name."""
        return compression_type(self.settings["compression"])

    def examples(self, split: str) -> int:
        """Return the number of records of a split; 0 for one that is not there."""
        return sum(shard.examples for shard in self.splits.get(split, ()))

    def to_json(self) -> str:
        """Return the text of `manifest.json`."""
        return to_json({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Parse the text of `manifest.json`.

        Raises:
            ValueError: it is not one, or of another format; `TypeError` where keys differ.
        """
        fields = from_json(text)
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise ValueError(f"not a {FORMAT} manifest")
        fields["splits"] = {
            split: tuple(Shard(**shard) for shard in shards)
            for split, shards in fields["splits"].items()
        }
        return cls(**fields)


def read_manifest(dataset: Path) -> Manifest:
    """Return the manifest of a finished dataset.

    Raises:
        InputError: there is none, or it is damaged, or its shards are not all there.
        JobError: it cannot be read now: a permission, a lost disk.
    """
    path = dataset / MANIFEST
    try:
        manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inside = sorted(str(found.parent) for found in dataset.glob(f"*/{MANIFEST}"))
        hint = f"name one of {' '.join(inside)}" if inside else "make one with clozeline preprocess"
        raise InputError(f"{dataset}: no finished dataset (no {MANIFEST}); {hint}") from None
    except OSError as error:  # which says nothing about its bytes
        raise JobError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: cannot be read: {error}; make the dataset again") from error
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        file = dataset / shard.name
        size_bytes = file.stat().st_size if file.is_file() else None
        if size_bytes is None:
            raise InputError(f"{file}: missing, though {path} lists it; make the dataset again")
        if size_bytes != shard.size_bytes:
            raise InputError(
                f"{file}: {size_bytes:,} bytes where {path} says {shard.size_bytes:,}: "
                "truncated or overwritten; make the dataset again"
            )
    return manifest


def compression_type(compression: Compression) -> str:
    """Return TensorFlow's name of a compression."""
    return {"none": "", "gzip": "GZIP"}[compression]


def shard_file(name: str, compression: Compression) -> str:
    """Return the file name of a shard."""
    return name + {"none": ".tfrecord", "gzip": ".tfrecord.gz"}[compression]


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
