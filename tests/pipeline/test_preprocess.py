"""Settings of the datasets that one job writes."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.configs import PreprocessConfig
from pipeline.preprocess import settings_of


def config(corpus: Path, **more: Any) -> PreprocessConfig:
    return PreprocessConfig(
        input=(f"{corpus}/*.txt",), vocab=corpus / "vocab.txt", output="out", **more
    )


def files(folder: Path, count: int, size: int) -> Path:
    """Write sparse files; only their sizes are read here."""
    for index in range(count):
        with (folder / f"{index}.txt").open("wb") as file:
            file.truncate(size)
    return folder


def test_one_length_is_written_to_the_folder_itself_and_several_below_it(tmp_path: Path) -> None:
    corpus = files(tmp_path, 1, 10)
    (only,) = settings_of(config(corpus, max_seq_length=(64,)))
    assert only == "out"
    both = settings_of(config(corpus, max_seq_length=(64, 250), mask_rate=0.17))
    # 17% of 64 and of 250 positions, rounded up.
    assert {name: (each.max_seq_length, each.max_predictions) for name, each in both.items()} == {
        "out/64": (64, 11), "out/250": (250, 43),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("input_format", "count", "megabytes", "shards"),
    [
        ("lines", 1, 1, 1),
        ("lines", 1, 33, 3),  # of 16 MB each, the last with the rest
        ("prose", 20, 33, 2),  # a file is a document, and a shard needs eight at least
        ("prose", 3, 33, 1),
    ],
)
def test_shards_fit_in_memory_and_have_documents_to_draw_from(
    tmp_path: Path, input_format: str, count: int, megabytes: int, shards: int
) -> None:
    corpus = files(tmp_path, count, megabytes * 1_000_000 // count)
    (settings,) = settings_of(config(corpus, input_format=input_format)).values()
    assert settings.shards == shards


def test_a_number_of_shards_that_is_given_wins(tmp_path: Path) -> None:
    corpus = files(tmp_path, 1, 33_000_000)
    (settings,) = settings_of(config(corpus, input_format="lines", shards=2)).values()
    assert settings.shards == 2
