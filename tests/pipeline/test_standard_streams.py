"""Standard streams that cannot be written to, are closed, or cannot encode what is printed."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.standard_streams import Unfailing

WORK = """
import sys
from pipeline.progress import progress, stderr
with progress() as bar:
    task = bar.add_task("working", total=3, unit="steps", status="")
    for step in range(3):
        bar.advance(task)
        stderr.print("a note")
print("done")
"""

SHOW = """
from clozeline.commands.launch import show
for index in (0, 1):
    for stream in ("stdout", "stderr"):
        show(index, stream, "a line\\n")
"""

FIRST_FILE = """
import sys
from clozeline.start import main
code = main(["--help"]), main(["plan", "--text", "1"])
with open(sys.argv[1], "w") as file:
    file.write(f"{code} {file.fileno() > 2} {sys.stdin.read()!r}")
"""

PLAN = ["plan", "--text", "1GB", "--devices", "8 x H100"]

ROOT = Path(__file__).parents[2]


def unreadable(kind: str) -> int:
    """Return a descriptor that cannot be written to."""
    if kind == "full disk":
        return os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("kind", ["full disk", "closed pipe"])
@pytest.mark.parametrize(
    ("script", "code", "output"),
    [
        (WORK, 0, "done\n"),
        (SHOW, 0, "a line\n"),
        ("from clozeline.start import main; exit(main(['plan', '--text', '1']))", 2, ""),
    ],
)
def test_work_goes_on_if_nobody_can_read_its_notes(
    kind: str, script: str, code: int, output: str
) -> None:
    stderr = unreadable(kind)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT,
        )  # fmt: skip
    finally:
        os.close(stderr)
    assert (done.returncode, done.stdout) == (code, output)


INTERRUPTED = """
import sys
from clozeline import main, start
def interrupted(arguments):
    print("half a result")
    raise KeyboardInterrupt
main.main = interrupted
sys.exit(start.main([]))
"""


# Without a buffer, the result fails before the interruption.
@pytest.mark.parametrize(
    ("stream", "unbuffered"), [("stdout", ""), ("stderr", ""), ("stderr", "1")]
)
@pytest.mark.parametrize("kind", ["full disk", "closed pipe"])
def test_an_interrupted_command_has_its_exit_code(stream: str, kind: str, unbuffered: str) -> None:
    descriptor = unreadable(kind)
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    try:
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED],
            **(streams | {stream: descriptor}), text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
    finally:
        os.close(descriptor)
    assert done.returncode == 130
    assert done.stderr in (None, "clozeline: interrupted\n")


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "SystemExit"])
def test_a_further_interruption_ends_the_process_without_a_traceback(raised: str) -> None:
    script = f"import atexit, signal\n{INTERRUPTED.replace('KeyboardInterrupt', raised)}"
    script = script.replace(
        "import sys", "import sys\natexit.register(signal.raise_signal, signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGINT  # 130 to a shell
    assert done.stderr == ("clozeline: interrupted\n" if raised == "KeyboardInterrupt" else "")


def test_an_ignored_interruption_is_ignored_to_the_end() -> None:
    """A shell has SIGINT ignored in the background jobs of a script."""
    script = (
        "import atexit, signal; from clozeline.start import main\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "atexit.register(signal.raise_signal, signal.SIGINT)\n"
        "raise SystemExit(main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT)
    assert done.returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], PLAN, [*PLAN, "--json"]])
def test_a_result_on_a_full_disk_names_standard_output(
    arguments: list[str], unbuffered: str
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "clozeline", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    wrong = "clozeline: standard output: No space left on device\n"
    assert (done.returncode, done.stderr.splitlines(keepends=True)[-1]) == (1, wrong)


def test_tables_that_nobody_can_read_do_not_end_a_command_with_json() -> None:
    stderr = unreadable("closed pipe")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "clozeline", *PLAN, "--json"],
            stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT,
        )  # fmt: skip
    finally:
        os.close(stderr)
    assert done.returncode == 0
    assert done.stdout.startswith("{")


def test_what_can_be_written_is_the_files() -> None:
    text = io.StringIO()
    file = Unfailing(text)
    assert file.write("a line\n") == 7
    file.flush()
    assert text.getvalue() == file.getvalue() == "a line\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", FIRST_FILE]
    path = tmp_path / "file"
    done = subprocess.run([*command, str(path)], capture_output=True, input=b"", cwd=ROOT)
    assert done.returncode == 0
    assert path.read_text() == "(0, 2) True ''"


def test_characters_that_a_terminal_lacks_are_escaped() -> None:
    script = "from clozeline.start import main; main(['plan', '--text=1GB', '--devices=8 x H100'])"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, cwd=ROOT, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"base on 1GB of text, 8 \xd7 H100" in done.stdout
