"""All commands on S3, GCS and Azure servers and on HDFS, through a failing network, and killed."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import InputError
from pipeline.manifest import MANIFEST
from pipeline.storage.files import write_atomically
from pipeline.storage.leases import LEASE, LEASE_SECS
from pipeline.storage.remote import path_from
from serving.tf_serving import SAVED_MODEL, versions_of

pytestmark = pytest.mark.storage

PRETRAIN = (
    "--model", "tiny", "--steps", "24", "--batch-size", "8", "--checkpoint-every-steps", "4",
    "--eval-every-steps", "8", "--precision", "float32", "--deterministic", "--no-xla",
)  # fmt: skip


def upload(files: Path, folder: str) -> None:
    for path in files.iterdir():
        write_atomically(path_from(folder) / path.name, path.read_bytes())


def preprocess(folder: str) -> list[str]:
    return [
        "preprocess", "--input", f"{folder}/in/*.txt", "--vocab", f"{folder}/vocab.txt", "--output",
        f"{folder}/dataset", "--max-seq-length", "32", "--eval-rate", "0.2", "--shards", "3",
    ]  # fmt: skip


def vocab(folder: str) -> list[str]:
    return ["vocab", "--input", f"{folder}/in/*.txt", "--output", f"{folder}/vocab.txt",
            "--size", "80"]  # fmt: skip


def pretrain(folder: str) -> list[str]:
    return ["pretrain", "--dataset", f"{folder}/dataset", "--run", f"{folder}/run", *PRETRAIN]


@pytest.fixture(scope="session")
def local(prose_corpus, commands, once) -> Path:
    """Corpus, vocabulary, dataset and an uninterrupted run on local disks, and its result."""
    return once("local", partial(train_locally, commands, prose_corpus))


def train_locally(commands, corpus: Path, folder: Path) -> None:
    shutil.copytree(corpus, folder / "in")
    here = commands({}, folder)
    here.run_here(*vocab(str(folder)))
    here.run_here(*preprocess(str(folder)))
    (folder / "result.json").write_text(here.run_here(*pretrain(str(folder)), "--json"))


def ready_to_train(base: str, local: Path) -> list[str]:
    """Copy the local dataset into a bucket; return the command that trains on it."""
    upload(local / "dataset", f"{base}/dataset")
    return pretrain(base)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


@pytest.fixture
def on_s3(s3, monkeypatch, tmp_path, s3_environment, commands):
    """Commands on the S3 server without faults; this process reads it as well."""
    for name, value in s3_environment(s3[0]).items():
        monkeypatch.setenv(name, value)
    return commands({}, tmp_path)


def test_all_commands_on_gcs_with_urls_only(
    gcs, gcs_environment, commands, local, tmp_path, monkeypatch, free_ports
):
    for name, value in gcs_environment(gcs).items():
        monkeypatch.setenv(name, value)
    whole_line(commands({}, tmp_path), "gs://bucket/line", local, free_ports)


def test_all_commands_on_azure_with_urls_only(
    azure, azure_environment, commands, local, tmp_path, monkeypatch, free_ports
):
    for name, value in azure_environment(azure).items():
        monkeypatch.setenv(name, value)
    whole_line(commands({}, tmp_path), "az://bucket/line", local, free_ports)


def test_all_commands_on_hdfs_with_urls_only(hdfs, commands, local, tmp_path, free_ports):
    whole_line(commands({}, tmp_path), f"{hdfs}/line", local, free_ports)


def test_all_commands_on_s3_through_a_failing_network(
    network, failing, s3_environment, commands, local, tmp_path, monkeypatch, free_ports
):
    for name, value in s3_environment(network.port).items():
        monkeypatch.setenv(name, value)
    network.fault = failing(0.05, 0.02, 0.05, seed=5)
    try:
        whole_line(commands({}, tmp_path), "s3://bucket/line", local, free_ports)
    finally:
        network.fault = lambda key: ""
    assert min(network.faults[fault] for fault in ("503", "cut", "stall")) > 3


def whole_line(commands, base: str, local: Path, free_ports) -> None:
    """Text to served answer; the training is killed and resumed, and equals one on local disks."""
    upload(local / "in", f"{base}/in")
    commands.run_here(*vocab(base))
    commands.run_here(*preprocess(base))
    for path in (local / "dataset").iterdir():
        if path.name != MANIFEST:  # which names the corpus
            assert (path_from(f"{base}/dataset") / path.name).read_bytes() == path.read_bytes()
    commands.run_here("inspect", f"{base}/dataset")
    train = pretrain(base)
    killed = commands.start(*train)
    wait_for(lambda: checkpoints(base), killed)
    killed.kill()
    killed.communicate()
    assert 0 < max(checkpoints(base)) < 24
    out, _ = commands.run(*train, "--json")
    result = json.loads(out)
    assert result["steps"] == 24
    assert len(checkpoints(base)) <= 4
    run = path_from(f"{base}/run")
    logged = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert logged == sorted(logged)
    assert logged[-1] == 24
    assert (run / "curves.png").exists()
    assert any(path.name.startswith("events") for path in (run / "logs").iterdir())
    assert not (run / ".lease").exists()
    assert result["loss"] == json.loads((local / "result.json").read_text())["loss"]
    commands.run_here("export-hf", "--run", f"{base}/run", "--output", f"{base}/hf")
    commands.run_here("import", "--from", f"{base}/hf", "--run", f"{base}/imported")
    commands.run_here("export", "--run", f"{base}/run", "--output", f"{base}/models/m")
    rest, grpc = free_ports(2)
    server = commands.start("serve", "--models", f"{base}/models", "--rest-port", str(rest),
                            "--grpc-port", str(grpc), "--embedded")  # fmt: skip
    try:
        wait_for(lambda: is_listening(rest), server)
        out, _ = commands.run("query", "--server", f"127.0.0.1:{rest}", "--model", "m", "--json",
                              "The [MASK] sees the boat.")  # fmt: skip
        assert json.loads(out)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=120)


def checkpoints(base: str) -> list[int]:
    """Steps of the checkpoints that are whole."""
    folder = path_from(f"{base}/run/checkpoints")
    return [int(path.parent.name[5:]) for path in folder.glob("step-*/checksums.json")]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    """Wait until something is true, while a process runs."""
    for _ in range(3000):
        if condition():
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        threading.Event().wait(0.2)
    raise AssertionError("waited for 10 minutes")


def objects(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def prepared(on_s3, s3, prose_corpus, vocab_path) -> Iterator[tuple[str, Path]]:
    """A folder of the bucket with a corpus, a vocabulary, and a file of the user's."""
    base, folder = "s3://bucket/interrupted", s3[1] / "interrupted"
    upload(prose_corpus, f"{base}/in")
    write_atomically(path_from(f"{base}/vocab.txt"), vocab_path.read_bytes())
    write_atomically(path_from(f"{base}/dataset/notes.txt"), b"mine")
    yield base, folder
    for name in objects(folder):
        (folder / name).unlink()


