"""The repository of served models: loads, unloads and finds versions."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grpc import StatusCode

from pipeline.errors import InputError, JobError, reason, unreadable
from pipeline.storage.files import in_utf8
from pipeline.storage.remote import is_remote
from serving.server.config_files import ModelConfig
from serving.server.folders import fingerprint, read_models, skipped_dirs
from serving.server.loading import Loader, Servable, loaded_once
from serving.server.memory import collect_all
from serving.server.status import ServingError, invalid, shortened
from serving.tf_serving import versions_of

_log = logging.getLogger(__name__)

REMOTE_POLL_SECS = 10.0
"""Least time between two polls of remote storage, where each request costs money."""


@dataclass(frozen=True)
class VersionStatus:
    """The status of one version, in TensorFlow Serving's terms."""

    version: int
    state: str  # "LOADING", "AVAILABLE" or "END" (unloaded, or failed to load: see code)
    code: StatusCode = StatusCode.OK
    message: str = ""


class _Model:
    """One model: its served versions and the status of the others.

    Requests read its dictionaries from other threads, so they are replaced, never modified.
    """

    def __init__(self, config: ModelConfig, load: Loader) -> None:
        self.config = config
        self.serving: dict[int, Servable] = {}
        self.labels: dict[str, int] = {}
        self.statuses: dict[int, VersionStatus] = {}
        self._load = load
        self.chosen: list[int] = []
        self._paths: dict[int, Path] = {}  # path that each served version was loaded from
        self._failed: dict[int, object] = {}  # fingerprint of the files of each failed version

    def update(self) -> list[VersionStatus]:
        """Serve the versions on disk that the policy chooses, and no others.

        Served versions stay until a chosen one is loaded. A version that failed is retried when its
        files change: they may have been incomplete.

        Returns:
            The status of each version that failed to load.
        """
        failures = self.load_chosen()
        self.unload_others()
        return failures

    def load_chosen(self) -> list[VersionStatus]:
        """First half of `update`: load the chosen versions; nothing is unloaded."""
        versions = versions_of(self.config.base_path)
        self.chosen = self.config.policy.choose(versions)
        return [
            failure
            for version in self.chosen
            if version not in self.serving or self._paths[version] != versions[version]
            if (failure := self._try(version, versions[version]))
        ]

    def unload_others(self) -> None:
        """Second half of `update`: unload versions that are not chosen, and assign the labels."""
        # While no chosen version can be loaded, the old ones keep answering.
        if any(version in self.serving for version in self.chosen):
            self._unload(set(self.serving) - set(self.chosen))
        self._assign_labels()

    def unload_all(self) -> None:
        """Stop serving this model."""
        self.labels = {}
        self._unload(set(self.serving))

    def latest(self) -> Servable | None:
        """Return the newest served version; None if there is none."""
        serving = self.serving
        return serving[max(serving)] if serving else None

    def _try(self, version: int, path: Path) -> VersionStatus | None:
        attempt = fingerprint(path)
        # The same files would fail again, and loading takes seconds of a core.
        if self._failed.get(version) == attempt:
            return None
        self._note(VersionStatus(version, "LOADING"))
        try:
            servable = self._load(self.config.name, version, path)
        except ServingError as error:
            self._failed[version] = attempt
            status = VersionStatus(version, "END", error.code, in_utf8(error.message))
            self._note(status)
            return status
        self._paths[version] = path
        self.serving = {**self.serving, version: servable}
        self._note(VersionStatus(version, "AVAILABLE"))
        return None

    def _unload(self, versions: set[int]) -> None:
        """Stop serving these versions; running requests can still finish."""
        kept = {version: held for version, held in self.serving.items() if version not in versions}
        self.serving = kept
        for version in sorted(versions):
            self._note(VersionStatus(version, "END"))

    def _assign_labels(self) -> None:
        """Assign the configured labels to served versions; others keep their previous version."""
        moved = {
            label: version
            for label, version in self.config.labels.items()
            if version in self.serving
        }
        kept = {
            label: version
            for label, version in self.labels.items()
            if label in self.config.labels and version in self.serving
        }
        self.labels = {**kept, **moved}

    def _note(self, status: VersionStatus) -> None:
        self.statuses = {**self.statuses, status.version: status}


