"""Find models and versions, local or remote: NAME/VERSION/saved_model.pb."""

from pathlib import Path

from pipeline.errors import InputError
from pipeline.storage.encodings import is_unicode
from pipeline.storage.files import absence
from pipeline.storage.remote import is_remote, versions_below
from serving.server.config_files import ModelConfig, read_models_config
from serving.tf_serving import SAVED_MODEL, versions_of


def read_models(source: Path) -> list[ModelConfig]:
    """Return the models in a folder, or those in a `models.config`.

    Raises:
        InputError: there is no model, or the file is invalid.
    """
    if why := absence(source):
        raise InputError(f"{source}: {why}")
    if source.is_file():
        return read_models_config(source)
    return [ModelConfig(path.name, path) for path in model_dirs(source)]


def model_dirs(base: Path) -> list[Path]:
    """Return the directories under `base` that have at least one version.

    Raises:
        InputError: `base` is not a directory or contains no model.
    """
    expected = f"expected {base / 'NAME/VERSION' / SAVED_MODEL}; clozeline export writes it"
    if not base.is_dir():
        raise InputError(f"{base}: no such directory ({expected})")
    if any((path / SAVED_MODEL).is_file() for path in versions_of(base).values()):
        raise InputError(f"{base}: this is one model; give the directory above, {base.parent}")
    models = [path for path in _visible_dirs(base) if not _defect(path)]
    if models:
        return models
    names = "".join(f"; {path} {why}" for path, why in list(skipped_dirs(base).items())[:1])
    raise InputError(f"{base}: no model in it{names} ({expected})")


def skipped_dirs(base: Path) -> dict[Path, str]:
    """Return the directories under `base` that cannot be served, and the reason of each."""
    return {path: why for path in _visible_dirs(base) if (why := _defect(path))}


def _visible_dirs(base: Path) -> list[Path]:
    # Hidden folders are other tools', such as `.ipynb_checkpoints`.
    paths = sorted(path for path in base.iterdir() if path.is_dir())
    return [path for path in paths if not path.name.startswith(".")]


def _defect(path: Path) -> str:
    """Return why a directory is no model that can be served; empty if it can."""
    if not versions_of(path):
        return "has no numeric version"
    # URLs and messages of gRPC have names in UTF-8, so no request could name the model.
    return "" if is_unicode(path.name) else "has a name that is not in UTF-8"


def fingerprint(path: Path) -> object:
    """Return a hashable value that changes when a file below `path` changes.

    It consists of sizes and times of local files, and of sizes and versions of remote ones.
    """
    if is_remote(path):
        return tuple(versions_below(path).items())
    stats = ((file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file())
    return tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats)