def test_interrupted_preprocess_leaves_no_dataset_and_removes_only_its_own(
    prepared, network, s3_environment, commands, tmp_path
):
    base, folder = prepared
    through_network = commands(s3_environment(network.port), tmp_path)
    before = objects(folder)
    network.requests = 0
    through_network.run(*preprocess(base))
    whole, total = objects(folder), network.requests
    for name in whole.keys() - before.keys():
        (folder / name).unlink()
    assert MANIFEST in {Path(name).name for name in whole}
    for moment in range(10):
        stop = signal.SIGKILL if moment % 2 else signal.SIGINT
        found = objects(folder)  # also what a killed job left
        process = through_network.start(*preprocess(base))
        network.requests = 0
        at = max(1, total * (2 * moment + 1) // 20)
        network.seen = lambda number, key, at=at, p=process, stop=stop: (
            p.send_signal(stop) if number == at else None
        )
        _, err = process.communicate(timeout=600)
        network.seen = lambda number, key: None
        left = objects(folder)
        assert before.items() <= left.items()
        if f"dataset/{MANIFEST}" in left:  # the signal came after the dataset was published
            assert whole.items() <= left.items()
            for name in whole.keys() - before.keys():
                (folder / name).unlink()
            continue
        assert "Traceback" not in err
        if stop == signal.SIGINT:
            assert process.returncode == 130
            assert left.items() <= found.items()
    through_network.run(*preprocess(base))
    assert objects(folder) == whole  # what the killed jobs left is gone


def test_store_that_never_answers_ends_a_command_with_one_line(
    s3_environment, network, commands, tmp_path
):
    network.fault = lambda key: "503"
    network.requests = 0
    try:
        _, err = commands(s3_environment(network.port), tmp_path).run(
            "inspect", "s3://bucket/dataset", code=1
        )
    finally:
        network.fault = lambda key: ""
    assert len(lines(err)) == 1
    assert err.startswith("clozeline: s3://bucket/dataset/manifest.json: ")
    assert network.requests <= 30


@pytest.mark.parametrize(
    ("environment", "url", "message"),
    [
        ({}, "s3://nowhere/x", "s3://nowhere: no such bucket"),
        ({}, "az://nowhere/x", "az://nowhere: no such bucket"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://bucket/x", "s3://bucket/x: access denied: "),
        (
            {"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other-secret"},
            "s3://bucket/x",
            "s3://bucket/x: access denied: ",
        ),
        (
            {"AWS_SECRET_ACCESS_KEY": "", "AWS_ACCESS_KEY_ID": ""},
            "s3://bucket/x",
            "s3://bucket/x: no valid credentials: ",
        ),
        ({"AZURE_STORAGE_CONNECTION_STRING": ""}, "az://bucket/x", "az:// cannot be used: "),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "nonsense"},
            "az://bucket/x",
            "az:// cannot be used: ",
        ),
    ],
)
def test_unusable_store_is_named_in_one_line(
    s3, azure, s3_environment, azure_environment, monkeypatch, environment, url, message
):
    whole = s3_environment(s3[0]) | azure_environment(azure) | environment
    for name, value in whole.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message) as caught:
        path_from(url).read_bytes()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "url", "message"),
    [
        ({}, "ftp://bucket/x", "unknown scheme ftp://"),
        (
            {"HADOOP_CONF_DIR": "/nothing"},
            "hdfs://service/x",
            "hdfs:// cannot be used: No NameNode hosts found; expected hdfs://HOST:PORT/PATH, or",
        ),
        (
            {
                "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
                # Else the library asks other machines of the network.
                "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",
            },
            "az://bucket/x",
            "az://bucket/x/manifest.json: no valid credentials: ",
        ),
    ],
)
def test_command_with_an_unusable_store_prints_one_line(
    commands, tmp_path, environment, url, message
):
    _, err = commands(environment, tmp_path).run("inspect", url, code=2)
    assert len(lines(err)) == 1
    assert message in err