class Repository:
    """All served models; requests may call its methods from any thread."""

    def __init__(self, source: Path, load: Loader) -> None:
        """Read the list of models; nothing is loaded yet.

        Args:
            source: a folder with NAME/VERSION/saved_model.pb, or a `models.config`.
            load: function that loads one version.

        Raises:
            InputError: there is no model, or the file is invalid.
        """
        self._source = source
        self._read: Callable[[], list[ModelConfig]] = lambda: read_models(source)
        self._configs = self._read()
        self._roots = {config.base_path.resolve().parent for config in self._configs}
        # A model that disappears from a folder is still served; one removed from a file is not.
        self._keeps_dropped = source.is_dir()
        self._load = loaded_once(load)
        self._models: dict[str, _Model] = {}
        self._changing = threading.Lock()  # one load or reload at a time
        self._stopping = threading.Event()
        self._poller: threading.Thread | None = None
        self._complaints: dict[str, str] = {}  # last message by model; key "": the config file

    def load_all(self) -> list[Servable]:
        """Load the chosen versions of all models.

        Raises:
            InputError: a model has no version, a version cannot be loaded, or a label names a
                version that is not served.
        """
        models = {config.name: _Model(config, self._load) for config in self._configs}
        for model in models.values():
            _load_or_raise(model)
        self._models = models
        if self._source.is_dir():
            for directory, why in skipped_dirs(self._source).items():
                _log.info("%s: skipped, it %s", in_utf8(str(directory)), why)
        return [held for model in models.values() for held in model.serving.values()]

    def poll(self) -> None:
        """Check once for new models, new versions, and changes of the configuration file."""
        with self._changing:
            try:
                self._configs = self._read()
                self._configure(self._configs)
                if not self._keeps_dropped:
                    self._unload_dropped(self._configs)
                self._complain_once("", "")
            except (InputError, JobError) as error:
                # Ignore a missing folder silently; report a file that is invalid, perhaps only
                # while it is being edited.
                said = "" if self._keeps_dropped else f"the models stay as they were: {error}"
                self._complain_once("", said)
            listed = {config.name for config in self._configs}
            for name, model in self._models.items():
                if self._keeps_dropped or name in listed:
                    self._update(name, model)

    def _update(self, name: str, model: _Model) -> None:
        """Check for new versions of one model; an error does not affect other models."""
        try:
            _update_and_tell(model)
        except (OSError, InputError, JobError) as error:
            self._complain_once(name, f"looking for new versions: {reason(error)}")
        else:
            self._complain_once(name, "")

    def _complain_once(self, about: str, message: str) -> None:
        """Print a message unless it is the same as last time; "" = no problem."""
        if message and message != self._complaints.get(about):
            _log.info("%s", message)
        self._complaints[about] = message

    def reload(self, configs: list[ModelConfig]) -> None:
        """Replace the served models by these; if one cannot be loaded, nothing changes.

        Raises:
            ServingError: PERMISSION_DENIED: a model outside the folders served at the start.
                NOT_FOUND: a model without a version. UNAVAILABLE: its directory cannot be read.
                Also any error of loading a version.
        """
        for config in configs:
            if config.base_path.resolve().parent not in self._roots:
                base_path = shortened(str(config.base_path))
                message = f"{base_path}: not in a folder of the models that the server started with"
                raise ServingError(StatusCode.PERMISSION_DENIED, message)
        with self._changing:
            models_before = self._models
            try:
                self._configure(configs)
                for config in configs:
                    _load_chosen_or_raise(self._models[config.name])
            except Exception:
                self._models = models_before  # the next poll restores their configurations
                raise
            for config in configs:
                self._models[config.name].unload_others()
            self._configs = configs
            self._read = lambda: configs
            self._keeps_dropped = False
            self._unload_dropped(configs)

    def _configure(self, configs: list[ModelConfig]) -> None:
        """Set the models' configurations; the next update applies them."""
        models = dict(self._models)
        for config in configs:
            known = models.setdefault(config.name, _Model(config, self._load))
            known.config = config
        self._models = models

    def _unload_dropped(self, configs: list[ModelConfig]) -> None:
        for name in set(self._models) - {config.name for config in configs}:
            self._models[name].unload_all()

    def start_polling(self, interval_secs: float) -> None:
        """Poll in a background thread until `stop_polling`."""
        if is_remote(self._source):
            interval_secs = max(interval_secs, REMOTE_POLL_SECS)

        def work() -> None:
            while not self._stopping.wait(interval_secs):
                try:
                    self.poll()
                except OSError as error:  # a directory was removed meanwhile; retry later
                    _log.info("looking for new versions: %s", error)

        self._poller = threading.Thread(target=work, name="model-poller", daemon=True)
        self._poller.start()

    def stop_polling(self, timeout_secs: float | None = None) -> bool:
        """Stop the polling thread; a load in progress is finished first.

        Returns:
            Whether the thread ended within `timeout_secs`.
        """
        self._stopping.set()
        if self._poller:
            self._poller.join(timeout_secs)
        return not (self._poller and self._poller.is_alive())

    def is_known(self, name: str) -> bool:
        """Return whether a model with this name exists."""
        return name in self._models

    def served(self) -> dict[str, list[int]]:
        """Return the served versions of each model, by name."""
        return {name: list(model.serving) for name, model in self._models.items() if model.serving}

    def find(self, name: str, version: int | None = None, label: str = "") -> Servable:
        """Return a served version of a model: the requested one, or the newest.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for an unknown label.
        """
        model = self._models.get(name)
        if label:
            if model is None or label not in model.labels:
                raise _unknown_label(label)
            version = model.labels[label]
        servable = None
        if model:
            servable = model.latest() if version is None else model.serving.get(version)
        if servable is None:
            shown = shortened(name)
            requested = f"Latest({shown})" if version is None else f"Specific({shown}, {version})"
            message = f"Servable not found for request: {requested}"
            raise ServingError(StatusCode.NOT_FOUND, message)
        return servable

    def statuses(
        self, name: str, version: int | None = None, label: str = ""
    ) -> list[VersionStatus]:
        """Return the status of a model's versions, newest first.

        A label must exist but does not select a version, as in TensorFlow Serving.

        Raises:
            ServingError: NOT_FOUND: no such model or version. INVALID_ARGUMENT: no such label.
        """
        model = self._models.get(name)
        known = model.statuses if model else {}
        if not model or not known:
            message = f"Could not find any versions of model {shortened(name)}"
            raise ServingError(StatusCode.NOT_FOUND, message)
        if label and label not in model.labels:
            raise _unknown_label(label)
        if version is None:
            return [known[number] for number in sorted(known, reverse=True)]
        if version not in known:
            message = f"Could not find version {version} of model {shortened(name)}"
            raise ServingError(StatusCode.NOT_FOUND, message)
        return [known[version]]


