"""Find models and versions, local or remote: NAME/VERSION/saved_model.pb."""

from pathlib import Path

from pipeline.errors import InputError
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
    children = sorted(path for path in base.iterdir() if path.is_dir())
    # Hidden folders are other tools', such as `.ipynb_checkpoints`.
    models = [path for path in children if versions_of(path) and not path.name.startswith(".")]
    if models:
        return models
    names = "".join(f"; {path} has no numeric version" for path in versionless_dirs(base)[:1])
    raise InputError(f"{base}: no model in it{names} ({expected})")


def versionless_dirs(base: Path) -> list[Path]:
    """Return the directories under `base` that look like models without a version."""
    return [
        path
        for path in sorted(base.iterdir())
        if path.is_dir() and not path.name.startswith(".") and not versions_of(path)
    ]


def fingerprint(path: Path) -> object:
    """Return a hashable value that changes when a file below `path` changes.

    It consists of sizes and times of local files, and of sizes and versions of remote ones.
    """
    if is_remote(path):
        return tuple(versions_below(path).items())
    stats = ((file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file())
    return tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats)
