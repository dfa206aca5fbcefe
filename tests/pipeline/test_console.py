"""Tables as a person sees them."""

import io

from rich.console import Console

from pipeline.console import table


def test_a_table_shows_pieces_in_brackets() -> None:
    shown = io.StringIO()
    made = table("of [unused1]", ["[unused2]"], [["[unused3]"], [4567]])
    Console(file=shown, width=40).print(made)
    for word in ("of [unused1]", "[unused2]", "[unused3]", "4,567"):
        assert word in shown.getvalue()
