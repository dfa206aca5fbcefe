"""A Jupyter notebook as a page of the site."""

from typing import Any


def as_markdown(notebook: dict[str, Any]) -> str:
    """Return the cells of a notebook (nbformat 4) as Markdown, code with its stored outputs."""
    return "\n\n".join(_cell(cell) for cell in notebook["cells"]) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *map(_output, cell["outputs"])])


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    data = output["data"]
    if "image/png" in data:
        return f"![output](data:image/png;base64,{''.join(data['image/png'].split())})"
    return f"```text\n{''.join(data['text/plain'])}\n```"
