"""Split paragraphs with a peer's splitter, in its own environment: JSON in, JSON out.

    echo '["One. Two."]' | python sentences.py blingfire

writes `{"seconds": 0.1, "sentences": [["One.", "Two."]]}`.
"""

import json
import sys
import time
from collections.abc import Callable


def splitter(name: str) -> Callable[[str], list[str]]:
    """Return a function from a paragraph to its sentences."""
    if name == "blingfire":
        import blingfire

        return lambda text: blingfire.text_to_sentences(text).split("\n")
    if name == "pysbd":
        import pysbd

        return pysbd.Segmenter(language="en", clean=False).segment
    import syntok.segmenter

    return lambda text: [
        "".join(token.spacing + token.value for token in sentence)
        for sentences in syntok.segmenter.process(text)
        for sentence in sentences
    ]


def main(name: str) -> None:
    """Read paragraphs, write sentences and the time it took."""
    paragraphs = json.load(sys.stdin)
    split = splitter(name)
    split("Ready. Set. Go.")
    began = time.perf_counter()
    sentences = [split(paragraph) for paragraph in paragraphs]
    json.dump({"seconds": time.perf_counter() - began, "sentences": sentences}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
