"""Which reader is chosen for the directory of a checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model.interchange import detect
from pipeline.errors import InputError


@pytest.fixture
def fake_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that return their name instead of weights."""

    def reader(name: str) -> Callable[[Path], Any]:
        return lambda path: SimpleNamespace(form=name, path=path, notes=())

    for name in ("google", "hugging_face", "keras_hub"):
        monkeypatch.setattr(detect, f"read_{name}", reader(name))
    monkeypatch.setattr(
        detect, "replace", lambda each, **more: SimpleNamespace(**vars(each) | more)
    )


HUGGING_FACE = {"config.json": {"model_type": "bert"}}
GOOGLE = {"bert_config.json": {}, "bert_model.ckpt.index": ""}
SAFETENSORS = {"model.safetensors": ""}


@pytest.mark.usefixtures("fake_readers")
@pytest.mark.parametrize(
    ("files", "form", "notes"),
    [
        (HUGGING_FACE | SAFETENSORS, "hugging_face", 0),
        (HUGGING_FACE, "hugging_face", 0),  # whose reader says that the weights are missing
        (GOOGLE, "google", 0),
        ({"config.json": {"class_name": "BertBackbone"}}, "keras_hub", 0),
        # Published directories have both: safetensors before a TensorFlow checkpoint, and that
        # before pickles, which are never read.
        (HUGGING_FACE | SAFETENSORS | GOOGLE, "hugging_face", 1),
        (HUGGING_FACE | GOOGLE | {"pytorch_model.bin": ""}, "google", 0),
        (HUGGING_FACE | SAFETENSORS | {"bert_config.json": {}}, "hugging_face", 0),
    ],
)
def test_the_files_decide(tmp_path: Path, files: dict[str, Any], form: str, notes: int) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    imported = detect.read_checkpoint(tmp_path)
    assert (imported.form, imported.path, len(imported.notes)) == (form, tmp_path, notes)


def test_a_run_is_not_imported(tmp_path: Path) -> None:
    config = {"format": 1, "model": {}, "dataset": {}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match="already a run; there is nothing to import"):
        detect.read_checkpoint(tmp_path)


def test_a_path_that_is_not_a_checkpoint_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither config\.json .* nor bert_config\.json"):
        detect.read_checkpoint(tmp_path)
    with pytest.raises(InputError, match="absent: does not exist"):
        detect.read_checkpoint(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: not a directory; give its directory"):
        detect.read_checkpoint(tmp_path / "file")
