"""The models under one directory: the newest version of NAME/VERSION/saved_model.pb is served."""

import gc
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that text models are made of)
from grpc import StatusCode
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from pipeline.console import notes
from pipeline.errors import InputError
from serving.server.predict import Runner, Signature, signature_from
from serving.server.status import ServingError, from_tensorflow, invalid
from serving.server.warmup import warm_up

SAVED_MODEL = "saved_model.pb"
_SERVE_TAG = "serve"


@dataclass(frozen=True)
class Servable:
    """One loaded version of a model. It lives as long as a request or the repository holds it."""

    name: str
    version: int
    definitions: dict[str, meta_graph_pb2.SignatureDef]  # all of them, for metadata
    signatures: dict[str, Signature]  # those that can be run
    root: Any  # what tf.saved_model.load returned: it owns the variables


@dataclass(frozen=True)
class VersionStatus:
    """What is known about one version, in TensorFlow Serving's terms."""

    version: int
    state: str  # "LOADING", "AVAILABLE" or "END" (unloaded, or failed to load: see code)
    code: StatusCode = StatusCode.OK
    message: str = ""


Loader = Callable[[str, int, Path], Servable]


def saved_model_loader(runner: Runner, max_elements: int) -> Loader:
    """Return the function that loads one version and runs its warm-up requests.

    The function raises ServingError when the version cannot be served.
    """

    def load(name: str, version: int, path: Path) -> Servable:
        try:
            definitions = _definitions(path)
            root = tf.saved_model.load(str(path))
            signatures = {
                key: signature_from(key, definitions[key], function)
                for key, function in root.signatures.items()
            }
            warm_up(path, signatures, runner, max_elements)
        except ServingError:
            raise
        except Exception as error:  # whatever a broken directory provokes in TensorFlow
            raise from_tensorflow(error) from error
        return Servable(name, version, definitions, signatures, root)

    return load


