"""A run to a versioned SavedModel directory: checked, then published by one rename."""

from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from model.run import Run
from model.run_config import Checkpoint
from pipeline.storage.files import publish, writing
from pipeline.storage.locks import only_writer, staging
from serving.export import gate
from serving.export.choices import TOLERANCES, ServerVersion, ServingPrecision
from serving.export.golden import Reference
from serving.export.server_configs import write_configs
from serving.export.signatures import TextModel
from serving.export.stock_ops import check_ops
from serving.export.warmup_requests import write_warm_up
from serving.tf_serving import WARM_UP_FILE, next_version

PUBLISHING_SECS = 60.0
"""How long to wait while another export renames its version and writes the configurations."""


@dataclass(frozen=True)
class Exported:
    """A published version.

    Attributes:
        path: models/NAME/VERSION.
        signatures: their names.
        largest_difference: between its answers to the golden set and the Python model's.
    """

    path: Path
    signatures: tuple[str, ...]
    largest_difference: float


def export_run(
    run: Run,
    model_path: Path,
    *,
    precision: ServingPrecision = "float32",
    checkpoint: Checkpoint = "auto",
    server: ServerVersion = "2.20",
) -> Exported:
    """Save a run as the next version of a model.

    The directory is written under a temporary name that no server takes for a version, and renamed
    when it is whole and has passed the gate.

    Args:
        run: pretrained, tuned or imported.
        model_path: models/NAME.
        precision: what weights are stored and multiplied in.
        checkpoint: whose weights.
        server: release of TensorFlow Serving that must know every operation.

    Raises:
        InputError: the run has no weights to export, the output cannot be written, or the server
            could not run the model.
        JobError: the saved model does not answer as the Python model does, or the disk is full.
    """
    model = run.load_model(checkpoint)
    module = TextModel(run, model, precision)
    signatures = module.signatures()
    given = f"--output {model_path}"
    with writing(given), staging(model_path, ".export-") as temporary:
        with writing(given, tf.errors.OpError):
            tf.saved_model.save(module, str(temporary), signatures=signatures)
            write_warm_up(temporary / WARM_UP_FILE, model_path.name, signatures, run.vocabulary)
        check_ops(temporary, server)
        goldens = Reference(run, model).golden(signatures)
        difference = gate.check(temporary, goldens, run.vocabulary, TOLERANCES[precision])
        # Another export may be about to take the same number.
        with only_writer(model_path, given, wait_secs=PUBLISHING_SECS):
            path = publish(temporary, model_path / str(next_version(model_path)))
            write_configs(model_path)
    return Exported(path, tuple(signatures), difference)
