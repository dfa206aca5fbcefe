"""Read tagged words, one word per line, in the column formats of the CoNLL shared tasks.

A blank line ends a sentence. Comments, `-DOCSTART-` lines, and CoNLL-U's multi-word ranges (`1-2`)
and empty nodes (`1.1`) are skipped.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.progress import counted

_SPACES = " \t\r\n\f\v"  # ASCII white space only: some files contain a no-break space as a word
_GAP = re.compile(f"[{_SPACES}]+")
_ID = re.compile(r"\d+")
_NO_WORD_ID = re.compile(r"\d+[-.]\d+")
_NUMBER = re.compile(r"[-+]?\d+(?:[-.,]\d+)?")
_SCHEME_TAG = re.compile(r"O|[BIESLUMW][-_].+")
_WORD_NAMES = frozenset({"word", "words", "token", "tokens", "form"})
_TAG_NAMES = frozenset(
    {"tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "entity", "pos", "upos"}
)
"""Names of columns in a first line that names them, in lower case."""

_BRACKETS = re.compile(r"(?:\(([^()*]+))?(\*?)(\)?)")

CONLL_U = 10
"""Number of columns in CoNLL-U, universaldependencies.org/format.html: FORM is 2, UPOS is 4."""
UPOS = 4

CONLL_2012 = (4, 11)
"""Numbers of the word column and the named-entity column in CoNLL-2012's files."""


@dataclass(frozen=True)
class Sentence:
    """A sentence.

    Attributes:
        line: line number of the first word.
        words: words of the sentence.
        tags: tags of the words; empty if the file has no tags.
    """

    line: int
    words: list[str]
    tags: list[str]


@dataclass(frozen=True)
class _ConllLine:
    number: int
    cells: list[str]
    has_tabs: bool

    @property
    def may_be_comment(self) -> bool:
        return self.cells[0].startswith("#")


@dataclass(frozen=True)
class _ConllColumns:
    """Columns of a file.

    Attributes:
        word: number of the word column, starting at 1.
        tag: number of the tag column, starting at 1.
        has_ids: whether the first column contains the index of each word in its sentence.
        count: number of columns of every line; None = at least `word` and `tag`.
    """

    word: int
    tag: int
    has_ids: bool
    count: int | None


def read_conll(path: Path, word: int | None = None, tag: int | None = None) -> list[Sentence]:
    """Read the sentences of a file.

    Args:
        path: the file.
        word: number of the word column, starting at 1; None = detect.
        tag: number of the tag column, starting at 1; None = detect.

    Raises:
        InputError: a line lacks a column, a word or tag is empty, or the columns are ambiguous.
        OSError: the file cannot be read; `UnicodeDecodeError`: it is not in UTF-8.
    """
    with path.open(encoding="utf-8-sig") as file:
        lines = [_split(number, line) for number, line in enumerate(file, start=1)]
    lines, named_word, named_tag = _without_header(lines)
    word, tag = word or named_word, tag or named_tag
    # CoNLL-2012 has a varying number of columns at the end, so it is recognized by this line.
    is_2012 = any(line.cells[:2] == ["#begin", "document"] for line in lines)
    blocks = [
        list(block)
        for is_data, block in itertools.groupby(lines, key=lambda line: _is_data(line))
        if is_data
    ]
    # A line that begins with # may be a word: a hashtag. Columns are detected without such lines.
    certain = [[line for line in block if not line.may_be_comment] for block in blocks]
    rows = [line for block in certain for line in block]
    if not rows:
        return []
    if all(len(line.cells) == 1 for line in rows) and not (word or tag):
        return _words_alone(certain)
    # Numbers and words, without tags: a file to predict on.
    if not (word or tag) and len(rows[0].cells) == 2 and _only_word_numbers(certain):
        return _words_alone(
            [line for line in block if not _NO_WORD_ID.fullmatch(line.cells[0])]
            for block in certain
        )
    columns = _columns(path, certain, word, tag, is_2012=is_2012)
    # What is certainly a tag helps to tell `#word O` from a comment.
    tags = {line.cells[columns.tag - 1] for line in rows if len(line.cells) >= columns.tag}
    kept = (_lines_of_words(block, rows[0], columns, tags) for block in blocks)
    return _without_brackets([_sentence(path, words, columns) for words in kept if words])


