"""Counts of workers: added in any number of processes, summed by the process that shows them."""

from collections import Counter
from pathlib import Path

from pipeline.jobs.tally import Tally, read_tallies


def test_counts_of_all_workers_are_summed(tmp_path: Path) -> None:
    first, second = Tally(str(tmp_path)), Tally(str(tmp_path))
    assert read_tallies(tmp_path) == Counter()
    first.add(read=10, written=2)
    second.add(read=5)
    first.add(read=1)
    assert read_tallies(tmp_path) == Counter(read=16, written=2)


def test_a_line_that_is_being_written_counts_when_it_is_complete(tmp_path: Path) -> None:
    Tally(str(tmp_path)).add(read=1)
    file = next(tmp_path.iterdir())
    for part in ('{"read"', ": 41}"):
        file.write_text(file.read_text() + part)
        assert read_tallies(tmp_path) == Counter(read=1)
    file.write_text(file.read_text() + "\n")
    assert read_tallies(tmp_path) == Counter(read=42)


def test_nothing_is_counted_without_the_folder(tmp_path: Path) -> None:
    for folder in (None, str(tmp_path / "elsewhere")):
        Tally(folder).add(read=1)
    assert list(tmp_path.iterdir()) == []
