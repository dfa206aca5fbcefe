"""Which server `serve` runs, and with which flags; a script replaces the real one."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clozeline.main import main
from serving.export.choices import FROZEN_WEIGHTS
from serving.server.batching_options import SERVE_DEFAULT
from serving.server.config_files import read_batching_parameters, read_models_config
from serving.server.launch import REAL_SERVER, REST_THREADS
from serving.server.limits import Limits

SCRIPT = f"""#!/bin/sh
echo "frozen=${next(iter(FROZEN_WEIGHTS))}"
for flag in "$@"; do
    name="${{flag%%=*}}"
    case "$name" in *_file) cp "${{flag#*=}}" "$0$name"; flag="$name=$0$name";; esac
    echo "$flag"
done
"""


@pytest.fixture
def real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An executable on PATH with the real server's name, which prints its flags.

    It names copies of its files, which end with it.
    """
    program = tmp_path / "bin" / REAL_SERVER
    program.parent.mkdir()
    program.write_text(SCRIPT)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "1" / "saved_model.pb").touch()
    return tmp_path / "models"


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What the embedded server was started with, instead of starting it."""
    started: list[tuple] = []
    monkeypatch.setattr(
        "serving.server.main.serve", lambda *args, **kwargs: started.append((args, kwargs))
    )
    return started


def parsed(flags: Iterable[str]) -> dict[str, str]:
    return dict(flag.removeprefix("--").partition("=")[::2] for flag in flags)


def test_the_real_server_batches_by_default(
    real_server: Path, models: Path, without_tensorflow: dict[str, str], tmp_path: Path
) -> None:
    """`serve` run as a person does: the process becomes the real server, and imports nothing first.

    TensorFlow would take seconds, and the real server has its own.
    """
    command = [sys.executable, "-m", "clozeline", "serve", "--models", str(models)]
    command += ["--host", "0.0.0.0", "--frozen-weights"]
    (tmp_path / "temporary").mkdir()
    more = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run(
        command,
        env=without_tensorflow | more,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    flags = parsed(done.stdout.splitlines())
    assert flags["frozen"] == "1"
    assert (flags["rest_api_port"], flags["port"]) == ("8501", "8500")
    assert [one.name for one in read_models_config(Path(flags["model_config_file"]))] == ["a", "b"]
    assert "enable_batching" in flags
    assert flags["rest_api_num_threads"] == str(REST_THREADS) == "32"
    options = read_batching_parameters(Path(flags["batching_parameters_file"]))
    ours_alone = {"max_execution_work": None, "max_enqueued_pieces": None}
    assert options == replace(SERVE_DEFAULT, **ours_alone)
    assert options.max_execution_batch_size == REST_THREADS  # so that they can fill a batch
    assert "enable_signature_method_name_check" not in flags
    assert [*(tmp_path / "temporary").iterdir()] == []


def test_the_real_server_with_flags(
    real_server: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flags_of(*more: str) -> dict[str, str]:
        with pytest.raises(SystemExit) as became:
            main(["serve", "--models", str(models), "--host", "0.0.0.0", *more])
        program, arguments = became.value.args
        assert (program, arguments[0]) == (str(real_server), REAL_SERVER)
        return parsed(arguments[1:])

    def become(*program_and_arguments: Any) -> None:
        raise SystemExit(*program_and_arguments)

    changed = SimpleNamespace(**vars(os) | {"execv": become})
    monkeypatch.setattr("serving.server.launch.os", changed)
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 4 }\n")
    check = "--enable-signature-method-name-check"
    flags = flags_of("--batching-config", str(file), check)
    assert flags["batching_parameters_file"] == str(file)
    assert flags["enable_signature_method_name_check"] == ""
    flags = flags_of("--no-batching")
    assert not {"enable_batching", "batching_parameters_file", "rest_api_num_threads"} & set(flags)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("no program", "Exec format error"), ("#!/no/such/shell\n", "No such file or directory")],
)
def test_a_real_server_that_cannot_be_run_is_named(
    content: str,
    reason: str,
    real_server: Path,
    models: Path,
    embedded: list[tuple],
    capsys: pytest.CaptureFixture[str],
) -> None:
    real_server.write_text(content)
    assert main(["serve", "--models", str(models), "--host", "0.0.0.0"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"clozeline: {real_server}: cannot be run ({reason}); ")
    assert line.endswith("or add --embedded")
    assert embedded == []


@pytest.mark.parametrize(
    ("number", "code"),
    [
        # execve(2): the machine has too little memory, or too many processes or open files.
        (errno.ENOMEM, 1),
        (errno.EAGAIN, 1),
        (errno.EMFILE, 1),
        (errno.ENFILE, 1),
        (errno.EIO, 1),
        (errno.EACCES, 2),
        (errno.ELIBBAD, 2),
    ],
)
def test_a_machine_that_cannot_run_the_real_server_is_no_bad_input(
    number: int,
    code: int,
    real_server: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("serving.server.launch.os", SimpleNamespace(**vars(os) | {"execv": fail}))
    assert main(["serve", "--models", str(models), "--host", "0.0.0.0"]) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"clozeline: {real_server}: cannot be run ({os.strerror(number)})")
    assert ("--embedded" in line) is (code == 2)


@pytest.mark.parametrize("host", [None, "127.0.0.1", "localhost", "::1", "::", "10.0.0.7"])
def test_the_real_server_is_not_used_for_a_single_address(
    host: str | None,
    real_server: Path,
    models: Path,
    embedded: list[tuple],
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--host", host] if host else []
    assert main(["serve", "--models", str(models), *flags]) == 0
    ((arguments, _),) = embedded
    assert arguments[:2] == (models, host or "127.0.0.1")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{real_server} is installed, but listens on all addresses, not on ")
    assert line.endswith("--host 0.0.0.0 runs the installed one.")


@pytest.mark.parametrize("flags", [["--embedded"], ["--embedded", "--host", "0.0.0.0"]])
def test_the_embedded_server_runs_if_requested(
    flags: list[str],
    real_server: Path,
    models: Path,
    embedded: list[tuple],
    capsys: pytest.CaptureFixture[str],
) -> None:
    check = "--enable-signature-method-name-check"
    assert main(["serve", "--models", str(models), *flags, check]) == 0
    ((arguments, _),) = embedded
    assert arguments[4] == SERVE_DEFAULT
    assert arguments[6] == Limits(checks_method_names=True)
    assert capsys.readouterr().err == ""


def test_sizes_become_limits(models: Path, embedded: list[tuple]) -> None:
    sizes = ["--max-body-mb", "3", "--max-answer-mb", "100"]
    assert main(["serve", "--embedded", "--models", str(models), *sizes]) == 0
    limits = embedded[0][0][6]
    assert (limits.max_body_bytes, limits.max_answer_bytes) == (3 << 20, 100 << 20)
    assert limits.max_bytes_in_flight == 400 << 20
    assert main(["serve", "--embedded", "--models", str(models), "--max-answer-mb", "1"]) == 0
    assert embedded[1][0][6].max_bytes_in_flight == 256 << 20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rest-port", "0"], "--rest-port 0: tensorflow_model_server cannot choose a free port"),
        (["--grpc-port", "0"], "--grpc-port 0: tensorflow_model_server cannot choose a free port"),
        (["--allowed-hosts", "a.b"], "--allowed-hosts: tensorflow_model_server does not check"),
        (["--batching-config", "missing"], "missing: cannot be read"),
        (["--models", "missing"], "--models missing: no NAME/VERSION/saved_model.pb in it"),
    ],
)
def test_options_that_the_real_server_lacks_are_refused(
    flags: list[str],
    message: str,
    real_server: Path,
    models: Path,
    embedded: list[tuple],
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--models", str(models), "--host", "0.0.0.0"]
    assert main(["serve", *where, *flags]) == 2
    assert message in capsys.readouterr().err
    assert embedded == []
