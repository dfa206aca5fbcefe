"""A TCP proxy that delays what it forwards: `python -m benchmarks.delay LISTEN TARGET`.

Each line on standard input is a new one-way delay in seconds. Network namespaces cannot delay
packets themselves where the kernel has no `netem`.
"""

import asyncio
import sys

_CHUNK_BYTES = 1 << 20
_MOST_CHUNKS = 256  # on their way, in one direction


class Delay:
    """The one-way delay, in seconds."""

    secs = 0.0


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward one direction of a connection; each chunk leaves after the delay."""
    chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_CHUNKS)
    now = asyncio.get_running_loop().time

    async def forward() -> None:
        while True:
            due, data = await chunks.get()
            await asyncio.sleep(max(0.0, due - now()))
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    task = asyncio.create_task(forward())
    data = b"."
    while data:
        try:
            data = await reader.read(_CHUNK_BYTES)
        except ConnectionError:  # the worker has ended
            data = b""
        await chunks.put((now() + Delay.secs, data))
    await task


async def serve(listen: str, target: str) -> None:
    """Forward connections from one HOST:PORT to another until standard input is closed."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        other_reader, other_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))

    host, _, port = listen.rpartition(":")
    async with await asyncio.start_server(connected, host, int(port)):
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            Delay.secs = float(line)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
