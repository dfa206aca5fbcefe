"""Start a model server: TensorFlow Serving if it is installed, else the embedded server."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError, JobError, is_bad_path
from serving.addresses import joined
from serving.configs import ServeConfig
from serving.tf_serving import MONITORING_CONFIG, SAVED_MODEL, versions_of

if TYPE_CHECKING:
    from serving.server.batching_options import BatchingOptions
    from serving.server.limits import Limits

_log = logging.getLogger(__name__)

REAL_SERVER = "tensorflow_model_server"
ALL_ADDRESSES = "0.0.0.0"
"""The only `host` for which the real server is used: it always listens on all addresses."""

REST_THREADS = 32
"""Number of threads for the real server's REST API. Each thread waits for one response, so the
default of 4 per core limits a batch to 8 rows on 2 cores; 32 threads can fill a batch of 32."""


_OF_THE_PROGRAM = {errno.ENOEXEC, errno.ELIBBAD, errno.ETXTBSY}
"""Error numbers of `execv` caused by the program: it is for another architecture, or is written."""


@dataclass(frozen=True)
class Addresses:
    """Where a running server answers, each as HOST:PORT."""

    rest: str
    grpc: str


def become_real_server(config: ServeConfig) -> None:
    """Replace this process by the real server if it is installed and may run; else return.

    Raises:
        InputError: no model there, or a file or a setting that cannot be used.
    """
    real_server = _installed_server(config)
    if real_server and config.host == ALL_ADDRESSES:
        _batching_options(config)  # a wrong file is found here, too
        exec_real_server(real_server, config)


def serve_models(config: ServeConfig) -> None:
    """Serve models until interrupted, by the real server if it is installed and may run.

    Raises:
        InputError: no model there, a file or a setting that cannot be used, or a port is taken.
    """
    become_real_server(config)
    from serving.server.main import serve

    real_server = _installed_server(config)
    if real_server:
        _log.info(
            "%s is installed, but listens on all addresses, not on %s: the embedded server runs "
            "instead; `host` %s runs the installed one.",
            real_server,
            config.host,
            ALL_ADDRESSES,
        )
    serve(
        config.models,
        config.host,
        config.rest_port,
        config.grpc_port,
        _batching_options(config),
        config.allowed_hosts,
        _limits(config),
        config.caching,
    )


def _installed_server(config: ServeConfig) -> str | None:
    """Return the path of the real server, unless the embedded one is requested."""
    return None if config.embedded else shutil.which(REAL_SERVER)


@contextlib.contextmanager
def serving_models(config: ServeConfig) -> Iterator[Addresses]:
    """Serve models in this process while the context lasts, with the embedded server.

    Requests that are running at its end may finish within `stop_timeout_secs`.

    Raises:
        InputError: no model there, a file or a setting that cannot be used, or a port is taken.
    """
    from serving.server.main import ModelServer

    server = ModelServer(
        config.models,
        config.host,
        config.rest_port,
        config.grpc_port,
        _limits(config),
        _batching_options(config),
        config.allowed_hosts,
        config.caching,
    )
    server.start()
    try:
        yield Addresses(
            joined(config.host, server.rest_port), joined(config.host, server.grpc_port)
        )
    finally:
        server.stop()


def _batching_options(config: ServeConfig) -> "BatchingOptions | None":
    """Return how requests are run together; None: not at all.

    Raises:
        InputError: the batching parameters file cannot be used.
    """
    from serving.server.batching_options import SERVE_DEFAULT
    from serving.server.config_files import read_batching_parameters

    if config.batching_config:
        return read_batching_parameters(config.batching_config)
    return SERVE_DEFAULT if config.batching else None


def _limits(config: ServeConfig) -> "Limits":
    from serving.server.limits import Limits

    return Limits(
        max_body_bytes=config.max_body_mb * 2**20,
        max_answer_bytes=config.max_answer_mb * 2**20,
        # A gRPC answer is held twice while it is serialized, and others want their share.
        max_bytes_in_flight=max(Limits.max_bytes_in_flight, 4 * config.max_answer_mb * 2**20),
        stop_timeout_secs=config.stop_timeout_secs,
        allow_reload=config.allow_reload,
        checks_method_names=config.enable_signature_method_name_check,
    )


def exec_real_server(program: str, config: ServeConfig) -> None:
    """Replace this process by TensorFlow's model server, configured like the embedded one.

    Raises:
        InputError: no model exists, a setting is supported by the embedded server only, or the
            program cannot be run.
        JobError: the machine cannot run it, for example for lack of memory.
    """
    if config.allowed_hosts:
        raise InputError(f"`allowed_hosts`: {REAL_SERVER} does not check them; add `embedded`")
    for field, port in (("`rest_port`", config.rest_port), ("`grpc_port`", config.grpc_port)):
        if port == 0:  # would switch off the API in the real server
            raise InputError(
                f"{field} 0: {REAL_SERVER} cannot choose a free port; give one or add `embedded`"
            )
    models = config.models
    models_file = models if models.is_file() else _file_in_memory(_folder_config(models))
    monitoring = _file_in_memory(MONITORING_CONFIG)
    _log.info(
        "%s serves %s on all addresses: REST on port %s, gRPC on %s; `embedded` runs the embedded "
        "server.",
        program,
        models,
        config.rest_port,
        config.grpc_port,
    )
    flags = [
        f"--model_config_file={models_file}",
        "--model_config_file_poll_wait_seconds=1",
        # Without it, version labels make the first start fail.
        "--allow_version_labels_for_unavailable_models",
        f"--monitoring_config_file={monitoring}",
        f"--rest_api_port={config.rest_port}",
        f"--port={config.grpc_port}",
    ]
    if config.batching:
        file = config.batching_config or _file_in_memory(_default_batching())
        flags += [
            "--enable_batching",
            f"--batching_parameters_file={file}",
            f"--rest_api_num_threads={REST_THREADS}",
        ]
    if config.enable_signature_method_name_check:
        flags.append("--enable_signature_method_name_check")
    try:
        os.execv(program, [REAL_SERVER, *flags])
    except OSError as error:
        if error.errno in _OF_THE_PROGRAM or is_bad_path(error):
            then = "; repair it, take it off the PATH, or add `embedded`"
            raise InputError(f"{program}: cannot be run ({error.strerror}){then}") from error
        raise JobError(f"{program}: cannot be run ({error.strerror})") from error


def _default_batching() -> str:
    """Return a batching parameters file with the embedded server's defaults."""
    from serving.server.batching_options import SERVE_DEFAULT
    from serving.server.config_files import batching_parameters_text

    return batching_parameters_text(SERVE_DEFAULT)


def _folder_config(models: Path) -> str:
    folders = sorted(models.iterdir()) if models.is_dir() else []
    names = [folder.name for folder in folders if _has_model(folder)]
    if not names:
        raise InputError(
            f"`models` {models}: no NAME/VERSION/{SAVED_MODEL} in it; "
            f"make one with clozeline export `output` {models / 'NAME'}"
        )
    return models_config(models.resolve(), names)


def _has_model(model_path: Path) -> bool:
    return any((path / SAVED_MODEL).is_file() for path in versions_of(model_path).values())


def _file_in_memory(text: str) -> str:
    """Return the path of a file that exists as long as this process, whatever program it runs."""
    descriptor = os.memfd_create("clozeline", 0)  # no flag: `execv` does not close it
    with os.fdopen(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
    # Not /proc/self: processes that the program starts can read it, too.
    return f"/proc/{os.getpid()}/fd/{descriptor}"


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
