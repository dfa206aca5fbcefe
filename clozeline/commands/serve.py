"""`clozeline serve`: a model server."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clozeline.options import Command
from pipeline.errors import InputError, check_range
from serving.export.choices import FROZEN_WEIGHTS, QUIET_GRPC, SYSTEM_ALLOCATOR
from serving.tf_serving import GRPC_PORT, REST_PORT


@dataclass(frozen=True, kw_only=True)
class Serve(Command):
    """Answer TensorFlow Serving's REST and gRPC API for every model of a folder.

    Runs the embedded server; or `tensorflow_model_server` if it is installed and --host is 0.0.0.0,
    because it listens on all addresses.
    """

    models: Path
    """Folder of models, NAME/VERSION/saved_model.pb; or a `models.config` of TensorFlow Serving,
    which names folders, which versions are served, and labels of versions."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the server to the network."""
    rest_port: int = REST_PORT
    """Port of the REST API; 0 takes a free one (embedded server)."""
    grpc_port: int = GRPC_PORT
    """Port of the gRPC API; 0 takes a free one (embedded server)."""
    embedded: bool = False
    """Run the embedded server even where `tensorflow_model_server` is installed."""
    batching: bool = True
    """Run requests that wait together, up to 32 rows at a time; a lone request does not wait."""
    batching_config: Path | None = None
    """Batching parameters file of TensorFlow Serving, for other bounds."""
    frozen_weights: bool = False
    """Answer faster on a CPU, for memory of the weights' size once more. Not for models of which a
    signature assigns to its weights."""
    allow_reload: bool = False
    """Let gRPC clients of the embedded server replace its list of models (ReloadConfig). They can
    unload every model."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that REST clients may use for the embedded server, besides loopback names and
    --host. Default: on a loopback address no others, else all."""
    enable_signature_method_name_check: bool = False
    """Refuse Classify and Regress requests unless the signature's method_name is for them, as the
    flag of TensorFlow Serving. Models of TensorFlow 2 always say that they are for Predict."""
    max_body_mb: int = 4
    """Largest request that the embedded server takes, in MiB, after decompression."""
    stop_timeout_secs: float = 30.0
    """On SIGTERM, running requests of the embedded server get this long to end."""

    @property
    def environment(self) -> dict[str, str]:
        """What the process's environment is to have before TensorFlow is imported."""
        frozen = FROZEN_WEIGHTS if self.frozen_weights else {}
        users = {name: os.environ[name] for name in QUIET_GRPC if name in os.environ}
        return SYSTEM_ALLOCATOR | QUIET_GRPC | users | frozen

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a port that cannot be one, no host, or flags that contradict each other.
        """
        if not self.host:
            raise InputError("--host: expected an address; 0.0.0.0 means all of them")
        if self.batching_config and not self.batching:
            raise InputError("--no-batching and --batching-config contradict each other")
        check_range("rest_port", self.rest_port, 0, 65535)
        check_range("grpc_port", self.grpc_port, 0, 65535)
        check_range("max_body_mb", self.max_body_mb, 1, 64)
        check_range("stop_timeout_secs", self.stop_timeout_secs, 0, 3600)

    def run(self) -> dict[str, Any]:
        """Serve until interrupted."""
        from serving.server.launch import ServeSettings, serve_models

        settings = ServeSettings(
            models=self.models,
            host=self.host,
            rest_port=self.rest_port,
            grpc_port=self.grpc_port,
            embedded=self.embedded,
            batching=self.batching,
            batching_config=self.batching_config,
            allow_reload=self.allow_reload,
            allowed_hosts=self.allowed_hosts,
            checks_method_names=self.enable_signature_method_name_check,
            max_body_mb=self.max_body_mb,
            stop_timeout_secs=self.stop_timeout_secs,
        )
        serve_models(settings)
        return {}
