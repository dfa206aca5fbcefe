"""Load one version of a model from its directory."""

import re
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that text models are made of)
from grpc import StatusCode
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from pipeline.storage.cache import CacheConfig
from pipeline.storage.files import without_glob
from pipeline.storage.local_copies import local_copy
from serving.server.folders import fingerprint
from serving.server.metrics import Metrics
from serving.server.runner import Runner
from serving.server.shared_functions import shared
from serving.server.signature_spec import ServableSignature, signature_from
from serving.server.status import ServingError, from_tensorflow
from serving.server.warmup_replay import warm_up
from serving.tf_serving import SAVED_MODEL

_SERVE_TAG = "serve"

_ADVICE = re.compile(r"\s*You may be trying to load on a different device.*", re.DOTALL)
"""What TensorFlow adds if a file is missing; it is about an option that programs have."""


@dataclass(frozen=True)
class Servable:
    """One loaded version of a model; freed when no request and no repository refers to it."""

    name: str
    version: int
    definitions: dict[str, meta_graph_pb2.SignatureDef]  # all signatures, for metadata
    signatures: dict[str, ServableSignature]  # the executable signatures
    root: Any  # result of tf.saved_model.load, which owns the variables
    files: object = None  # keeps the copies of a remote version: a graph may read its assets


Loader = Callable[[str, int, Path], Servable]


def saved_model_loader(
    runner: Runner, metrics: Metrics | None = None, caching: CacheConfig | None = None
) -> Loader:
    """Return a function that loads one version and runs its warm-up requests.

    The function raises ServingError if the version cannot be served. A remote version is fetched
    into the cache, where it stays while it is loaded.
    """
    metrics = metrics or Metrics()
    config = caching or CacheConfig()

    def load(name: str, version: int, path: Path) -> Servable:
        held = str(path)
        try:
            files = _Files(path, config)
            held = str(files.path)
            check_regular(files.local)
            servable = _load(name, version, files)
            warm_up(files.local, servable.signatures, runner)
        except Exception as error:  # TensorFlow raises many types for a broken SavedModel
            metrics.load(str(path), succeeded=False)
            if isinstance(error, ServingError):
                raise
            failed = from_tensorflow(error)
            message = failed.message.replace(held, str(path))
            raise ServingError(failed.code, _ADVICE.sub("", message)) from error
        metrics.load(str(path), succeeded=True)
        return replace(servable, files=files)

    return load


class _Files:
    """The files of a version, which are held until this object is freed.

    Attributes:
        local: local directory of the files.
        path: the same directory, for TensorFlow; the graph may read its assets there.
    """

    def __init__(self, path: Path, caching: CacheConfig) -> None:
        held = ExitStack()
        self.local = held.enter_context(local_copy(path, caching))
        self.path = held.enter_context(without_glob(self.local))
        weakref.finalize(self, held.close)


def loaded_once(load: Loader) -> Loader:
    """Return a loader that shares one loaded model between names with the same files."""
    loaded: weakref.WeakValueDictionary[object, Servable] = weakref.WeakValueDictionary()

    def load_or_share(name: str, version: int, path: Path) -> Servable:
        # The resolved path: two names may be links to one directory.
        key = version, path.resolve(), fingerprint(path)
        known = loaded.get(key)
        loaded[key] = servable = replace(known, name=name) if known else load(name, version, path)
        return servable

    return load_or_share


def _load(name: str, version: int, files: _Files) -> Servable:
    definitions = _definitions(files.local)
    root = tf.saved_model.load(str(files.path))
    signatures = {
        key: signature_from(key, definitions[key], function)
        for key, function in shared(root.signatures).items()
    }
    return Servable(name, version, definitions, signatures, root)


def _definitions(path: Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    saved = saved_model_pb2.SavedModel.FromString((path / SAVED_MODEL).read_bytes())
    for graph in saved.meta_graphs:
        if _SERVE_TAG in graph.meta_info_def.tags:
            return {name: _copied(each) for name, each in graph.signature_def.items()}
    message = f"Could not find meta graph def matching supplied tags: {{ {_SERVE_TAG} }}"
    raise ServingError(StatusCode.NOT_FOUND, message)


def _copied(definition: meta_graph_pb2.SignatureDef) -> meta_graph_pb2.SignatureDef:
    """Return a copy with memory of its own: a part of a message keeps the whole message alive."""
    return meta_graph_pb2.SignatureDef.FromString(definition.SerializeToString())


def check_regular(path: Path) -> None:
    """Refuse a version that contains FIFOs, sockets or devices: reading them may never end.

    Links to files and to directories directly below the version are followed.

    Raises:
        ServingError: FAILED_PRECONDITION: the first such file.
    """
    for file in sorted({*path.rglob("*"), *path.glob("*/*")}):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise ServingError(StatusCode.FAILED_PRECONDITION, f"{file}: not a regular file")
