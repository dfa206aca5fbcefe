"""The shards of a remote dataset: copies in a local cache, fetched ahead of their use."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from pipeline.errors import InputError, JobError
from pipeline.manifest import Shard
from pipeline.storage.cache import DOWNLOADS_AT_ONCE, Cache, CacheConfig
from pipeline.storage.shard_files import ShardFiles

AHEAD_SHARE = 0.5
"""Share of the cache for files that were fetched and not read yet."""

_MOST_SKIPPED = 1024
"""Entries of the order that may be skipped because their file is ahead already, and one more for
each file that is read. Streams share files, and the order of a dataset that fits into the cache has
nothing else, without end: looking further at each reading took more time than the reading."""


class CachedShardFiles(ShardFiles):
    """The shards of a remote dataset, as local files."""

    def __init__(self, dataset: Path, config: CacheConfig) -> None:
        """Open the cache.

        Args:
            dataset: the dataset folder.
            config: the cache.

        Raises:
            InputError: the cache's folder cannot be created.
        """
        super().__init__(dataset, ())
        self._cache = Cache(config)
        self._most_ahead_bytes = config.cache_gb * 1e9 * AHEAD_SHARE
        self._ahead: dict[str, int] = {}  # size of each file that was fetched and not read yet
        self._upcoming: Iterator[tuple[int, Shard]] | None = None
        self._skips_left = _MOST_SKIPPED
        self._changed = threading.Condition()  # held while the three above change

    def expect(self, upcoming: Iterator[tuple[int, Shard]]) -> None:
        """Fetch the files that will be read, in the background, in the order of their use."""
        with self._changed:
            self._upcoming = upcoming
            self._ahead.clear()
            self._skips_left = _MOST_SKIPPED
            self._changed.notify_all()
        for _ in range(DOWNLOADS_AT_ONCE):
            threading.Thread(
                target=self._fetch, args=(upcoming,), name="prefetch", daemon=True
            ).start()

    def close(self) -> None:
        """Fetch nothing more."""
        with self._changed:
            self._upcoming = None
            self._changed.notify_all()

    @contextmanager
    def opened(self, shard: Shard) -> Iterator[Path]:
        """Yield the copy of a shard; it is downloaded unless it is there.

        In the context the copy is not removed. A reader that has opened it may keep it open.

        Raises:
            InputError: the file has changed, or the cache is too small for it.
            JobError: it cannot be downloaded.
            OSError: it is missing.
        """
        with self._changed:
            if self._ahead.pop(shard.name, None) is not None:
                self._skips_left = min(self._skips_left + 1, _MOST_SKIPPED)
                self._changed.notify_all()
        with self._copy(shard) as path:
            yield path

    def failed(self, shard: Shard, error: InputError | JobError | OSError) -> InputError | JobError:
        """Return the exception for an error, as `ShardFiles`; it names the dataset's file."""
        if isinstance(error, InputError):
            remote = self._dataset / shard.name
            copy = self._cache.path_of(remote, shard.crc32c)
            error = InputError(str(error).replace(str(copy), str(remote)))
        return super().failed(shard, error)

    def _copy(self, shard: Shard) -> AbstractContextManager[Path]:
        return self._cache.opened(self._dataset / shard.name, shard.size_bytes, shard.crc32c)

    def _fetch(self, upcoming: Iterator[tuple[int, Shard]]) -> None:
        """Fetch files until others are expected."""
        while (shard := self._next(upcoming)) is not None:
            # The reader meets the same error, and reports it.
            with suppress(InputError, JobError, OSError), self._copy(shard):
                pass

    def _next(self, upcoming: Iterator[tuple[int, Shard]]) -> Shard | None:
        """Return the next file to fetch, once there is room for it; None if others are expected."""
        with self._changed:
            while self._upcoming is upcoming:
                is_full = sum(self._ahead.values()) >= self._most_ahead_bytes
                if is_full or not self._skips_left:
                    self._changed.wait()
                    continue
                _, shard = next(upcoming)
                if shard.name not in self._ahead:
                    self._ahead[shard.name] = shard.size_bytes
                    return shard
                self._skips_left -= 1
        return None
