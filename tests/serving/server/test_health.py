"""Health checks, asked through the ASGI interface."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette

from serving.server.health import health_routes


def get(served: dict[str, list[int]], path: str) -> tuple[int, Any, dict[str, str]]:
    """Return status, JSON body and headers of a response."""
    repository: Any = SimpleNamespace(served=lambda: served)
    sent: list[dict[str, Any]] = []

    async def ask() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": [], "root_path": "",
        }  # fmt: skip
        await Starlette(routes=health_routes(repository))(scope, receive, send)

    asyncio.run(ask())
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], json.loads(sent[1]["body"]), headers


@pytest.mark.parametrize(
    ("served", "path", "status", "body"),
    [
        ({}, "live", 200, {"live": True}),
        ({}, "ready", 503, {"ready": False}),
        ({"fox": [3]}, "ready", 200, {"ready": True}),
    ],
)
def test_a_server_lives_before_it_is_ready(
    served: dict[str, list[int]], path: str, status: int, body: dict[str, bool]
) -> None:
    found = get(served, f"/v2/health/{path}")
    assert found[:2] == (status, body)
    assert found[2]["x-content-type-options"] == "nosniff"


def test_a_model_is_ready_when_a_version_of_it_is_served() -> None:
    assert get({"fox": [3]}, "/v2/models/fox/ready")[:2] == (200, {"ready": True})
    assert get({"fox": [3]}, "/v2/models/owl/ready")[:2] == (503, {"ready": False})
