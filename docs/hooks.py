"""MkDocs calls this: the pages that are generated when the site is built."""

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from docs import reference
from docs.notebook import as_markdown

TOUR = Path(__file__).parent / "tour.ipynb"


def on_files(files: Files, *, config: Any) -> Files:
    """Add the reference of the commands, and the notebook as a page."""
    tour = as_markdown(json.loads(TOUR.read_text(encoding="utf-8")))
    for name, text in (("commands.md", reference.page()), ("tour.md", tour)):
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Link the notebook's page where the sources link the notebook, which repositories show."""
    return markdown.replace("](tour.ipynb)", "](tour.md)")
