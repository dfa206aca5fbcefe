"""MinHash signatures of texts by rensa or datasketch: CPU time per text in microseconds.

    python minhash_signatures.py rensa texts.json 112

The texts are a JSON list. A text's set is that of its word 5-grams, which both libraries take as
strings made in Python. The fastest of three rounds is printed. The script is self-contained, for an
environment with only the two libraries.
"""

import json
import sys
import time
from pathlib import Path

from datasketch import MinHash
from rensa import RMinHash

NGRAM_WORDS = 5


def ngrams(text: str) -> list[str]:
    """Return the word 5-grams of a text."""
    words = text.lower().split()
    return [" ".join(words[at : at + NGRAM_WORDS]) for at in range(len(words) - NGRAM_WORDS + 1)]


def by_rensa(text: str, functions: int) -> object:
    """Return the signature by rensa."""
    minhash = RMinHash(num_perm=functions, seed=1)
    minhash.update(ngrams(text))
    return minhash.digest()


def by_datasketch(text: str, functions: int) -> object:
    """Return the signature by datasketch."""
    minhash = MinHash(num_perm=functions, seed=1)
    minhash.update_batch([ngram.encode() for ngram in ngrams(text)])
    return minhash.digest()


def main(library: str, path: str, functions: str) -> None:
    """Print the time per text."""
    signature = {"rensa": by_rensa, "datasketch": by_datasketch}[library]
    texts = json.loads(Path(path).read_text())
    rounds = []
    for _ in range(3):
        begin = time.process_time()
        for text in texts:
            signature(text, int(functions))
        rounds.append(time.process_time() - begin)
    print(min(rounds) / len(texts) * 1e6)


if __name__ == "__main__":
    main(*sys.argv[1:])
