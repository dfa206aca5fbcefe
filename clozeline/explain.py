"""The work of `clozeline explain`."""

from pathlib import Path
from typing import Any

from clozeline.commands.explain import Explain
from clozeline.show.explanation import shown
from model.explaining.explanation import Explanation, explain
from model.explaining.plain import as_plain
from model.run import load_run
from pipeline.console import results
from pipeline.storage.files import write_atomically


def explain_texts(options: Explain) -> dict[str, Any]:
    """Explain one text, or two: print the short form, write the file that was asked for.

    Returns:
        the whole explanation with `--json`; else the path that was written.
    """
    run = load_run(options.run_dir)
    explanation = explain(run, options.text, options.layer - 1, options.head - 1, options.position)
    results.print(shown(explanation))
    if options.output:
        write_explanation(explanation, options.output)
        results.print(f"{options.output}: written", markup=False, soft_wrap=True)
    return as_plain(explanation) if options.json else {}


def write_explanation(explanation: Explanation, path: Path) -> None:
    """Write an explanation as a page (.html) or a picture (.png)."""
    if path.suffix == ".png":
        from clozeline.show.attention_picture import picture

        write_atomically(path, picture(explanation))
    else:
        from serving.pages.explanation_page import page

        write_atomically(path, page(explanation))
