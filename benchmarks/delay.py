"""TCP proxies that delay what they forward: `python -m benchmarks.delay LISTEN TARGET ...`.

LISTEN and TARGET are HOST:PORT; each pair is a proxy. Each line on standard input is a new one-way
delay in seconds. Network namespaces cannot delay
packets themselves where the kernel has no `netem`.
"""

import asyncio
import contextlib
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


async def listening(listen: str, target: str) -> asyncio.Server:
    """Forward connections from one HOST:PORT to another."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        try:
            other_reader, other_writer = await asyncio.open_connection(host, int(port))
        except OSError:  # nobody listens there yet; the client tries again
            writer.close()
            return
        await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))

    host, _, port = listen.rpartition(":")
    return await asyncio.start_server(connected, host, int(port))


async def serve(*addresses: str) -> None:
    """Forward until standard input is closed.

    Args:
        addresses: HOST:PORT to listen on, and the one to forward to, in turns.
    """
    async with contextlib.AsyncExitStack() as stack:
        for listen, target in zip(addresses[::2], addresses[1::2], strict=True):
            await stack.enter_async_context(await listening(listen, target))
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            Delay.secs = float(line)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
