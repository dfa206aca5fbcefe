"""Names and numbers that several modules share are spelled in one of them, and imported."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from model import served
from model.tasks.kinds import KINDS

ROOT = Path(__file__).parent.parent
ROOMS = ("pipeline", "model", "serving", "clozeline")

FEATURES = {
    "input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids",
    "masked_lm_weights", "next_sentence_labels", "position_ids", "next_sentence_positions",
    "next_sentence_weights",
}  # fmt: skip
"""Features of a record, written down again: they are the interface to every other BERT trainer."""


TF_SERVING = {
    "serving_default", "saved_model.pb", "assets.extra", "tf_serving_warmup_requests",
    "/monitoring/prometheus/metrics", "8500", "8501",
}  # fmt: skip
"""What TensorFlow Serving fixes; no literal elsewhere may have one of them in it."""


@cache  # parsing all modules takes a second
def literals() -> list[tuple[str, int, str]]:
    """Return the module, the line and the value of every literal string and number in the rooms.

    Names that are written without quotation marks are Python's, and mypy checks them. Docstrings
    are for people.
    """
    found = []
    for path, tree in sources():
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found += [
            (path, node.lineno, str(node.value))
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and id(node) not in docstrings
        ]
    return found


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Yield the path and the tree of every module in the rooms."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))


def test_a_feature_is_named_in_the_schema_alone() -> None:
    found = [(path, value) for path, _, value in literals() if value in FEATURES]
    assert sorted(found) == [("pipeline/schema.py", name) for name in sorted(FEATURES)]


SERVED = {value for name, value in vars(served).items() if name.isupper()}
"""Names of signatures, of their inputs and of their outputs."""

MEAN_NOTHING_ELSE = {
    "fill_mask", "fill_mask_pair", "embed_tokens", "embed_dimension", "predict_ids",
    "is_next_probability",
    "sequence_output", "pooled_output", "masked_lm_logits", "next_sentence_logits", "task_logits",
    "_code_point", "_utf16",
}  # fmt: skip
"""Names for which no other thing in the project has the same word."""

READERS = ("serving/export/", "serving/client/", "clozeline/show/answer.py")
"""Where every name of a signature, an input or an output is meant as one."""

OTHER_MEANINGS = {
    ("serving/export/signatures.py", "next_sentence"),  # the head
    ("serving/export/inference_graph.py", "next_sentence"),
    ("serving/export/signatures.py", "words"),  # what a kind of task reads
    ("serving/export/accuracy.py", "answer"),  # a column of an evaluation
}


def test_names_of_signatures_inputs_and_outputs_are_written_once() -> None:
    assert MEAN_NOTHING_ELSE < SERVED
    found = {
        (path, value)
        for path, _, value in literals()
        if value in MEAN_NOTHING_ELSE or (value in SERVED and path.startswith(READERS))
    }
    assert found - OTHER_MEANINGS == {("model/served.py", name) for name in MEAN_NOTHING_ELSE}


def test_the_playground_reads_names_that_a_served_model_has() -> None:
    script = (ROOT / "serving" / "pages" / "playground.js").read_text("utf-8")
    fills = re.findall(r"^    signature: .*", script, re.MULTILINE)
    signatures = set(re.findall(r'"(\w+)"', "".join(fills))) - {"signature"}  # a field's id
    fields = set(re.findall(r'name: "(\w+)"', script))
    inputs = fields - {"lines"}  # each line is sent as a text
    taken_apart = re.findall(
        r"(?:function show\w+|number: |answers\.map\()\(?\{ ([\w, ]+) \}\)", script
    )
    outputs = {*re.findall(r"\banswer\.(\w+)", script), *", ".join(taken_apart).split(", ")}
    assert {"fill_mask", "next_sentence", "embed", "attention"} <= signatures
    assert inputs == {"text", "text_pair"}
    assert {"is_next_probability", "labels", "score", "mean", "scores", "tokens"} <= outputs
    assert signatures | inputs | outputs <= SERVED


@pytest.mark.parametrize("fact", sorted(TF_SERVING))
def test_constants_of_tensorflow_serving_are_written_once(fact: str) -> None:
    found = [f"{path}:{line}" for path, line, value in literals() if fact in value]
    assert len(found) == 1, found
    assert found[0].startswith("serving/tf_serving.py:")


def test_a_class_name_stands_once() -> None:
    """A name tells which class is meant, in the whole project; a leading underscore does not."""
    where: dict[str, list[str]] = {}
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name.lstrip("_"), []).append(path)
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


def test_a_kind_of_task_is_named_in_its_file_and_the_table_alone() -> None:
    """Nothing else branches on the kinds, so a new one is a file and a row of the table."""
    files = {"model/tasks/kinds.py", *(kind_file(entry.path) for entry in KINDS.values())}
    of_others = {
        "pipeline/records/masking.py", "pipeline/configs.py",  # spans that are masked
        "clozeline/commands/preprocess.py",
        "model/interchange/read_tokenizer.py", "model/interchange/write_tokenizer.py",  # templates
        "model/interchange/hugging_face.py",  # its `problem_type`
        "model/tasks/tables.py",  # a name of columns
        "model/served.py",  # a signature of vectors
        "serving/server/examples.py",  # TensorFlow Serving's classify and regress
    }  # fmt: skip
    found = {path for path, _, value in literals() if value in KINDS}
    assert found <= files | of_others, sorted(found - files - of_others)


def kind_file(path: str) -> str:
    return path.split(":")[0].replace(".", "/") + ".py"
