"""`clozeline export-hf`: run → directory that `transformers` and KerasHub load."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from clozeline.commands.caching import RunReader
from clozeline.options import config_from
from clozeline.show.terminal import results, table
from model.configs import HuggingFaceExportConfig
from model.run_config import Checkpoint
from pipeline.storage.outputs import Output


@dataclass(frozen=True, kw_only=True)
class ExportHuggingFace(RunReader):
    """Export a run to a directory that Hugging Face's `transformers` and KerasHub can load."""

    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Run directory: pretrained, fine-tuned or imported."""
    output: Path
    """Directory to write."""
    checkpoint: Checkpoint = HuggingFaceExportConfig.checkpoint
    """best: by evaluation metric. last: most recent. auto: best if it exists, else last."""
    encoder_only: bool = HuggingFaceExportConfig.encoder_only
    """Omit the heads (BertModel), as KerasHub and tools for sentence embeddings expect."""

    def engine_config(self) -> HuggingFaceExportConfig:
        """Return the engine's config."""
        return config_from(self, HuggingFaceExportConfig)

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that the command writes."""
        return self.engine_config().outputs

    def run(self) -> dict[str, Any]:
        """Write; return where, and which of their models it is."""
        from model.interchange.export_hugging_face import export_hugging_face
        from model.interchange.foreign_checkpoint import by_layer

        result = export_hugging_face(self.engine_config())
        rows = [
            ("model", result.architecture),
            ("parameters", f"{result.parameters:,}"),
            ("weights left out", by_layer(result.left_out) or "none"),
            ("settings left out", "; ".join(result.left_out_settings) or "none"),
        ]
        columns = ("", str(result.run))
        results.print(table(f"Export {result.output}", columns, rows, frozenset({0, 1})))
        return {
            "output": str(result.output),
            "run": str(result.run),
            "architecture": result.architecture,
            "parameters": result.parameters,
            "left_out": list(result.left_out),
            "left_out_settings": list(result.left_out_settings),
        }