def _split(number: int, line: str) -> _ConllLine:
    stripped = line.strip(_SPACES)
    # Between tabs, a cell may be empty or have spaces, as in multi-word tokens; spaces separate
    # only without tabs.
    cells = line.rstrip("\r\n").split("\t") if "\t" in line else _GAP.split(stripped)
    return _ConllLine(number, [cell.strip(_SPACES) for cell in cells], "\t" in line)


def _without_header(lines: list[_ConllLine]) -> tuple[list[_ConllLine], int | None, int | None]:
    """Return the lines without one that names the columns, and the columns that it names.

    Its last name is that of the tags, which no line has for a tag.
    """
    first = next((line for line in lines if _is_data(line) and not line.may_be_comment), None)
    names = [cell.lower() for cell in first.cells] if first else []
    words = [number for number, name in enumerate(names, start=1) if name in _WORD_NAMES]
    if not words or names[-1] not in _TAG_NAMES:
        return lines, None, None
    rest = [line for line in lines if line is not first]
    return rest, words[0], len(names)


def _is_data(line: _ConllLine) -> bool:
    return any(cell.strip() for cell in line.cells) and line.cells[0] != "-DOCSTART-"


def _is_comment(
    line: _ConllLine, like: _ConllLine, tag: int, tags: set[str], *, is_first: bool
) -> bool:
    """Return whether a line that starts with # is a comment, and not a word such as `#ebola`.

    Args:
        line: the line.
        like: a line with a word.
        tag: number of the tag column.
        tags: tags of the lines that are certainly not comments.
        is_first: whether the line precedes all words of its sentence.
    """
    # A comment has other columns than the words, unless by chance.
    if len(line.cells) != len(like.cells) or line.has_tabs != like.has_tabs:
        return True
    cell = line.cells[tag - 1]
    return is_first and cell not in tags and not _SCHEME_TAG.fullmatch(cell)


def _lines_of_words(
    block: Sequence[_ConllLine], like: _ConllLine, columns: _ConllColumns, tags: set[str]
) -> list[_ConllLine]:
    """Return the lines of a block without comments, multi-word ranges and empty nodes."""
    words: list[_ConllLine] = []
    for line in block:
        is_skipped = line.may_be_comment or _NO_WORD_ID.fullmatch(line.cells[0])
        # CoNLL-U: `3-4` is a contraction of the words 3 and 4, `5.1` an elided word.
        if columns.has_ids and is_skipped:
            continue
        if line.may_be_comment and _is_comment(line, like, columns.tag, tags, is_first=not words):
            continue
        words.append(line)
    return words


# ---- detection of columns


def _columns(
    path: Path,
    blocks: Sequence[Sequence[_ConllLine]],
    word: int | None,
    tag: int | None,
    *,
    is_2012: bool,
) -> _ConllColumns:
    """Return the columns given by `word` and `tag`, or detect them; `blocks` have no comments."""
    rows = [line for block in blocks for line in block]
    if is_2012:
        columns = _ConllColumns(
            word or CONLL_2012[0], tag or CONLL_2012[1], has_ids=False, count=None
        )
    else:
        has_ids = _have_ids(blocks)
        word = word or _word_column(path, rows, has_ids=has_ids)
        tag = tag or _tag_column(path, rows, word, has_ids=has_ids)
        columns = _ConllColumns(word, tag, has_ids, count=len(rows[0].cells))
    if columns.word == columns.tag and len(rows[0].cells) > 1:
        raise InputError(
            f"{path}: column {columns.word} cannot have both the words and the tags; name two "
            "columns with `word_column` and `tag_column`"
        )
    return columns


def _have_ids(blocks: Sequence[Sequence[_ConllLine]]) -> bool:
    """Return whether the first column numbers the words of each sentence, starting at 0 or 1."""
    return all(len(block[0].cells) >= 3 for block in blocks if block) and _are_counted(blocks)


def _only_word_numbers(blocks: Sequence[Sequence[_ConllLine]]) -> bool:
    """Return whether the two columns are word indices and words, without tags.

    Sentences of one word do not count: their number may be the word.
    """
    seconds = [line.cells[-1] for block in blocks for line in block]
    return any(len(block) > 1 for block in blocks) and (
        _are_counted(blocks) and not all(map(_SCHEME_TAG.fullmatch, seconds))
    )


def _are_counted(blocks: Sequence[Sequence[_ConllLine]]) -> bool:
    """Return whether the first cells count the lines of each block, from 0 or 1."""
    for block in blocks:
        firsts = [line.cells[0] for line in block if not _NO_WORD_ID.fullmatch(line.cells[0])]
        if not all(map(_ID.fullmatch, firsts)):
            return False
        numbers = [int(first) for first in firsts]
        if numbers and numbers not in ([*range(len(numbers))], [*range(1, len(numbers) + 1)]):
            return False
    return True


