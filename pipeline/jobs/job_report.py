"""Reports of the preprocessing job: of a worker on a shard, and of the job on all of them.

The workers' reports reach the submitting process in a file, as JSON.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.corpus.remarks import Remark
from pipeline.manifest import Shard
from pipeline.storage.strict_json import to_json


@dataclass(frozen=True)
class WrittenShard:
    """A shard file in the job's temporary folder.

    Attributes:
        temporary: path of the file.
        shard: entry of the manifest, with the final name of the file.
        statistics: totals by name (documents, sentences, pieces, examples, …).
    """

    temporary: str
    shard: Shard
    statistics: dict[str, int]


@dataclass(frozen=True)
class ShardReport:
    """Report of a worker on the documents of one shard.

    Attributes:
        dataset: index of the dataset.
        name: name of the shard, which begins with that of the split.
        dropped: number of dropped documents by reason.
        changes: number of changes by kind in the documents that are used.
        written: the file; None = there would have been no record in it.
    """

    dataset: int
    name: str
    dropped: dict[str, int]
    changes: dict[str, int]
    written: WrittenShard | None = None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "ShardReport":
        """Return the report with the fields of a JSON object."""
        written = fields["written"]
        if written is not None:
            written = WrittenShard(**written | {"shard": Shard.from_dict(written["shard"])})
        return cls(**fields | {"written": written})


@dataclass(frozen=True)
class RejectionFile:
    """A file of rejected documents in the job's temporary folder.

    Attributes:
        name: final name of the file.
        temporary: path of the file.
        lines: number of documents.
    """

    name: str
    temporary: str
    lines: int


@dataclass(frozen=True)
class JobReport:
    """The report of a job; the shards are not yet published.

    Attributes:
        shards: one report per shard and dataset, in the order of their names.
        dropped: number of documents by reason that were dropped while reading.
        remarks: remarks on files of the corpus.
        rejected: files of rejected documents, in the order of their names.
        changes: number of changes by kind that rules made to the documents that they let pass.
    """

    shards: list[ShardReport]
    dropped: dict[str, int]
    remarks: list[Remark]
    rejected: list[RejectionFile]
    changes: dict[str, int]

    @classmethod
    def of(
        cls,
        shards: Iterable[ShardReport],
        dropped: dict[str, int],
        remarks: list[Remark],
        rejected: Iterable[RejectionFile] = (),
        changes: dict[str, int] | None = None,
    ) -> "JobReport":
        """Return the report with the workers' reports in any order."""
        return cls(
            sorted(shards, key=lambda shard: shard.name),
            dropped,
            remarks,
            sorted(rejected, key=lambda file: file.name),
            dict(sorted((changes or {}).items())),
        )

    def to_json(self) -> str:
        """Return the contents of the file."""
        return to_json(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "JobReport":
        """Parse the contents of the file."""
        fields = json.loads(text)
        return cls(
            [ShardReport.from_dict(shard) for shard in fields["shards"]],
            fields["dropped"],
            [Remark(**each | {"examples": tuple(each["examples"])}) for each in fields["remarks"]],
            [RejectionFile(**each) for each in fields["rejected"]],
            fields["changes"],
        )
