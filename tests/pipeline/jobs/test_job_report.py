"""The workers' reports arrive at the submitting process as they were, in the order of names."""

from pipeline.corpus.remarks import Remark
from pipeline.jobs.job_report import JobReport, ShardReport, WrittenShard
from pipeline.manifest import Shard

FULL = ShardReport(
    1,
    "train-00001-of-00002",
    {"too_short": 3},
    {"repeated_lines": 8},
    WrittenShard(
        "/t/train-00001-of-00002.x",
        Shard("train-00001-of-00002.tfrecord", 7, 99, 1234, "0123abcd", (0, 700)),
        {"documents": 5, "examples": 7},
    ),
)
EMPTY = ShardReport(0, "eval-00000-of-00001", {"no_other_document": 1}, {})


def test_a_report_survives_its_file() -> None:
    remarks = [Remark("utf16", 4, ("a.txt", "b é.txt"))]
    report = JobReport.of([FULL, EMPTY], {"empty": 2}, remarks)
    assert [shard.name for shard in report.shards] == [EMPTY.name, FULL.name]
    assert JobReport.from_json(report.to_json().encode()) == report
    assert JobReport.from_json(report.to_json()).shards[1].written == FULL.written


def test_a_job_without_documents_has_a_report() -> None:
    nothing = JobReport.of([], {}, [])
    assert JobReport.from_json(nothing.to_json()) == nothing