def _definitions(path: Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    saved = saved_model_pb2.SavedModel.FromString((path / SAVED_MODEL).read_bytes())
    for graph in saved.meta_graphs:
        if _SERVE_TAG in graph.meta_info_def.tags:
            return dict(graph.signature_def)
    message = f"Could not find meta graph def matching supplied tags: {{ {_SERVE_TAG} }}"
    raise ServingError(StatusCode.NOT_FOUND, message)


def versions_of(model_dir: Path) -> dict[int, Path]:
    """Return the version directories of a model: those with a whole number for a name."""
    return {
        int(child.name): child
        for child in model_dir.iterdir()
        if re.fullmatch("[0-9]{1,18}", child.name) and child.is_dir()
    }


def model_dirs(base: Path) -> list[Path]:
    """Return the directories under `base` that have at least one version.

    Raises:
        InputError: `base` is no directory or has no model in it.
    """
    expected = f"expected {base}/NAME/VERSION/{SAVED_MODEL}; clozeline export writes it"
    if not base.is_dir():
        raise InputError(f"{base}: no such directory ({expected})")
    if any((path / SAVED_MODEL).is_file() for path in versions_of(base).values()):
        raise InputError(f"{base}: this is one model; give the directory above, {base.parent}")
    children = sorted(path for path in base.iterdir() if path.is_dir())
    found = [path for path in children if versions_of(path) and not path.name.startswith(".")]
    if found:
        return found
    names = "".join(f"; {path} has no numeric version" for path in versionless_dirs(base)[:1])
    raise InputError(f"{base}: no model in it{names} ({expected})")


def versionless_dirs(base: Path) -> list[Path]:
    """Return the directories under `base` that look like models without a version."""
    return [
        path
        for path in sorted(base.iterdir())
        if path.is_dir() and not path.name.startswith(".") and not versions_of(path)
    ]


class _Model:
    """One name: the version that is served and what became of the others."""

    def __init__(self, directory: Path, load: Loader) -> None:
        self.directory = directory
        self.serving: Servable | None = None
        self.statuses: dict[int, VersionStatus] = {}
        self._load = load
        self._failed: tuple[int, object] | None = None  # version and what its files were like

    def update(self) -> VersionStatus | None:
        """Serve the newest version on disk; if it cannot be loaded, the present one stays.

        A version that failed is tried again once its files change: they may have been on their way
        still.

        Returns:
            The status of the version that was tried and failed, if one was.
        """
        versions = versions_of(self.directory) if self.directory.is_dir() else {}
        if not versions:
            return None
        newest = max(versions)
        if self.serving and self.serving.version == newest:
            return None
        attempt = (newest, _fingerprint(versions[newest]))
        if attempt == self._failed:
            return None
        self._note(VersionStatus(newest, "LOADING"))
        try:
            servable = self._load(self.directory.name, newest, versions[newest])
        except ServingError as error:
            self._failed = attempt
            status = VersionStatus(newest, "END", error.code, error.message)
            self._note(status)
            return status
        self._serve(servable)
        return None

    def _serve(self, servable: Servable) -> None:
        before, self.serving = self.serving, servable
        self._note(VersionStatus(servable.version, "AVAILABLE"))
        if before:
            self._note(VersionStatus(before.version, "END"))

    def _note(self, status: VersionStatus) -> None:
        # Replaced, never changed: requests read it from other threads.
        self.statuses = {**self.statuses, status.version: status}


def _fingerprint(path: Path) -> object:
    """Return something that differs once a file below `path` has changed."""
    stats = ((file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file())
    return [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]


class Repository:
    """Finds, loads, replaces and hands out models. Requests may ask from any thread."""

    def __init__(self, base: Path, load: Loader) -> None:
        self._base = base
        self._load = load
        self._models: dict[str, _Model] = {}
        self._stopping = threading.Event()
        self._poller: threading.Thread | None = None

    def load_all(self) -> list[Servable]:
        """Load the newest version of every model.

        Raises:
            InputError: there is no model, or one cannot be loaded.
        """
        served = []
        for directory in model_dirs(self._base):
            model = _Model(directory, self._load)
            failed = model.update()
            if failed:
                reason = " ".join(failed.message.split())
                version_dir = directory / str(failed.version)
                raise InputError(f"{version_dir}: cannot be loaded ({reason}); export it again")
            self._models[directory.name] = model
            if model.serving:
                served.append(model.serving)
        for directory in versionless_dirs(self._base):
            notes.out(f"{directory}: skipped, it has no numeric version")
        return served

    def poll(self) -> None:
        """Look once for new models and new versions."""
        try:
            for directory in model_dirs(self._base):
                if directory.name not in self._models:
                    self._models = {
                        **self._models,
                        directory.name: _Model(directory, self._load),
                    }
        except InputError:
            return  # all directories are gone: what is loaded stays
        for name, model in self._models.items():
            before = model.serving.version if model.serving else None
            failed = model.update()
            if failed:
                notes.out(f"{name} version {failed.version} cannot be loaded: {failed.message}")
            elif model.serving and model.serving.version != before:
                notes.out(f"{name} version {model.serving.version} is served now")
                gc.collect()  # a loaded model holds itself in circles, and memory with them

    def start_polling(self, interval_secs: float) -> None:
        """Poll in a thread of its own until `stop_polling`."""

        def work() -> None:
            while not self._stopping.wait(interval_secs):
                try:
                    self.poll()
                except OSError as error:  # a directory went away under our eyes; look again later
                    notes.out(f"looking for new versions: {error}")

        self._poller = threading.Thread(target=work, name="model-poller", daemon=True)
        self._poller.start()

    def stop_polling(self) -> None:
        """End the polling thread; a load in progress is finished first."""
        self._stopping.set()
        if self._poller:
            self._poller.join()

    def find(self, name: str, version: int | None = None, label: str = "") -> Servable:
        """Return the served version of a model, which must be `version` if that is given.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for a label: no version has one here.
        """
        if label:
            raise invalid(f"Unrecognized servable version label: {label}")
        model = self._models.get(name)
        servable = model.serving if model else None
        if servable is None or version not in (None, servable.version):
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            message = f"Servable not found for request: {asked}"
            raise ServingError(StatusCode.NOT_FOUND, message)
        return servable

    def statuses(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Return what is known about a model's versions, newest first.

        Raises:
            ServingError: NOT_FOUND, no such model or version.
        """
        model = self._models.get(name)
        known = model.statuses if model else {}
        if not known:
            message = f"Could not find any versions of model {name}"
            raise ServingError(StatusCode.NOT_FOUND, message)
        if version is None:
            return [known[number] for number in sorted(known, reverse=True)]
        if version not in known:
            message = f"Could not find version {version} of model {name}"
            raise ServingError(StatusCode.NOT_FOUND, message)
        return [known[version]]
