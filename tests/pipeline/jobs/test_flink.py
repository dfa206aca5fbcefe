"""The job on a real Flink: `make test-flink` fetches Flink and runs these tests."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fork_server import ROOT
from tests.pipeline.jobs.on_engines import (
    FOR_SHORT_JOBS,
    check_cleaned,
    clean,
    clozeline,
    contents,
    preprocess,
    write_dirty,
)

JOB_SERVER = ROOT / "build" / "flink" / "job-server.jar"
DEPLOY = ROOT / "pipeline" / "deploy" / "flink"

FLINK = ["--runner=FlinkRunner", f"--flink_job_server_jar={JOB_SERVER}", "--flink_version=1.19"]
EMBEDDED = [*FLINK, "--environment_type=LOOPBACK", "--parallelism=2"]

pytestmark = pytest.mark.flink

FreePorts = Callable[[int], list[int]]


@pytest.fixture(scope="module")
def dirty(prose_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, with documents for the cleaning rules."""
    folder = tmp_path_factory.mktemp("dirty")
    texts = [path.read_text(encoding="utf-8") for path in sorted(prose_corpus.glob("*.txt"))]
    write_dirty(texts, folder)
    return folder


@pytest.fixture(scope="module")
def local(dirty: Path, vocab_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datasets that the local runner makes, of 8 shards, and the rejected documents."""
    output = tmp_path_factory.mktemp("local")
    done = clean(dirty, vocab_path, output)
    assert done.returncode == 0, done.stderr
    assert len(contents(output / "ds")) == 2 * (3 + 1 + 2)
    check_cleaned(output)
    return output


def answers(url: str) -> dict:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return {}


def start_cluster(folder: Path, free: list[int], *before: str) -> Iterator[list[str]]:
    """Run `cluster.sh`, after some words of a command, and yield the flags of its jobs."""
    names = ("REST_PORT", "RPC_PORT", "WORKER_POOL_PORT")
    ports = {name: str(port) for name, port in zip(names, free, strict=True)}
    log = folder / "cluster.log"
    with log.open("wb") as output:
        cluster = subprocess.Popen(
            [*before, DEPLOY / "cluster.sh"],
            env=os.environ | FOR_SHORT_JOBS | ports,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 600
        url = f"http://127.0.0.1:{ports['REST_PORT']}/overview"
        while answers(url).get("slots-available") != 2:
            assert cluster.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield [
            *FLINK,
            f"--flink_master=127.0.0.1:{ports['REST_PORT']}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{ports['WORKER_POOL_PORT']}",
            "--parallelism=2",
        ]
    finally:
        os.killpg(cluster.pid, signal.SIGTERM)
        cluster.wait(300)


def test_embedded_flink_makes_the_same_bytes(
    local: Path, dirty: Path, vocab_path: Path, tmp_path: Path
) -> None:
    done = clean(dirty, vocab_path, tmp_path / "out", *EMBEDDED)
    assert done.returncode == 0, done.stderr
    assert "runner: FlinkRunner, workers: LOOPBACK" in done.stderr
    assert contents(tmp_path / "out") == contents(local)


def test_vocab_on_flink(prose_corpus: Path, tmp_path: Path) -> None:
    for name, flags in {"local": [], "flink": EMBEDDED}.items():
        where = ["--input", prose_corpus / "*.txt", "--output", tmp_path / f"{name}.txt"]
        done = clozeline("vocab", *where, "--size", "200", *flags)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flink.txt", "local.txt"]
    assert (tmp_path / "flink.txt").read_bytes() == (tmp_path / "local.txt").read_bytes()


def test_bad_input_is_one_line(prose_corpus: Path, vocab_path: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("Alone.\n", encoding="utf-8")
    done = preprocess(corpus, vocab_path, tmp_path / "ds", *EMBEDDED)
    assert done.returncode == 2
    assert "a corpus of one document" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_standing_cluster_makes_the_same_bytes(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, free_ports: FreePorts
) -> None:
    # A plain job: the embedded Flink has the steps of the cleaning rules.
    assert preprocess(prose_corpus, vocab_path, tmp_path / "local").returncode == 0
    for flags in start_cluster(tmp_path, free_ports(3)):
        done = preprocess(prose_corpus, vocab_path, tmp_path / "ds", *flags)
        assert done.returncode == 0, done.stderr
        assert contents(tmp_path / "ds") == contents(tmp_path / "local")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_storage_that_is_not_shared_is_detected(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, free_ports: FreePorts
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    # The cluster sees another disk where the submitting process writes.
    mount = f'mount -t tmpfs none {own} && exec "$0"'
    for flags in start_cluster(tmp_path, free_ports(3), "unshare", "--mount", "sh", "-c", mount):
        done = preprocess(prose_corpus, vocab_path, own / "ds", *flags)
        assert done.returncode == 1
        assert re.search(r"_temporary-\w+ is not the same folder on worker", done.stderr)
        assert "Traceback" not in done.stderr
    assert not (own / "ds").exists()
