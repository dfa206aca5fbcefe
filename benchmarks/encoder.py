"""Time of the served encoder, by precision, and by the number of parts of a layer.

    python -m benchmarks.encoder            # CPU time on one core, by precision
    python -m benchmarks.encoder --parts    # latency on all cores, by parts and threads

A model of a standard size with random weights, without the tokenizer, frozen weights as with
`clozeline serve --frozen-weights`. Other processes of a shared machine disturb CPU time on one core
least; the latency needs a machine without other load. `benchmarks.serving` measures whole answers
on all cores, and the peers. Each setting runs in a process of its own, twice, and the lower median
counts.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np
import tyro

from clozeline.show.terminal import results, table
from model.bert.config import SIZES
from serving.export.choices import CALLER_THREAD, FROZEN_WEIGHTS, ServingPrecision, shared_cores

SHAPES = ((8, 128), (1, 128), (8, 16), (1, 16))
PRECISIONS = ("bfloat16", "int8, calibrated", "int8, by row")
REPEATS = 15
UNTIMED = 3

CHILD = """
import json, sys
from benchmarks.encoder import Setting, measure
measure(Setting(**json.loads(sys.argv[1])))
"""


@dataclass(frozen=True)
class Setting:
    """What a process measures.

    Attributes:
        precision: one of `PRECISIONS`.
        size: name of the model size.
        parts: number of parts of a layer.
        threads: number of threads of an operation; None = all cores.
        one_core: whether to run on one core, and to measure CPU time.
    """

    precision: str
    size: str = "base"
    parts: int = 1
    threads: str | None = None
    one_core: bool = False

    @property
    def described(self) -> str:
        """The parts and the threads."""
        return f"{self.parts}, {self.threads or 'all'}"


def measure(setting: Setting) -> None:
    """Print the median time of a batch in milliseconds by shape, as JSON."""
    import tensorflow as tf

    from model.bert.network import build_pretraining_model, weights_by_name
    from pipeline import schema
    from serving.export.inference_graph import Network, product_names
    from serving.export.quantization import Plan, Range

    config = SIZES[setting.size].config(30_522)
    # The time does not depend on the ranges; half of the inputs are divided, as on real texts.
    low = -11 * 4 / 255
    divided = Range(0.0, 4.0, np.ones(config.hidden_size, np.float32))
    ranges = (divided, Range(0.0, 1.0), divided, Range(low, low + 4.0))
    names = [product_names(index) for index in range(config.num_hidden_layers)]
    plan = Plan({name: each for row in names for name, each in zip(row, ranges, strict=True)})
    weights = weights_by_name(build_pretraining_model(config))
    is_calibrated = setting.precision.endswith("calibrated")
    kind: ServingPrecision = "bfloat16" if setting.precision == "bfloat16" else "int8"
    network = Network(
        config, weights, kind, (), plan if is_calibrated else None, tensor_parallel=setting.parts
    )
    clock = time.process_time if setting.one_core else time.perf_counter
    found = {}
    for batch, length in SHAPES:
        ids = np.random.default_rng(1).integers(5, config.vocab_size, (batch, length), np.int32)
        values = map(tf.constant, (ids, np.ones_like(ids), np.zeros_like(ids)))
        features = dict(zip(schema.ENCODER_INPUTS, values, strict=True))
        taken = []
        for _ in range(UNTIMED + REPEATS):
            begin = clock()
            network.encode(features).pooled_output.numpy()
            taken.append(1e3 * (clock() - begin))
        found[f"{batch} x {length}"] = median(taken[UNTIMED:])
    print(json.dumps(found))


def _run(setting: Setting) -> Mapping[str, float]:
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "--cpu-list", core] if setting.one_core else []
    command += [sys.executable, "-c", CHILD, json.dumps(asdict(setting))]
    threads = {"TF_NUM_INTRAOP_THREADS": setting.threads} if setting.threads else {}
    environment = os.environ | FROZEN_WEIGHTS | CALLER_THREAD | threads
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def main(*, parts: bool = False, size: str = "base") -> None:
    """Measure and print a table.

    Args:
        parts: compare numbers of parts of a layer, on all cores.
        size: name of the model size.
    """
    if not parts:
        settings = [Setting(precision, size, one_core=True) for precision in PRECISIONS]
        _print("ms of CPU time, one core", settings, [each.precision for each in settings])
        return
    share = shared_cores()["TF_NUM_INTRAOP_THREADS"]
    heads = SIZES[size].config(30_522).num_attention_heads
    for precision in PRECISIONS[:2]:
        settings = [
            Setting(precision, size, number, threads)
            for number in (1, 2, 4)
            if heads % number == 0
            for threads in (None, share)
        ]
        title = f"{precision}, ms: parts of a layer, threads of an operation"
        _print(title, settings, [each.described for each in settings])


def _print(title: str, settings: Sequence[Setting], names: Sequence[str]) -> None:
    """Measure the settings in turns, and print how many times as fast as the first one they are."""
    runs = [[_run(setting) for setting in settings] for _ in range(2)]
    rows = []
    for index, name in enumerate(names):
        row = [name]
        for batch, length in SHAPES:
            shape = f"{batch} x {length}"
            mine, first = (min(run[of][shape] for run in runs) for of in (index, 0))
            row.append(f"{mine:.1f} ({first / mine:.2f} ×)")
        rows.append(row)
    columns = (title, *(f"{batch} x {length}" for batch, length in SHAPES))
    results.print(table("", columns, rows))


if __name__ == "__main__":
    tyro.cli(main)
