"""Columns as different libraries write them give what JSON Lines of the same values give."""

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

import apache_beam as beam
import pyarrow
import pyarrow.parquet
import pytest
from apache_beam.testing.util import assert_that, equal_to

from clozeline.main import main
from pipeline.corpus.parquet import check_parquet, read_rows, row_groups
from pipeline.corpus.readers import (
    REMARKS,
    CorpusFormat,
    DroppedDocumentError,
    ReadDocuments,
    read_document,
)
from pipeline.corpus.remarks import INVALID_COLUMN, INVALID_UTF8
from pipeline.errors import InputError
from tests.conftest import make_sentences

TEXTS = ["The fox.", "Été à Łódź, 東京 😀", "", None, 'a "quoted"\nline', "The fox.", "x" * 50]

TEXT_TYPES = {
    "string": pyarrow.string(),
    "large_string": pyarrow.large_string(),  # Polars, by default
    "string_view": pyarrow.string_view(),  # Polars, as it holds them
    "categorical": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),  # pandas
    "ordered": pyarrow.dictionary(pyarrow.uint8(), pyarrow.large_string(), ordered=True),
    "binary": pyarrow.binary(),  # writers that do not say that it is text
    "large_binary": pyarrow.large_binary(),
    "binary_view": pyarrow.binary_view(),
}

ID_TYPES = {
    **TEXT_TYPES,
    "int64": pyarrow.int64(),
    "uint8": pyarrow.uint8(),
    "categorical integers": pyarrow.dictionary(pyarrow.int8(), pyarrow.int64()),
}


def column(values: list[Any], kind: Any) -> Any:
    if pyarrow.types.is_dictionary(kind):
        return pyarrow.array(values, kind.value_type).dictionary_encode().cast(kind)
    plain = pyarrow.array(values, kind if pyarrow.types.is_integer(kind) else pyarrow.string())
    return plain.cast(kind)


def rows(path: Path) -> list[bytes]:
    parts = row_groups(str(path), 0)
    return [row for part in parts for row in read_rows(*part, columns=["text", "id"])]


@pytest.mark.parametrize("text_type", TEXT_TYPES)
@pytest.mark.parametrize("id_type", ID_TYPES)
def test_rows_are_those_of_json_lines(text_type: str, id_type: str, tmp_path: Path) -> None:
    kind = ID_TYPES[id_type]
    is_integer = "int" in id_type
    ids = [n if is_integer else f"é-{n}" for n in range(len(TEXTS))]
    table = pyarrow.table({"id": column(ids, kind), "text": column(TEXTS, TEXT_TYPES[text_type])})
    path = tmp_path / "c.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=3)
    check_parquet([str(path)], "text", "id", skip_damaged=False)
    expected = [{"text": text, "id": name} for text, name in zip(TEXTS, ids, strict=True)]
    assert [json.loads(row) for row in rows(path)] == expected


@pytest.mark.parametrize("column_name", ["text", "id"])
def test_invalid_bytes_drop_one_document_only(column_name: str, tmp_path: Path) -> None:
    columns = {"id": [b"1", b"2"], "text": [b"The fox.", b"The owl."]}
    columns[column_name] = [columns[column_name][0], b"caf\xe9"]
    path = tmp_path / "c.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    good, bad = rows(path)
    how = CorpusFormat(input_format="parquet", language="en", text_column="text", id_column="id")
    assert read_document(good, how) == ("The fox.", '"1"')
    with pytest.raises(DroppedDocumentError, match=INVALID_UTF8):
        read_document(bad, how)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | ReadDocuments({str(path): path.stat().st_size}, how)
        assert_that(read[REMARKS], equal_to([(INVALID_COLUMN, str(path))]))


def test_a_file_compressed_as_a_whole(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["A fox."], "id": [7]}), tmp_path / "c")
    path = tmp_path / "c.parquet.gz"
    path.write_bytes(gzip.compress((tmp_path / "c").read_bytes()))
    check_parquet([str(path)], "text", "id", skip_damaged=False)
    assert rows(path) == [b'{"text": "A fox.", "id": 7}']


@pytest.mark.parametrize(
    ("values", "said"),
    [([1.5], "holds double, not text"), ([["a"]], "holds list.*, not text"), ([5], "holds int64")],
)
def test_a_column_of_another_type(values: list[Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), path)
    with pytest.raises(InputError, match=f"`text_column` text: in .*{said}"):
        check_parquet([str(path)], "text", None, skip_damaged=False)


def test_records_are_those_of_json_lines(vocab_path: Path, tmp_path: Path) -> None:
    texts = [" ".join(make_sentences(Random(n), "wood", 3)) for n in range(40)]
    ids = [f"doc-{n}" for n in range(40)]
    lines = [json.dumps({"id": i, "text": t}) for i, t in zip(ids, texts, strict=True)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    table = pyarrow.table(
        {
            "id": column(ids, ID_TYPES["large_string"]),
            "text": column(texts, TEXT_TYPES["string_view"]),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    made = {}
    for name in ("jsonl", "parquet"):
        where = ["--input", str(tmp_path / f"c.{name}"), "--output", str(tmp_path / name)]
        how = ["--vocab", str(vocab_path), "--input-format", name, "--id-column", "id"]
        assert main(["preprocess", *where, *how, "--eval-rate", "0.2"]) == 0
        made[name] = {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.tfrecord")}
    assert len(made["jsonl"]) == 2
    assert made["parquet"] == made["jsonl"]


@pytest.mark.parametrize("twice", ["text", "id"])
def test_two_columns_of_one_name_are_refused(twice: str, tmp_path: Path) -> None:
    arrays = [pyarrow.array(["a"])] * 3
    table = pyarrow.Table.from_arrays(arrays, names=["text", "id", twice])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=f"`{twice}_column` {twice}: .* several columns of this"):
        check_parquet([str(tmp_path / "a.parquet")], "text", "id", skip_damaged=False)
