"""Routes of the playground, asked through the ASGI interface."""

import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from serving.server.playground import playground_routes, task_forms


@pytest.fixture
def get(get_route: Callable[..., Any]) -> Callable[..., tuple[int, dict[str, str], str]]:
    """Function that returns status, headers and body of a response."""

    def ask(path: str, served: dict[str, Any] | None = None) -> tuple[int, dict[str, str], str]:
        repository: Any = SimpleNamespace(served=lambda: served or {})
        status, headers, body = get_route(playground_routes(repository), path)
        return status, headers, body.decode()

    return ask


def test_models_are_listed_by_name_and_the_newest_version_first(get: Callable[..., Any]) -> None:
    body = json.loads(get("/playground/models", {"owl": [3], "fox": {9: 0, 10: 0, 2: 0}})[2])
    assert body["models"] == [
        {"name": "fox", "versions": [10, 9, 2]}, {"name": "owl", "versions": [3]},
    ]  # fmt: skip
    assert body["tasks"] == json.loads(json.dumps(task_forms()))


def test_the_page_loads_only_files_that_there_are(get: Callable[..., Any]) -> None:
    status, headers, page = get("/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="(/?[\w./-]+)"', page)
    assert len(named) >= 3
    for name in named:
        assert get(name if name.startswith("/") else f"/{name}")[0] == 200


@pytest.mark.parametrize("path", ["/", "/playground/playground.js", "/playground/models"])
def test_no_page_may_frame_it_and_no_script_of_others_run_in_it(
    get: Callable[..., Any], path: str
) -> None:
    headers = get(path)[1]
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"


def test_each_signature_is_offered_once_with_texts_to_begin_with() -> None:
    forms = task_forms()
    names = [form["signature"] for form in forms]
    assert len(set(names)) == len(names)
    assert all(form["view"] and form["texts"] for form in forms)
    assert "classify" in names
