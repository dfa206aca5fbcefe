"""The job on Spark and on Prism, Beam's own runner: `make test-spark` and `make test-prism`."""

from pathlib import Path
from random import Random

import pytest

from pipeline.corpus.readers import BATCH_BYTES
from tests.conftest import TOPICS, make_sentences
from tests.fork_server import ROOT
from tests.pipeline.jobs.on_engines import (
    check_cleaned,
    clean,
    contents,
    preprocess,
    write_dirty,
)

SPARK = [
    "--runner=SparkRunner",
    f"--spark_job_server_jar={ROOT / 'build' / 'spark' / 'job-server.jar'}",
    "--spark_master_url=local[2]",
    "--environment_type=LOOPBACK",
]
PRISM = [
    "--runner=PrismRunner",
    f"--prism_location={ROOT / 'build' / 'prism' / 'prism'}",
    "--environment_type=LOOPBACK",
]

on_each_engine = pytest.mark.parametrize(
    "engine",
    [
        pytest.param(SPARK, id="spark", marks=pytest.mark.spark),
        pytest.param(PRISM, id="prism", marks=pytest.mark.prism),
    ],
)


@pytest.fixture(scope="module")
def several_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus to clean, more text than one batch of the job, so that bundles are split."""
    folder = tmp_path_factory.mktemp("several_bundles")
    rng = Random(11)
    topics = [sorted(TOPICS)[index % 3] for index in range(40)]
    write_dirty([" ".join(make_sentences(rng, topic, 1000)) + "\n" for topic in topics], folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) > 1.5 * BATCH_BYTES
    return folder


@pytest.fixture(scope="module")
def local(
    several_bundles: Path, vocab_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The datasets that the local runner writes, and the rejected documents."""
    output = tmp_path_factory.mktemp("local")
    done = clean(several_bundles, vocab_path, output)
    assert done.returncode == 0, done.stderr
    check_cleaned(output)
    return output


@on_each_engine
def test_an_engine_writes_the_same_bytes(
    engine: list[str], local: Path, several_bundles: Path, vocab_path: Path, tmp_path: Path
) -> None:
    done = clean(several_bundles, vocab_path, tmp_path / "out", *engine)
    assert done.returncode == 0, done.stderr
    runner = engine[0].partition("=")[2]
    assert f"runner: {runner}, workers: LOOPBACK" in done.stderr
    assert contents(tmp_path / "out") == contents(local)


@on_each_engine
def test_bad_input_is_one_line(engine: list[str], vocab_path: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("Alone.\n", encoding="utf-8")
    done = preprocess(corpus, vocab_path, tmp_path / "ds", *engine)
    assert done.returncode == 2, done.stderr
    assert "a corpus of one document" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ds").exists()
