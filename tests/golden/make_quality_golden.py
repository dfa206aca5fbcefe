# /// script
# requires-python = ">=3.11"
# dependencies = ["datatrove==0.10.1", "numpy", "regex", "nltk", "spacy"]
# ///
"""Write `quality.json`: why datatrove's filters remove texts, and its measures of repetition.

The texts are sentences with planted faults of every kind, near the filters' thresholds. Words are
separated by white space, as in the paper of Gopher, instead of by a tokenizer. No text has blank
lines, which datatrove counts as lines where Gopher's rules speak of bullets. The project's tests
need only the file:

    uv run tests/golden/make_quality_golden.py
"""

import json
from importlib.metadata import version
from pathlib import Path
from random import Random

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)
from datatrove.pipeline.filters.gopher_repetition_filter import (
    find_all_duplicate,
    find_duplicates,
    find_top_duplicate,
    get_n_grams,
)

FILE = Path(__file__).parent / "quality.json"
FREQUENT = (
    "the be to of and that have with a in is it on as by at from they we say her she or an will my "
    "one all would there their what so up out if about who get which go me when make can like time "
    "harbour sailor lighthouse extraordinary weather considerable remembered i x 1912 7 42 été"
)
WORDS = FREQUENT.split()
FAULTS = ["none", "hash", "dots", "bullet", "open", "digits", "short", "repeat", "copy", "line"]
FAULTS += ["long", "c4"]


def words(rng: Random, count: int) -> list[str]:
    return rng.choices(WORDS, k=count)


def make_line(rng: Random, fault: str, strength: float) -> str:
    chosen = words(rng, rng.randint(2, 5) if fault == "short" else rng.randint(3, 14))
    chosen = [
        {"hash": word + " #tag", "dots": word + " ...", "digits": f"{rng.randrange(9999)}"}.get(
            fault if rng.random() < strength else "", word
        )
        for word in chosen
    ]
    if fault == "repeat" and rng.random() < strength:
        chosen += words(Random(1), rng.randint(2, 12)) * rng.randint(1, 3)
    line = " ".join(chosen).capitalize() + rng.choice(".......?!")
    if fault == "long":
        line = line.replace(" ", "-", round(9 * strength))
    if fault == "bullet" and rng.random() < strength:
        line = rng.choice(["• ", "  - "]) + line
    if fault == "open" and rng.random() < strength:
        line = line.rstrip(".?!") + rng.choice(["...", "…", "", ",", ",", ";"])
    if fault == "c4" and rng.random() < strength / 3:
        line = rng.choice(
            ["Enable JavaScript to go on.", "Read our Terms of Use now.", "As they say[12]. [edit]",
             "function() { return 1; }.", "Lorem ipsum dolor sit amet.", "Too few.",
             "It is " + "a" * 1001 + "."]
        )  # fmt: skip
    return line


def make_text(rng: Random) -> str:
    fault, strength = rng.choice(FAULTS), rng.random()
    strength = max(strength, 0.9) if fault in ("open", "bullet") else strength
    lines = [
        make_line(rng, fault, strength)
        for _ in range(rng.randint(6 if fault in ("open", "bullet", "long", "repeat") else 3, 10))
    ]
    if fault in ("copy", "line"):
        source = lines[:2] if fault == "copy" else lines[:1]
        for _ in range(rng.randint(1, 6)):
            where = rng.randrange(len(lines) + 1)
            lines[where:where] = source
    return "\n".join(lines)


def reason(outcome: bool | tuple[bool, str]) -> str | None:
    return None if outcome is True else outcome[1]


def main() -> None:
    for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
        module.split_into_words = lambda text, _: text.split()
    filters = {
        "gopher": [GopherRepetitionFilter(), GopherQualityFilter()],
        "fineweb": [FineWebQualityFilter(char_duplicates_ratio=0.1)],
        "c4": [C4QualityFilter(min_num_sentences=-1)],
    }
    rng = Random(24)
    rows = []
    for _ in range(200):
        text = make_text(rng)
        row = {"text": text, "reasons": {}}
        for name, parts in filters.items():
            document = Document(text, "0")
            reasons = [reason(part.filter(document)) for part in parts]
            row["reasons"][name] = next(filter(None, reasons), None)
        row["without_lines"] = document.text if row["reasons"]["c4"] is None else None
        given = text.split()
        row["top"] = [
            find_top_duplicate(get_n_grams(given, n)) / len(text) if len(given) >= n else 0
            for n in (2, 3, 4)
        ]
        row["duplicate"] = [find_all_duplicate(given, n) / len(text) for n in range(5, 11)]
        lines = text.split("\n")
        count, characters = find_duplicates(lines)
        row["lines"] = [count / len(lines), characters / len(text)]
        rows.append(row)
    contents = {"datatrove": version("datatrove"), "texts": rows}
    FILE.write_text(json.dumps(contents, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
