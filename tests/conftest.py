"""What tests of several rooms share: quiet TensorFlow, a small corpus, a run trained on it."""

import contextlib
import gc
import http.server
import itertools
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from functools import partial
from hashlib import md5
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, cast

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import fsspec
import pytest
from filelock import FileLock
from fsspec.spec import AbstractFileSystem

import clozeline
from clozeline.main import main
from clozeline.show.terminal import printed_notes
from pipeline.storage import remote

if TYPE_CHECKING:  # TensorFlow is not for the process that hands out tests to the others
    from model.run import Run

# A shell script lets commands that it starts with `&` ignore interrupts, and `nohup` hangups: the
# processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without garbage collections, which take a fifth of that time.

    Later ones leave out what exists by then: modules, such as TensorFlow's, and the tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their parameter: compressed ones may hold the time, other in each process."""
    return argname if isinstance(val, bytes) else None


TOPICS = {
    "sea": ["boat", "wave", "harbour", "sailor", "anchor", "tide", "fish", "net", "gull", "storm"],
    "wood": ["oak", "fox", "moss", "path", "deer", "root", "owl", "fern", "brook", "shade"],
    "town": ["street", "tram", "baker", "clock", "market", "bridge", "tower", "square", "lamp"],
}
VERBS = ["sees", "hears", "follows", "leaves", "finds", "loves", "fears", "passes"]


def make_sentences(rng: Random, topic: str, count: int) -> list[str]:
    """Return sentences of different lengths about one topic."""
    nouns = TOPICS[topic]
    return [
        f"The {rng.choice(nouns)} {rng.choice(VERBS)} the {rng.choice(nouns)}"
        + "".join(f" and the {rng.choice(nouns)}" for _ in range(rng.randrange(4)))
        + "."
        for _ in range(count)
    ]


