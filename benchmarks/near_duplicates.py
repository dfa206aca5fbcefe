"""Measure how the time and the memory of finding near-duplicates grow with the corpus.

    python -m benchmarks.near_duplicates           # ten minutes
    python -m benchmarks.near_duplicates --quick   # few documents, a smoke test

Documents have 2 KB of random words of the books; one in twenty is a copy of an earlier one with a
word changed. Measured are the signatures and the steps that find clusters, on one core in one
process, which Beam's local runner shares with its worker. Each size has a process of its own.
The signatures alone are compared with those of rensa (Rust) and datasketch (NumPy).
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import apache_beam as beam
import tyro
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks.commands import BUILD, PEERS, environment
from benchmarks.corpus import read_paragraphs
from clozeline.show.terminal import results, table
from pipeline.corpus.clusters import NODE
from pipeline.corpus.minhash import Bands, signatures
from pipeline.jobs.beam_options import running_pipeline
from pipeline.jobs.near_duplicates import NearDuplicates, banded
from pipeline.jobs.shuffle import GroupByShard, Part, count_parts
from pipeline.records.document import Document
from pipeline.records.shard import document_key

DOCUMENT_BYTES, WORDS, BATCH = 2000, 350, 200
COPY_EVERY = 20
BANDS = Bands(14, 8)
FIGURES = BUILD / "near_duplicates.json"


def texts(batch: int, words: list[str]) -> list[str]:
    """Return the texts of a batch; its copies are of the batch before."""
    own = [Random(batch * BATCH + number).choices(words, k=WORDS) for number in range(BATCH)]
    if batch:
        for number in range(0, BATCH, COPY_EVERY):
            # The number after is no copy itself.
            copied = Random((batch - 1) * BATCH + number + 1).choices(words, k=WORDS)
            copied[WORDS // 2] = "another"
            own[number] = copied
    return [" ".join(each) for each in own]


class MakeBands(beam.DoFn):
    """Number of a batch → the bands of its documents; the time to make texts is counted apart."""

    texts_secs = 0.0

    def __init__(self, words: list[str], parts: int) -> None:
        self._words = words
        self._parts = parts

    def process(self, batch: int) -> Iterator[Part]:
        """Yield the bands."""
        begin = time.process_time()
        made = texts(batch, self._words)
        MakeBands.texts_secs += time.process_time() - begin
        documents: list[Document] = [
            (document_key(text, 1), text.encode(), b"", b"", b"") for text in made
        ]
        yield from banded(documents, made, BANDS, self._parts)


def measure(count: int) -> dict[str, float]:
    """Find the near-duplicates of so many documents; return the figures."""
    words = " ".join(read_paragraphs()[:2000]).split()
    size = count * DOCUMENT_BYTES
    batches = count // BATCH
    with tempfile.TemporaryDirectory() as folder:
        nodes = Path(folder) / "nodes"
        begin = time.process_time()
        with running_pipeline(PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
            group = GroupByShard(folder, through_files=True)
            parts = count_parts({"corpus": size})
            found = (
                pipeline
                | beam.Create(range(batches))
                | beam.ParDo(MakeBands(words, parts))
                | NearDuplicates(group, BANDS, parts)
            )
            _ = found | beam.Map(_append, str(nodes))
        secs = time.process_time() - begin - MakeBands.texts_secs
        data = nodes.read_bytes()
        marked = {data[at : at + NODE.itemsize] for at in range(0, len(data), NODE.itemsize)}
    planted = (batches - 1) * BATCH // COPY_EVERY
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "documents": count,
        "CPU, s": round(secs, 1),
        "CPU per document, µs": round(secs / count * 1e6, 1),
        "peak memory, MB": round(peak / 1e6),
        "found, %": round(100 * len(marked) / planted, 2),
    }


def _append(nodes: bytes, path: str) -> None:
    with Path(path).open("ab") as file:
        file.write(nodes)


def compare_signatures(count: int) -> dict[str, float]:
    """Return the CPU time of a signature in microseconds, one thread, ours and two libraries'."""
    words = " ".join(read_paragraphs()[:2000]).split()
    made = [text for batch in range(count // BATCH) for text in texts(batch, words)]
    functions = BANDS.count * BANDS.rows
    rounds = []
    for _ in range(3):
        begin = time.process_time()
        for first in range(0, count, BATCH):
            signatures(made[first : first + BATCH], functions)
        rounds.append(time.process_time() - begin)
    figures = {"Clozeline": min(rounds) / count * 1e6}
    python, script = environment("minhash_signatures"), PEERS / "minhash_signatures.py"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        path.write_text(json.dumps(made))
        for library in ("rensa", "datasketch"):
            command = [python, script, library, path, str(functions)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures[library] = float(done.stdout)
    return figures


def main(*, quick: bool = False, one: int | None = None) -> None:
    """Measure, print, and write the figures to build/bench/near_duplicates.json.

    Args:
        quick: few documents, as a smoke test.
        one: measure this number of documents in this process, and print JSON.
    """
    if one:
        results.print(json.dumps(measure(one)), soft_wrap=True)
        return
    figures = []
    for count in (2000, 6000) if quick else (100_000, 300_000, 1_000_000):
        command = [sys.executable, "-m", "benchmarks.near_duplicates", "--one", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures.append(json.loads(done.stdout.splitlines()[-1]))
    rows = [[name, *(f"{each[name]:,}" for each in figures)] for name in figures[0]]
    results.print(table("Near-duplicates, documents of 2 KB", ["", *[""] * len(figures)], rows))
    compared = compare_signatures(400 if quick else 4000)
    rows = [[name, f"{each:.0f} µs"] for name, each in compared.items()]
    results.print(table("One signature, CPU time", ["", ""], rows))
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    contents = {"sizes": figures, "signature, µs": compared}
    FIGURES.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n")
    results.print(f"figures: {FIGURES}")


if __name__ == "__main__":
    tyro.cli(main)
