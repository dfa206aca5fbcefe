"""Check that Model Garden's pretraining data loader reads our records with identical values.

Run as `python -m benchmarks.model_garden DATASET`.
"""

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import tyro

from benchmarks.commands import PEERS, environment
from clozeline.show.terminal import results, table
from pipeline import schema
from pipeline.inspection import read_records
from pipeline.manifest import read_manifest
from pipeline.quiet_imports import import_quietly

# Model Garden renames two features after reading them.
THEIR_NAMES = {schema.INPUT_IDS: "input_word_ids", schema.SEGMENT_IDS: "input_type_ids"}


def main(dataset: tyro.conf.Positional[Path], split: str = "train") -> None:
    """Read a split with both loaders and compare every value.

    Args:
        dataset: an uncompressed dataset with static masks and next-sentence pairs.
        split: train or eval.
    """
    import_quietly("tensorflow")
    manifest = read_manifest(dataset)
    arguments = [dataset / f"{split}-*.tfrecord", manifest.max_seq_length, manifest.max_predictions]
    command = [environment("tf_models_official"), PEERS / "model_garden.py", *arguments]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"Model Garden's loader failed:\n{done.stderr[-2000:]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    blocks = [
        block
        for shard in manifest.splits[split]
        for block in read_records(dataset / shard.name, manifest)
    ]
    rows = []
    for name in blocks[0]:
        values = np.concatenate([block[name] for block in blocks]).astype(np.float64)
        *shape, digest = theirs[THEIR_NAMES.get(name, name)]
        same = digest == hashlib.sha256(values.tobytes()).hexdigest()
        rows.append((name, " × ".join(map(str, shape)), "equal" if same else "differs"))
    results.print(table(f"{dataset}, read by Model Garden", ("feature", "shape", "values"), rows))
    if any("differs" in row[2] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    tyro.cli(main)