class Store(AbstractFileSystem):
    """An object store in memory, with buckets and conditional writes; a test may let it fail.

    Attributes:
        objects: contents by BUCKET/KEY.
        fail: called with the method and the key before each request; may raise.
    """

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.buckets = {"bucket"}
        self.objects: dict[str, bytes] = {}
        self.times: dict[str, float] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail: Callable[[str, str], None] = lambda method, key: None
        self.now: Callable[[], float] = time.time

    def _request(self, method: str, key: str) -> None:
        self.requests.append((method, key))
        self.fail(method, key)
        if key.split("/")[0] not in self.buckets:
            raise FileNotFoundError(key)

    def split_path(self, path: str) -> tuple[str, str, None]:
        """Return bucket, key and version of a path, as the libraries of real stores do."""
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def _entries(self, folder: str) -> dict[str, dict[str, Any]]:
        """Return the names of a folder's direct contents."""
        found: dict[str, dict[str, Any]] = {}
        for key, data in self.objects.items():
            if not key.startswith(f"{folder}/"):
                continue
            rest = key[len(folder) + 1 :].split("/")
            name = f"{folder}/{rest[0]}"
            kind, size = ("file", len(data)) if len(rest) == 1 else ("directory", 0)
            found[name] = {"name": name, "size": size, "type": kind}
            if kind == "file":
                found[name]["ETag"] = md5(data).hexdigest()  # as S3 has it for a plain PUT
        return found

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        self._request("info", path)
        if path in self.objects:
            return {"name": path, "size": len(self.objects[path]), "type": "file"}
        if path in self.buckets or self._entries(path):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        self._request("ls", path)
        entries = self._entries(path)
        if not entries and path not in self.buckets:
            raise FileNotFoundError(path)
        return list(entries.values()) if detail else list(entries)

    def modified(self, path: str) -> datetime:
        self._request("modified", path)
        return datetime.fromtimestamp(self.times[path], UTC)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        self._request("get", path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path][start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        self._request("put", path)
        if mode == "create" and path in self.objects:
            raise FileExistsError(path)
        self.objects[path] = bytes(value)
        self.times[path] = self.now()

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        Path(lpath).write_bytes(self.cat_file(rpath))

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        self.pipe_file(path2, self.cat_file(path1))

    def rm_file(self, path: str) -> None:
        self._request("rm", path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        del self.objects[path]


@pytest.fixture
def store(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """An object store behind gs:// with an empty bucket, gs://bucket; retries do not wait.

    The user's home, where the cache is by default, is empty, too.
    """
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    made = Store()
    module = types.SimpleNamespace(Store=lambda **_: made)
    monkeypatch.setitem(sys.modules, "store_of_a_test", cast(types.ModuleType, module))
    monkeypatch.setitem(remote.SCHEMES, "gs", remote.Scheme("store_of_a_test", "Store", 3, "gcs"))
    monkeypatch.setattr(remote, "FIRST_WAIT_SECS", 0.0)
    kind = fsspec.get_filesystem_class("gs")
    kind.clear_instance_cache()
    yield made
    kind.clear_instance_cache()


@pytest.fixture(autouse=True)
def _log_of_a_new_process() -> None:
    """Log as a new process does: commands and servers that ran in this one left their limits.

    A command lets errors alone pass, and `serve` a line a minute, through handlers that pytest has
    for all tests.
    """
    logging.root.setLevel(logging.WARNING)
    for handler in (*logging.root.handlers, logging.lastResort):
        if handler:
            handler.filters.clear()


@pytest.fixture
def obeys_hang_up() -> Iterator[None]:
    """Handle SIGHUP as a new process does, also in tests that `nohup` runs."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def printed_engine_notes() -> Iterator[None]:
    """Print on standard error what the engine logs, as the front door does."""
    with printed_notes(lambda message: message):
        yield


@pytest.fixture(scope="session")
def prose_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 documents of 3 to 14 sentences, one file each."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = Random(7)
    for index in range(60):
        topic = sorted(TOPICS)[index % 3]
        text = " ".join(make_sentences(rng, topic, rng.randint(3, 14)))
        (folder / f"{topic}-{index:02d}.txt").write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def vocab_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary with every word of the corpus, and some pieces for words outside it."""
    words = sorted({word for nouns in TOPICS.values() for word in nouns} | {*VERBS, "the", "and"})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words, "##s", "light", "##house"]
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return path


TINY = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 40, "max_position_embeddings": 32, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture(scope="session")
def once(
    worker_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[Path], None]], Path]:
    """Fill a folder in the first pytest-xdist worker that needs it; the others read it."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()  # fails in the workers after one that failed
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def trained_run(
    prose_corpus: Path, vocab_path: Path, once: Callable[[str, Callable[[Path], None]], Path]
) -> "Run":
    from model.run import load_run

    return load_run(once("trained", partial(_train, prose_corpus, vocab_path)) / "run")


def _train(prose_corpus: Path, vocab_path: Path, folder: Path) -> None:
    size = len(vocab_path.read_text(encoding="utf-8").splitlines())
    (folder / "tiny.json").write_text(json.dumps(TINY | {"vocab_size": size}))
    assert main(
        ["preprocess", "--input", str(prose_corpus / "*.txt"), "--vocab", str(vocab_path),
         "--output", str(folder / "ds"), "--max-seq-length", "32", "--max-predictions", "4",
         "--eval-rate", "0.2"]
    ) == 0  # fmt: skip
    assert main(
        ["pretrain", "--dataset", str(folder / "ds"), "--run", str(folder / "run"),
         "--model", str(folder / "tiny.json"), "--steps", "2", "--batch-size", "8", "--no-xla"]
    ) == 0  # fmt: skip


@pytest.fixture
def without_tensorflow(tmp_path: Path) -> dict[str, str]:
    """Environment of a process that fails if it imports TensorFlow."""
    package = tmp_path / "without" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('TensorFlow is imported')")
    return os.environ | {"PYTHONPATH": str(package.parent)}


@pytest.fixture
def full_disk() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """Let this process write no file of more than some bytes, as if the disk were full."""

    @contextlib.contextmanager
    def limit(size_bytes: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


def bind(port: int) -> socket.socket:
    """A socket that has a port of the loopback address and does not listen."""
    bound = socket.socket()
    try:
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        raise
    return bound


def is_free(port: int) -> bool:
    """Return whether nobody uses a port now."""
    with contextlib.suppress(OSError), bind(port):
        return True
    return False


@pytest.fixture(scope="session")
def free_ports() -> Iterator[Callable[[int], list[int]]]:
    """Find ports for processes that take no port 0 or do not say which one they got.

    The system gives none of these to connections and to sockets bound to port 0, and the launcher
    of workers takes higher ones. Each is found once: an abstract socket named after it tells all
    test processes of this machine that it is taken, until this process ends.
    """
    with contextlib.ExitStack() as taken:

        def is_ours(port: int) -> bool:
            mark = socket.socket(socket.AF_UNIX)
            try:
                mark.bind(f"\0clozeline-test-port-{port}")
            except OSError:
                mark.close()
                return False
            taken.enter_context(mark)
            return True

        untried = iter(range(10_000, 12_000))

        def find(count: int) -> list[int]:
            usable = (port for port in untried if is_ours(port) and is_free(port))
            found = list(itertools.islice(usable, count))
            assert len(found) == count
            return found

        yield find


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port where nothing listens, and that nobody else can take meanwhile."""
    with bind(0) as bound:
        yield bound.getsockname()[1]


@contextlib.contextmanager
def http_server(
    handler: type[http.server.BaseHTTPRequestHandler],
) -> Iterator[http.server.ThreadingHTTPServer]:
    """An HTTP server on loopback whose requests this class answers.

    `serve_forever` looks for a shutdown every half second unless told otherwise, which is longer
    than most tests take.
    """
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


HOLD_A_LOCK = """
import sys
from pathlib import Path
from pipeline.storage.locks import only_writer
with only_writer(Path(sys.argv[1]), "--run it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer_of() -> Iterator[Callable[[Path], subprocess.Popen]]:
    """Start a process that holds a directory's lock until its standard input is closed."""
    with contextlib.ExitStack() as stack:

        def start(directory: Path) -> subprocess.Popen:
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD_A_LOCK, str(directory)],
                cwd=Path(clozeline.__file__).parents[1],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout.readline() == b"held\n"
            return process

        yield start
