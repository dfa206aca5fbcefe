"""Read tables of labelled texts (TSV, CSV, JSON Lines), and detect their text and label columns.

Columns are detected by the names used in GLUE, SuperGLUE and other published datasets. A column of
numbers or ids is never used as text unless `Columns` names it.
"""

import csv
import itertools
import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config_types import check_types
from pipeline.errors import InputError
from pipeline.progress import counted
from pipeline.storage.encodings import is_unicode
from pipeline.storage.strict_json import Json, JsonObject

PAIRS = (
    ("sentence1", "sentence2"),  # GLUE's MRPC, RTE, STS-B, WNLI, MNLI; SNLI, PAWS, WiC
    ("premise", "hypothesis"),  # SuperGLUE's CB and RTE; MNLI and SciTail at Hugging Face
    ("question1", "question2"),  # QQP
    ("#1 string", "#2 string"),  # MRPC
    ("question", "passage"),  # BoolQ
    ("question", "sentence"),  # QNLI, WikiQA
    ("question", "context"),
    ("context", "hypothesis"),  # ANLI
    ("query", "passage"),
    ("text", "text_pair"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence_a", "sentence_b"),  # SICK
    ("sent1", "sent2"),
    ("s1", "s2"),
)
"""Names of the two texts of a pair, in lower case."""

TEXTS = (
    *("text", "sentence", "review", "content", "comment", "comment_text", "tweet", "document"),
    *("question", "passage", "query", "utterance", "context", "message", "body", "headline"),
)
"""Names of a single text, in lower case."""

LABELS = (
    *("gold_label", "labels", "class", "target", "is_duplicate", "quality", "score", "similarity"),
    *("relatedness_score", "entailment_judgment", "sentiment", "category"),
)
"""Names of the label where no column is called `label`, in lower case."""

COLA = ("source", "label", "original_label", "sentence")
"""Columns of CoLA, whose files have no header: `gj04`, 1 or 0, `*` or empty, the sentence."""

# idx, guid, PairID, sentence_id, qid1, "Unnamed: 0" (pandas): columns with codes, not texts.
_ID_NAME = re.compile(
    r"(?i:(?:^|[^a-z])(?:id|idx|index|guid|uid|uuid|split)\d*$|^unnamed|^[a-z]{1,8}id\d?$)"
    r"|[a-z]I[dD]\d*$"
)
_CODE = re.compile(r"\S*\d\S*|\S+://\S+")
_WORDS_FOR_VALUES = frozenset({"true", "false", "yes", "no", "nan", "none", "null", "na", "n/a"})
# pandas writes integer labels as 1.0 if a row has none.
_INTEGER_WITH_ZEROS = re.compile(r"(-?[0-9]+)\.0+")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')

_LONGEST_CELL = 2**31 - 1  # characters; larger limits fail where a C long has 32 bits (Windows)


@dataclass(frozen=True)
class Columns:
    """Columns of a file; None = detect.

    Attributes:
        text_column: name of the column of the (first) text.
        text_pair_column: name of the column of the second text.
        label_column: name of the column of the class or number.
        word_column: number of the column of the words in CoNLL files, starting at 1.
        tag_column: number of the column of the tags, starting at 1.
        skip_incomplete_rows: whether to skip rows with more or fewer columns than the header.
        negative_column: name of the column of texts that are not similar to the first one.
    """

    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    word_column: int | None = None
    tag_column: int | None = None
    skip_incomplete_rows: bool = False
    negative_column: str | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field has a value of another type.
        """
        check_types(self)


@dataclass(frozen=True)
class Table:
    """A table read from a file.

    Attributes:
        path: the file.
        columns: names of the columns, in order.
        rows: values of each row by column; rows of JSON Lines may lack columns.
        lines: number of the line in which each row begins.
        incomplete: number of incomplete rows that were skipped.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[JsonObject]
    lines: list[int]
    incomplete: int = 0

    def values(self, column: str) -> Iterator[Json]:
        """Yield the values of a column; None for rows that lack it."""
        return (row.get(column) for row in self.rows)

    @property
    def listed(self) -> str:
        """Names of the columns, for error messages."""
        return listed(self.columns)


def listed(names: Iterable[str]) -> str:
    """Return names for an error message, shortened: without a header, they may be whole texts."""
    return ", ".join(repr(textwrap.shorten(name, 60, placeholder=" …")) for name in names)


# ---- reading


def read_table(path: Path, *, skip_incomplete: bool = False) -> Table:
    """Read a table; the extension of the file's name determines its format.

    Args:
        path: the file.
        skip_incomplete: whether to skip rows with more or fewer columns than the header.

    Raises:
        InputError: the content is not in that format.
        OSError: the file cannot be read; `UnicodeDecodeError`: it is not in UTF-8.
    """
    ending = path.suffix.lower()
    if ending not in (".tsv", ".csv", ".jsonl", ".json"):
        raise InputError(f"{path}: expected a .tsv, .csv or .jsonl file")
    # Excel begins UTF-8 files with a byte order mark; the csv module needs line ends as they are.
    with path.open(encoding="utf-8-sig", newline="") as file:
        if ending in (".jsonl", ".json"):
            return _json_table(path, file)
        if ending == ".csv":
            return _csv_table(path, ",", csv.reader(file, strict=True), skip_incomplete)
        if not file.seekable():
            raise InputError(f"{path}: a pipe or a device, which cannot be read twice; give a file")
        is_quoted = _has_quoted_cells(file)
        file.seek(0)
        if is_quoted:
            quoted = csv.reader(file, delimiter="\t", strict=True)
            return _csv_table(path, "\t", quoted, skip_incomplete)
        unquoted = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return _csv_table(path, "\t", unquoted, skip_incomplete)


def _has_quoted_cells(lines: Iterable[str]) -> bool:
    """Return whether a TSV file uses quoting, as files written by pandas and R do.

    In GLUE's files, quotation marks are part of the text and often unbalanced; a reader that treats
    them as quoting joins hundreds of rows. A file uses quoting if every cell with a quotation mark
    is quoted, and either all cells of the header are quoted or a cell contains a doubled mark.
    """
    rows = (line.rstrip("\r\n").split("\t") for line in lines)
    header = next(rows, [])
    is_doubled = False
    for cell in itertools.chain(header, itertools.chain.from_iterable(rows)):
        if '"' in cell:
            if not _QUOTED.fullmatch(cell):
                return False
            is_doubled |= '""' in cell[1:-1]
    # A lone quoted cell may be a title in quotation marks, as in GLUE's texts.
    return is_doubled or all(_QUOTED.fullmatch(name) for name in header)


def _csv_table(path: Path, delimiter: str, reader: Any, skip_incomplete: bool) -> Table:
    """Read delimited rows.

    The csv module reports line numbers even if cells contain line breaks; pyarrow.csv does not, and
    it fails for rows longer than its blocks.
    """
    csv.field_size_limit(_LONGEST_CELL)
    numbered = _numbered(path, reader)
    line, header = next(numbered, (1, []))
    # CoLA has no header: its first sentence would become the names of the columns.
    if delimiter == "\t" and _is_cola(header):
        columns: tuple[str, ...] = COLA
        first = [(line, header)]
    else:
        columns, first = _header(path, delimiter, header, line), []
    lines: list[int] = []
    rows: list[JsonObject] = []
    incomplete = 0
    for line, row in itertools.chain(first, numbered):
        # A missing tab shifts the label into a text, which no later check would notice.
        if len(row) != len(columns):
            if not skip_incomplete:
                raise InputError(
                    f"{path}: line {line}: {counted(len(row), 'columns')}, but the header "
                    f"has {len(columns)}{_to(line, reader)}; complete the row, or leave such "
                    "rows out with `skip_incomplete_rows`"
                )
            incomplete += 1
            continue
        lines.append(line)
        rows.append(dict(zip(columns, row, strict=True)))
    return Table(path, tuple(columns), rows, lines, incomplete)


def _numbered(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not empty, with the number of the line in which it begins.

    Raises:
        InputError: a row is malformed. A quotation mark that is not closed makes one row of all
            lines up to the next mark, or to the end.
    """
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            remedy = "close the quotation mark, or double it if it is a part of the text"
            raise InputError(
                f"{path}: line {line}: {error}{_to(line, reader)}; {remedy}"
            ) from error
        if row is None:
            return
        if row:
            yield line, row


def _to(line: int, reader: Any) -> str:
    """Return to which line the current row goes, for messages; empty if it has one line."""
    last = reader.line_num
    return f" (this row goes to line {last}: is a quotation mark open?)" if last > line else ""


def _is_cola(row: Sequence[str]) -> bool:
    return len(row) == len(COLA) and row[1] in ("0", "1") and row[2] in ("", "*")


def _header(path: Path, delimiter: str, names: Sequence[str], line: int) -> tuple[str, ...]:
    """Return the names of the columns; a column without a name (pandas' index) gets its number."""
    columns = tuple(
        name.strip() or f"(column {number})" for number, name in enumerate(names, start=1)
    )
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}: line {line}: two columns have the same name")
    # A file with the wrong ending has one column, whose name holds the real separators.
    other = next((mark for mark in "\t,;|" if mark != delimiter and mark in "".join(names)), None)
    if len(columns) == 1 and other:
        raise InputError(
            f"{path}: line {line}: the only column is {columns[0]!r}; in a {path.suffix.lower()} "
            f"file columns are separated by {delimiter!r}, not by {other!r}: convert it"
        )
    return columns


def _json_table(path: Path, file: Iterable[str]) -> Table:
    table = Table(path, (), [], [])
    columns: dict[str, None] = {}
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number}: expected a JSON object")
        columns |= dict.fromkeys(row)
        table.rows.append(row)
        table.lines.append(number)
    return Table(path, tuple(columns), table.rows, table.lines)


# ---- detection of columns


def label_column(table: Table, named: str | None) -> str | None:
    """Return the name of the label column; None = the file has no labels.

    Args:
        table: the table.
        named: `label_column` of `Columns`; None = detect.

    Raises:
        InputError: the named column is missing, or several columns have a label's name.
    """
    if named is not None:
        if named not in table.columns:
            raise InputError(
                f"{table.path}: no column {named!r}; it has {table.listed}; "
                "name the labels' with `label_column`"
            )
        return named
    by_name = {name.lower(): name for name in table.columns}
    found = [by_name[name] for name in LABELS if name in by_name]
    # The plain name has priority over the others, which may hold votes or scores.
    if "label" in by_name:
        return by_name["label"]
    if len(found) > 1:
        raise InputError(
            f"{table.path}: {' or '.join(map(repr, found))} may be the label; "
            "name it with `label_column`"
        )
    return found[0] if found else None


def text_columns(
    table: Table, kind: str, columns: Columns, label: str | None, count: int | None
) -> list[str]:
    """Return the names of the one or two text columns.

    Args:
        table: the table.
        kind: name of the kind of task, for error messages.
        columns: columns named by the user.
        label: name of the label column.
        count: number of texts per example, 1 or 2; None = detect from the columns' names.

    Raises:
        InputError: a named column is missing, or the columns are ambiguous.
    """
    if columns.text_pair_column and not columns.text_column:
        raise InputError("`text_pair_column`: name the first text too, with `text_column`")
    named = [name for name in (columns.text_column, columns.text_pair_column) if name]
    missing = [name for name in named if name not in table.columns]
    if missing:
        raise InputError(f"{table.path}: no column {missing[0]!r}; it has {table.listed}")
    # What the user named is never overruled by the table of names.
    pair = [] if named or count == 1 else _known_pair(table, label)
    count = count or (2 if pair or len(named) == 2 else 1)
    found = named or pair or _detected(table, label, count)
    if len(found) != count:
        raise InputError(
            f"{table.path}: a {kind} task needs {count} text column"
            f"{'s' * (count == 2)}, found {listed(found) or 'none'} among "
            f"{table.listed}; name them with `text_column` and `text_pair_column` (the first line "
            "must name the columns)"
        )
    return found


def _known_pair(table: Table, label: str | None) -> list[str]:
    """Return the two columns with names from `PAIRS`; empty if no pair or several pairs match."""
    by_name = {name.lower(): name for name in table.columns if name != label}
    pairs = [[by_name[name] for name in pair] for pair in PAIRS if by_name.keys() >= {*pair}]
    # A column with such a name may hold ids or numbers instead of texts.
    pairs = [pair for pair in pairs if all(_holds_a_text(table, column) for column in pair)]
    return pairs[0] if len(pairs) == 1 else []


def _detected(table: Table, label: str | None, count: int) -> list[str]:
    """Return the columns with names from `TEXTS`, or else the columns that contain texts.

    A name of five or more words is the first text of a file without a header.
    """
    others = [name for name in table.columns if name != label]
    known = [name for name in others if name.lower() in TEXTS and _holds_a_text(table, name)]
    if known and count == 1:
        return known
    # Ids may look like texts, so their names decide.
    names = [name for name in others if not _ID_NAME.search(name) and len(name.split()) < 5]
    return [name for name in names if _holds_texts(table, name)]


def _holds_a_text(table: Table, column: str) -> bool:
    return any(map(_is_text, table.values(column)))


def _holds_texts(table: Table, column: str) -> bool:
    """Return whether at least half of a column's values are texts, not numbers, ids or dates."""
    values = [value for value in table.values(column) if value not in (None, "")]
    # Half, because texts may be numbers, too: answers such as "7".
    return bool(values) and 2 * sum(map(_is_text, values)) >= len(values)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    value = value.strip()
    return (
        any(map(str.isalpha, value))
        and not _CODE.fullmatch(value)
        and value.lower() not in _WORDS_FOR_VALUES
    )


# ---- values


def text_of(table: Table, index: int, column: str) -> str:
    """Return the text of a row; numbers are converted to text.

    Raises:
        InputError: the row has no text in this column.
    """
    value = table.rows[index].get(column)
    if not isinstance(value, str | int) and not (isinstance(value, float) and math.isfinite(value)):
        raise InputError(
            f"{table.path}: line {table.lines[index]}: no {column!r} in this row; complete or "
            "remove it"
        )
    if not is_unicode(str(value)):
        raise InputError(
            f"{table.path}: line {table.lines[index]}: {column!r} has half of a surrogate pair "
            "(\\ud800 to \\udfff), which is not text; correct it"
        )
    return str(value)


def labels_of(table: Table, column: str) -> list[str]:
    """Return the labels as text; equal values give equal texts: 1, 1.0 and "1" give "1".

    Returns:
        One label per row; empty if no row has a label.

    Raises:
        InputError: some rows have no label.
    """
    labels = [_label(value) for value in table.values(column)]
    if None not in labels:
        return [label for label in labels if label is not None]
    if not any(labels):
        return []
    row = labels.index(None)
    raise InputError(
        f"{table.path}: line {table.lines[row]}: the label in column {column!r} is missing or no "
        "text; complete or remove the row"
    )


def _label(value: Any) -> str | None:
    """Return a label as text; None if it is missing or invalid."""
    # Before int: in Python a bool is one, and would give the label "True".
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        text = str(value).strip() if is_unicode(str(value)) else ""
        integer = _INTEGER_WITH_ZEROS.fullmatch(text)
        return (integer[1] if integer else text) or None
    return None


LARGEST_NUMBER = 1e15
"""Absolute value up to which labels are taken: squares of a hundred million sum up in float32."""


def check_size(where: str, number: float) -> None:
    """Check that the squared error of a label, summed over a batch, is finite in float32.

    Args:
        where: file, line and label, for the message.
        number: the label, a finite number.

    Raises:
        InputError: it is too large.
    """
    if abs(number) > LARGEST_NUMBER:
        raise InputError(
            f"{where} is beyond {LARGEST_NUMBER:g}: its squared error overflows float32, which the "
            "model computes in; scale the numbers"
        )
