"""The flags that every command which copies remote files has."""

from dataclasses import dataclass
from pathlib import Path

from clozeline.options import Command, config_from
from pipeline.storage.cache import CacheConfig
from pipeline.storage.remote import is_remote


@dataclass(frozen=True, kw_only=True)
class CachingCommand(Command):
    """Options of all commands that copy remote files to a local folder before they read them."""

    cache: Path | None = None
    """Folder for copies of remote files; several commands may share it. Default:
    ~/.cache/clozeline."""
    cache_gb: float = CacheConfig.cache_gb
    """Maximum size of the copies in --cache, in gigabytes."""

    @property
    def caching(self) -> CacheConfig:
        """The engine's config of the copies.

        Raises:
            InputError: a flag is out of range.
        """
        return config_from(self, CacheConfig)


@dataclass(frozen=True, kw_only=True)
class RunReader(CachingCommand):
    """Options of all commands that read a run; each says which runs it takes."""

    # For `before_tensorflow`; each command declares it again, with its own help text.
    run_dir: Path
    """Directory of the run."""

    def before_tensorflow(self) -> None:
        """Look for a local run; the command itself reads a remote one, which takes requests.

        Raises:
            InputError: there is no run, or its config is damaged.
        """
        from model.run_config import existing_config

        if not is_remote(self.run_dir):
            existing_config(self.run_dir)