def _word_column(path: Path, rows: Sequence[_ConllLine], *, has_ids: bool) -> int:
    if has_ids:
        return 2
    if len(rows[0].cells) > 2 and all(_NUMBER.fullmatch(line.cells[0]) for line in rows):
        raise InputError(
            f"{path}: the first column has only numbers; name the column of the words with "
            "`word_column`, counted from 1"
        )
    if _are_tags(line.cells[0] for line in rows) and not _are_tags(line.cells[-1] for line in rows):
        raise InputError(
            f"{path}: the first column has only tags; name the column of the words with "
            "`word_column`, and that of the tags with `tag_column`, counted from 1"
        )
    return 1


def _are_tags(cells: Iterable[str]) -> bool:
    """Return whether all cells are O or tags such as B-PER, and one or more are no O."""
    values = set(cells)
    return values != {"O"} and all(map(_SCHEME_TAG.fullmatch, values))


def _tag_column(path: Path, rows: Sequence[_ConllLine], word: int, *, has_ids: bool) -> int:
    """Return the column of the tags: the last one, but in a file with word numbers.

    There it is CoNLL-U's UPOS, or the first column of tags such as B-PER (the outer entities of
    GermEval).
    """
    last = len(rows[0].cells)
    columns = zip(*(line.cells for line in rows if len(line.cells) == last), strict=True)
    like_tags = [
        number
        for number, cells in enumerate(columns, start=1)
        if number != word and all(map(_SCHEME_TAG.fullmatch, cells))
    ]
    if has_ids and last == CONLL_U:
        return UPOS
    if has_ids and like_tags:
        return like_tags[0]
    # A guess might be the column of lemmas or parts of speech, and nobody would notice.
    if (has_ids and last > 3) or (like_tags and last not in like_tags):
        raise InputError(
            f"{path}: line {rows[0].number}: which of the {last} columns has the tags? name it "
            "with `tag_column`, counted from 1"
        )
    return last


# ---- sentences


def _words_alone(blocks: Iterable[Sequence[_ConllLine]]) -> list[Sentence]:
    """Return the sentences of a file that has no tags; the words are in its last column."""
    return [Sentence(x[0].number, [line.cells[-1] for line in x], []) for x in blocks if x]


def _sentence(path: Path, lines: Sequence[_ConllLine], columns: _ConllColumns) -> Sentence:
    """Return a sentence of lines, one a word."""
    word, tag, count = columns.word, columns.tag, columns.count
    for line in lines:
        cells, where = line.cells, f"{path}: line {line.number}"
        if len(cells) < max(word, tag) or len(cells) < 2 or (count and len(cells) != count):
            raise InputError(
                f"{where}: {counted(len(cells), 'columns')} where "
                f"{max(count or 0, word, tag, 2)} are expected: a word, …, its tag"
            )
        for name, column, text in (
            ("word", word, cells[word - 1]),  # may be a no-break space, which is unknown
            ("tag", tag, cells[tag - 1].strip()),
        ):
            if not text:
                raise InputError(f"{where}: the {name}, in column {column}, is empty")
    return Sentence(
        lines[0].number,
        [line.cells[word - 1] for line in lines],
        [line.cells[tag - 1].strip() for line in lines],
    )


def _without_brackets(sentences: list[Sentence]) -> list[Sentence]:
    """Return the sentences with IOB2 tags in place of CoNLL-2012's brackets: `(ORG*`, `*`, `*)`."""
    tags = {tag for sentence in sentences for tag in sentence.tags}
    # A part-of-speech tag may be a bracket; every one must be of this form.
    if "*" not in tags or not all(map(_BRACKETS.fullmatch, tags)):
        return sentences
    return [Sentence(each.line, each.words, _iob2(each.tags)) for each in sentences]


def _iob2(brackets: Sequence[str]) -> list[str]:
    tags, kind = [], ""
    for bracket in brackets:
        match = _BRACKETS.fullmatch(bracket)
        assert match is not None
        if match[1]:
            kind = match[1]
        # An entity runs from `(TYPE*` to `*)`; `*` inside continues it.
        tags.append(f"{'B' if match[1] else 'I'}-{kind}" if kind else "O")
        if match[3]:
            kind = ""
    return tags
