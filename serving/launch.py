"""Start a model server: the real one where it is installed, else the embedded one."""

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.console import notes
from pipeline.errors import InputError

REAL_SERVER = "tensorflow_model_server"


_METRICS_PATH = "/monitoring/prometheus/metrics"


def serve_models(
    models: Path,
    host: str,
    rest_port: int,
    grpc_port: int,
    *,
    embedded: bool,
    batching: bool,
    batching_config: Path | None,
    allow_reload: bool = False,
    allowed_hosts: tuple[str, ...] = (),
) -> None:
    """Serve models until interrupted.

    Args:
        models: folder of NAME/VERSION/saved_model.pb, or a `models.config`.
        host: address to listen on; the real server knows only all of them.
        rest_port: of the REST API.
        grpc_port: of the gRPC API.
        embedded: run the embedded server in any case.
        batching: run requests of several clients together.
        batching_config: a batching parameters file that says how; None: each server's own way,
            which is not at all in the real one.
        allow_reload: let gRPC clients of the embedded server replace its list of models.
        allowed_hosts: names that REST clients of the embedded server may use for it.

    Raises:
        InputError: no model there, a file that cannot be used, or a port is taken.
    """
    real_server = None if embedded else shutil.which(REAL_SERVER)
    if real_server:
        exec_real_server(real_server, models, rest_port, grpc_port, batching_config)
    from serving.server.batching import SERVE_DEFAULT
    from serving.server.config_files import read_batching_parameters
    from serving.server.limits import Limits
    from serving.server.main import serve

    options = SERVE_DEFAULT if batching else None
    if batching_config:
        options = read_batching_parameters(batching_config)
    limits = Limits(allow_reload=allow_reload)
    serve(models, host, rest_port, grpc_port, options, allowed_hosts, limits)


def exec_real_server(
    program: str, models: Path, rest_port: int, grpc_port: int, batching_config: Path | None
) -> None:
    """Become TensorFlow's model server, configured as ours would be.

    Raises:
        InputError: no model there.
    """
    config = models if models.is_file() else _temporary_file(_folder_config(models))
    monitoring = _temporary_file(f'prometheus_config {{ enable: true path: "{_METRICS_PATH}" }}\n')
    notes.print(
        f"{program} serves {models}: REST on port {rest_port}, gRPC on {grpc_port}. "
        "It listens on all addresses, whatever --host says; --embedded runs ours, which does not."
    )
    flags = [
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models",  # else labels end a first start
        f"--monitoring_config_file={monitoring}",
        f"--rest_api_port={rest_port}",
        f"--port={grpc_port}",
    ]
    if batching_config:
        flags += ["--enable_batching", f"--batching_parameters_file={batching_config}"]
    os.execv(program, [REAL_SERVER, *flags])


def _folder_config(models: Path) -> str:
    names = sorted({path.parts[-3] for path in models.glob("*/[0-9]*/saved_model.pb")})
    if not names:
        raise InputError(
            f"--models {models}: no NAME/VERSION/saved_model.pb in it; "
            f"make one with clozeline export --output {models}/NAME"
        )
    return models_config(models.resolve(), names)


def _temporary_file(text: str) -> str:
    handle, path = tempfile.mkstemp(prefix="clozeline-", suffix=".config")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def models_config(models: Path, names: list[str]) -> str:
    """Return a `ModelServerConfig` in text format that serves each model's newest version."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    for name in names:
        model = config.model_config_list.config.add()
        model.name = name
        model.base_path = str(models / name)
        model.model_platform = "tensorflow"
    return text_format.MessageToString(config)
