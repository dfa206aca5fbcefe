"""What a version is: one rule for the export, both servers and clients."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.storage.files import write_atomically
from pipeline.storage.remote import path_from
from serving.configs import ExportConfig
from serving.tf_serving import model_name, next_version, version_number, versions_of

# What TensorFlow Serving 2.20 takes for a version: file_system_storage_path_source.cc parses the
# name of a directory as an int64 (`strings::safe_strto64`) that is at least 0.
NUMBERS = {
    "0": 0, "7": 7, "007": 7, "20261125": 20261125, "1764104221000000000": 1764104221000000000,
    "9223372036854775807": 2**63 - 1, "0" * 30 + "5": 5,
}  # fmt: skip
NO_NUMBERS = [
    "", "a", "-1", "+1", "1.5", "1e3", "v1", "1.bak", ".export-1", "9223372036854775808",
    "9" * 5000, "٣", "１", "²", "1_000", " 1", "1\n", "0x1",
]  # fmt: skip


@pytest.mark.parametrize(("name", "number"), NUMBERS.items())
def test_a_whole_number_is_a_version(name: str, number: int) -> None:
    assert version_number(name) == number


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_other_names_are_not_versions(name: str) -> None:
    assert version_number(name) is None


def test_versions_are_directories_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "1.bak", "٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "11").write_text("a file")
    assert list(versions_of(tmp_path).items()) == [(9, tmp_path / "9"), (10, tmp_path / "10")]
    assert versions_of(tmp_path / "none") == {}


def test_the_next_version_has_an_unused_name(tmp_path: Path) -> None:
    assert next_version(tmp_path) == 1
    (tmp_path / "4").mkdir()
    (tmp_path / "5").write_text("a file")
    assert next_version(tmp_path) == 6


def test_remote_version_counts_when_its_saved_model_is_there(store):
    model = path_from("gs://bucket/models/m")
    for name in ("1/saved_model.pb", "1/variables/variables.index", "2/variables/x", "10/a/b"):
        write_atomically(model / name, b"x")
    assert {number: str(path) for number, path in versions_of(model).items()} == {
        1: "gs://bucket/models/m/1"
    }
    assert next_version(model) == 11  # no other name is written to again
    write_atomically(model / "10/saved_model.pb", b"x")
    assert [*versions_of(model)] == [1, 10]
    assert next_version(path_from("gs://bucket/models/none")) == 1
    assert versions_of(path_from("gs://bucket/models/none")) == {}


def test_a_model_has_the_name_of_its_directory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_name(Path("models/m")) == "m"
    assert model_name(Path()) == tmp_path.name
    assert model_name(Path("..")) == tmp_path.parent.name
    assert model_name(path_from("gs://bucket/m")) == "m"


@pytest.mark.parametrize("root", ["/", "gs://bucket", "gs://bucket/"])
def test_a_root_has_no_name_for_a_model(root: str) -> None:
    with pytest.raises(InputError, match=r"^`output` .*: names no model; give a folder in it$"):
        ExportConfig(run_dir=Path("run"), output=path_from(root))


def test_a_bucket_can_be_a_model(store) -> None:
    bucket = path_from("gs://bucket")
    write_atomically(bucket / "3/saved_model.pb", b"")
    assert versions_of(bucket) == {3: bucket / "3"}