def _unknown_label(label: str) -> ServingError:
    return invalid(f"Unrecognized servable version label: {shortened(label)}")


def _update_and_tell(model: _Model) -> None:
    before = set(model.serving)
    for failed in model.update():
        _log.info(
            "%s version %s cannot be loaded: %s", model.config.name, failed.version, failed.message
        )
    for version in sorted(set(model.serving) - before):
        _log.info("%s version %s is served now", model.config.name, version)
    if set(model.serving) != before:
        collect_all()  # a loaded model has reference cycles, which keep its memory


def _load_chosen_or_raise(model: _Model) -> None:
    base_path = model.config.base_path
    try:
        model.load_chosen()
    except (OSError, InputError, JobError) as error:
        message = f"{shortened(str(base_path))}: cannot be read: {reason(error)}"
        raise ServingError(StatusCode.UNAVAILABLE, message) from error
    for version in model.chosen:
        if version not in model.serving:
            failed = model.statuses[version]
            raise ServingError(failed.code, failed.message)
    if not model.chosen:
        name, shown = shortened(model.config.name), shortened(str(base_path))
        message = f"No versions of servable {name} found under base path {shown}"
        raise ServingError(StatusCode.NOT_FOUND, message)


def _load_or_raise(model: _Model) -> None:
    config = model.config
    try:
        failures = model.update()
    except OSError as error:
        raise unreadable(config.base_path, error) from error
    if failures:
        reason = " ".join(failures[0].message.split())
        version_dir = config.base_path / str(failures[0].version)
        raise InputError(f"{version_dir}: cannot be loaded ({reason}); export it again")
    if not model.serving:
        raise InputError(f"{config.base_path}: no version of model {config.name} to serve in it")
    for label, version in config.labels.items():
        if version not in model.serving:
            raise InputError(
                f"model {config.name}: label {label!r} names version {version}, which is not "
                f"served; served are {sorted(model.serving)}"
            )
