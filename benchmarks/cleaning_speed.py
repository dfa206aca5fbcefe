"""Measure the speed of `preprocess` with all cleaning rules, and of datatrove's with the same ones.

    python -m benchmarks.cleaning_speed           # about five minutes
    python -m benchmarks.cleaning_speed --quick   # a small corpus, a smoke test

Documents are passages of 2,000 characters of the books. Redaction, Gopher's, C4's and FineWeb's
rules and near-duplicates are on in both; identification of the language only in a second run of
ours, because datatrove downloads its model. Ours also splits sentences, tokenizes, masks and writes
records. Both run on one core, and CPU time is measured: other work on the machine does not count.
Two worker processes are measured in wall time, so that row needs a machine with two free cores.
Start-up time is excluded: the time for a tiny corpus is subtracted.
"""

import json
import shutil
from collections import defaultdict
from pathlib import Path
from random import Random

import tyro

from benchmarks.cleaning import passages
from benchmarks.commands import BUILD, PEERS, Run, environment, run
from benchmarks.preprocessing import Bench
from clozeline.show.terminal import results, table

FOLDER = BUILD / "cleaning"
TINY, PEERS_DOCUMENTS, DOCUMENTS, QUICK = 20, 3000, 8000, 300
"""Numbers of documents. The peer gets fewer, because it takes a minute for them; with as few, what
our start takes more or less in one run would be a third of the difference."""

ALL_RULES = [
    "--quality", "gopher", "c4", "fineweb", "--redact", "email", "ip", "--deduplicate", "near",
]  # fmt: skip
WITH_LANGUAGE = [*ALL_RULES, "--languages", "en"]
TWO_PROCESSES = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


def write(count: int, texts: list[str]) -> Path:
    """Write documents as JSON Lines; repeated texts have their paragraphs in another order."""
    path = FOLDER / f"{count}" / "corpus.jsonl"
    path.parent.mkdir()
    rng = Random(count)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            paragraphs = texts[number % len(texts)].split("\n\n")
            rng.shuffle(paragraphs)
            row = {"id": str(number), "text": "\n\n".join(paragraphs)}
            file.write(json.dumps(row) + "\n")
    return path


def datatrove(corpus: Path) -> Run:
    """Run datatrove's pipeline."""
    output = FOLDER / "datatrove"
    shutil.rmtree(output, ignore_errors=True)
    python = environment("datatrove_cleaning")
    return run([python, PEERS / "datatrove_cleaning.py", corpus, output], cores=1)


def main(*, quick: bool = False, repeats: int = 2) -> None:
    """Measure, print, and write the figures to build/bench/cleaning_speed.json.

    Args:
        quick: use a small corpus and one repeat, as a smoke test.
        repeats: number of runs, of which the fastest counts.
    """
    bench = Bench(quick=quick)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    texts = passages(Random(23))
    counts = (TINY, QUICK, 2 * QUICK) if quick else (TINY, PEERS_DOCUMENTS, DOCUMENTS)
    tiny, medium, big = (write(count, texts) for count in counts)
    megabytes = (big.stat().st_size - tiny.stat().st_size) / 1e6
    peers_megabytes = (medium.stat().st_size - tiny.stat().st_size) / 1e6
    ours: defaultdict[str, float] = defaultdict(float)
    peer = 0.0
    tokens = bench.ours(big)[1] - bench.ours(tiny)[1]  # of the corpus, whatever rules remove
    for _ in range(1 if quick else repeats):  # in turns, since the machine's speed varies over time
        for name, flags in (("the same rules", ALL_RULES), ("language, too", WITH_LANGUAGE)):
            start, done = (bench.ours(corpus, *flags, cores=1)[0] for corpus in (tiny, big))
            rate = megabytes / (done.cpu_seconds - start.cpu_seconds)
            ours[name] = max(ours[name], rate)
        start, done = (
            bench.ours(corpus, *WITH_LANGUAGE, *TWO_PROCESSES)[0] for corpus in (tiny, big)
        )
        rate = megabytes / (done.seconds - start.seconds)
        ours["the same on two cores"] = max(ours["the same on two cores"], rate)
        seconds = datatrove(medium).cpu_seconds - datatrove(tiny).cpu_seconds
        peer = max(peer, peers_megabytes / seconds)
    per_megabyte = tokens / megabytes / 1e6
    rows = [
        [name, f"{rate:.2f} MB/s", f"{rate * per_megabyte:.2f} M tokens/s",
         f"{peer:.2f} MB/s", f"{rate / peer:.1f} ×"]
        for name, rate in ours.items()
    ]  # fmt: skip
    results.print(table("", ["preprocess", "", "", "datatrove", "ratio"], rows))
    figures = BUILD / "cleaning_speed.json"
    figures.write_text(json.dumps({"ours": ours, "datatrove": peer}, indent=1) + "\n")
    results.print(f"figures: {figures}")


if __name__ == "__main__":
    tyro.cli(main)
