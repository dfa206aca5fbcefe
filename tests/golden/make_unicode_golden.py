# /// script
# requires-python = "==3.11.*"
# ///
"""Write `unicode.json`: the general category of every character, as Python 3.11 knows them.

Each Python has the tables of its own Unicode version; tests that speak of all characters compare
with these, so that they say the same on every Python. Run with `uv run` in this folder.
"""

import itertools
import json
import sys
import unicodedata
from pathlib import Path

GOLDEN = Path(__file__).parent / "unicode.json"


def main() -> None:
    """Write the file."""
    codes = range(sys.maxunicode + 1)
    categories: dict[str, list[str]] = {}
    for category, group in itertools.groupby(codes, lambda code: unicodedata.category(chr(code))):
        run = list(group)
        ends = f"{run[0]:X}-{run[-1]:X}" if len(run) > 1 else f"{run[0]:X}"
        categories.setdefault(category, []).append(ends)
    written = {
        "version": unicodedata.unidata_version,
        "categories": {name: " ".join(ranges) for name, ranges in sorted(categories.items())},
    }
    GOLDEN.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
