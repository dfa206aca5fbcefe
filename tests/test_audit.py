"""`make audit`: fails for a known vulnerability, and not because the database cannot be reached."""

import http.server
import os
import stat
import subprocess
from pathlib import Path

import pytest

import clozeline
from tests.conftest import http_server

SCRIPT = Path(clozeline.__file__).parents[1] / ".ci" / "audit"


class Database(http.server.BaseHTTPRequestHandler):
    """Answers as OSV does to a GET: it takes POST only."""

    def do_GET(self):
        self.send_error(405)

    def log_message(self, *_):
        pass


def audit(database: str, uvx: Path | str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OSV_URL": database, "UVX": str(uvx)}
    return subprocess.run(
        [SCRIPT], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def test_a_database_that_cannot_be_reached_fails_nothing(refusing_port: int) -> None:
    url = f"http://127.0.0.1:{refusing_port}/v1/query"
    done = audit(url, "/missing")
    assert done.returncode == 0
    assert f"audit: NOT DONE: {url} cannot be reached" in done.stderr


@pytest.mark.parametrize("code", [0, 1])
def test_the_audit_fails_for_a_known_vulnerability(code: int, tmp_path: Path) -> None:
    uvx = tmp_path / "uvx"
    uvx.write_text(f'#!/bin/sh\necho "$@"\nexit {code}\n')
    uvx.chmod(uvx.stat().st_mode | stat.S_IXUSR)
    with http_server(Database) as server:
        url = f"http://127.0.0.1:{server.server_port}/v1/query"
        done = audit(url, uvx)
    assert done.returncode == code
    assert "--requirement requirements.lock" in done.stdout
    assert f"--osv-url {url}" in done.stdout
