"""`clozeline export`: export a run as a SavedModel for a model server."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from clozeline.options import Command, config_from
from clozeline.show.terminal import results
from model.run_config import Checkpoint
from serving.configs import ExportConfig
from serving.export.choices import ServerVersion, ServingPrecision


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Export a trained run as a SavedModel that takes raw strings, for a model server."""

    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Directory of the run to export."""
    output: Path
    """Model directory, models/NAME. The version is the next free number in it."""
    precision: ServingPrecision = "float32"
    """Dtype of stored weights and matrix multiplications. bfloat16 halves the size, and is faster
    on CPUs with bfloat16 support."""
    checkpoint: Checkpoint = "auto"
    """best: by evaluation metric. last: most recent. auto: best if it exists, else last."""
    for_server: ServerVersion = "2.20"
    """TensorFlow Serving release that must support every operation of the model."""

    def run(self) -> dict[str, Any]:
        """Export; return where the version is and what it answers."""
        from serving.export.export import export

        exported = export(config_from(self, ExportConfig))
        difference = exported.largest_difference
        results.print(
            f"{exported.path}: exported, {exported.size_bytes / 1e6:.1f} MB; answers differ from "
            f"the Python model's by at most {difference:.1g}"
        )
        results.print(f"serve it:  clozeline serve --models {self.output.parent}")
        return {
            "model": str(exported.path),
            "version": exported.version,
            "size_bytes": exported.size_bytes,
            "signatures": list(exported.signatures),
            "largest_difference": difference,
        }
