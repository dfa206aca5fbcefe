"""A remote dataset as a local directory: links to copies of its files in the cache."""

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import InputError, JobError
from pipeline.manifest import VOCABULARY, Manifest
from pipeline.storage.cache import Cache, CacheConfig
from pipeline.storage.files import CLOZELINE
from pipeline.storage.remote import is_remote

DOWNLOADS_AT_ONCE = 4


@contextlib.contextmanager
def local_dataset(dataset: Path, manifest: Manifest, config: CacheConfig) -> Iterator[Path]:
    """Yield a local directory with the files of a dataset, which exists in the context.

    All of a remote dataset is fetched into the cache first, and stays there meanwhile. Errors that
    name the directory name the dataset instead.

    Args:
        dataset: directory of the dataset, local (it is yielded itself) or remote.
        manifest: manifest of the dataset.
        config: the cache.

    Raises:
        InputError: a file does not have the manifest's checksum, or the cache is too small.
        JobError: a file cannot be fetched.
    """
    if not is_remote(dataset):
        yield dataset
        return
    shards = [shard for shards in manifest.splits.values() for shard in shards]
    total_gb = sum(shard.size_bytes for shard in shards) / 1e9
    if total_gb > config.cache_gb:
        raise InputError(
            f"`cache_gb` {config.cache_gb:g}: too small for {dataset}, which has {total_gb:.3g} GB"
        )
    cache = Cache(config)
    with contextlib.ExitStack() as held, ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix=CLOZELINE))
        local = Path(folder, dataset.name)
        local.mkdir()
        (local / VOCABULARY).write_bytes((dataset / VOCABULARY).read_bytes())
        copies = [
            cache.opened(dataset / each.name, each.size_bytes, each.crc32c) for each in shards
        ]
        paths = pool.map(held.enter_context, copies)
        for shard, path in zip(shards, paths, strict=True):
            (local / shard.name).symlink_to(path.absolute())
        try:
            yield local
        except (InputError, JobError) as error:
            raise type(error)(str(error).replace(str(local), str(dataset))) from error
