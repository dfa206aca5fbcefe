"""The flags of this room's commands; the work is imported when they run."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from model.run_config import Checkpoint
from pipeline.commands import Command, InputGlobs, check_range
from pipeline.errors import InputError
from serving.addresses import checked_address
from serving.export.choices import (
    FROZEN_WEIGHTS,
    QUIET_GRPC,
    SYSTEM_ALLOCATOR,
    ServerVersion,
    ServingPrecision,
)
from serving.tf_serving import GRPC_PORT, MAX_VERSION, REST_PORT, version_number


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Save a trained run as a SavedModel that takes raw strings, for a model server."""

    # The front door calls options.run(), so the field has another name than its flag.
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """The run to export."""
    output: Path
    """Where the model goes: models/NAME. The version is the next free number in it."""
    precision: ServingPrecision = "float32"
    """What weights are stored and multiplied in: bfloat16 is half as large, and faster on a CPU
    with units for it."""
    checkpoint: Checkpoint = "auto"
    """The best by evaluation, the last; auto: the best where there is one."""
    for_server: ServerVersion = "2.20"
    """Release of TensorFlow Serving that must know every operation of the model."""

    def run(self) -> dict[str, Any]:
        """Export; return where the version is and what it answers."""
        from model.run import load_run
        from pipeline.console import results
        from serving.export.export import export_run

        exported = export_run(
            load_run(self.run_dir),
            self.output,
            precision=self.precision,
            checkpoint=self.checkpoint,
            server=self.for_server,
        )
        path = exported.path
        size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        difference = exported.largest_difference
        results.print(
            f"{path}: exported, {size_bytes / 1e6:.1f} MB; answers differ from the Python model's "
            f"by at most {difference:.1g}"
        )
        results.print(f"serve it:  clozeline serve --models {self.output.parent}")
        return {
            "model": str(path),
            "version": int(path.name),
            "size_bytes": size_bytes,
            "signatures": list(exported.signatures),
            "largest_difference": difference,
        }


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
        check_range("--rest-port", self.rest_port, 0, 65535)
        check_range("--grpc-port", self.grpc_port, 0, 65535)
        check_range("--max-body-mb", self.max_body_mb, 1, 64)
        check_range("--stop-timeout-secs", self.stop_timeout_secs, 0, 3600)

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


@dataclass(frozen=True, kw_only=True)
class Query(Command):
    """Ask a running server.

    A text with [MASK] is filled in; other texts get what the model was tuned for, or else two are
    scored as neighbours and one is embedded.
    """

    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """One text, or two for what takes a pair."""
    model: str
    """Name of the model: its folder's."""
    server: str | None = None
    """HOST:PORT of the server: the REST port, or with --grpc the gRPC port. Default: 127.0.0.1 and
    the port that `serve` takes by default."""
    grpc: bool = False
    """Ask over gRPC."""
    signature: str = ""
    """What to ask for, such as attention or tokenize, instead of what fits the texts."""
    version: str | None = None
    """Version to ask, by number or by label such as canary; the newest by default."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: no text, or more than two; an address, a name or a version that cannot be
                one.
        """
        if self.server is not None:
            checked_address("--server", self.server)
        if not 1 <= len(self.text) <= 2:
            raise InputError(f"TEXT: expected one or two texts, got {len(self.text)}")
        for flag, name in (("--model", self.model), ("--version", self.version)):
            if name is not None and not (name and name.isprintable()):
                raise InputError(f"{flag} {name!a}: expected a name")
        version = self.version or ""
        is_number = version.isascii() and version.isdigit()
        if is_number and version_number(version) is None:
            raise InputError(f"--version {self.version}: must be at most {MAX_VERSION}")

    def run(self) -> dict[str, Any]:
        """Ask and show the answer."""
        from pipeline.console import results
        from serving.client.answers import ask, show

        server = self.server or f"127.0.0.1:{GRPC_PORT if self.grpc else REST_PORT}"
        version = self.version
        number = version_number(version) if version else None
        answer = ask(
            server,
            self.model,
            self.text,
            over_grpc=self.grpc,
            signature=self.signature,
            version=version if number is None else number,
        )
        results.print(show(self.text, answer))
        return answer


@dataclass(frozen=True, kw_only=True)
class Explain(Command):
    """Show what a run's model computes for a text, and which words its answers come from.

    The worked example step by step, attention, rollout, and attribution by integrated gradients.
    """

    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """One text, or two that the model reads together. [MASK] stands for a word to fill in."""
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = field(metadata={"flag": "run"})
    """The run to look into."""
    output: Path | None = None
    """File to write: a page (.html) that opens without a network, or a picture (.png)."""
    layer: int = 1
    """Layer of the worked example, from 1."""
    head: int = 1
    """Head of the worked example, from 1."""
    position: int | None = None
    """Which piece to ask for, [CLS] being 0, where the text has no [MASK]. Default: the last."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: no text, more than two, or a file of another kind.
        """
        if not 1 <= len(self.text) <= 2:
            raise InputError(f"TEXT: expected one or two texts, got {len(self.text)}")
        if self.output and self.output.suffix not in (".html", ".png"):
            raise InputError(f"--output {self.output}: must end in .html or .png")

    def run(self) -> dict[str, Any]:
        """Explain, show, and write the file."""
        from clozeline.explain import explain_texts

        return explain_texts(self)


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Run the whole line: text, vocabulary, records, a trained BERT, a model server that answers.

    The text is the docstrings of the Python packages on this machine, unless --corpus names other.
    """

    corpus: InputGlobs = ()
    """Text files to use instead, one document a file."""
    output: Path = Path("demo")
    """Folder for everything the demo makes; what an earlier demo made there is replaced."""
    megabytes: float = 5.0
    """Docstrings to collect."""
    vocab_size: int = 8000
    """Pieces of the vocabulary."""
    steps: int = 3200
    """Training steps."""
    check_learning: bool = True
    """Fail if the model did not learn; a run of a few steps cannot."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: a flag is out of range.
        """
        if self.corpus:
            self.refuse_given("--corpus brings its own text; leave one of the two out", "megabytes")
        check_range("--megabytes", self.megabytes, 0.1, 1000)
        check_range("--vocab-size", self.vocab_size, 100, 1_000_000)
        check_range("--steps", self.steps, 1, 10**9)

    def run(self) -> dict[str, Any]:
        """Run every stage as the command a person would type, then ask the server."""
        from clozeline.demo import run_demo

        return run_demo(self)
