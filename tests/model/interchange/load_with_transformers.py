"""Load directories that we exported with `transformers`, and save what each makes of a batch.

    python load_with_transformers.py DIRECTORY ...

Next to its `batch.npz` each gets `outputs.npz`. Whatever the library warns of goes to standard
error. It stands alone, for an environment that has `torch` and `transformers` only.
"""

import os
import sys
import warnings
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "warning"  # the library's own default
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import torch
import transformers

warnings.simplefilter("default")
TEXTS = [["The cat sat."], ["a quiet DOG was not unable!", "café 狗 barked!"]]


def main(directory: Path) -> None:
    """Load one, and run it."""
    config = transformers.AutoConfig.from_pretrained(directory)
    model_class = getattr(transformers, config.architectures[0])
    model, found = model_class.from_pretrained(directory, output_loading_info=True)
    for name, weights in found.items():
        if weights:
            print(f"{directory}: {name}: {weights}", file=sys.stderr)
    batch = np.load(directory / "batch.npz")
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["input_mask"],
        "token_type_ids": batch["segment_ids"],
    }
    with torch.no_grad():
        values = model.eval()(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    outputs = {str(index): value.numpy() for index, value in enumerate(values.to_tuple())}
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    ids = tokenizer.pad([tokenizer(*texts) for texts in TEXTS])["input_ids"]
    np.savez(directory / "outputs.npz", input_ids=np.array(ids), **outputs)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(Path(argument))
