"""Documents of 20 MB pass every rule in linear time: a quadratic rule would take minutes."""

import resource
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from pipeline.configs import CorpusConfig
from pipeline.corpus.minhash import Bands, band_hashes
from pipeline.corpus.rules.build import cleaning_of, rules_of
from pipeline.corpus.rules.rule import TextDocument
from pipeline.corpus.units import text_units, unit_hashes

SIZE = 20_000_000

TEXTS = {
    "prose": "The caf\u00e9 in Ulm was open, {}, and nobody knew why he asked for letters.\n",
    "a line": "The old man went out, {}, and saw that the sea was not there any more. ",
    "a word": "a",
    "blank lines": "\n",
    "spaces": " ",
    "brackets": "[",
    "quotation marks": "»",
    "domains": "a@b.",
    "numbers": "1.2 ",
    "entities": "&amp",
}


def pieces(pattern: str) -> Iterator[str]:
    words = cycle(f"{number}{number * 7919 % 104_729}" for number in range(100_003))
    length = 0
    while length < SIZE:
        text = pattern.format(next(words)) if "{}" in pattern else pattern * 1000
        length += len(text)
        yield text


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEXTS)
def test_every_rule_takes_linear_time(kind: str, tmp_path: Path) -> None:
    evaluation = tmp_path / "dev.txt"
    evaluation.write_text(" ".join(f"w{number}" for number in range(20)), encoding="utf-8")
    config = CorpusConfig(
        input=("in",),
        repair=True,
        languages=("en",),
        decontaminate=(str(evaluation),),
        redact=("email", "phone", "ip", "iban"),
        quality=("gopher", "c4", "fineweb"),
    )
    text = f"x{''.join(pieces(TEXTS[kind]))}\u00e9"
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for rule in rules_of(cleaning_of(config)):  # each of them, whatever the others decide
        rule(TextDocument(text, "en"))
    ends = 2 if kind == "blank lines" else 1
    assert len(unit_hashes(text_units(text, "paragraphs"))) == ends
    assert len(unit_hashes(text_units(text, "lines"))) >= ends
    band_hashes([text], Bands(14, 8))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - begin < 80
