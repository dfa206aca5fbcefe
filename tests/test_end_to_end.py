"""All commands, one after another, each as a process of its own."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from docs.blocks import curl_requests
from serving.client import Client

pytestmark = pytest.mark.slow


def clozeline(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "clozeline", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done


def result(*arguments: object) -> dict:
    return json.loads(clozeline(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def folder(prose_corpus: Path, once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Everything up to the exported model."""
    return once("line", partial(run_commands, prose_corpus))


def run_commands(prose_corpus: Path, folder: Path) -> None:
    corpus, vocab = prose_corpus / "*.txt", folder / "vocab.txt"
    learned = result("vocab", "--input", corpus, "--output", vocab, "--size", 100)
    assert learned["pieces"] == len(vocab.read_text(encoding="utf-8").splitlines()) <= 100
    made = result(
        "preprocess", "--input", corpus, "--vocab", vocab, "--output", folder / "dataset",
        "--max-seq-length", 48, "--max-predictions", 7, "--eval-rate", 0.2,
    )  # fmt: skip
    checked = result("inspect", folder / "dataset", "--examples", 1)
    assert checked["examples"] == made["splits"]
    trained = result(
        "pretrain", "--dataset", folder / "dataset", "--run", folder / "run", "--model", "tiny",
        "--steps", 3, "--batch-size", 8,
    )  # fmt: skip
    assert trained["steps"] == 3
    exported = result("export", "--run", folder / "run", "--output", folder / "models" / "line")
    assert exported["version"] == 1


@pytest.fixture(scope="module")
def ports(folder: Path, free_ports: Callable[[int], list[int]]) -> Iterator[tuple[int, int]]:
    rest, grpc = free_ports(2)
    command = [sys.executable, "-m", "clozeline", "serve", "--models", str(folder / "models")]
    server = subprocess.Popen([*command, "--rest-port", str(rest), "--grpc-port", str(grpc)])
    try:
        Client(f"http://127.0.0.1:{rest}").wait_until_ready("line", 600)
        yield rest, grpc
    finally:
        server.terminate()
        assert server.wait() == 0


def test_fillings_are_the_same_over_rest_and_grpc(ports: tuple[int, int]) -> None:
    text = "The [MASK] sees the [MASK]."
    over_rest = result("query", "--model", "line", "--server", f"127.0.0.1:{ports[0]}", text)
    over_grpc = result(
        "query", "--model", "line", "--server", f"127.0.0.1:{ports[1]}", "--grpc", text
    )
    assert over_rest["signature"] == over_grpc["signature"] == "fill_mask"
    assert over_rest["tokens"] == over_grpc["tokens"]
    assert [len(best) for best in over_rest["tokens"]] == [5, 5]
    for ours, theirs in zip(over_rest["probabilities"], over_grpc["probabilities"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
        assert ours == sorted(ours, reverse=True)


def test_pairs_and_embeddings(ports: tuple[int, int]) -> None:
    server = f"127.0.0.1:{ports[0]}"
    pair = result("query", "--model", "line", "--server", server, "The fox sees.", "It hears.")
    assert 0 < pair["is_next_probability"] < 1
    vector = result("query", "--model", "line", "--server", server, "The fox sees.")
    assert len(vector["mean"]) == len(vector["pooled"]) == 128


def test_answers_are_shown_as_a_table(ports: tuple[int, int]) -> None:
    done = clozeline("query", "--model", "line", "--server", f"127.0.0.1:{ports[0]}", "A [MASK].")
    assert "mask 1" in done.stdout
    assert done.stderr == ""


def test_the_requests_of_the_documents(ports: tuple[int, int]) -> None:
    asked = set()
    for url, body in curl_requests():
        _, of_books, path = url.partition("/models/books")
        if not of_books:
            continue
        url = f"http://127.0.0.1:{ports[0]}/v1/models/line{path}"
        answer = requests.post(url, data=body, timeout=60)
        assert answer.status_code == 200, (body, answer.text)
        assert len(answer.json()["predictions"]) == 1
        asked.add(json.loads(body).get("signature_name", "serving_default"))
    metadata = requests.get(f"http://127.0.0.1:{ports[0]}/v1/models/line/metadata", timeout=60)
    signatures = metadata.json()["metadata"]["signature_def"]["signature_def"]
    assert asked | {"fill_mask"} == set(signatures) - {"__saved_model_init_op"}


def test_wrong_questions_are_one_line(ports: tuple[int, int]) -> None:
    server = f"127.0.0.1:{ports[0]}"
    unknown = clozeline("query", "--model", "nope", "--server", server, "text", code=2)
    assert len(unknown.stderr.splitlines()) == 1
    assert f"--model nope: not served at {server} (Servable not found" in unknown.stderr


def test_nothing_listens(refusing_port: int) -> None:
    done = clozeline(
        "query", "--model", "line", "--server", f"127.0.0.1:{refusing_port}", "x", code=1
    )
    assert "start one with clozeline serve" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_port_in_use(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = clozeline(
            "serve", "--models", folder / "models", "--rest-port", port, "--grpc-port", 0, code=2
        )
    assert str(port) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_dataset_of_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A fox.\nIt ran.\n\nA boat.\nIt sank.\n\nA clock.\nIt struck.\n")
    lines = ["--input", corpus, "--input-format", "lines"]
    result("vocab", *lines, "--output", tmp_path / "v.txt", "--size", 60)
    result(
        "preprocess", *lines, "--vocab", tmp_path / "v.txt", "--output", tmp_path / "ds",
        "--max-seq-length", 48, "--max-predictions", 7, "--eval-rate", 0,
    )  # fmt: skip
    done = clozeline(
        "pretrain", "--dataset", tmp_path / "ds", "--run", folder / "run", "--model", "tiny",
        "--steps", 3, "--batch-size", 8, code=2,
    )  # fmt: skip
    assert "another vocabulary" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_mirrored_strategy_by_the_real_command(folder: Path, tmp_path: Path) -> None:
    trained = result(
        "pretrain", "--dataset", folder / "dataset", "--run", tmp_path / "run", "--model", "tiny",
        "--steps", 2, "--batch-size", 8, "--strategy", "mirrored", "--no-xla",
    )  # fmt: skip
    assert trained["steps"] == 2


def test_the_real_server_is_run_where_it_is_installed(folder: Path, tmp_path: Path) -> None:
    stand_in = tmp_path / "tensorflow_model_server"
    # It reads the files that it is given: they end with its process.
    stand_in.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "flags = dict(flag[2:].split('=') for flag in sys.argv[1:] if '=' in flag)\n"
        "for name, path in flags.items():\n"
        "    if name.endswith('_file'): flags[name] = pathlib.Path(path).read_text()\n"
        "print(json.dumps(flags))\n"
    )
    stand_in.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "clozeline", "serve", "--models", str(folder / "models"),
         "--host", "0.0.0.0"],
        capture_output=True, text=True, env={"PATH": str(tmp_path)}, timeout=120,
    )  # fmt: skip
    given = json.loads(done.stdout)
    assert (given["rest_api_port"], given["port"]) == ("8501", "8500")
    assert "enable: true" in given["monitoring_config_file"]
    text = given["model_config_file"]
    assert 'name: "line"' in text
    assert f'base_path: "{folder.resolve() / "models" / "line"}"' in text
    assert "on all addresses" in " ".join(done.stderr.split())
