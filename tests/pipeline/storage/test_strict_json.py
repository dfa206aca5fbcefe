"""Every JSON text that is written can be read by a strict reader."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import clozeline
from clozeline.main import main
from model.evaluate import write_answers
from model.training.checkpoints import Checkpoints
from model.training.metrics_file import MetricsFile
from pipeline.errors import InputError, JobError
from pipeline.storage.strict_json import from_json, read_json_file, to_json

NAN, INF = float("nan"), float("inf")
VALUE = {"a": [1, NAN, (INF, {"b": -INF})], "c": "NaN é\u2028\x85", "d": True, "e": None, "f": 0.5}


def strict(text: str | bytes) -> Any:
    """Parse JSON as RFC 8259 defines it."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = text.decode() if isinstance(text, bytes) else text
    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("how", [{}, {"indent": 1}, {"compact": True}])
def test_numbers_that_json_lacks_become_null(how: dict[str, Any]) -> None:
    read = strict(to_json(VALUE, **how))
    assert read == VALUE | {"a": [1, None, [None, {"b": None}]]}


def test_strings_are_utf_8_on_one_line() -> None:
    text = to_json(["\ud83d é\u2028\u2029\x85\x1e"])
    assert "é" in text
    assert len(text.splitlines()) == 1
    assert strict(text.encode()) == ["\ud83d é\u2028\u2029\x85\x1e"]


def test_files_of_a_run(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    metrics.add(3, "train", {"task_loss": NAN, "gradient_norm": INF})
    line = {"step": 3, "split": "train", "task_loss": None, "gradient_norm": None}
    assert strict(metrics.path.read_bytes()) == line
    assert metrics.lines() == [line]
    Checkpoints(tmp_path / "checkpoints").mark_best(3, "pearson", NAN)
    strict((tmp_path / "checkpoints" / "best.json").read_bytes())


def test_predictions(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.jsonl", [{"id": "é\u2028", "score": -INF}, {"id": "b"}])
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [strict(line) for line in lines] == [{"id": "é\u2028", "score": None}, {"id": "b"}]


def test_results_of_commands(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    from clozeline.commands.evaluate import Evaluate

    monkeypatch.setattr(Evaluate, "before_tensorflow", lambda _: None)
    monkeypatch.setattr(Evaluate, "run", lambda _: VALUE)
    assert main(["evaluate", "--run", "r", "--data", "d", "--json"]) == 0
    assert strict(capsysbinary.readouterr().out)["a"] == [1, None, [None, {"b": None}]]


ELSEWHERE = {
    "pipeline/storage/strict_json.py",
    "pipeline/corpus/parquet.py",  # rows on their way to the JSON reader, never in a file
    "pipeline/corpus/readers.py",  # ids, only to be hashed
    "model/interchange/files.py",  # a check that what was read is text
    "serving/client/client.py",  # requests: TensorFlow Serving reads NaN and Infinity
    "serving/server/describe.py",  # what follows imitates TensorFlow Serving's own writer
    "serving/server/json_answer.py",
    "serving/server/json_values.py",
}


def test_nothing_else_writes_json() -> None:
    root = Path(clozeline.__file__).parents[1]
    files = [*root.glob("*.py"), *(f for room in ("pipeline", "model", "serving")
                                   for f in (root / room).rglob("*.py"))]  # fmt: skip
    writers = {
        str(file.relative_to(root))
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps")
        and isinstance(node.value, ast.Name) and node.value.id == "json"
    }  # fmt: skip
    assert writers == ELSEWHERE


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "Expecting property name"),
        (b"\xff", "can't decode byte 0xff"),
        (b"{}", "no 'step'"),
        (b"[]", "list indices must be integers"),
        (b"null", "not subscriptable"),
        (b'{"step": "x"}', "invalid literal for int"),
        (b'{"step": Infinity}', "cannot convert float infinity"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason_and_the_remedy(
    tmp_path: Path, content: bytes, why: str
) -> None:
    file = tmp_path / "best.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"best.json: damaged: .*{why}.*; remove it$"):
        read_json_file(file, lambda text: int(from_json(text)["step"]), "remove it")


def test_a_missing_file_returns_none(tmp_path: Path) -> None:
    assert read_json_file(tmp_path / "best.json", str, "remove it") is None
    (tmp_path / "file").touch()
    assert read_json_file(tmp_path / "file" / "best.json", str, "remove it") is None


def test_a_path_that_cannot_name_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"cannot be read: Too many levels of symbolic links$"):
        read_json_file(tmp_path / "loop" / "best.json", str, "remove it")
    with pytest.raises(InputError, match=r"cannot be read: File name too long$"):
        read_json_file(tmp_path / ("x" * 300), str, "remove it")


def test_a_folder_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: Is a directory$"):
        read_json_file(tmp_path, str, "remove it")


def test_a_file_that_cannot_be_read_now_is_not_called_damaged() -> None:
    with pytest.raises(JobError, match=r"cannot be read: Input/output error$"):
        read_json_file(Path("/proc/self/mem"), str, "remove it")  # address 0 is never mapped
