"""A run to a versioned SavedModel directory, published by one rename."""

import shutil
import tempfile
from pathlib import Path

import tensorflow as tf

from model.run import Checkpoint, Run
from pipeline.errors import InputError
from serving.precision import ServingPrecision
from serving.signatures import TextModel
from serving.warm_up import WARM_UP, write_warm_up


def export_run(
    run: Run,
    model_path: Path,
    *,
    precision: ServingPrecision = "float32",
    checkpoint: Checkpoint = "last",
) -> Path:
    """Save a run as the next version of a model.

    The directory is written under a temporary name that no server takes for a version, and renamed
    when it is whole.

    Args:
        run: pretrained, tuned or imported.
        model_path: models/NAME.
        precision: what weights are stored and multiplied in.
        checkpoint: whose weights.

    Returns:
        `model_path/VERSION`.

    Raises:
        InputError: the run has no weights to export, or the output cannot be written.
    """
    module = TextModel(run, precision, checkpoint)
    try:
        model_path.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=model_path))
    except OSError as error:
        raise InputError(f"--output {model_path}: cannot be written: {error.strerror}") from error
    try:
        # mkdtemp is private to the user; a model is for the server's user, too.
        temporary.chmod(0o755)
        signatures = module.signatures()
        tf.saved_model.save(module, str(temporary), signatures=signatures)
        write_warm_up(temporary / WARM_UP, model_path.name, signatures, run.vocabulary)
        version = model_path / str(next_version(model_path))
        return temporary.rename(version)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def next_version(model_path: Path) -> int:
    """Return one more than the highest version there is."""
    versions = (int(path.name) for path in model_path.iterdir() if path.name.isdecimal())
    return max(versions, default=0) + 1
