"""Export a run as a versioned SavedModel: write it, check it, publish it with one rename."""

from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from model.bert.config import BertConfig
from model.run import Run, load_run
from pipeline.errors import InputError, JobError
from pipeline.manifest import VOCABULARY
from pipeline.progress import counted
from pipeline.storage.files import publish, writing
from pipeline.storage.local_copies import local_copy
from pipeline.storage.locks import only_writer, staging
from pipeline.storage.outputs import check_outputs
from pipeline.storage.remote import is_remote, sizes_below
from serving.configs import ExportConfig
from serving.export import gate
from serving.export.accuracy import Accuracy, check_accuracy
from serving.export.calibration import calibrate
from serving.export.choices import TENSOR_PARALLEL, TOLERANCES, ServingPrecision
from serving.export.golden import Reference
from serving.export.plan_file import PLAN_FILE, write_plan
from serving.export.quantization import Plan
from serving.export.server_configs import write_configs
from serving.export.signatures import TextModel
from serving.export.stock_ops import check_ops
from serving.export.warmup_requests import write_warm_up
from serving.tf_serving import SAVED_MODEL, WARM_UP_FILE, model_name, next_version


@dataclass(frozen=True)
class Exported:
    """A published version.

    Attributes:
        path: models/NAME/VERSION.
        signatures: names of the signatures.
        largest_difference: largest difference of its outputs from the Python model's, over the
            golden set.
        kept: products of an int8 model that stay bfloat16, `LAYER/PRODUCT`.
        accuracy: the metric on labelled examples, before and after; None = not measured.
    """

    path: Path
    signatures: tuple[str, ...]
    largest_difference: float
    kept: tuple[str, ...] = ()
    accuracy: Accuracy | None = None

    @property
    def version(self) -> int:
        """Number of the version."""
        return int(self.path.name)

    @property
    def size_bytes(self) -> int:
        """Size of all of its files."""
        if is_remote(self.path):
            return sum(sizes_below(self.path).values())
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def export(config: ExportConfig) -> Exported:
    """Save a run as the next version of a model.

    The directory is written under a temporary name that servers do not recognize as a version, and
    is renamed when it is complete and has passed the gate. In remote storage its files are uploaded
    then, `saved_model.pb` last: without it a server cannot load the version.

    Raises:
        InputError: there is no such run, it has no weights to export, its layers cannot be divided,
            the texts or examples cannot be used, the output cannot be written, or the server could
            not run the model.
        JobError: the saved model's outputs differ from the Python model's, its metric is worse by
            more than `max_loss`, or the disk is full.
    """
    check_outputs(config.outputs)
    # A request, because the store would refuse it after all the work, and servers find no model.
    if is_remote(config.output) and config.output.is_file():
        raise InputError(f"`output` {config.output}: is an object; name a folder")
    return _export(load_run(config.run_dir, config.caching), config)


def _export(run: Run, config: ExportConfig) -> Exported:
    """Write, check and publish a version, see `export`."""
    parts = parts_of_a_layer(run.config, config.tensor_parallel)
    model = run.load_model(config.checkpoint)
    given = f"`output` {config.output}"
    with local_copy(run.path / VOCABULARY, run.caching) as vocabulary:
        plan = calibrate(run, model, config.calibrate, vocabulary) if config.calibrate else Plan()
        module = TextModel(
            run, model, config.precision, vocabulary, plan, config.max_windows,
            tensor_parallel=parts,
        )  # fmt: skip
        signatures = module.signatures()
        # Before anything is written: a model that is not accurate enough ends here.
        accuracy = check_accuracy(run, model, module, config.check) if config.check else None
        if accuracy and config.max_loss is not None:
            _check_loss(accuracy, config.precision, config.max_loss)
        # Next to the versions, so that publishing is a rename within one filesystem.
        with writing(given), staging(config.output, ".export-") as temporary:
            with writing(given, tf.errors.OpError):
                tf.saved_model.save(module, str(temporary), signatures=signatures)
                name = model_name(config.output)
                write_warm_up(temporary / WARM_UP_FILE, name, signatures, run.vocabulary)
                if config.precision == "int8":
                    write_plan(temporary / PLAN_FILE, plan, run.config.num_hidden_layers)
            # The saved files are checked, not the module: what is written is what is served.
            check_ops(temporary, config.for_server)
            # From the Python model in float32, whatever the precision of the export.
            goldens = Reference(run, model, config.max_windows).golden(signatures)
            tolerances = TOLERANCES[config.precision]
            difference = gate.check(temporary, goldens, run.vocabulary, tolerances)
            path = _publish_next(temporary, config.output, given)
    return Exported(path, tuple(signatures), difference, tuple(sorted(plan.kept)), accuracy)


def parts_of_a_layer(config: BertConfig, tensor_parallel: int | None) -> int:
    """Return the number of parts of a layer.

    Raises:
        InputError: the model cannot be divided into that many.
    """
    heads, units = config.num_attention_heads, config.intermediate_size
    parts = TENSOR_PARALLEL if tensor_parallel is None else tensor_parallel
    if heads % parts == 0 and units % parts == 0:
        return parts
    if tensor_parallel is None:
        return 1
    raise InputError(
        f"`tensor_parallel` {parts}: must divide the model's {heads} attention heads and its "
        f"intermediate size of {units}"
    )


def _publish_next(temporary: Path, model_path: Path, given: str) -> Path:
    """Publish a complete version under the next number, and write the server configurations.

    Args:
        temporary: directory of the version.
        model_path: models/NAME.
        given: the field that names it, and its value, for messages.

    Returns:
        models/NAME/VERSION.
    """
    # The lock prevents two exports from choosing the same version number. An upload of another one
    # may take any time.
    with only_writer(model_path, given, waits=True):
        version = model_path / str(next_version(model_path))
        path = publish(temporary, version, SAVED_MODEL)
        write_configs(model_path)
    return path


def _check_loss(accuracy: Accuracy, precision: ServingPrecision, max_loss: float) -> None:
    """Refuse a model whose metric is worse than allowed, or no number.

    Raises:
        JobError: it is.
    """
    # Written so that NaN fails, too.
    if not accuracy.loss <= max_loss:
        raise JobError(
            f"not exported: {accuracy.metric} is {accuracy.exported:.4f} in {precision} and "
            f"{accuracy.in_float32:.4f} in float32, on {counted(accuracy.examples, 'examples')}: "
            f"worse by more than {max_loss:g}"
        )
