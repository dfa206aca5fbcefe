"""Health checks, asked through the ASGI interface."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from serving.server.health import health_routes


@pytest.mark.parametrize(
    ("served", "path", "status", "body"),
    [
        ({}, "health/live", 200, {"live": True}),  # a server lives before it is ready
        ({}, "health/ready", 503, {"ready": False}),
        ({"fox": [3]}, "health/ready", 200, {"ready": True}),
        ({"fox": [3]}, "models/fox/ready", 200, {"ready": True}),
        ({"fox": [3]}, "models/owl/ready", 503, {"ready": False}),
    ],
)
def test_health(
    get_route: Callable[..., Any],
    served: dict[str, list[int]],
    path: str,
    status: int,
    body: dict[str, bool],
) -> None:
    repository: Any = SimpleNamespace(served=lambda: served)
    found, headers, content = get_route(health_routes(repository), f"/v2/{path}")
    assert (found, json.loads(content)) == (status, body)
    assert headers["x-content-type-options"] == "nosniff"
