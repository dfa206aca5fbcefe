"""`clozeline export`: export a run as a SavedModel for a model server."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from clozeline.commands.caching import RunReader
from clozeline.options import config_from
from clozeline.show.terminal import command, print_line, results
from model.existing import check_files_exist
from model.run_config import Checkpoint
from pipeline.storage.outputs import Output
from serving.configs import ExportConfig
from serving.export.choices import ServerVersion, ServingPrecision


@dataclass(frozen=True, kw_only=True)
class Export(RunReader):
    """Export a trained run as a SavedModel that takes raw strings, for a model server."""

    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """Directory of the run to export."""
    output: Path
    """Model directory, models/NAME. The version is the next free number in it."""
    precision: ServingPrecision = ExportConfig.precision
    """Dtype of stored weights and matrix multiplications. bfloat16 halves the size, and is faster
    on CPUs with bfloat16 support. int8 quarters it; such a model needs a CPU with VNNI or AMX."""
    calibrate: Path | None = None
    """File with texts like those to be served, one per line, for --precision int8: the model's
    ranges are measured on them, and it is faster. Default: ranges are computed for each text."""
    check: Path | None = None
    """Labelled examples in the training file's format: print how the metric of a fine-tuned run
    changes in this precision."""
    max_loss: float | None = None
    """Refuse the export if that metric gets worse by more than this, for example 0.003."""
    tensor_parallel: int | None = None
    """Number of parts of each layer, which a server's CPU cores compute at the same time; 1 for a
    GPU. It must divide the number of heads and the intermediate size. Default: 2 if possible."""
    checkpoint: Checkpoint = ExportConfig.checkpoint
    """best: by evaluation metric. last: most recent. auto: best if it exists, else last."""
    for_server: ServerVersion = ExportConfig.for_server
    """TensorFlow Serving release that must support every operation of the model."""
    max_windows: int = ExportConfig.max_windows
    """Maximum number of overlapping windows that the model reads of a passage (span) or of a text
    (tagging). It ignores the rest of a longer one, and answers truncated = true."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: flags contradict each other.
        """
        self.engine_config()

    def engine_config(self) -> ExportConfig:
        """Return the engine's config."""
        return config_from(self, ExportConfig)

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that the command writes."""
        return self.engine_config().outputs

    def before_tensorflow(self) -> None:
        """Look for a local run and local texts and examples.

        Raises:
            InputError: there is none.
        """
        super().before_tensorflow()
        check_files_exist(calibrate=self.calibrate, check=self.check)

    def run(self) -> dict[str, Any]:
        """Export; return where the version is and what it answers."""
        from serving.export.export import export

        exported = export(self.engine_config())
        difference = exported.largest_difference
        print_line(
            f"{exported.path}: exported, {exported.size_bytes / 1e6:.1f} MB; answers differ from "
            f"the Python model's by at most {difference:.1g}"
        )
        accuracy = exported.accuracy
        if accuracy:
            print_line(
                f"{self.check}: {accuracy.metric} {accuracy.exported:z.4f} in {self.precision}, "
                f"{accuracy.in_float32:z.4f} in float32"
                # Numbers are hardly ever the same, so none are counted.
                + ("" if accuracy.agreement is None else f"; {accuracy.agreement:.2%} same answers")
            )
            others = [
                f"{name} {after:z.4f}, {before:z.4f} in float32"
                for name, (before, after) in accuracy.others.items()
            ]
            if others:
                results.print(f"other metrics: {'; '.join(others)}")
        if exported.kept:
            results.print(f"products that stay bfloat16: {', '.join(exported.kept)}")
        serve = command("clozeline", "serve", "--models", self.output.parent)
        print_line(f"serve it:  {serve}")
        return {
            "model": str(exported.path),
            "version": exported.version,
            "size_bytes": exported.size_bytes,
            "signatures": list(exported.signatures),
            "largest_difference": difference,
            **({"accuracy": asdict(accuracy)} if accuracy else {}),
            # Only int8 chooses between precisions, product by product.
            **({"kept": list(exported.kept)} if self.precision == "int8" else {}),
        }
