# /// script
# requires-python = ">=3.11"
# dependencies = ["seqeval==1.2.2"]
# ///
"""Write `seqeval.json`: precision, recall and F1 of entities as seqeval has them, by tag scheme.

The right tags follow the scheme; those found are the same with random changes, so most of them
break its rules. seqeval knows neither BMES nor BMEOW: there M stands for the I of IOBES, W for its
S. IOB2 is measured in its default mode, which is that of CoNLL-2000's script; the others in strict
mode. The project's tests need only the file:

    uv run tests/golden/make_seqeval_golden.py
"""

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from random import Random

from seqeval import metrics, scheme

FILE = Path(__file__).parent / "seqeval.json"
TYPES = ["PER", "LOC", "MISC"]
IOBES = "BIES"
LETTERS = {  # letters of the begin, the inside, the end and a single word
    "IOB2": "BIIB",
    "IOB1": "IIII",
    "IOE2": "IIEE",
    "IOBES": IOBES,
    "BILOU": "BILU",
    "BMES": "BMES",
    "BMEOW": "BMEW",
}


def right_tags(rng: Random, name: str) -> list[str]:
    begin, inside, end, single = LETTERS[name]
    tags: list[str] = []
    for _ in range(rng.randint(1, 5)):
        kind, length = rng.choice(TYPES), rng.randint(1, 4)
        letters = single if length == 1 else begin + inside * (length - 2) + end
        if name == "IOB1" and tags and tags[-1].endswith(kind):
            letters = "B" + letters[1:]
        tags += [f"{letter}-{kind}" for letter in letters]
        tags += ["O"] * rng.choice([0, 0, 1, 2])
    return tags


def changed(rng: Random, name: str, tags: list[str], share: float) -> list[str]:
    letters = sorted({*LETTERS[name], *("B" if name == "IOB1" else "")})
    every = ["O", *(f"{letter}-{kind}" for letter in letters for kind in TYPES)]
    return [rng.choice(every) if rng.random() < share else tag for tag in tags]


def theirs(name: str, tags: list[list[str]]) -> list[list[str]]:
    """Return the tags in letters that seqeval knows."""
    if name not in ("BMES", "BMEOW"):
        return tags
    letters = dict(zip(LETTERS[name] + "O", IOBES + "O", strict=True))
    return [[letters[tag[0]] + tag[1:] for tag in sentence] for sentence in tags]


def case(name: str, expected: list[list[str]], found: list[list[str]]) -> dict:
    known = "IOBES" if name in ("BMES", "BMEOW") else name
    how = {} if name == "IOB2" else {"mode": "strict", "scheme": getattr(scheme, known)}
    sides = theirs(name, expected), theirs(name, found)
    measures = {
        f"entity_{measure}": float(getattr(metrics, f"{measure}_score")(*sides, **how))
        for measure in ("precision", "recall", "f1")
    }
    return {"scheme": name, "expected": expected, "found": found, **measures}


def main() -> None:
    warnings.simplefilter("ignore")
    rng = Random(5)
    cases = [case("BILOU", [["B-PER", "L-PER", "O", "U-LOC"]], [["B-PER", "O", "O", "U-LOC"]])]
    for name in LETTERS:
        for index in range(10):
            expected = [right_tags(rng, name) for _ in range(6)]
            found = [changed(rng, name, tags, (index % 5) / 5) for tags in expected]
            cases.append(case(name, expected, found))
    golden = {"versions": {"seqeval": version("seqeval")}, "cases": cases}
    lines = ",\n ".join(json.dumps(each) for each in golden["cases"])
    FILE.write_text(f'{{"versions": {json.dumps(golden["versions"])},\n"cases": [\n {lines}\n]}}\n')


if __name__ == "__main__":
    main()
