"""TensorFlow Serving's own configuration files, in protocol buffers' text format.

`models.config` names models, their folders, which versions are served and the labels of versions;
a batching parameters file says how requests are batched.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,  # noqa: F401  (the types of most batching parameters)
)
from tensorflow_serving.config import model_server_config_pb2

from pipeline.errors import InputError, failure, reason, unreadable
from pipeline.storage.encodings import decoded
from pipeline.storage.remote import is_remote, is_url, path_from
from serving.server.batching_options import BatchingOptions

_MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are served: TensorFlow Serving's `ServableVersionPolicy`."""

    latest: int | None = 1  # number of newest versions; None = all, or those in `specific`
    specific: frozenset[int] = frozenset()

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Return the versions to serve, oldest first."""
        available = sorted(versions)
        if self.specific:
            return [version for version in available if version in self.specific]
        return available if self.latest is None else available[-self.latest :]


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve."""

    name: str
    base_path: Path  # contains VERSION/saved_model.pb
    policy: VersionPolicy = VersionPolicy()
    labels: dict[str, int] = field(default_factory=dict)  # version by label


def read_models_config(path: Path) -> list[ModelConfig]:
    """Return the models that a `models.config` names.

    Raises:
        InputError: the file cannot be read, does not parse or contradicts itself.
    """
    config = model_server_config_pb2.ModelServerConfig()
    _parse(path, config, "ModelServerConfig")
    try:
        return models_from_proto(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def models_from_proto(config: model_server_config_pb2.ModelServerConfig) -> list[ModelConfig]:
    """Return the models of a configuration message.

    Raises:
        InputError: it is invalid; in TensorFlow Serving's wording if it has one.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise InputError(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported"
        )
    models = [_model(model) for model in config.model_config_list.config]
    for name, count in Counter(model.name for model in models).items():
        if count > 1:
            raise InputError(f"Illegal to list model {name} multiple times in config list")
    return models


def _model(model: Any) -> ModelConfig:
    if not model.name or "/" in model.name:
        raise InputError(f"name: expected one for every model, without a slash; got {model.name!r}")
    if not (is_url(model.base_path) or Path(model.base_path).is_absolute()):
        raise InputError(
            f"Expected model {model.name} to have an absolute path or URI; "
            f"got base_path()={model.base_path}"
        )
    try:
        base_path = path_from(model.base_path)
        if not is_remote(base_path):
            # Not `resolve`, which ignores a cycle of links since Python 3.13.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it may appear later
                base_path.stat()
    except OSError as error:  # name too long, link cycle
        raise failure(f"model {model.name}: base_path", error) from error
    except InputError as error:
        raise InputError(f"model {model.name}: base_path: {reason(error)}") from error
    return ModelConfig(
        model.name,
        base_path,
        _policy(model.model_version_policy),
        dict(model.version_labels),
    )


def _policy(policy: Any) -> VersionPolicy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(latest=None)
    if choice == "specific":
        if not policy.specific.versions:
            raise InputError("specific { }: expected versions in it")
        return VersionPolicy(latest=None, specific=frozenset(policy.specific.versions))
    return VersionPolicy(latest=policy.latest.num_versions or 1)


def read_batching_parameters(path: Path) -> BatchingOptions:
    """Read a batching parameters file; missing fields have TensorFlow Serving's defaults.

    Raises:
        InputError: the file cannot be read, does not parse, or a number is out of range.
    """
    message = _BATCHING_PARAMETERS()
    _parse(path, message, "BatchingParameters")
    options: dict[str, Any] = {}
    for described, value in message.ListFields():
        if described.is_repeated:
            options[described.name] = tuple(value)
        else:
            options[described.name] = getattr(value, "value", value)
    try:
        return BatchingOptions(**options)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def batching_parameters_text(options: BatchingOptions) -> str:
    """Return a batching parameters file: the options that TensorFlow Serving has, too."""
    message = _BATCHING_PARAMETERS()
    for described in message.DESCRIPTOR.fields:
        value = getattr(options, described.name)
        if value is None:
            continue
        if described.is_repeated:
            getattr(message, described.name).extend(value)
        elif described.message_type:
            getattr(message, described.name).value = value
        else:
            setattr(message, described.name, value)
    return text_format.MessageToString(message)


def _parse(path: Path, message: Any, kind: str) -> None:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
        if len(text) > _MAX_FILE_BYTES:
            raise InputError(f"{path}: larger than {_MAX_FILE_BYTES} bytes; is it a {kind}?")
        # As text: for bytes, it gives no reason.
        text_format.Parse(decoded(text, str(path)), message)
    except OSError as error:
        raise unreadable(path, error) from error
    except text_format.ParseError as error:
        raise InputError(f"{path}: not a {kind} in text format: {reason(error)}") from error


def _batching_parameters() -> Any:
    """Return the message class, with the fields of session_bundle_config.proto.

    No package brings it. Code that protoc generates would have to be made again for each release of
    protobuf, which refuses to run older code.
    """
    wrapped = ".google.protobuf.{}Value"
    fields: list[tuple[str, str | None]] = [
        ("max_batch_size", wrapped.format("Int64")),
        ("batch_timeout_micros", wrapped.format("Int64")),
        ("max_enqueued_batches", wrapped.format("Int64")),
        ("num_batch_threads", wrapped.format("Int64")),
        ("thread_pool_name", wrapped.format("String")),
        ("allowed_batch_sizes", None),
        ("pad_variable_length_inputs", None),
        ("max_execution_batch_size", wrapped.format("Int64")),
        ("enable_large_batch_splitting", wrapped.format("Bool")),
    ]
    file = descriptor_pb2.FileDescriptorProto(
        name="clozeline/batching_parameters.proto",
        package="clozeline.serving",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    message = file.message_type.add(name="BatchingParameters")
    kind = descriptor_pb2.FieldDescriptorProto
    for number, (name, type_name) in enumerate(fields, start=1):
        added = message.field.add(name=name, number=number, label=kind.LABEL_OPTIONAL)
        if type_name:
            added.type, added.type_name = kind.TYPE_MESSAGE, type_name
        elif name == "allowed_batch_sizes":
            added.type, added.label = kind.TYPE_INT64, kind.LABEL_REPEATED
        else:
            added.type = kind.TYPE_BOOL
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("clozeline.serving.BatchingParameters")
    )


_BATCHING_PARAMETERS = _batching_parameters()
