"""Object stores on loopback, and a network that fails."""

import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from unittest import mock

import fsspec
import pytest
from azure.storage.blob import BlobServiceClient

import clozeline
from clozeline.main import main
from tests.fork_server import FORKS

ROOT = Path(clozeline.__file__).parents[1]
SERVERS = ROOT / "build" / "storage"


AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""The published key of Azurite's account; it protects nothing."""


def started(program: str, port: int, *arguments: str) -> subprocess.Popen:
    """Start a server, and return when it listens."""
    path = SERVERS / program
    if not path.exists():
        pytest.fail(f"{path} is missing; make test-storage builds it")
    process = subprocess.Popen(
        [path, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        assert process.poll() is None, f"{program} ended"
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"{program} does not listen")


@pytest.fixture(autouse=True)
def _no_connections_of_other_tests() -> None:
    for scheme in ("s3", "gs", "az", "hdfs"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


@pytest.fixture(scope="module")
def s3(tmp_path_factory, free_ports) -> Iterator[tuple[int, Path]]:
    """An S3 server over a folder: its port, and the folder of its bucket `bucket`.

    Its second account `other` has no rights.
    """
    folder, accounts = tmp_path_factory.mktemp("s3"), tmp_path_factory.mktemp("accounts")
    (folder / "bucket").mkdir()
    other = {"access": "other", "secret": "other-secret", "role": "user"}
    (accounts / "users.json").write_text(json.dumps({"accessAccounts": {"other": other}}))
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    process = started(
        "versitygw", port, "--access", "key", "--secret", "secret", "--port", address, "--quiet",
        "--iam-dir", str(accounts), "posix", str(folder),
    )  # fmt: skip
    yield port, folder / "bucket"
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def gcs(free_ports) -> Iterator[int]:
    """A GCS server with a bucket `bucket`: its port."""
    (port,) = free_ports(1)
    process = started(
        "fake-gcs-server", port, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
        "-backend", "memory", "-public-host", f"127.0.0.1:{port}",
    )  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/storage/v1/b?project=p",
        b'{"name": "bucket"}',
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=60).close()
    yield port
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def azure(tmp_path_factory, free_ports) -> Iterator[int]:
    """An Azure server, Azurite, with a container `bucket`: its port."""
    (port,) = free_ports(1)
    process = started(
        "azurite/node_modules/.bin/azurite-blob", port, "--silent", "--skipApiVersionCheck",
        "--location", str(tmp_path_factory.mktemp("azure")), "--blobHost", "127.0.0.1",
        "--blobPort", str(port),
    )  # fmt: skip
    connection = _azure_environment(port)["AZURE_STORAGE_CONNECTION_STRING"]
    with BlobServiceClient.from_connection_string(connection) as client:
        client.create_container("bucket")
    yield port
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def hdfs(tmp_path_factory, free_ports) -> Iterator[str]:
    """An HDFS of Hadoop's own NameNode and DataNode, in one process: its URL.

    Its superuser is the user of this process; others may write nowhere.
    """
    folder, (port,) = tmp_path_factory.mktemp("hdfs"), free_ports(1)
    if not (SERVERS / "hdfs").exists():
        pytest.fail(f"{SERVERS / 'hdfs'} is missing; make test-storage fetches it")
    process = subprocess.Popen(
        [
            "java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            f"-Dtest.build.data={folder}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", f"{SERVERS}/hdfs/*", "org.apache.hadoop.test.MiniDFSClusterManager",
            "-format", "-nnport", str(port), "-writeDetails", str(folder / "started.json"),
        ],
        cwd=folder,
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    for _ in range(3000):  # the file is written when the DataNode has registered
        if (folder / "started.json").exists():
            break
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    else:
        process.kill()
        raise AssertionError((folder / "log").read_text())
    yield f"hdfs://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def azure_environment() -> Callable[[int], dict[str, str]]:
    """Environment variables of commands that use an Azure server at a port."""
    return _azure_environment


def _azure_environment(port: int) -> dict[str, str]:
    parts = {
        "DefaultEndpointsProtocol": "http",
        "AccountName": "devstoreaccount1",
        "AccountKey": AZURE_KEY,
        "BlobEndpoint": f"http://127.0.0.1:{port}/devstoreaccount1",
    }
    joined = ";".join(f"{name}={value}" for name, value in parts.items())
    return {"AZURE_STORAGE_CONNECTION_STRING": joined}


@pytest.fixture(scope="session")
def s3_environment() -> Callable[[int], dict[str, str]]:
    """Environment variables of commands that use an S3 server at a port."""
    return _s3_environment


@pytest.fixture(scope="session")
def gcs_environment() -> Callable[[int], dict[str, str]]:
    """Environment variables of commands that use a GCS server at a port."""
    return lambda port: {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}


def _s3_environment(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class Commands:
    """Runs commands with a store in their environment."""

    def __init__(self, environment: dict[str, str], home: Path) -> None:
        self.home = home
        self._environment = os.environ | environment | {"HOME": str(home)}

    def start(self, *arguments: str) -> subprocess.Popen:
        return FORKS.popen(
            [sys.executable, "-m", "clozeline", *arguments],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run a command to its end; return standard output and standard error."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=600)
        assert process.returncode == code, f"{' '.join(arguments)}\n{out}\n{err}"
        return out, err

    def run_here(self, *arguments: str) -> str:
        """Run a command in this process, which has imported TensorFlow; return standard output.

        The process must use the same store.
        """
        out = io.StringIO()
        with mock.patch.dict(os.environ, self._environment), contextlib.redirect_stdout(out):
            assert main([*arguments]) == 0
        return out.getvalue()


@pytest.fixture(scope="session")
def commands() -> type[Commands]:
    """The class that runs commands."""
    return Commands


SLOW_SECS, SLOW_PARTS = 4.5, 15
"""How long the body of a slow answer takes, and in how many parts it is sent."""


class Network(ThreadingHTTPServer):
    """A proxy in front of a store. No request for an object fails twice in a row.

    Attributes:
        fault: returns what happens to a request: "", "stall", "slow", "cut", "lost" (it is done,
            but its answer does not arrive) or the status to answer with.
        seen: called with the number, method and path of each request before it is forwarded.
        requests: number of requests.
        faults: number of requests by what happened to them.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = upstream
        self.fault: Callable[[str], str] = lambda key: ""
        self.seen: Callable[[int, str], None] = lambda number, key: None
        self.requests = 0
        self.faults: dict[str, int] = {}
        self.lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, *_: object) -> None:
        """Print nothing: clients are killed."""

    def next_fault(self, key: str) -> str:
        with self.lock:
            self.requests += 1
            number = self.requests
            fault = self.fault(key)
            self.faults[fault] = self.faults.get(fault, 0) + 1
        self.seen(number, key)
        return fault


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Network

    def _forward(self) -> None:
        body = self._body()
        fault = self.server.next_fault(f"{self.command} {self.path.split('?')[0]}")
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "stall":
            time.sleep(2)
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
        if "Transfer-Encoding" in headers:
            del headers["Transfer-Encoding"]
            headers["Content-Length"] = str(len(body))
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if fault == "lost":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        length = answer.headers.get("Content-Length", str(len(data)))
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "slow":
            size = -(-len(data) // SLOW_PARTS)
            for start in range(0, len(data), size):
                time.sleep(SLOW_SECS / SLOW_PARTS)
                self.wfile.write(data[start : start + size])
            return
        if fault == "cut":
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(data)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def network(s3) -> Iterator[Network]:
    """A network in front of the S3 server."""
    proxy = Network(s3[0])
    threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
    yield proxy
    proxy.shutdown()


@pytest.fixture
def network_of(
    s3, gcs, azure, s3_environment, gcs_environment, azure_environment, monkeypatch
) -> Iterator[Callable[[str], Network]]:
    """The function that puts a network between this process and the server of a scheme."""
    servers = {
        "s3": (s3[0], s3_environment),
        "gs": (gcs, gcs_environment),
        "az": (azure, azure_environment),
    }
    networks = []

    def started(scheme: str) -> Network:
        port, environment = servers[scheme]
        networks.append(Network(port))
        threading.Thread(target=networks[-1].serve_forever, args=(0.01,), daemon=True).start()
        for name, value in environment(networks[-1].port).items():
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
        return networks[-1]

    yield started
    for network in networks:
        network.shutdown()


@pytest.fixture
def silent(
    s3_environment, gcs_environment, azure_environment, monkeypatch
) -> Iterator[list[socket.socket]]:
    """The connections to a server of all stores, which accepts them and never answers."""
    connections: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                connections.append(server.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        variables = s3_environment(port) | gcs_environment(port) | azure_environment(port)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield connections
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in connections:
        connection.close()


@pytest.fixture(scope="session")
def failing() -> Callable[..., Callable[[str], str]]:
    """The function that makes faults."""
    return _failing


def _failing(rate: float, stall_rate: float, cut_rate: float, seed: int) -> Callable[[str], str]:
    """Return a `Network.fault` with these rates."""
    rng, failed = Random(seed), set()

    def fault(key: str) -> str:
        drawn = rng.random()
        if key in failed:
            failed.remove(key)
            return ""
        if drawn < rate + cut_rate:
            failed.add(key)
            return "503" if drawn < rate else "cut"
        return "stall" if drawn < rate + cut_rate + stall_rate else ""

    return fault
