"""The code blocks of the README and of the site's pages, which the tests run.

A comment before a block, `<!-- not run: REASON -->`, keeps it from being run.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

_BLOCK = re.compile(r"(<!-- not run: [^\n]* -->\n)?```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of code.

    Attributes:
        page: file that it is in.
        language: word after the fence, such as sh or python.
        text: lines between the fences.
        is_run: whether it can be run on one machine in seconds.
    """

    page: Path
    language: str
    text: str
    is_run: bool

    @property
    def commands(self) -> list[list[str]]:
        """The command lines of a shell block as words, in order."""
        if self.language != "sh":
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def pages() -> list[Path]:
    """Return README, CONTRIBUTING, the pages of the site in their order, and the recipes."""
    navigation = re.findall(r"- (?:\w+: )?([\w-]+\.md)$", _text(ROOT / "mkdocs.yml"), re.MULTILINE)
    written = [page for name in navigation if (page := ROOT / "docs" / name).exists()]
    recipes = sorted(ROOT.glob("*/deploy/**/README.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written, *recipes]


def blocks() -> Iterator[Block]:
    """Yield every block of every page."""
    for page in pages():
        for not_run, language, text in _BLOCK.findall(_text(page)):
            yield Block(page, language, text, not not_run)


def curl_requests() -> list[tuple[str, str]]:
    """Return URL and body of each `curl -d BODY URL` line, without repetitions."""
    lines = [words for block in blocks() for words in block.commands if words[0] == "curl"]
    return [*dict.fromkeys((url, body) for _, _, body, url in lines)]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
