"""Tables: the columns of published datasets are detected; numbers and ids are never texts."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from model.tasks.example_files import read_examples
from model.tasks.tables import Columns
from model.tasks.texts import Texts
from pipeline.errors import InputError


def read(path: Path, content: str, kind: Any, columns: Columns | None = None, **more: Any) -> Texts:
    path.write_text(content, encoding="utf-8")
    found = read_examples(path, kind, columns or Columns(), "`data`", **more)
    assert isinstance(found, Texts)
    return found


# Headers and rows as the files of GLUE, SuperGLUE and others have them; values are made up.
COLA = "gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tSailors rode the.\n"
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
MRPC = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
STS = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
)
SNLI = (
    "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2\tcaptionID\tpairID\tlabel1\tlabel2\n"
)
SICK = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\n"
FILES = {
    "cola": (".tsv", COLA, "single", [["The sailors rode."], ["Sailors rode the."]], ["1", "0"]),
    "cola test": (".tsv", "index\tsentence\n0\tBill did.\n", "single", [["Bill did."]], []),
    "sst-2": (".tsv", "sentence\tlabel\nhide new \t0\n", "single", [["hide new "]], ["0"]),
    "sst-2 test": (".tsv", "index\tsentence\n0\tso fine\n", "single", [["so fine"]], []),
    "mrpc": (".tsv", MRPC + '1\t7\t8\tHe said "so\tShe went\n', "pair",
             [['He said "so', "She went"]], ["1"]),
    "mrpc test": (".tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA x\tB y\n", "pair",
                  [["A x", "B y"]], []),
    "qqp": (".tsv", QQP + "9\t1\t2\tHow so?\tWhy so?\t1\n", "pair",
            [["How so?", "Why so?"]], ["1"]),
    "sts-b": (".tsv", STS + "0\tmain\tMSRvid\t2012\t1\tnone\tnone\tA plane.\tA jet.\t5.000\n",
              "regression", [["A plane.", "A jet."]], ["5"]),
    "mnli": (".tsv", MNLI + "0\t1\t1n\tfiction\t( a )\t( b )\t(S a)\t(S b)\tA a.\tB b.\tx\tyes\n",
             "pair", [["A a.", "B b."]], ["yes"]),
    "qnli": (".tsv", "index\tquestion\tsentence\tlabel\n0\tWho is?\tHe is.\tentailment\n", "pair",
             [["Who is?", "He is."]], ["entailment"]),
    "rte": (".tsv", "index\tsentence1\tsentence2\tlabel\n0\tA a.\tB b.\tnot_entailment\n", "pair",
            [["A a.", "B b."]], ["not_entailment"]),
    "snli": (".tsv", SNLI + "-\t( a )\t( b )\tS\tS\tA a.\tB b.\t1#0\t1#0n\tx\ty\n"
             "neutral\t( a )\t( b )\tS\tS\tC c.\tD d.\t1#0\t1#0n\tx\ty\n", "pair",
             [["A a.", "B b."], ["C c.", "D d."]], ["", "neutral"]),
    "sick": (".tsv", SICK + "1\tA dog.\tA cat.\t3.2\n", "regression", [["A dog.", "A cat."]],
             ["3.2"]),
    "boolq": (".jsonl", '{"question": "is it", "passage": "It is.", "idx": 0, "label": true}\n',
              "pair", [["is it", "It is."]], ["true"]),
    "cb": (".jsonl", '{"premise": "It was.", "hypothesis": "it is", "label": "yes", "idx": 1}\n',
           "pair", [["It was.", "it is"]], ["yes"]),
    "rte of superglue": (".jsonl", '{"idx": 0, "premise": "It was.", "hypothesis": "it is"}\n',
                         "pair", [["It was.", "it is"]], []),
    "anli": (".jsonl", '{"uid": "a-b", "context": "It was.", "hypothesis": "it is", "label": "e",'
             ' "reason": "because of it"}\n', "pair", [["It was.", "it is"]], ["e"]),
    "pandas' index": (".csv", ",text,label\n0,so fine,1\n1,so bad,0\n", "single",
                      [["so fine"], ["so bad"]], ["1", "0"]),
    "pandas' index, read and written again": (
        ".csv", "Unnamed: 0,,review,sentiment\n0,0,so fine,positive\n", "single", [["so fine"]],
        ["positive"]),
    "ids of letters": (".csv", "uuid,satz,label\nab-cd,so fine,1\nef-gh,so bad,0\n", "single",
                       [["so fine"], ["so bad"]], ["1", "0"]),
    "codes and dates": (".csv", "ref,day,flag,satz,label\nA-1,2009-10-17,yes,so fine,1\n", "single",
                        [["so fine"]], ["1"]),
    "capitals": (".csv", "ID,Text,Label\n1,so fine,1\n", "single", [["so fine"]], ["1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_columns_of_published_files(tmp_path: Path, name: str) -> None:
    ending, content, kind, texts, labels = FILES[name]
    found = read(tmp_path / f"a{ending}", content, kind)
    assert [list(each) for each in found.texts] == texts
    assert found.labels == labels


@pytest.mark.parametrize(
    ("content", "kind", "columns", "message"),
    [
        ("id,title,blurb,label\n1,so fine,so bad,1\n", "single", Columns(),
         "1 text column, found 'title', 'blurb' among 'id', 'title', 'blurb', 'label'; name them"),
        ("a,b,c,label\nx y,y z,z x,1\n", "pair", Columns(), "2 text columns, found 'a', 'b', 'c'"),
        ("question,sentence,label\nx y,y z,1\n", "single", Columns(), "'question', 'sentence'"),
        ("sentence1,sentence2,label\nx y,y z,1\n", "single", Columns(), "'sentence1', 'sentence2'"),
        ("premise,choice1,choice2,label\nx y,y z,z x,1\n", "pair", Columns(),
         "2 text columns, found 'premise', 'choice1', 'choice2'"),
        ("number,label\n1,1\n2,0\n", "single", Columns(), "found none among 'number', 'label'"),
        ("text,label\n1,1\n2,0\n", "single", Columns(), "found none among 'text', 'label'"),
        ("left,right,score\nx y,y z,1.5\n", "regression", Columns(), "found 'left', 'right'"),
        ("text,class,target\nso fine,1,2\n", "single", Columns(),
         "'class' or 'target' may be the label; name it with `label_column`"),
        ("text,label\nso fine,1\n", "single", Columns(label_column="klass"),
         "no column 'klass'; it has 'text', 'label'; name the labels' with `label_column`"),
        ("It was so very fine.,1\nso bad,0\n", "single", Columns(), "first line must name the col"),
        ("text;label\nso, fine;1\n", "single", Columns(),
         "line 1: the only column is 'text;label'; .* separated by ',', not by ';'"),
        ("text\tlabel\nso fine\t1\n", "single", Columns(), "not by '.t'"),
    ],
)  # fmt: skip
def test_ambiguous_columns_are_refused(
    tmp_path: Path, content: str, kind: str, columns: Columns, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.csv", content, kind, columns)


def test_named_columns_may_have_any_name_and_numbers(tmp_path: Path) -> None:
    content = "id,klass,number\n1,a,7\n2,b,8\n"
    found = read(tmp_path / "a.csv", content, "single", Columns("number", label_column="klass"))
    assert (found.texts, found.labels) == ([("7",), ("8",)], ["a", "b"])
    found = read(tmp_path / "a.tsv", COLA, "single", Columns("source", label_column="label"))
    assert found.texts == [("gj04",), ("gj04",)]


def test_a_regression_takes_as_many_texts_as_the_run(tmp_path: Path) -> None:
    content = "text,left,right,score\nA a,x y,y z,1.5\n"
    assert read(tmp_path / "a.csv", content, "regression").texts == [("A a",)]
    with pytest.raises(InputError, match="needs 2 text columns, found 'text', 'left', 'right'"):
        read(tmp_path / "a.csv", content, "regression", takes_pairs=True)


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_long_texts(tmp_path: Path, ending: str) -> None:
    text = "so fine " * 20_000  # more than csv's 131,072 characters
    comma = {".csv": ",", ".tsv": "\t"}[ending]
    found = read(tmp_path / f"a{ending}", f"text{comma}label\n{text}{comma}1\n", "single")
    assert found.texts == [(text,)]


def test_quotation_marks_in_tsv(tmp_path: Path) -> None:
    rows = ['"so fine', 'so "bad"', '"', '"all of it"', "fine"]
    content = "".join(f"{text}\t1\n" for text in rows)
    found = read(tmp_path / "a.tsv", "sentence\tlabel\n" + content, "single")
    assert [text for (text,) in found.texts] == rows


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_tsv_as_pandas_and_r_write_it(tmp_path: Path, quoting: Any) -> None:
    rows = ['so "bad"', "so fine", '"all of it"']
    with (tmp_path / "made.tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", quoting=quoting)
        writer.writerows([["text", "label"], *([text, 1] for text in rows)])
    content = (tmp_path / "made.tsv").read_text()
    found = read(tmp_path / "a.tsv", content, "single")
    assert [text for (text,) in found.texts] == rows
    assert found.labels == ["1", "1", "1"]


def test_equal_labels_are_one_class(tmp_path: Path) -> None:
    values = [1, 1.0, "1", " 1 ", "1.0", True, False, "a", 0, 1.5, "v1.0"]
    rows = [json.dumps({"text": "so fine", "label": value}) for value in values]
    found = read(tmp_path / "a.jsonl", "\n".join(rows), "single")
    assert found.labels == ["1", "1", "1", "1", "1", "true", "false", "a", "0", "1.5", "v1.0"]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", "text,label\nso fine,1\nso bad,\n", 3),
        ("a.tsv", "label\ttext\n1\tso fine\n \tso bad\n", 3),
        ("a.jsonl", '{"text": "so fine", "label": 1}\n{"text": "so bad", "label": null}\n', 2),
        ("a.jsonl", '{"text": "so fine", "label": 1}\n{"text": "so bad"}\n', 2),
        ("a.jsonl", '{"text": "so fine", "label": 1}\n{"text": "so bad", "label": NaN}\n', 2),
        ("a.jsonl", '{"text": "so fine", "label": 1}\n{"text": "so bad", "label": [1]}\n', 2),
        ("a.jsonl", '{"text": "so fine", "label": 1}\n{"text": "bad", "label": "\\ud800"}\n', 2),
    ],
)
def test_missing_labels(tmp_path: Path, name: str, content: str, line: int) -> None:
    with pytest.raises(InputError, match=f"{name}: line {line}: the label in column 'label' is"):
        read(tmp_path / name, content, "single")
    none = (
        content.replace("so fine,1", "so fine,").replace("1\tso", "\tso").replace(": 1}", ": null}")
    )
    assert read(tmp_path / name, none, "single").labels == []


def test_half_of_a_surrogate_pair(tmp_path: Path) -> None:
    content = '{"text": "so \\ud83d\\ude00"}\n{"text": "so \\ud800"}\n'
    with pytest.raises(InputError, match=r"line 2: 'text' has half of a surrogate pair"):
        read(tmp_path / "a.jsonl", content, "single")


def test_incomplete_rows(tmp_path: Path) -> None:
    content = QQP + "9\t1\t2\tHow so?\n\t1\n7\t3\t4\tIs it?\tWas it?\t0\n"
    with pytest.raises(InputError, match=r"line 2: 4 columns.* has 6; .* `skip_incomplete_rows`"):
        read(tmp_path / "a.tsv", content, "pair")
    found = read(tmp_path / "a.tsv", content, "pair", Columns(skip_incomplete_rows=True))
    assert (found.texts, found.rows) == ([("Is it?", "Was it?")], [4])
    assert found.incomplete == 2
