"""Start a model server: the real one where it is installed, else the embedded one."""

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.console import notes
from pipeline.errors import InputError

REAL_SERVER = "tensorflow_model_server"


def serve_models(
    models: Path, host: str, rest_port: int, grpc_port: int, *, embedded: bool
) -> None:
    """Serve every model of a folder until interrupted.

    Args:
        models: folder of NAME/VERSION/saved_model.pb.
        host: address to listen on; the real server knows only all of them.
        rest_port: of the REST API.
        grpc_port: of the gRPC API.
        embedded: run the embedded server in any case.

    Raises:
        InputError: no model there, or a port is taken.
    """
    real_server = None if embedded else shutil.which(REAL_SERVER)
    if real_server:
        exec_real_server(real_server, models, rest_port, grpc_port)
    from serving.server.main import serve

    serve(models, host, rest_port, grpc_port)


def exec_real_server(program: str, models: Path, rest_port: int, grpc_port: int) -> None:
    """Become TensorFlow's model server, configured for the models of a folder.

    Raises:
        InputError: no model there.
    """
    names = sorted({path.parts[-3] for path in models.glob("*/[0-9]*/saved_model.pb")})
    if not names:
        raise InputError(
            f"--models {models}: no NAME/VERSION/saved_model.pb in it; "
            f"make one with clozeline export --output {models}/NAME"
        )
    handle, config = tempfile.mkstemp(prefix="clozeline-models-", suffix=".config")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(models_config(models.resolve(), names))
    notes.print(
        f"{program} serves {', '.join(names)}: REST on port {rest_port}, gRPC on {grpc_port}. "
        "It listens on all addresses, whatever --host says; --embedded runs ours, which does not."
    )
    os.execv(
        program,
        [
            REAL_SERVER,
            f"--model_config_file={config}",
            f"--rest_api_port={rest_port}",
            f"--port={grpc_port}",
        ],
    )


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
