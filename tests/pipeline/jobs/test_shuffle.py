"""Grouping by shard: through the runner and through files, with the same outcome."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.jobs import shuffle
from pipeline.jobs.beam_options import running_pipeline
from pipeline.jobs.shuffle import GroupByShard, gathered
from pipeline.records.document import Document


def batches(rng: Random) -> list[tuple[str, list[Document]]]:
    """A hundred batches of documents of three shards."""
    return [
        (
            f"train-{rng.randrange(3):05d}",
            [tuple(map(rng.randbytes, (16, rng.randrange(90), 4, 2))) for _ in "ab"],
        )
        for _ in range(100)
    ]


def as_text(documents: Iterable[Document]) -> list[list[str]]:
    return sorted([part.hex() for part in document] for document in documents)


def write_groups(element: tuple[str, Iterable[Any]], folder: str) -> None:
    name, groups = element
    documents = as_text(gathered(groups))
    assert documents == as_text(gathered(groups))  # what is grouped may be read again
    (Path(folder) / f"{name}.json").write_text(json.dumps(documents), encoding="utf-8")


def run(elements: list, folder: Path, *, through_files: bool) -> dict[str, list]:
    """What is gathered for each shard."""
    temporary, result = folder / "temporary", folder / "result"
    temporary.mkdir(parents=True)
    result.mkdir()
    with running_pipeline(PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        _ = (
            pipeline
            | beam.Create(elements)
            | GroupByShard(str(temporary), through_files=through_files)
            | beam.Map(write_groups, str(result))
        )
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in result.iterdir()}


def expected(elements: list) -> dict[str, list]:
    groups = defaultdict(list)
    for name, documents in elements:
        groups[name] += documents
    return {name: as_text(documents) for name, documents in groups.items()}


@pytest.mark.parametrize("through_files", [False, True])
def test_every_document_reaches_its_shard(tmp_path: Path, through_files: bool) -> None:
    elements = batches(Random(1))
    assert run(elements, tmp_path, through_files=through_files) == expected(elements)


def test_documents_are_written_out_when_they_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "SPILL_BYTES", 1000)
    elements = batches(Random(2))
    size = sum(len(part) for _, each in elements for document in each for part in document)
    assert run(elements, tmp_path, through_files=True) == expected(elements)
    files = list((tmp_path / "temporary").iterdir())
    assert size / 2000 < len(files) <= size / 1000 + 1
    assert sum(path.stat().st_size for path in files) > size


def test_without_files_nothing_is_written(tmp_path: Path) -> None:
    run(batches(Random(3)), tmp_path, through_files=False)
    assert list((tmp_path / "temporary").iterdir()) == []