def test_second_training_of_a_remote_run_is_refused(on_s3, local):
    base = "s3://bucket/twice"
    train = ready_to_train(base, local)
    first = on_s3.start(*train)
    wait_for(lambda: path_from(f"{base}/run/.lease").exists(), first)
    _, err = on_s3.run(*train, code=2)
    assert f"--run {base}/run: is being written by process {first.pid}" in err
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=300)
    assert not path_from(f"{base}/run/.lease").exists()


def ended_while_uploading(
    network, process: subprocess.Popen, base: str, act: Callable[[], object]
) -> tuple[str, str, str]:
    """Do something once, when a training uploads the second file of its second checkpoint.

    Returns:
        The checkpoint's name, and what the process printed until it ended.
    """
    begun: dict[str, set[str]] = {}
    acted: list[object] = []
    pattern = re.compile(f"PUT /{base.removeprefix('s3://')}/run/checkpoints/(step-[0-9]+)/(.+)")

    def seen(_: int, key: str) -> None:
        if put := pattern.fullmatch(key):
            step, name = put.groups()
            begun.setdefault(step, set()).add(name)
            if len(begun) == len(begun[step]) == 2 and not acted:
                acted.append(act())

    network.seen = seen
    try:
        out, err = process.communicate(timeout=600)
    finally:
        network.seen = lambda number, key: None
    assert acted, (out, err)
    return [*begun][1], out, err


def killed_while_uploading(network, process: subprocess.Popen, base: str) -> str:
    """Kill a training when it uploads the second file of its second checkpoint; return its name."""
    name, out, err = ended_while_uploading(network, process, base, process.kill)
    assert process.returncode == -signal.SIGKILL, (out, err)
    return name


def weights_of(run: Path) -> dict[str, np.ndarray]:
    """Weights of the model in the last checkpoint of a run in a local folder."""
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / "step-00000024" / "checkpoint"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    return {name: reader.get_tensor(name) for name in names}


