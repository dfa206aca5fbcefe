"""Remote files as local ones: links to copies in the cache, which stay while they are in use."""

import contextlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.errors import InputError, JobError, is_bad_path, reason
from pipeline.manifest import VOCABULARY, Manifest
from pipeline.storage.cache import DOWNLOADS_AT_ONCE, Cache, CacheConfig
from pipeline.storage.locks import temporary_folder
from pipeline.storage.remote import is_remote, version_of, versions_below

_copies: set[Path] = set()
"""The temporary directories that exist now."""


def is_copy(path: Path) -> bool:
    """Return whether a local path is in a copy of a remote directory, where all links are ours."""
    return not _copies.isdisjoint(path.parents)


@contextlib.contextmanager
def local_copy(path: Path, caching: CacheConfig) -> Iterator[Path]:
    """Yield a local copy of a remote file or directory, which exists in the context; or the path.

    The copy has the name of the original. Files are fetched into the cache unless the versions that
    the store has now are there. Errors of the context that name the copy name the remote path
    instead.

    Args:
        path: a file or directory, local (it is yielded itself) or remote.
        caching: the cache.

    Raises:
        FileNotFoundError: there is nothing.
        InputError: the cache cannot be used, or is too small; an object has a name that no local
            file can have; as `pipeline.storage.remote`.
        JobError: a file changed while it was fetched; as `pipeline.storage.remote`.
    """
    if not is_remote(path):
        yield path
        return
    versions = {path / name: version for name, version in versions_below(path).items()}
    versions = versions or {path: version_of(path)}
    cache = Cache(caching)
    copies = {
        file.relative_to(path.parent).as_posix(): cache.opened_version(file, version)
        for file, version in versions.items()
    }
    size_bytes = sum(version.size_bytes for version in versions.values())
    with _linked(path, copies, size_bytes, caching) as folder, _named(folder / path.name, path):
        yield folder / path.name


@contextlib.contextmanager
def local_dataset(dataset: Path, manifest: Manifest, caching: CacheConfig) -> Iterator[Path]:
    """Yield a local directory with the files of a dataset, which exists in the context.

    All of a remote dataset is fetched into the cache first, and stays there meanwhile. Errors that
    name the directory name the dataset instead.

    Args:
        dataset: directory of the dataset, local (it is yielded itself) or remote.
        manifest: manifest of the dataset.
        caching: the cache.

    Raises:
        InputError: a file does not have the manifest's checksum, or the cache is too small.
        JobError: a file cannot be fetched.
    """
    if not is_remote(dataset):
        yield dataset
        return
    cache = Cache(caching)
    shards = [shard for shards in manifest.splits.values() for shard in shards]
    vocabulary = version_of(dataset / VOCABULARY)
    copies = {
        shard.name: cache.opened(dataset / shard.name, shard.size_bytes, shard.crc32c)
        for shard in shards
    }
    copies[VOCABULARY] = cache.opened_version(dataset / VOCABULARY, vocabulary)
    size_bytes = sum(shard.size_bytes for shard in shards) + vocabulary.size_bytes
    with _linked(dataset, copies, size_bytes, caching) as local, _named(local, dataset):
        yield local


@contextlib.contextmanager
def _linked(
    remote: Path,
    copies: Mapping[str, AbstractContextManager[Path]],
    size_bytes: int,
    caching: CacheConfig,
) -> Iterator[Path]:
    """Yield a temporary directory with links to copies in the cache, which are held meanwhile."""
    if size_bytes > caching.cache_gb * 1e9:
        raise InputError(
            f"`cache_gb` {caching.cache_gb:g}: too small for {remote}, which has "
            f"{size_bytes / 1e9:.3g} GB"
        )
    for name in copies:
        # Names are those that somebody gave to objects: `../x` would leave the temporary directory.
        if not {"", ".", ".."}.isdisjoint(name.split("/")) or "\0" in name:
            raise _unusable(remote, name, "not a path in a directory")
    with contextlib.ExitStack() as held:
        folder = held.enter_context(temporary_folder())
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            paths = [*pool.map(held.enter_context, copies.values())]
        for name, copy in zip(copies, paths, strict=True):
            try:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).symlink_to(copy.absolute())
            except OSError as error:  # a store can have the objects `a` and `a/b`
                if not is_bad_path(error):
                    raise
                raise _unusable(remote, name, reason(error)) from error
        _copies.add(folder)
        held.callback(_copies.remove, folder)
        yield folder


def _unusable(remote: Path, name: str, why: str) -> InputError:
    """Return an error about an object that cannot have a local copy."""
    shown = name if name.isprintable() else ascii(name)
    return InputError(f"{remote}: object {shown[:500]}: {why}; rename or remove it")


@contextlib.contextmanager
def _named(local: Path, remote: Path) -> Iterator[None]:
    """Let errors name the remote path instead of the local one."""
    try:
        yield
    except (InputError, JobError) as error:
        # A bucket ends with a slash.
        named = str(error).replace(str(local), str(remote).rstrip("/"))
        raise type(error)(named) from error
