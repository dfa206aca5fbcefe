"""What tests of the embedded server share."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route


def is_refused(port: int) -> bool:
    """Return whether nothing listens on a port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False


Get = Callable[[Sequence[Route], str], tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="session")
def get_route() -> Get:
    """Function that asks routes for a path; returns status, headers and body. No socket."""

    def get(routes: Sequence[Route], path: str) -> tuple[int, dict[str, str], bytes]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": [], "root_path": "",
        }  # fmt: skip
        asyncio.run(Starlette(routes=list(routes))(scope, receive, send))
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, sent[1]["body"]

    return get
