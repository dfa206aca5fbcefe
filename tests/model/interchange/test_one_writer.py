"""`import` and `export-hf` refuse, before their work, a directory that another process writes."""

import os
from pathlib import Path
from typing import Any

import pytest

from model.configs import HuggingFaceExportConfig, ImportConfig
from model.interchange import export_hugging_face as exporting
from model.interchange import import_checkpoint as importing
from pipeline.errors import InputError

CHECKPOINT = Path(__file__).parents[2] / "golden" / "hugging_face" / "encoder"


def test_a_directory_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, output = tmp_path / "run", tmp_path / "new" / "export"
    read, load = importing.read_checkpoint, exporting.load_run

    def while_reading(*arguments: Any) -> Any:
        with pytest.raises(InputError, match=f"`run_dir` .* written by process {os.getpid()}"):
            importing.import_checkpoint(ImportConfig(from_dir=CHECKPOINT, run_dir=run))
        return read(*arguments)

    def while_loading(*arguments: Any) -> Any:
        with pytest.raises(InputError, match=f"`output` .* written by process {os.getpid()}"):
            exporting.export_hugging_face(HuggingFaceExportConfig(run_dir=run, output=output))
        return load(*arguments)

    monkeypatch.setattr(importing, "read_checkpoint", while_reading)
    monkeypatch.setattr(exporting, "load_run", while_loading)
    importing.import_checkpoint(ImportConfig(from_dir=CHECKPOINT, run_dir=run))
    exporting.export_hugging_face(HuggingFaceExportConfig(run_dir=run, output=output))
    assert (run / "config.json").is_file()
    assert (output / "config.json").is_file()
    assert [path.name for path in tmp_path.rglob(".*")] == []
