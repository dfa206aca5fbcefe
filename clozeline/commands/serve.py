"""`clozeline serve`: run a model server."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clozeline.commands.caching import CachingCommand
from clozeline.options import config_from
from pipeline.errors import InputError
from pipeline.storage.remote import is_remote
from serving.configs import ServeConfig
from serving.export.choices import (
    CALLER_THREAD,
    FROZEN_WEIGHTS,
    QUIET_GRPC,
    SYSTEM_ALLOCATOR,
    shared_cores,
)


@dataclass(frozen=True, kw_only=True)
class Serve(CachingCommand):
    """Serve every model in a folder with TensorFlow Serving's REST and gRPC API.

    Runs the embedded server; or `tensorflow_model_server` if it is installed and --host is 0.0.0.0,
    since it always listens on all addresses.
    """

    models: Path
    """Folder of models, NAME/VERSION/saved_model.pb; or a TensorFlow Serving `models.config`, which
    lists model folders, versions to serve, and version labels."""
    host: str = ServeConfig.host
    """Address to listen on; 0.0.0.0 opens the server to the network."""
    rest_port: int = ServeConfig.rest_port
    """Port of the REST API; 0 = any free port (embedded server)."""
    grpc_port: int = ServeConfig.grpc_port
    """Port of the gRPC API; 0 = any free port (embedded server)."""
    embedded: bool = ServeConfig.embedded
    """Use the embedded server even if `tensorflow_model_server` is installed."""
    batching: bool = ServeConfig.batching
    """Batch waiting requests, up to 32 rows; a single request never waits."""
    batching_config: Path | None = None
    """TensorFlow Serving batching parameters file, for other batching options."""
    frozen_weights: bool = False
    """Faster on CPUs: oneDNN caches a repacked copy of the weights, which doubles their memory. Not
    for models with a signature that assigns to its weights."""
    allow_reload: bool = ServeConfig.allow_reload
    """Allow gRPC clients to replace the embedded server's list of models (ReloadConfig). They can
    unload all models."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that REST clients may use for the embedded server, in addition to loopback names
    and --host. Default: none if --host is a loopback address, else all."""
    enable_signature_method_name_check: bool = ServeConfig.enable_signature_method_name_check
    """Refuse Classify and Regress requests unless the signature's method_name matches, like the
    TensorFlow Serving flag. Models of TensorFlow 2 always have the method_name of Predict."""
    max_body_mb: int = ServeConfig.max_body_mb
    """Size limit for requests to the embedded server after decompression, in MiB."""
    max_answer_mb: int = ServeConfig.max_answer_mb
    """Size limit for a response of the embedded server, in MiB: for its outputs and for their JSON.
    All responses in flight may take four times as much together, and at least 256."""
    stop_timeout_secs: float = ServeConfig.stop_timeout_secs
    """How long running requests of the embedded server may take after SIGTERM."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the environment needs before TensorFlow is imported."""
        frozen = FROZEN_WEIGHTS if self.frozen_weights else {}
        defaults = QUIET_GRPC | CALLER_THREAD | shared_cores()
        # What the user has set stays: someone may be looking for a fault in gRPC.
        users = {name: os.environ[name] for name in defaults if name in os.environ}
        return SYSTEM_ALLOCATOR | defaults | users | frozen

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a port that cannot be one, no host, or flags that contradict each other.
        """
        # With flags: in backquotes, `batching` would become --batching, which was not given.
        if self.batching_config and not self.batching:
            raise InputError("--no-batching and --batching-config contradict each other")
        self.configuration()

    def configuration(self) -> ServeConfig:
        """Return how models are served."""
        return config_from(self, ServeConfig)

    def before_tensorflow(self) -> None:
        """Become the real server if it may run: it has its own TensorFlow. Else look for models.

        Raises:
            InputError: no model there, or a file or a setting that cannot be used.
        """
        from serving.server.folders import read_models
        from serving.server.launch import become_real_server

        # In place of this process, so that signals and the exit code are the real server's.
        become_real_server(self.configuration())
        if not is_remote(self.models):
            read_models(self.models)

    def run(self) -> dict[str, Any]:
        """Serve until interrupted."""
        from serving.server.launch import serve_models

        serve_models(self.configuration())
        return {}
