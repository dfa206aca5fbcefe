"""Hugging Face's preprocessing: tokenize, concatenate, and cut into blocks of equal length.

    python hugging_face.py corpus.txt vocab.txt output 128

The two `map` calls are those of its `run_mlm.py`, which draws masks later and makes no pairs. The
script is self-contained, for an environment with only `datasets` and `transformers`.
"""

import sys
from itertools import chain

from datasets import load_dataset
from transformers import BertTokenizerFast


def main(corpus: str, vocab: str, output: str, length: int) -> None:
    """Write the blocks as an Arrow dataset."""
    tokenizer = BertTokenizerFast(vocab=vocab)
    lines = load_dataset("text", data_files=corpus, split="train", cache_dir=f"{output}/cache")
    tokenized = lines.map(
        lambda batch: tokenizer(batch["text"], return_special_tokens_mask=True),
        batched=True,
        remove_columns=["text"],
    )

    def group(batch: dict) -> dict:
        joined = {name: list(chain.from_iterable(rows)) for name, rows in batch.items()}
        total = len(joined["input_ids"]) // length * length
        return {
            name: [values[at : at + length] for at in range(0, total, length)]
            for name, values in joined.items()
        }

    blocks = tokenized.map(group, batched=True)
    blocks.save_to_disk(f"{output}/blocks")
    print(f"{len(blocks)} blocks, vocabulary of {len(tokenizer)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
