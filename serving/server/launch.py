"""Start a model server: TensorFlow Serving if it is installed, else the embedded server."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.console import notes
from pipeline.errors import InputError
from serving.tf_serving import MONITORING_CONFIG, SAVED_MODEL, versions_of

REAL_SERVER = "tensorflow_model_server"
ALL_ADDRESSES = "0.0.0.0"
"""The only --host for which the real server is used: it always listens on all addresses."""

REST_THREADS = 32
"""Number of threads for the real server's REST API. Each thread waits for one response, so the
default of 4 per core limits a batch to 8 rows on 2 cores; 32 threads can fill a batch of 32."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Settings of a model server.

    Attributes:
        models: folder with NAME/VERSION/saved_model.pb, or a `models.config`.
        host: address to listen on; the real server always listens on all addresses.
        rest_port: port of the REST API; 0 = a free port (embedded server only).
        grpc_port: port of the gRPC API; 0 = a free port (embedded server only).
        embedded: whether to run the embedded server even if the real one is installed.
        batching: whether to batch requests of several clients.
        batching_config: a batching parameters file; None = batches of up to 32 rows.
        allow_reload: whether gRPC clients may replace the list of models (embedded server).
        allowed_hosts: host names that REST clients may use for the embedded server.
        max_body_mb: size limit of requests, in MiB (embedded server).
        max_answer_mb: size limit of responses, in MiB (embedded server).
        stop_timeout_secs: how long running requests may take after a stop (embedded server).
        checks_method_names: whether Classify and Regress require the matching `method_name`.
    """

    models: Path
    host: str
    rest_port: int
    grpc_port: int
    embedded: bool = False
    batching: bool = True
    batching_config: Path | None = None
    allow_reload: bool = False
    allowed_hosts: tuple[str, ...] = ()
    checks_method_names: bool = False
    max_body_mb: int = 4
    max_answer_mb: int = 64
    stop_timeout_secs: float = 30.0


def serve_models(settings: ServeSettings) -> None:
    """Serve models until interrupted, with the real server if it is installed and usable.

    Raises:
        InputError: no model exists, a file or flag cannot be used, or a port is in use.
    """
    from serving.server.batching import SERVE_DEFAULT
    from serving.server.config_files import read_batching_parameters
    from serving.server.limits import Limits
    from serving.server.main import serve

    options = SERVE_DEFAULT if settings.batching else None
    if settings.batching_config:
        options = read_batching_parameters(settings.batching_config)
    real_server = None if settings.embedded else shutil.which(REAL_SERVER)
    if real_server and settings.host == ALL_ADDRESSES:
        exec_real_server(real_server, settings)
    if real_server:
        notes.print(
            f"{real_server} is installed, but listens on all addresses, not on {settings.host}: "
            f"the embedded server runs instead; --host {ALL_ADDRESSES} runs the installed one.",
            soft_wrap=True,
        )
    limits = Limits(
        max_body_bytes=settings.max_body_mb * 2**20,
        max_answer_bytes=settings.max_answer_mb * 2**20,
        # A gRPC answer is held twice while it is serialized, and others want their share.
        max_bytes_in_flight=max(Limits.max_bytes_in_flight, 4 * settings.max_answer_mb * 2**20),
        stop_timeout_secs=settings.stop_timeout_secs,
        allow_reload=settings.allow_reload,
        checks_method_names=settings.checks_method_names,
    )
    serve(
        settings.models,
        settings.host,
        settings.rest_port,
        settings.grpc_port,
        options,
        settings.allowed_hosts,
        limits,
    )


def exec_real_server(program: str, settings: ServeSettings) -> None:
    """Replace this process by TensorFlow's model server, configured like the embedded one.

    Raises:
        InputError: no model exists, or a flag is supported by the embedded server only.
    """
    if settings.allowed_hosts:
        raise InputError(f"--allowed-hosts: {REAL_SERVER} does not check them; add --embedded")
    for flag, port in (("--rest-port", settings.rest_port), ("--grpc-port", settings.grpc_port)):
        if port == 0:  # would switch off the API in the real server
            raise InputError(
                f"{flag} 0: {REAL_SERVER} cannot choose a free port; give one or add --embedded"
            )
    models = settings.models
    config = models if models.is_file() else _temporary_file(_folder_config(models))
    monitoring = _temporary_file(MONITORING_CONFIG)
    notes.print(
        f"{program} serves {models} on all addresses: REST on port {settings.rest_port}, gRPC on "
        f"{settings.grpc_port}; --embedded runs the embedded server.",
        soft_wrap=True,
    )
    flags = [
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        # Without it, version labels make the first start fail.
        "--allow_version_labels_for_unavailable_models",
        f"--monitoring_config_file={monitoring}",
        f"--rest_api_port={settings.rest_port}",
        f"--port={settings.grpc_port}",
    ]
    if settings.batching:
        file = settings.batching_config or _temporary_file(_batching_parameters())
        flags += [
            "--enable_batching",
            f"--batching_parameters_file={file}",
            f"--rest_api_num_threads={REST_THREADS}",
        ]
    if settings.checks_method_names:
        flags.append("--enable_signature_method_name_check")
    os.execv(program, [REAL_SERVER, *flags])


def _batching_parameters() -> str:
    """Return a batching parameters file with the embedded server's defaults."""
    from serving.server.batching import SERVE_DEFAULT

    return f"""\
max_batch_size {{ value: {SERVE_DEFAULT.max_batch_size} }}
# Only large requests that may be split have a bound on what runs at a time.
enable_large_batch_splitting {{ value: true }}
max_execution_batch_size {{ value: {SERVE_DEFAULT.max_execution_batch_size} }}
batch_timeout_micros {{ value: {SERVE_DEFAULT.batch_timeout_micros} }}
max_enqueued_batches {{ value: {SERVE_DEFAULT.max_enqueued_batches} }}
num_batch_threads {{ value: {SERVE_DEFAULT.num_batch_threads} }}
"""


def _folder_config(models: Path) -> str:
    folders = sorted(models.iterdir()) if models.is_dir() else []
    names = [folder.name for folder in folders if _has_model(folder)]
    if not names:
        raise InputError(
            f"--models {models}: no NAME/VERSION/{SAVED_MODEL} in it; "
            f"make one with clozeline export --output {models}/NAME"
        )
    return models_config(models.resolve(), names)


def _has_model(model_path: Path) -> bool:
    return any((path / SAVED_MODEL).is_file() for path in versions_of(model_path).values())


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
