"""A machine that fails is no bad input: exit code 1 whatever file is read, and 2 for a bad path."""

import ast
import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from model.bert.config import config_named
from model.existing import check_files_exist
from model.interchange import files, hugging_face, keras_hub
from model.tasks.example_files import read_examples
from model.tasks.tables import Columns
from pipeline.corpus.parquet import row_groups
from pipeline.errors import InputError, JobError
from pipeline.storage.files import match_files
from pipeline.storage.outputs import check_outputs, outputs_of
from pipeline.storage.yaml_files import read_yaml
from pipeline.text.tokenizer import Vocabulary
from serving.client.answers import rank
from serving.configs import QueryConfig
from serving.export.calibration import _read
from serving.server.config_files import read_batching_parameters, read_models_config

ROOT = Path(__file__).parent.parent
ROOMS = ("pipeline", "model", "serving", "clozeline")

READERS: dict[str, Callable[[Path], object]] = {
    "vocabulary": Vocabulary.read,
    "YAML": lambda path: read_yaml(path, f"`config` {path}"),
    "examples": lambda path: read_examples(path, "single", Columns(), "`train`"),
    "before TensorFlow": lambda path: check_files_exist(train=path),
    "size of a model": lambda path: config_named(str(path), 100),
    "file of a checkpoint": lambda path: files.read_bytes(path.parent, path.name, 100),
    "batching parameters": read_batching_parameters,
    "models": read_models_config,
    "calibration": _read,
    "passages": lambda path: rank(QueryConfig(text=("a",), model="m"), path),
    "corpus": lambda path: match_files([str(path)], "input"),
    "output": lambda path: check_outputs(outputs_of("file", output=path)),
}
"""How each kind of file is read or looked up."""


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE])
@pytest.mark.parametrize("name", READERS)
def test_a_failed_machine_is_no_bad_input(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(tmp_path / "a.json", number, monkeypatch)
    with pytest.raises(JobError, match=rf"a\.json: .*{os.strerror(number)}"):
        READERS[name](tmp_path / "a.json")


@pytest.mark.parametrize("name", READERS)
def test_a_bad_path_is_bad_input(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(tmp_path / "a.json", errno.EACCES, monkeypatch)
    with pytest.raises(InputError, match=r"a\.json: .*Permission denied"):
        READERS[name](tmp_path / "a.json")


def fail(place: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at a file and every opening of it fail."""
    place.write_text("{}")
    for name in ("open", "stat"):
        real = getattr(Path, name)

        def failing(path: Path, *arguments: Any, _real: Any = real, **options: Any) -> Any:
            if path == place:
                raise OSError(number, os.strerror(number), str(path))
            return _real(path, *arguments, **options)

        monkeypatch.setattr(Path, name, failing)


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let each opening of a file fail, in native code, too."""
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    following = os.dup(0)
    os.close(following)
    resource.setrlimit(resource.RLIMIT_NOFILE, (following, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def test_the_libraries_errors_of_the_machine_are_told_from_damage(tmp_path: Path) -> None:
    hdf5, damaged = tmp_path / "a.h5", tmp_path / "bad.h5"
    save_file({"a": np.ones(3, np.float32)}, tmp_path / hugging_face.WEIGHTS)
    with h5py.File(hdf5, "w") as file:
        file["a"] = np.ones(3)
    damaged.write_bytes(b"no HDF5")
    settings = files.CheckpointSettings(tmp_path / "config.json", {})
    with no_more_files(), pytest.raises(JobError, match=r"tensors: cannot be read: Too many open"):
        hugging_face._open(tmp_path, settings)
    with no_more_files(), pytest.raises(JobError, match=r"a\.h5: cannot be read: Too many open f"):
        keras_hub._open(tmp_path, hdf5.name)
    with pytest.raises(InputError, match=r"bad\.h5: cannot be read as HDF5: .*signature not fou"):
        keras_hub._open(tmp_path, damaged.name)


def test_a_parquet_file_that_the_disk_loses_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost:
        closed = False

        def __enter__(self) -> "Lost":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def seek(self, *_: int) -> int:
            return 0

        def tell(self) -> int:
            return 100

        def read(self, *_: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "a.parquet")

    monkeypatch.setattr("pipeline.corpus.parquet._open", lambda _: Lost())
    with pytest.raises(OSError, match="Input/output error") as caught:
        list(row_groups(str(tmp_path / "a.parquet"), 0))
    assert caught.value.errno == errno.EIO


ALLOWED = {
    # Constructors of stores' libraries: no account, no credentials, in errors without numbers.
    "pipeline/storage/remote.py",
    # The number tells a name that cannot be one from the rest, which is raised again.
    "pipeline/storage/local_copies.py",
    # HDF5's damage is an `OSError` without a number.
    "model/interchange/keras_hub.py",
    # A port, and a program to run: no files are read, and the advice is right for each number.
    "serving/server/main.py", "serving/server/launch.py",
}  # fmt: skip
"""Where an `OSError` may become an `InputError` without `pipeline.errors.failure`."""


def test_no_error_of_the_system_is_called_bad_input_whatever_its_number() -> None:
    found = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and node.type and "OSError" in ast.unparse(node.type)
        if any(
            isinstance(each, ast.Raise) and each.exc and "InputError(" in ast.unparse(each.exc)
            for each in ast.walk(node)
        )
    }
    assert found <= ALLOWED
