"""CPU time of the served encoder on one core, by precision.

    python -m benchmarks.encoder

BERT-base with random weights, without the tokenizer, frozen weights as with `clozeline serve
--frozen-weights`. Other processes of a shared machine disturb CPU time on one core least;
`benchmarks.serving` measures whole answers on all cores, and the peers. Each precision runs in a
process of its own, twice, and the lower median counts.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median

import numpy as np

from clozeline.show.terminal import results, table
from serving.export.choices import FROZEN_WEIGHTS, ServingPrecision

SHAPES = ((8, 128), (1, 128), (8, 16), (1, 16))
PRECISIONS = ("bfloat16", "int8, calibrated", "int8, by row")
REPEATS = 9
UNTIMED = 3


def measure(precision: str) -> Mapping[str, float]:
    """Return the median CPU time of a batch in milliseconds, by shape."""
    import tensorflow as tf

    from model.bert.config import SIZES
    from model.bert.network import build_pretraining_model, weights_by_name
    from pipeline import schema
    from serving.export.inference_graph import Network, product_names
    from serving.export.quantization import Plan, Range

    config = SIZES["base"].config(30_522)
    # The time does not depend on the ranges; half of the inputs are divided, as on real texts.
    low = -11 * 4 / 255
    divided = Range(0.0, 4.0, np.ones(config.hidden_size, np.float32))
    ranges = (divided, Range(0.0, 1.0), divided, Range(low, low + 4.0))
    names = [product_names(index) for index in range(config.num_hidden_layers)]
    plan = Plan({name: each for row in names for name, each in zip(row, ranges, strict=True)})
    weights = weights_by_name(build_pretraining_model(config))
    is_calibrated = precision.endswith("calibrated")
    kind: ServingPrecision = "bfloat16" if precision == "bfloat16" else "int8"
    network = Network(config, weights, kind, (), plan if is_calibrated else None)
    found = {}
    for batch, length in SHAPES:
        ids = np.random.default_rng(1).integers(5, config.vocab_size, (batch, length), np.int32)
        values = map(tf.constant, (ids, np.ones_like(ids), np.zeros_like(ids)))
        features = dict(zip(schema.ENCODER_INPUTS, values, strict=True))
        taken = []
        for _ in range(UNTIMED + REPEATS):
            begin = time.process_time()
            network.encode(features).pooled_output.numpy()
            taken.append(1e3 * (time.process_time() - begin))
        found[f"{batch} x {length}"] = median(taken[UNTIMED:])
    return found


def _run(precision: str) -> Mapping[str, float]:
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "--cpu-list", core, sys.executable, "-m", "benchmarks.encoder", precision]
    done = subprocess.run(
        command, env=os.environ | FROZEN_WEIGHTS, check=True, stdout=subprocess.PIPE, text=True
    )
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def main() -> None:
    """Measure and print all precisions."""
    runs = [{precision: _run(precision) for precision in PRECISIONS} for _ in range(2)]
    rows = []
    for precision in PRECISIONS:
        row = [precision]
        for batch, length in SHAPES:
            shape = f"{batch} x {length}"
            mine, bfloat16 = (min(run[of][shape] for run in runs) for of in (precision, "bfloat16"))
            row.append(f"{mine:.0f} ({bfloat16 / mine:.2f} ×)")
        rows.append(row)
    columns = ("ms of CPU time, one core", *(f"{batch} x {length}" for batch, length in SHAPES))
    results.print(table("", columns, rows))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
