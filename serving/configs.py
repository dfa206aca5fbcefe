"""The configuration of serving's functions, as plain data.

Fields stand in error messages under their names, so the front door's options have the same.
"""

from dataclasses import dataclass, field
from pathlib import Path

from model.run_config import Checkpoint
from model.served import MAX_SPANS
from pipeline.config_types import check_types
from pipeline.errors import InputError, check_range
from pipeline.storage.cache import CacheConfig
from pipeline.storage.encodings import check_unicode
from pipeline.storage.outputs import Output, outputs_of
from serving.addresses import checked_address
from serving.export.choices import MAX_WINDOWS, ServerVersion, ServingPrecision
from serving.tf_serving import GRPC_PORT, MAX_VERSION, REST_PORT, model_name, version_number


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a run is exported.

    Attributes:
        run_dir: the run: pretrained, tuned or imported.
        output: models/NAME; the version is the next free number in it.
        precision: dtype of stored weights and matrix multiplications.
        calibrate: texts to measure the ranges of an int8 model on, one per line; None = each row
            is quantized by its own largest number.
        check: labelled examples to compare the exported model's metrics with float32's on.
        max_loss: largest accepted loss of the task's first metric on `check`; None = any.
        tensor_parallel: number of parts of each layer, which a server's cores compute at the same
            time; a divisor of the model's heads and intermediate size. None = 2 if it is one, else
            1.
        checkpoint: `best` by evaluation, `last`; `auto`: the best if there is one.
        for_server: release of TensorFlow Serving that must know every operation.
        max_windows: most windows of a passage, or of a text whose words are tagged; the rest of a
            longer one is not read.
        caching: local copies of remote files.
    """

    run_dir: Path
    output: Path
    precision: ServingPrecision = "float32"
    calibrate: Path | None = None
    check: Path | None = None
    max_loss: float | None = None
    tensor_parallel: int | None = None
    checkpoint: Checkpoint = "auto"
    for_server: ServerVersion = "2.20"
    max_windows: int = MAX_WINDOWS
    caching: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field is out of range, or fields contradict each other.
        """
        check_types(self)
        check_range("max_windows", self.max_windows, 1, 10_000)
        if self.tensor_parallel is not None:
            check_range("tensor_parallel", self.tensor_parallel, 1, 64)
        if not model_name(self.output):
            raise InputError(f"`output` {self.output}: names no model; give a folder in it")
        if self.max_loss is not None:
            check_range("max_loss", self.max_loss, 0, 1e6)
            if not self.check:
                raise InputError("`max_loss`: has an effect only with `check`")
        if self.calibrate and self.precision != "int8":
            raise InputError("`calibrate`: has an effect only with `precision` int8")

    @property
    def outputs(self) -> list[Output]:
        """The directory that is written."""
        return outputs_of("folder", output=self.output)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
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
        enable_signature_method_name_check: whether Classify and Regress require the matching
            `method_name`.
        caching: local copies of the versions in remote storage (embedded server).
    """

    models: Path
    host: str = "127.0.0.1"
    rest_port: int = REST_PORT
    grpc_port: int = GRPC_PORT
    embedded: bool = False
    batching: bool = True
    batching_config: Path | None = None
    allow_reload: bool = False
    allowed_hosts: tuple[str, ...] = ()
    enable_signature_method_name_check: bool = False
    max_body_mb: int = 4
    max_answer_mb: int = 64
    stop_timeout_secs: float = 30.0
    caching: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a port that cannot be one, no host, or fields that contradict each other.
        """
        check_types(self)
        if not self.host:
            raise InputError("`host`: expected an address; 0.0.0.0 means all of them")
        if self.batching_config and not self.batching:
            raise InputError("`batching_config`: has no effect without `batching`")
        check_range("rest_port", self.rest_port, 0, 65535)
        check_range("grpc_port", self.grpc_port, 0, 65535)
        check_range("max_body_mb", self.max_body_mb, 1, 64)
        # protobuf messages have at most 2 GiB.
        check_range("max_answer_mb", self.max_answer_mb, 1, 1024)
        check_range("stop_timeout_secs", self.stop_timeout_secs, 0, 3600)


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """A question to a running server.

    Attributes:
        text: one text, or two for what takes a pair.
        model: name of the model.
        server: HOST:PORT of the REST port, or of the gRPC port if `grpc` is set; None = this
            machine's, with the default port.
        grpc: ask over gRPC.
        signature: signature to run; "" = the one that fits the texts.
        version: number or label of the version; None = the newest.
        n_best: number of answers to return, 1 to 50, by models tuned for spans; None = the best.
        dimension: number of components of the vector, from 1 to the model's hidden size, by models
            tuned for vectors; None = all.
        passages: file with a passage per line, to be ranked by their relevance to the text; None =
            ask about the text.
    """

    text: tuple[str, ...]
    model: str
    server: str | None = None
    grpc: bool = False
    signature: str = ""
    version: str | None = None
    n_best: int | None = None
    dimension: int | None = None
    passages: Path | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: no text, more than two, or one that is not UTF-8; an address, a name or a
                version that cannot be one.
        """
        check_types(self)
        if self.n_best is not None:
            check_range("n_best", self.n_best, 1, MAX_SPANS)
        if self.dimension is not None:
            check_range("dimension", self.dimension, 1, 2**31 - 1)  # the signature takes int32
            if self.n_best is not None:
                raise InputError("`n_best` and `dimension`: no signature takes both")
        if self.server is not None:
            checked_address("`server`", self.server)
        if not 1 <= len(self.text) <= 2:
            raise InputError(f"`text`: expected one or two texts, got {len(self.text)}")
        check_unicode("text", self.text)
        if self.passages:
            if len(self.text) > 1 or self.signature:
                raise InputError("`passages`: takes one text, and no `signature`")
            for number in ("n_best", "dimension"):
                if getattr(self, number) is not None:
                    raise InputError(f"`{number}`: has no effect on the ranking of `passages`")
        for given, name in (("`model`", self.model), ("`version`", self.version)):
            if name is not None and not (name and name.isprintable()):
                raise InputError(f"{given} {name!a}: expected a name")
        version = self.version or ""
        # Digits alone are a number: one that is too large is an error, and not a label.
        is_number = version.isascii() and version.isdigit()
        if is_number and version_number(version) is None:
            raise InputError(f"`version` {self.version}: must be at most {MAX_VERSION}")

    @property
    def address(self) -> str:
        """HOST:PORT to ask at."""
        return self.server or f"127.0.0.1:{GRPC_PORT if self.grpc else REST_PORT}"

    @property
    def wanted_version(self) -> int | str | None:
        """Number or label of the version; None = the newest."""
        number = version_number(self.version) if self.version else None
        return self.version if number is None else number
