"""Inputs that once caused a fault, and 60 s of random ones, do no harm."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from benchmarks import fuzz
from benchmarks.fuzz_inputs import FILES, GRPC, REST, Call
from serving.server.limits import Limits
from serving.server.loading import saved_model_loader
from serving.server.main import ModelServer
from serving.server.runner import Runner
from serving.server.status import ServingError
from serving.tf_serving import WARM_UP_FILE

HOST = "127.0.0.1"
CORPUS = Path(__file__).parents[1] / "hostile_corpus"
GOOD = (
    b"POST /v1/models/types:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n"
    b'{"instances": [2.5]}'
)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, save_types: Callable, save_classifier: Callable
) -> Path:
    """A folder of models: `types` and `classifier`."""
    folder = tmp_path_factory.mktemp("fuzzed")
    save_types(folder / "types" / "1")
    save_classifier(folder / "classifier" / "1")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ModelServer]:
    started = ModelServer(folder, HOST, 0, 0)
    started.start()
    yield started
    started.stop()


def names(ending: str) -> list[str]:
    return sorted(path.name for path in CORPUS.glob(f"*.{ending}"))


@pytest.mark.parametrize("name", names("http"))
def test_rest(server: ModelServer, name: str, caplog: pytest.LogCaptureFixture) -> None:
    request = (CORPUS / name).read_bytes()
    answer = fuzz.exchange(server.rest_port, request)
    assert fuzz.rest_fault(request, answer) == ""
    assert answer.status == int(name.split(".")[1])
    good = fuzz.exchange(server.rest_port, GOOD)
    assert json.loads(good.body) == {"predictions": [5.0]}
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("name", names("pb"))
def test_grpc(server: ModelServer, name: str) -> None:
    method, _, code, _ = name.split(".")
    request = Call(f"PredictionService/{method}", (CORPUS / name).read_bytes())
    with grpc.insecure_channel(f"{HOST}:{server.grpc_port}") as channel:
        assert fuzz.call(channel, request) == (code, "")


@pytest.mark.parametrize("name", names("warmup"))
def test_warm_up_files(folder: Path, name: str, tmp_path: Path) -> None:
    version = tmp_path / "types" / "1"
    shutil.copytree(folder / "types" / "1", version)
    (version / WARM_UP_FILE).parent.mkdir(exist_ok=True)
    shutil.copy(CORPUS / name, version / WARM_UP_FILE)
    reason = "record 0 is (corrupt or truncated|not a PredictionLog)"
    with pytest.raises(ServingError, match=rf"INVALID_ARGUMENT: .*{WARM_UP_FILE}: {reason}"):
        saved_model_loader(Runner(Limits()))("types", 1, version)


@pytest.mark.slow
def test_random_inputs_for_a_minute(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert fuzz.run(folder, "ci", 60, tmp_path) == []
    lines = capfd.readouterr().out.splitlines()
    for kind in (*REST, *GRPC, *FILES):
        (line,) = (line for line in lines if line.startswith(f"{kind:32} "))
        assert int(line[32:].split()[0]) > 20


def test_the_cause_of_a_fault_is_reported() -> None:
    get = b"GET / HTTP/1.1\r\n\r\n"
    right = (
        fuzz.Answer(200, "application/json", b'{"predictions": [NaN, "\xff"]}'),
        fuzz.Answer(404, "application/json", b'{"error": "no"}'),
        fuzz.Answer(200, "text/html", b"<p>"),
        fuzz.Answer(0),
    )
    assert [fuzz.rest_fault(get, answer) for answer in right] == [""] * 4
    wrong = {
        "status 500": fuzz.Answer(500, "application/json", b'{"error": "ValueError"}'),
        "status 302": fuzz.Answer(302, "text/plain"),
        "no JSON": fuzz.Answer(200, "application/json", b'{"predictions": [1.0}'),
        "in another form": fuzz.Answer(200, "application/json", b'{"error": "no"}'),
        "status 400, text/html": fuzz.Answer(400, "application/xml", b"<p>"),
    }
    for reason, answer in wrong.items():
        assert reason.split(",")[0] in fuzz.rest_fault(get, answer)


def test_figures_of_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = fuzz.Report(tmp_path)
    for number in range(3):
        report.add("REST body", "500", f"status 500: number {number}", 0.5, b"bad")
    report.add("REST body", "200", "", 0.1, b"good")
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == b"bad"
    assert report.fault_count == 3
    assert list(report.lines())[1].split() == [
        "REST", "body", "4", "3", "0.50", "s", "500", "3,", "200", "1",
    ]  # fmt: skip
    assert capsys.readouterr().out.count("input: ") == 1
