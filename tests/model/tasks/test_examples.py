"""Files of labelled examples: valid ones are read, others refused with the file and the row."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from model.tasks.example_files import read_examples
from model.tasks.squad import Questions
from model.tasks.tables import Columns
from model.tasks.tagging import TaggedSentences
from model.tasks.texts import Texts
from pipeline.errors import InputError


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def texts(path: Path, kind: Any = "single", columns: Columns | None = None) -> Texts:
    found = read_examples(path, kind, columns or Columns(), "`train`")
    assert isinstance(found, Texts)
    return found


def test_tsv_with_quotes_bom_and_windows_line_ends(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", '\ufeffsentence\tlabel\r\nso "bad\t0\r\n\r\nfine, "x"\t1\r\n')
    found = texts(file)
    assert found.texts == [('so "bad',), ('fine, "x"',)]
    assert (found.labels, found.rows) == (["0", "1"], [2, 4])
    assert found.columns == ["sentence", "label"]


def test_csv_with_line_breaks_in_quotes(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", 'id,a,b,label\n7,"x, y\nz",w,no\n8,p,q,yes\n')
    found = texts(file, "pair", Columns("a", "b"))
    assert found.texts == [("x, y\nz", "w"), ("p", "q")]
    assert (found.labels, found.rows) == (["no", "yes"], [2, 4])


def test_json_lines_with_numbers(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "a", "score": 1.5}\n\n{"score": 2, "text": "b"}\n')
    found = texts(file, "regression", Columns(label_column="score"))
    assert (found.texts, found.labels, found.rows) == ([("a",), ("b",)], ["1.5", "2"], [1, 3])


def test_without_labels(tmp_path: Path) -> None:
    found = texts(write(tmp_path / "a.tsv", "a\tb\nx\ty\n"), "pair")
    assert (found.texts, found.labels, found.columns) == ([("x", "y")], [], ["a", "b"])


@pytest.mark.parametrize(
    ("name", "text", "kind", "columns", "message"),
    [
        ("a.tsv", "text\tlabel\na\t1\nb\n", "single", Columns(), "line 3: 1 column, but .* has 2"),
        ("a.tsv", "text\ttext\na\tb\n", "single", Columns(), "line 1: two columns have the same"),
        ("a.tsv", "text\tlabel\n", "single", Columns(), "contains no examples"),
        ("a.tsv", "", "single", Columns(), "contains no examples"),
        ("a.tsv", "x\tlabel\na\t1\n", "single", Columns("y"), "no column 'y'; it has 'x', 'label'"),
        ("a.tsv", "x\tlabel\na\t1\n", "pair", Columns(), "a pair task needs 2 text columns, found"),
        ("a.tsv", "label\n1\n", "regression", Columns(), "needs 1 text column, found none"),
        ("a.tsv", "x\ty\na\tb\n", "single", Columns("x", "y"), "1 text column, found 'x', 'y'"),
        ("a.tsv", "x\ty\na\tb\n", "pair", Columns(None, "y"), "`text_pair_column`: name the first"),
        ("a.jsonl", '{"x": "a"}\n{"x": }\n', "single", Columns(), "line 2: not JSON"),
        ("a.jsonl", "[" * 100_000, "single", Columns(), "line 1: not JSON: .*recursion"),
        ("a.jsonl", '["a"]\n', "single", Columns(), "line 1: expected a JSON object"),
        ("a.jsonl", '{"x": "a"}\n{"y": "b"}\n', "single", Columns("x"), "line 2: no 'x' in"),
        ("a.txt", "x", "single", Columns(), "expected a .tsv, .csv or .jsonl file"),
    ],
)  # fmt: skip
def test_unreadable_tables(
    tmp_path: Path, name: str, text: str, kind: str, columns: Columns, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        texts(write(tmp_path / name, text), kind, columns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'x,label\nb,0\n"a,1\nc,0\nd,1\n',
            r"line 3: unexpected end of data \(this row goes to line 5: is a quotation mark .*\)"
            "; close the quotation mark, or double it",
        ),
        (
            'x,label\n"a,1\nb,0\n"c",1\n',
            r"line 2: ',' expected after '\"' \(this row goes to line 4",
        ),
        (
            'x,label\n\n"a,1\nb,0",c,1\n',
            "line 3: 3 columns, but .* has 2 .*to line 4: .*; complete",
        ),
        ('x,label\n"a"b,1\n', r"line 2: ',' expected after '\"'; close"),
        ('"x\n,label\n', r"line 1: unexpected end .*to line 2"),
    ],
)
def test_a_wrong_quotation_mark_is_reported_where_its_row_begins(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        texts(write(tmp_path / "a.csv", text))


def test_files_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"x\tlabel\n\xff\t1\n")
    with pytest.raises(InputError, match=r"`train` .*a.tsv: cannot be read: line 2: the byte 0xff"):
        texts(tmp_path / "a.tsv")
    (tmp_path / "a.json").write_bytes(b'{"data": [\n"caf\xe9"]}')
    with pytest.raises(InputError, match=r"`dev` .*a.json: cannot be read: line 2: the byte 0xe9"):
        read_examples(tmp_path / "a.json", "span", Columns(), "`dev`")
    for name, data in (
        ("c.tsv", "sentence\tlabel\nŁ\t1\n".encode("utf-16")),
        ("d.tsv", b"\x1f\x8b\x08"),
    ):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"c.tsv: cannot be read: UTF-16 .* iconv"):
        texts(tmp_path / "c.tsv")
    with pytest.raises(InputError, match=r"d.tsv: cannot be read: compressed"):
        texts(tmp_path / "d.tsv")
    with pytest.raises(InputError, match=r"`train` .*b.tsv: cannot be read: .*No such file"):
        texts(tmp_path / "b.tsv")


def test_conll(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.conll",
        "-DOCSTART- -X- O\n\nJapan NN B-LOC\nwins VB O\n\n\nOdd NN O\n",
    )
    found = read_examples(file, "tagging", Columns(), "`train`")
    assert isinstance(found, TaggedSentences)
    assert found.words == [["Japan", "wins"], ["Odd"]]
    assert found.tags == [["B-LOC", "O"], ["O"]]
    assert found.rows == [3, 7]


def test_conll_with_tabs_and_without_a_last_line_end(tmp_path: Path) -> None:
    file = write(tmp_path / "a.conll", "New York\tB-LOC\r\nfell\tO")
    found = read_examples(file, "tagging", Columns(), "`train`")
    assert isinstance(found, TaggedSentences)
    assert (found.words, found.tags) == ([["New York", "fell"]], [["B-LOC", "O"]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb\n", "line 2: 1 column where 2 are expected"),
        ("a NN O\n\nb O\n", "line 3: 2 columns where 3 are expected"),
        ("a\n\nb O\n", "line 1: 1 column where 2 are expected"),
        ("a\t \n", "line 1: the tag, in column 2, is empty"),
        ("a O\n\tO\n", "line 2: the word, in column 1, is empty"),
    ],
)
def test_unbalanced_conll(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_examples(write(tmp_path / "a.conll", text), "tagging", Columns(), "`train`")


def squad(*asked: dict[str, Any], passage: str = "A cat sat.") -> str:
    return json.dumps({"data": [{"paragraphs": [{"context": passage, "qas": list(asked)}]}]})


def ask(id: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    given = [{"text": text, "answer_start": first} for text, first in answers]
    return {"id": id, "question": f"{id}?", "answers": given, **more}


def test_squad(tmp_path: Path) -> None:
    text = squad(
        ask("who", ("cat", 2), ("A cat", 0)),
        ask("none", is_impossible=True),
        ask("wrong", ("cat", 3)),
        ask("negative", ("sat.", -4)),
        ask("partly", ("dog", 2), ("sat", 6)),
        {"id": "unknown", "question": "unknown?"},
    )
    found = read_examples(write(tmp_path / "a.json", text), "span", Columns(), "`train`")
    assert isinstance(found, Questions)
    assert [(q.id, q.question, q.answers) for q in found.questions] == [
        ("who", "who?", (("cat", 2), ("A cat", 0))),
        ("none", "none?", ()),
        ("wrong", "wrong?", ()),
        ("negative", "negative?", ()),
        ("partly", "partly?", (("sat", 6),)),
        ("unknown", "unknown?", ()),
    ]
    assert [q.expected for q in found.questions] == [
        ("cat", "A cat"), (), ("cat",), ("sat.",), ("dog", "sat"), None,
    ]  # fmt: skip
    assert [q.is_learnable for q in found.questions] == [True, True, False, False, True, False]
    assert found.misplaced == ["wrong", "negative", "partly"]
    assert found.are_labelled == [True, True, True, True, True, False]
    kept = found.select([False, True, False, False, False, True])
    assert isinstance(kept, Questions)
    assert [q.id for q in kept.questions] == ["none", "unknown"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        squad(ask("a", ("fine", 3))).replace("3}", "Infinity}"),
        '{"data": [{"paragraphs": [{}]}]}',
        '{"data": 5}',
        squad(ask("a"), passage="so \ud800"),
        squad(ask("a"), passage="so fine").replace('"so fine"', "null"),
        squad(ask("a") | {"question": None}),
        squad(ask("a") | {"id": "\ud800"}),
        squad(ask("a", ("\ud800", 0))),
        squad(ask("a", ("sat", 6))).replace('"sat"', "null"),
        squad(ask("a", ("sat", 6))).replace('"sat"', "true"),
        squad(ask("a") | {"id": None}),
        squad(ask("a", ("sat", 6), is_impossible="false")),
    ],
)
def test_files_that_are_not_in_squads_format(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="not in SQuAD's format"):
        read_examples(write(tmp_path / "a.json", text), "span", Columns(), "`train`")


def test_words_without_tags(tmp_path: Path) -> None:
    file = write(tmp_path / "a.conll", "Ada\nleft\n\n\u00a0\n# x\nOdd\n")
    found = read_examples(file, "tagging", Columns(), "`data`")
    assert isinstance(found, TaggedSentences)
    assert found.words == [["Ada", "left"], ["Odd"]]
    assert found.tags == [[], []]
    assert found.are_labelled == [False, False]


def test_a_table_in_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.tsv"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)  # of a writer, so that no reader waits for one
    with pytest.raises(InputError, match="cannot be read twice; give a file"):
        read_examples(pipe, "single", Columns(), "`data`")
    os.close(end)