def test_training_killed_during_an_upload_resumes_on_another_machine(
    on_s3, s3, network, s3_environment, commands, local, tmp_path
):
    base = "s3://bucket/moved"
    train = ready_to_train(base, local)
    killed = commands(s3_environment(network.port), tmp_path).start(*train)
    half = killed_while_uploading(network, killed, base)
    checkpoint = path_from(f"{base}/run/checkpoints/{half}")
    assert [*checkpoint.iterdir()]
    assert not (checkpoint / "checksums.json").exists()
    (whole,) = checkpoints(base)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(
        "import socket\nsocket.gethostname = lambda: 'another'\n"
    )
    another = commands({"PYTHONPATH": str(tmp_path / "code")}, tmp_path / "home")
    # That machine cannot know that the process has ended; its lease runs out.
    lease, now = s3[1] / "moved" / "run" / LEASE, time.time()
    # The server's time of the object. Far ahead: the command may take a minute to start.
    os.utime(lease, (now + 3600, now + 3600))
    _, err = another.run(*train, code=2)
    assert f"is being written by process {killed.pid} on {socket.gethostname()}" in err
    os.utime(lease, (now - LEASE_SECS, now - LEASE_SECS))
    out, err = another.run(*train, "--json")
    assert f"step {whole}" in err
    assert json.loads(out)["steps"] == 24
    assert json.loads(out)["loss"] == json.loads((local / "result.json").read_text())["loss"]
    found, expected = weights_of(s3[1] / "moved" / "run"), weights_of(local / "run")
    assert len(expected) > 10
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_tuning_killed_during_an_upload_resumes_to_the_same_weights(
    on_s3, s3, network, s3_environment, commands, trained_run, tmp_path
):
    base = "s3://bucket/tuned"
    rows = [f"the {noun}\t{label}\n" for noun, label in (("boat", "sea"), ("fox", "wood")) * 12]
    write_atomically(path_from(f"{base}/train.tsv"), "".join(["text\tlabel\n", *rows]).encode())
    tune = (
        "finetune", "--task", "single", "--train", f"{base}/train.tsv", "--init",
        str(trained_run.path), "--steps", "24", "--batch-size", "4", "--checkpoint-every-steps",
        "4", "--precision", "float32", "--deterministic", "--no-xla",
    )  # fmt: skip
    in_bucket = ("--run", f"{base}/run")
    killed = commands(s3_environment(network.port), tmp_path).start(*tune, *in_bucket)
    killed_while_uploading(network, killed, base)
    (whole,) = checkpoints(base)
    _, err = on_s3.run(*tune, *in_bucket)
    assert f"resuming from step {whole} of 24" in err
    on_s3.run_here(*tune, "--run", str(tmp_path / "run"))
    found, expected = weights_of(s3[1] / "tuned" / "run"), weights_of(tmp_path / "run")
    assert len(expected) > 10
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_launched_workers_of_a_remote_run_start_again_after_one_was_killed(
    on_s3, s3, network, s3_environment, commands, local, tmp_path
):
    base = "s3://bucket/launched"
    train = ready_to_train(base, local)
    launch = ("launch", "--workers", "2", "--restart", "1", "--json", "--", *train)
    launcher = commands(s3_environment(network.port), tmp_path).start(*launch)

    def kill_second_worker() -> None:
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        _, second = map(int, children.read_text().split())
        os.kill(second, signal.SIGKILL)

    _, out, err = ended_while_uploading(network, launcher, base, kill_second_worker)
    assert launcher.returncode == 0, (out, err)
    assert "worker 2 of 2 was killed by SIGKILL" in err
    assert "starting again (1 of 1)" in err
    assert re.search(r"resuming from step \d+ of 24", err)
    found, expected = weights_of(s3[1] / "launched" / "run"), weights_of(local / "run")
    assert len(expected) > 10
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


KILLED_BEFORE_THE_NAME = f"""
import os, signal, sys
from pathlib import Path
from clozeline.main import main

fsync = os.fsync

def sync(descriptor):
    if Path(f"/proc/self/fd/{{descriptor}}").readlink().name == "{SAVED_MODEL}":
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

os.fsync = sync
sys.exit(main(sys.argv[1:]))
"""
"""The command line, killed when it waits for the disk before it renames a model's version."""


@pytest.mark.parametrize("remote", [False, True])
def test_export_killed_before_its_end_shows_nothing_and_can_be_repeated(
    on_s3, network, s3_environment, commands, trained_run, tmp_path, remote
):
    models = path_from("s3://bucket/models" if remote else str(tmp_path / "models"))
    export = ("export", "--run", str(trained_run.path), "--output", f"{models}/m")
    if remote:
        killed = commands(s3_environment(network.port), tmp_path).start(*export)
        network.seen = lambda _, key: (
            killed.kill() if key == "PUT /bucket/models/m/1/variables/variables.index" else None
        )
    else:
        killed = subprocess.Popen(
            [sys.executable, "-c", KILLED_BEFORE_THE_NAME, *export],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    said = killed.communicate(timeout=600)
    network.seen = lambda number, key: None
    assert killed.returncode == -signal.SIGKILL, said
    assert versions_of(models / "m") == {}
    exported = json.loads(on_s3.run_here(*export, "--json"))
    assert [*versions_of(models / "m").values()] == [path_from(exported["model"])]
    if not remote:
        names = {path.name for path in (models / "m").iterdir()}
        assert not [name for name in names if name.startswith(".export-")]
