"""The corpus of docstrings: which text counts as prose, and the bounds of what is collected."""

from pathlib import Path

import pytest

from pipeline.corpus import docstrings
from pipeline.corpus.docstrings import Module, module_prose, prose_paragraphs, write_corpus
from pipeline.errors import InputError

SENTENCES = [
    f"This is the sentence with number {word}." for word in ("one", "two", "three", "four")
]


@pytest.mark.parametrize(
    ("docstring", "paragraphs"),
    [
        ("Return the sum of all the numbers.", ["Return the sum of all the numbers."]),
        (
            """Open the file and read it.

            The lines of a paragraph
            become one line of text.
            """,
            ["Open the file and read it.", "The lines of a paragraph become one line of text."],
        ),
        (
            "Call :func:`~os.path.join` with ``a`` and :ref:`b`.",
            ["Call os.path.join with a and b."],
        ),
        ("A link to `the page <https://x.org>`_ is no prose of its own.", []),
        ("See :class:`the queue <queue.Queue>` for all of them.",
         ["See the queue for all of them."]),
        ("The heading\n===========\nWhat follows it is a sentence.",
         ["What follows it is a sentence."]),
        (
            """Add a number to the list.

            Parameters of this function are these:
                x: the first number it takes.
            """,
            ["Add a number to the list."],
        ),
        (">>> print(1 + 1 + 1 + 1)", []),
        ("x = [i for i in range(9)]", []),
        ("too short to begin with a capital letter.", []),
        ("Only four words here.", []),
        ("This has no stop at its end", []),
        ("| A table | of two columns | in one line.", []),
    ],
)  # fmt: skip
def test_prose_of_a_docstring(docstring: str, paragraphs: list[str]) -> None:
    assert list(prose_paragraphs(docstring)) == paragraphs


def source(*paragraphs: str) -> str:
    functions = [f'def f{i}():\n    """{text}"""\n' for i, text in enumerate(paragraphs)]
    return "\n".join(functions)


def test_a_module_has_each_paragraph_once_and_at_least_four_sentences(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(source(*SENTENCES, SENTENCES[0]))
    assert module_prose(Module("m", path)) == "\n\n".join(SENTENCES)
    path.write_text(source(*SENTENCES[:3], SENTENCES[0]))
    assert module_prose(Module("m", path)) == ""


@pytest.mark.parametrize("data", [b"def f(:\n", b"\x00", b"\xff\xfe", b"# coding: none\n"])
def test_a_module_that_python_cannot_parse_has_no_prose(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_bytes(data)
    assert module_prose(Module("m", path)) == ""
    assert module_prose(Module("none", tmp_path / "none.py")) == ""


def test_the_share_of_each_package_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = []
    for name in ("a", "b.x", "b.y", "b.z", "c"):
        path = tmp_path / f"{name}.py"
        path.write_text(source(*(f"{each[:-1]} of {name.upper()}." for each in SENTENCES)))
        modules.append(Module(name, path))
    size = len(module_prose(modules[0]).encode())
    monkeypatch.setattr(docstrings, "installed_modules", lambda: modules)
    folder = tmp_path / "corpus"
    folder.mkdir()
    # The share of a package has room for two modules of three, and for no half of one.
    target = round(2.2 * (size + 10) / docstrings.MAX_PACKAGE_SHARE)
    found = write_corpus(folder, target)
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.txt", "b.x.txt", "b.y.txt", "c.txt",
    ]  # fmt: skip
    assert found["documents"] == 4
    assert found["packages"] == 3
    # Each file ends with a line break, which is not counted.
    assert found["bytes"] + 4 == sum(path.stat().st_size for path in folder.iterdir())

    monkeypatch.setattr(docstrings, "installed_modules", lambda: modules[:1])
    with pytest.raises(InputError, match="no docstrings found"):
        write_corpus(folder, target)
