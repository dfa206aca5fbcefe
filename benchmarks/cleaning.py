"""Precision and recall of the cleaning rules on real text with planted faults.

    python -m benchmarks.cleaning

Clean documents are 1,000 passages of the shared books. Each kind of fault is planted in 200 other
passages; a rule is right if it finds these and no clean one. Seconds are CPU time per MB.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.corpus import data_folder, read_paragraphs
from pipeline.corpus.rules.decontaminate import RUN_WORDS, Decontaminate, evaluation_files
from pipeline.corpus.rules.language import Languages
from pipeline.corpus.rules.quality import QualityRules, read_quality
from pipeline.corpus.rules.redact import Redact
from pipeline.corpus.rules.repair import repair
from pipeline.corpus.rules.rule import Rejection, Rule, TextDocument

CLEAN, PLANTED = 1000, 200
PASSAGE_CHARACTERS = 2000
MENU = [
    "Home",
    "About",
    "Contact",
    "Login",
    "Register",
    "Cart",
    "Search",
    "Help",
    "Archive",
    "Next",
]


@dataclass(frozen=True)
class Case:
    """A rule and the documents that it must act on.

    Attributes:
        name: name of the planted fault.
        rule: the rule.
        planted: documents with the fault.
        acts: whether the rule was right about a document, from its result.
    """

    name: str
    rule: Rule
    planted: list[str]
    acts: Callable[[str, TextDocument | Rejection], bool]


def passages(rng: Random) -> list[str]:
    """Return passages of some 2,000 characters of the books, in random order."""
    found, lines = [], []
    for paragraph in read_paragraphs():
        lines.append(paragraph)
        if sum(map(len, lines)) >= PASSAGE_CHARACTERS:
            found.append("\n\n".join(lines))
            lines = []
    rng.shuffle(found)
    return found


def menus(rng: Random, text: str) -> str:
    """Return a page of links, with some words of a text as titles."""
    words = text.split()
    links = [" ".join(rng.sample(words, 2)) for _ in range(30)]
    return "\n".join(rng.sample(MENU, 8) + links)


def script(rng: Random, text: str) -> str:
    """Return a text with a piece of a program in it."""
    paragraphs = text.split("\n\n")
    paragraphs.insert(rng.randrange(len(paragraphs)), "if (x) { show(); } else { hide(). }.")
    return "\n\n".join(paragraphs)


def repeated(rng: Random, text: str) -> str:
    """Return a text of which one line in two is the same."""
    notice = "Sign up for our letter and never miss a new story again."
    lines = [paragraph for paragraph in text.split("\n\n") for _ in "x"]
    return "\n".join(part for line in lines for part in (line[: rng.randrange(40, 200)], notice))


def iban(rng: Random) -> str:
    """Return a German IBAN with right check digits."""
    account = "".join(rng.choices("0123456789", k=18))
    check = 98 - int(account + "131400") % 97
    text = f"DE{check:02d}{account}"
    return " ".join(text[i : i + 4] for i in range(0, 22, 4)) if rng.random() < 0.5 else text


def private(rng: Random, kind: str) -> str:
    """Return a made-up address or number of a kind."""
    digits = "".join(rng.choices("0123456789", k=12))
    if kind == "email":
        return f"{rng.choice('abcxyz')}.{rng.choice(MENU).lower()}{digits[:2]}@mail-{digits[3]}.org"
    if kind == "ip":
        return f"{rng.randrange(11, 100)}." + ".".join(str(rng.randrange(256)) for _ in "abc")
    if kind == "iban":
        return iban(rng)
    return rng.choice(
        [
            f"+49 {rng.randrange(150, 180)} {digits[:7]}",
            f"+44 20 {digits[:4]} {digits[4:8]}",
            f"({rng.randrange(201, 990)}) {rng.randrange(200, 999)}-{digits[:4]}",
            f"0{rng.randrange(30, 99)}/{digits[:7]}",
            digits[:10],
        ]
    )


def with_private(rng: Random, text: str, kind: str) -> str:
    """Return a text with something private after a random word."""
    words = text.split(" ")
    where = rng.randrange(1, len(words))
    return " ".join([*words[:where], private(rng, kind), *words[where:]])


def with_example(rng: Random, text: str, examples: list[str]) -> str:
    """Return a text with an evaluation example after a random paragraph."""
    paragraphs = text.split("\n\n")
    paragraphs.insert(rng.randrange(len(paragraphs) + 1), rng.choice(examples))
    return "\n\n".join(paragraphs)


def is_rejected(_: str, outcome: TextDocument | Rejection) -> bool:
    """Return whether a rule rejected a document."""
    return isinstance(outcome, Rejection)


def is_changed(text: str, outcome: TextDocument | Rejection) -> bool:
    """Return whether a rule changed the text of a document."""
    return isinstance(outcome, TextDocument) and outcome.text != text


def cases(rng: Random, others: list[str]) -> list[Case]:
    """Return the planted faults with the rules that must find them."""

    def some() -> list[str]:
        return [others.pop() for _ in range(PLANTED)]

    made = [
        Case("menus: fineweb", quality("fineweb"), [menus(rng, t) for t in some()], is_rejected),
        Case("menus: c4", quality("c4"), [menus(rng, t) for t in some()], is_rejected),
        Case("menus: gopher", quality("gopher"), [menus(rng, t) for t in some()], is_rejected),
        Case("scripts: c4", quality("c4"), [script(rng, t) for t in some()], is_rejected),
        Case("repeats: gopher", quality("gopher"), [repeated(rng, t) for t in some()], is_rejected),
        Case(
            "repeats: fineweb", quality("fineweb"), [repeated(rng, t) for t in some()], is_rejected
        ),
    ]
    for kind in ("email", "phone", "ip", "iban"):
        rule = Redact((kind,))
        texts = [with_private(rng, text, kind) for text in some()]
        made.append(Case(f"private data: {kind}", rule, texts, is_changed))
    # Passages in plain ASCII are the same after wrong decoding, so they have no fault to find.
    dirty = [broken for text in others if (broken := mojibake(text)) != text][:PLANTED]
    made.append(Case("mojibake: repair", repair, dirty, is_changed))
    files = evaluation_files([str(data_folder() / "rte" / "dev.tsv")])
    lines = (data_folder() / "rte" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    long = [line.split("\t")[0] for line in lines]
    # Twice the run, so that the rule must find a run inside an example, not only the whole of it.
    examples = [example for example in long if len(example.split()) >= 2 * RUN_WORDS]
    texts = [with_example(rng, text, examples) for text in some()]
    made.append(Case("evaluation examples", Decontaminate(files), texts, is_rejected))
    made.append(Case("other languages", Languages(("en",), 0.5), foreign(), is_rejected))
    return made


def mojibake(text: str) -> str:
    """Return a text in UTF-8 that was read as Windows-1252."""
    return "".join(
        bytes([byte]).decode("windows-1252", "ignore") or chr(byte) for byte in text.encode()
    )


def foreign() -> list[str]:
    """Return the texts in other languages of the tests."""
    from tests.pipeline.corpus.rules.test_language import TEXTS

    return [text for language, text in TEXTS.items() if language != "en"]


def quality(name: str) -> Rule:
    """Return the rule of a file of thresholds."""
    return QualityRules((read_quality(name),))


def main() -> None:
    """Print a table."""
    rng = Random(23)
    texts = passages(rng)
    clean, others = texts[:CLEAN], texts[CLEAN:]
    size = sum(map(len, clean))
    print("| planted: rule | documents | recall | clean documents hit | precision | s/MB |")
    print("|---|---|---|---|---|---|")
    for case in cases(rng, others):
        right = sum(case.acts(text, case.rule(TextDocument(text, "en"))) for text in case.planted)
        # Timed on clean documents, which are most of a corpus.
        begin = time.process_time()
        wrong = sum(case.acts(text, case.rule(TextDocument(text, "en"))) for text in clean)
        secs = time.process_time() - begin
        count = len(case.planted)
        # As if a tenth of a corpus had the fault: the numbers of documents differ.
        precision = right / count / (right / count + 9 * wrong / CLEAN) if right else 0
        print(
            f"| {case.name} | {count} | {right / count:.3f} | {wrong} of {CLEAN} | "
            f"{precision:.3f} | {secs / size * 1e6:.2f} |"
        )


if __name__ == "__main__":
    main()
