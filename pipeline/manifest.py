"""A dataset's `manifest.json`: its settings, splits, shards with checksums, and statistics."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.configs import MAX_STREAMS
from pipeline.errors import InputError
from pipeline.schema import Compression, Feature, Masks, Pairing, record_features
from pipeline.storage.files import absence, file_sizes
from pipeline.storage.remote_files import names_in
from pipeline.storage.strict_json import from_json, read_json_file, to_json

MANIFEST = "manifest.json"
VOCABULARY = "vocab.txt"
FORMAT = "clozeline-dataset/1"
PACKED_FORMAT = "clozeline-dataset/2"
"""Format of a dataset whose records hold several pairs, which older releases refuse to read."""


@dataclass(frozen=True)
class Shard:
    """One TFRecord file.

    Attributes:
        name: file name inside the dataset.
        examples: number of records.
        tokens: number of real positions in them (input_mask = 1).
        size_bytes: size of the file.
        crc32c: CRC-32C of the whole file, as eight hexadecimal digits.
        offsets: byte offset of every 512th record (`pipeline.storage.tfrecords.INDEX_RECORDS`),
            beginning with the first; empty if the file is compressed, or of an older dataset.
    """

    name: str
    examples: int
    tokens: int
    size_bytes: int
    crc32c: str
    offsets: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Shard":
        """Return the shard with the fields of a JSON object.

        Raises:
            TypeError: keys are missing or unknown, or the offsets are not a list.
        """
        return cls(**fields | {"offsets": tuple(fields.get("offsets", ()))})


@dataclass(frozen=True)
class Manifest:
    """Description of a dataset; it contains no time, path or host name, so it is reproducible.

    Attributes:
        settings: every setting of the job that made the dataset, including the seed.
        vocab_sha256: SHA-256 of `vocab.txt`, as hexadecimal digits.
        vocab_size: number of pieces.
        lower_case: whether texts were lower-cased and stripped of accents.
        max_seq_length: L, positions in a record.
        max_predictions: P, slots for masked positions in a record, used or not.
        splits: shards by split name: `train` and, unless it is empty, `eval`.
        statistics: totals by split (documents, sentences, pieces, examples, …).
        dropped_documents: number of dropped documents by reason.
        versions: versions of the libraries that made the dataset, by package name.
        changed_text: number of changes by kind that cleaning rules made to the text of documents
            that they let pass.
    """

    settings: dict[str, Any]
    vocab_sha256: str
    vocab_size: int
    lower_case: bool
    max_seq_length: int
    max_predictions: int
    splits: dict[str, tuple[Shard, ...]]
    statistics: dict[str, dict[str, int]]
    dropped_documents: dict[str, int]
    versions: dict[str, str]
    changed_text: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def pairing(self) -> Pairing:
        """How sequences are composed: `nsp`, `sop` or `none`."""
        return self.settings["pairing"]

    @property
    def masks(self) -> Masks:
        """`static`: the records are masked. `dynamic`: they are masked during training."""
        return self.settings["masks"]

    @property
    def max_pairs(self) -> int:
        """K, maximum number of pairs in a record; 1 = records are not packed."""
        return self.settings.get("max_pairs", 1)

    @property
    def streams(self) -> int | None:
        """Number of record streams that training interleaves; None in an older dataset."""
        return self.settings.get("streams")

    @property
    def sha256(self) -> str:
        """SHA-256 of what determines the records and their order, as hexadecimal digits."""
        shards = {
            # Not the names, which say nothing about the records.
            split: [(shard.examples, shard.crc32c) for shard in shards]
            for split, shards in self.splits.items()
        }
        return sha256(to_json([self.vocab_sha256, self.streams, shards]).encode())

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features of every record."""
        return self._features(self.masks)

    @property
    def masked_features(self) -> tuple[Feature, ...]:
        """The features of every record after masking."""
        return self._features("static")

    def _features(self, masks: Masks) -> tuple[Feature, ...]:
        lengths = self.max_seq_length, self.max_predictions
        return record_features(*lengths, self.pairing, masks, self.max_pairs)

    @property
    def compression_type(self) -> str:
        """TensorFlow's name of the shards' compression."""
        return compression_type(self.settings["compression"])

    def examples(self, split: str) -> int:
        """Return the number of records of a split; 0 if the split does not exist."""
        return sum(shard.examples for shard in self.splits.get(split, ()))

    @property
    def pairs_per_record(self) -> float:
        """Mean number of pairs in a training record; 1 where records are not packed."""
        total = self.statistics.get("train", {})
        return total["pairs"] / total["examples"] if self.max_pairs > 1 else 1.0

    def to_json(self) -> str:
        """Return the contents of `manifest.json`."""
        name = FORMAT if self.max_pairs == 1 else PACKED_FORMAT
        return to_json({"format": name, **dataclasses.asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Parse the contents of `manifest.json`.

        Raises:
            ValueError: not a manifest, or one of another format version, or its number of streams
                or pairs is out of range.
            KeyError: the splits are missing.
            TypeError: other keys are missing or unknown.
        """
        fields = from_json(text)
        formats = FORMAT, PACKED_FORMAT
        if not isinstance(fields, dict) or fields.pop("format", None) not in formats:
            raise ValueError(f"not a {' or '.join(formats)} manifest")
        fields["splits"] = {
            split: tuple(Shard.from_dict(shard) for shard in shards)
            for split, shards in fields["splits"].items()
        }
        # Unknown keys are errors here: a newer release may have changed what the records mean.
        manifest = cls(**fields)
        streams = manifest.streams
        if streams is not None and not (isinstance(streams, int) and 1 <= streams <= MAX_STREAMS):
            raise ValueError(f"streams {streams!r}, expected a number from 1 to {MAX_STREAMS}")
        pairs = manifest.max_pairs
        if not (isinstance(pairs, int) and 1 <= pairs <= manifest.max_seq_length):
            raise ValueError(f"max_pairs {pairs!r}, expected a number from 1 to `max_seq_length`")
        return manifest


def read_manifest(dataset: Path) -> Manifest:
    """Return the manifest of a finished dataset.

    Raises:
        InputError: the manifest is missing, damaged or gives no permission, or a shard is missing
            or truncated.
        JobError: the manifest cannot be read now, for example from a lost disk.
    """
    path = dataset / MANIFEST
    manifest = read_json_file(path, Manifest.from_json, "make the dataset again")
    if manifest is None:
        if why := absence(dataset):
            raise InputError(f"{dataset}: {why}")
        # No glob: in a bucket, the dataset's own path would be a part of the pattern. Names with a
        # dot are those of files; each would be a request.
        names = [name for name in names_in(str(dataset)) if "." not in name]
        inside = [str(dataset / name) for name in names if (dataset / name / MANIFEST).exists()]
        hint = f"name one of {' '.join(inside)}" if inside else "make one with clozeline preprocess"
        raise InputError(f"{dataset}: no finished dataset (no {MANIFEST}); {hint}")
    # One listing, not a request for each of thousands of shards.
    sizes = file_sizes(dataset)
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        file = dataset / shard.name
        size_bytes = sizes.get(shard.name)
        if size_bytes is None:
            raise InputError(f"{file}: missing, though {path} lists it; make the dataset again")
        if size_bytes != shard.size_bytes:
            raise InputError(
                f"{file}: {size_bytes:,} bytes where {path} says {shard.size_bytes:,}: "
                "truncated or overwritten; make the dataset again"
            )
    return manifest


def compression_type(compression: Compression) -> str:
    """Return TensorFlow's name of a compression, as `TFRecordDataset` takes it."""
    return {"none": "", "gzip": "GZIP"}[compression]


def shard_file(name: str, compression: Compression) -> str:
    """Return the file name of a shard."""
    return name + {"none": ".tfrecord", "gzip": ".tfrecord.gz"}[compression]


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
