"""MkDocs calls this: the pages that are generated when the site is built."""

from typing import Any

from mkdocs.structure.files import File, Files

from docs import reference


def on_files(files: Files, *, config: Any) -> Files:
    """Add the reference of the commands."""
    files.append(File.generated(config, "commands.md", content=reference.page()))
    return files
