"""`clozeline launch`: its own flags, those of the command after `--`, what it prints."""

import json
import re
import shlex
from pathlib import Path

import pytest

from clozeline.commands.launch import Launch, show
from clozeline.main import main, parse
from model.training.cluster import Cluster, cluster_from

PRETRAIN = ["--", "pretrain", "--dataset", "d", "--run", "my run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (PRETRAIN, "--workers: missing; give the number of workers, or --hosts, or set TF_CON"),
        (["--workers", "0", *PRETRAIN], "--workers 0: must be at least 1"),
        (["--workers", "2"], "after --, expected pretrain or finetune .* received nothing"),
        (["--workers", "2", "--"], "received nothing"),
        (["--workers", "2", "--", "query", "x"], "received query"),
        (["--workers", "2", "pretrain"], "Missing from clozeline pretrain: --run"),
        (["--workers", "2", *PRETRAIN[:-2]], "Missing from clozeline pretrain: --run"),
        (["--workers", "2", *PRETRAIN, "--batches", "3"], "unknown flag --batches; .*pretrain --h"),
        (["--workers", "2", *PRETRAIN, "--steps", "0"], "--steps 0: must be at least 1"),
        (["--workers", "2", *PRETRAIN, "--strategy", "one"], "--strategy one: workers need multi"),
        (["--workers", "2", "--hosts", "a", *PRETRAIN], "--workers: --hosts prints commands"),
        (["--hosts", "a", "--grace-secs", "2", *PRETRAIN], "--grace-secs: without --restart, the"),
        (["--hosts", "a", "--restart", "-1", *PRETRAIN], "--restart -1: must be at least 0"),
        (["--hosts", "a,,b", *PRETRAIN], "--hosts: a worker's address is :2222; expected HOST:P"),
        (["--hosts", "a:7,a:7", *PRETRAIN], "--hosts: 2 workers have the address a:7"),
    ],
)
def test_commands_that_cannot_be_launched(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line


def test_the_commands_for_several_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--hosts", "a,b:7,a,[fe80::1]", "--json", *PRETRAIN]) == 0
    captured = capsys.readouterr()
    commands = [each["command"] for each in json.loads(captured.out)["commands"]]
    assert all(command in captured.err.splitlines() for command in commands)
    assert "# worker 2 of 4, on b:" in captured.err
    addresses = ("a:2222", "b:7", "a:2223", "[fe80::1]:2222")
    for index, command in enumerate(commands):
        setting, program, name, *flags = shlex.split(command)
        variable, _, value = setting.partition("=")
        cluster = cluster_from({variable: value})
        assert (cluster.addresses, cluster.index) == (addresses, index)
        assert (program, name) == ("clozeline", "pretrain")
        assert parse(name, flags)[0].run_dir == Path("my run")  # type: ignore[attr-defined]


def test_the_printed_commands_start_again(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--hosts", "a,b", "--restart", "3", "--grace-secs", "7"]
    assert main(["launch", *flags, "--json", *PRETRAIN]) == 0
    for each in json.loads(capsys.readouterr().out)["commands"]:
        _, program, name, *flags = shlex.split(each["command"])
        assert (program, name) == ("clozeline", "launch")
        assert flags == ["--restart=3", "--grace-secs=7", "--", *PRETRAIN[1:]]


def test_the_worker_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert main(["launch", *PRETRAIN]) == 2
    assert "TF_CONFIG: cannot be used" in capsys.readouterr().err
    monkeypatch.setenv("TF_CONFIG", Cluster(("a:1", "b:1"), 1).tf_config)
    more = ["--batch-size", "24", "--accumulation-steps", "2", "--phase2-dataset", "e"]
    options = parse("launch", [*PRETRAIN, *more, "--phase2-batch-size", "16"])[0]
    assert isinstance(options, Launch)
    config = options.engine_config()
    assert (config.workers, config.shared_examples) == (None, 4)
    assert config.command[1:6] == ("-P", "-m", "clozeline", "pretrain", "--dataset")


def test_lines_of_workers_have_a_prefix_but_results_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(0, "stdout", '{"steps": 7}\n')
    show(0, "stderr", "step 7\n")
    show(1, "stdout", "a table\n")
    show(2, "stderr", "an error")
    captured = capsys.readouterr()
    assert captured.out == '{"steps": 7}\n'
    assert captured.err == "[1] step 7\n[2] a table\n[3] an error\n"
