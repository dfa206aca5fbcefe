r"""Write configuration files for `tensorflow_model_server` next to a model's versions.

    tensorflow_model_server --model_config_file=models/NAME/models.config \
        --allow_version_labels_for_unavailable_models \
        --enable_batching --batching_parameters_file=models/NAME/batching.config \
        --monitoring_config_file=models/NAME/monitoring.config

The server only treats directories with a number as name as versions, so it ignores these files.
"""

from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from pipeline.storage.files import write_atomically
from serving.export.warmup_requests import BATCH_SIZES
from serving.tf_serving import MONITORING_CONFIG, model_name, versions_of

BATCHING, MODELS, MONITORING = "batching.config", "models.config", "monitoring.config"

_BATCHING = f"""\
# The server joins requests into batches of these sizes, which the warm-up requests have run.
max_batch_size {{ value: {BATCH_SIZES[-1]} }}
{" ".join(f"allowed_batch_sizes: {size}" for size in BATCH_SIZES)}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 64 }}
# One thread a batch: the graph itself uses all cores.
num_batch_threads {{ value: 2 }}
# Requests of predict_ids that differ in length are filled up to one, each input with its own first
# value (tensorflow/serving#1279). The graph does not read such columns: they are [CLS] at the end.
pad_variable_length_inputs: true
"""


def write_configs(model_path: Path) -> None:
    """Write the three files; existing batching and monitoring files are not changed.

    In `models.config`, the newest version gets the label `canary`; `stable` does not change, since
    promoting a version is the user's decision. A first version gets both labels.

    Args:
        model_path: models/NAME, which contains the versions.
    """
    for name, text in ((BATCHING, _BATCHING), (MONITORING, MONITORING_CONFIG)):
        # Operators change these two; each export would undo it.
        if not (model_path / name).exists():
            write_atomically(model_path / name, text.encode())
    config = models_config(model_path, [*versions_of(model_path)], _stable(model_path))
    write_atomically(model_path / MODELS, config.encode())


def _stable(model_path: Path) -> int | None:
    """Return the version with the label `stable`; None if there is none."""
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse((model_path / MODELS).read_text(encoding="utf-8"), config)
    # A file that a person broke is written again rather than refused: the versions are what counts.
    except (FileNotFoundError, UnicodeDecodeError, text_format.ParseError):
        return None
    models = config.model_config_list.config
    return next((m.version_labels["stable"] for m in models if "stable" in m.version_labels), None)


def models_config(model_path: Path, versions: list[int], stable: int | None) -> str:
    """Return a `ModelServerConfig` with version labels, in text format.

    Args:
        model_path: models/NAME.
        versions: version numbers, ascending, at least one.
        stable: version with the label `stable` so far; None = none.
    """
    canary = versions[-1]
    # No label yet, or its version was deleted: the one before the newest, or the only one.
    if stable not in versions:
        stable = versions[-2:][0]
    config = model_server_config_pb2.ModelServerConfig()
    model = config.model_config_list.config.add()
    model.name = model_name(model_path)
    # TensorFlow Serving refuses relative paths.
    model.base_path = str(model_path.resolve())
    model.model_platform = "tensorflow"
    # Both, because the default policy serves the newest version only.
    model.model_version_policy.specific.versions.extend(sorted({stable, canary}))
    model.version_labels["stable"] = stable
    model.version_labels["canary"] = canary
    return text_format.MessageToString(config)
