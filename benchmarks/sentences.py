"""Compare the accuracy and speed of `pipeline.text.sentences` with other sentence splitters.

`benchmarks/sentences.txt` holds two paragraphs from each of 32 books, split by hand: where the
splitters disagreed, a person decided.

    python -m benchmarks.sentences
"""

import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.commands import PEERS, environment
from benchmarks.corpus import read_paragraphs
from clozeline.show.terminal import results, table
from pipeline.quiet_imports import import_quietly
from pipeline.text.sentences import split_sentences

BY_HAND = Path(__file__).parent / "sentences.txt"
TIMED_BYTES = 1_000_000
PEER_NAMES = ("blingfire", "syntok", "pysbd")


def ends(paragraph: str, sentences: Sequence[str]) -> set[int]:
    """Return the offsets of sentence ends, in non-space characters, except the paragraph's end."""
    # Without spaces, because splitters differ in which side of an end keeps them.
    lengths = [len(re.sub(r"\s", "", sentence)) for sentence in sentences]
    offsets = {sum(lengths[:count]) for count in range(1, len(lengths) + 1)}
    return offsets - {0, len(re.sub(r"\s", "", paragraph))}


def here(split: Callable[[list[str]], list[list[str]]]) -> Callable[[list[str]], dict]:
    """Wrap a splitter of this environment so that it returns its time and its sentences."""

    def timed(paragraphs: list[str]) -> dict:
        # The clock runs inside, as in the peers' processes: their start is not part of it.
        began = time.perf_counter()
        sentences = split(paragraphs)
        return {"seconds": time.perf_counter() - began, "sentences": sentences}

    return timed


def peer(name: str) -> Callable[[list[str]], dict]:
    """Return a function that runs and times a peer's splitter in a separate environment."""

    def timed(paragraphs: list[str]) -> dict:
        command = [environment("sentences"), PEERS / "sentences.py", name]
        done = subprocess.run(
            [*map(str, command)], input=json.dumps(paragraphs), capture_output=True, text=True
        )
        done.check_returncode()
        return json.loads(done.stdout)

    return timed


def ours(paragraphs: list[str]) -> list[list[str]]:
    """Split with `pipeline.text.sentences`."""
    return [split_sentences(paragraph) for paragraph in paragraphs]


def sentencex_alone(paragraphs: list[str]) -> list[list[str]]:
    """Split with sentencex, the library that our splitter uses."""
    import sentencex

    return [sentencex.segment("en", paragraph) for paragraph in paragraphs]


def tf_text(paragraphs: list[str]) -> list[list[str]]:
    """Split with TF Text, in one call."""
    import tensorflow_text

    sentences = tensorflow_text.StateBasedSentenceBreaker().break_sentences(paragraphs)
    return [[sentence.decode() for sentence in each] for each in sentences.to_list()]


def main() -> None:
    """Measure and print."""
    import_quietly("tensorflow", "tensorflow_text")
    by_hand = [block.split("\n") for block in BY_HAND.read_text().strip().split("\n\n")]
    paragraphs = [" ".join(sentences) for sentences in by_hand]
    expected = list(map(ends, paragraphs, by_hand))
    much = read_paragraphs()
    # Every second paragraph, so that all books remain.
    while sum(map(len, much)) > TIMED_BYTES:
        much = much[::2]
    splitters = {
        "clozeline": here(ours),
        "sentencex alone": here(sentencex_alone),
        "tensorflow-text": here(tf_text),
        **{name: peer(name) for name in PEER_NAMES},
    }
    rows = []
    for name, split in splitters.items():
        actual = list(map(ends, paragraphs, split(paragraphs)["sentences"]))
        missed = sum(len(want - have) for want, have in zip(expected, actual, strict=True))
        false = sum(len(have - want) for want, have in zip(expected, actual, strict=True))
        rate = sum(map(len, much)) / split(much)["seconds"] / 1e6
        rows.append((name, missed, false, f"{rate:.2f}"))
    count = sum(map(len, expected))
    title = f"{count} sentence ends within {len(paragraphs)} paragraphs"
    results.print(table(title, ("splitter", "missed", "false", "MB/s"), rows))


if __name__ == "__main__":
    main()
