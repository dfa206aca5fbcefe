"""Measure how long training steps wait for a remote dataset, with the cache cold and warm.

    make build/storage/versitygw
    python -m benchmarks.fetching

An S3 server on loopback has a dataset of 128 files and 64 streams. A proxy limits what it sends to
twice the bytes that the steps need. A step is a pause, so what is measured is the waiting for
batches. The first batch needs the first file of each stream, and is reported by itself. It takes
less than a minute.
"""

import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from benchmarks.commands import BUILD
from benchmarks.reading import SPLIT, make_dataset
from clozeline.show.terminal import results, table
from pipeline.manifest import Manifest
from pipeline.quiet_imports import import_quietly
from pipeline.storage.cache import CacheConfig
from pipeline.storage.cached_shards import CachedShardFiles
from pipeline.storage.remote import path_from
from pipeline.storage.shard_files import ShardFiles

FOLDER = BUILD / "fetching"
SERVER = Path("build/storage/versitygw")
SERVER_PORT, PROXY_PORT = 2224, 2225
FILES, EXAMPLES = 128, 1000
BATCH_SIZE = 256
STEP_SECS = 0.02
HEADROOM = 2.0
"""Bandwidth of the network, as a multiple of the bytes that the steps need."""


@dataclass(frozen=True)
class Waiting:
    """How long steps waited for their batches.

    Attributes:
        reading: location of the files.
        first_secs: seconds to the first batch.
        mean_ms: mean over the other steps.
        longest_ms: the longest of the other steps.
    """

    reading: str
    first_secs: float
    mean_ms: float
    longest_ms: float


async def throttle(bytes_per_sec: float) -> None:
    """Forward connections to the server; all answers together take no more than a bandwidth."""
    free_at = 0.0

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, limited: bool
    ) -> None:
        nonlocal free_at
        now = asyncio.get_running_loop().time
        while data := await reader.read(16_384):
            if limited:
                free_at = max(now(), free_at) + len(data) / bytes_per_sec
                await asyncio.sleep(free_at - now())
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", SERVER_PORT)
        await asyncio.gather(
            pump(reader, other_writer, limited=False),
            pump(other_reader, writer, limited=True),
            return_exceptions=True,
        )

    async with await asyncio.start_server(connected, "127.0.0.1", PROXY_PORT) as server:
        await server.serve_forever()


@contextmanager
def served(folder: Path, bytes_per_sec: float) -> Iterator[None]:
    """Serve the buckets in a folder through a network of a bandwidth."""
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PROXY_PORT}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ.update(environment)
    address = f"127.0.0.1:{SERVER_PORT}"
    flags = ["--access", "key", "--secret", "secret", "--port", address, "--quiet"]
    with subprocess.Popen([SERVER, *flags, "posix", str(folder)]) as server:
        try:
            wait_for_port(SERVER_PORT)
            threading.Thread(
                target=asyncio.run, args=(throttle(bytes_per_sec),), daemon=True
            ).start()
            wait_for_port(PROXY_PORT)
            yield
        finally:
            server.kill()


def wait_for_port(port: int) -> None:
    """Wait until something listens at a port of this machine."""
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"nothing listens at port {port}")


def waited(reading: str, dataset: Path, manifest: Manifest, files: ShardFiles) -> Waiting:
    """Take the batches of an epoch as a training does, and return how long that took."""
    from model.training.input import train_batches

    started = time.perf_counter()
    batches = iter(
        train_batches(
            dataset, manifest, batch_size=BATCH_SIZE, seed=1, skip_examples=0, files=files
        )
    )
    next(batches)
    first_secs = time.perf_counter() - started
    secs = []
    for _ in range(manifest.examples(SPLIT) // BATCH_SIZE - 1):
        time.sleep(STEP_SECS)
        before = time.perf_counter()
        next(batches)
        secs.append(time.perf_counter() - before)
    return Waiting(reading, first_secs, statistics.mean(secs) * 1e3, max(secs) * 1e3)


def main() -> None:
    """Measure, print, and write the figures to build/bench/fetching.json."""
    import_quietly("tensorflow")
    shutil.rmtree(FOLDER, ignore_errors=True)
    local = FOLDER / "served" / "bucket" / "dataset"
    manifest = make_dataset(local, EXAMPLES, FILES)
    shards = manifest.splits[SPLIT]
    record_bytes = shards[0].size_bytes / EXAMPLES
    bytes_per_sec = HEADROOM * BATCH_SIZE * record_bytes / STEP_SECS
    remote, caching = path_from("s3://bucket/dataset"), CacheConfig(cache=FOLDER / "cache")
    figures = [waited("disk", local, manifest, ShardFiles(local, shards))]
    with served(local.parents[1], bytes_per_sec):
        for reading in ("cold cache", "warm cache"):
            files = CachedShardFiles(remote, caching)
            figures.append(waited(reading, remote, manifest, files))
            files.close()
    rows = [
        (each.reading, f"{each.first_secs:.2f} s", f"{each.mean_ms:.2f} ms",
         f"{each.longest_ms:.0f} ms")
        for each in figures
    ]  # fmt: skip
    columns = ("reading from", "first batch", "a later step waits", "longest")
    title = f"steps of {STEP_SECS * 1e3:.0f} ms, network {bytes_per_sec / 1e6:.1f} MB/s"
    results.print(table(title, columns, rows, frozenset({0})))
    path = BUILD / "fetching.json"
    path.write_text(json.dumps([asdict(each) for each in figures], indent=1) + "\n")
    results.print(f"figures: {path}")
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    tyro.cli(main)
