"""The file in an int8 model that says how each of its products is computed."""

from pathlib import Path

from pipeline.storage.strict_json import Json, JsonObject, to_json
from serving.export.inference_graph import product_names
from serving.export.quantization import Plan
from serving.tf_serving import WARM_UP_FILE

PLAN_FILE = Path(WARM_UP_FILE).with_name("int8.json")
"""In a version's directory, where model servers look for warm-up requests and ignore all else."""


def write_plan(path: Path, plan: Plan, layers: int) -> None:
    """Write the plan of a model as JSON.

    Args:
        path: output file, in an existing directory.
        plan: the plan.
        layers: number of Transformer layers.
    """
    names = [name for index in range(layers) for name in product_names(index)]
    products: JsonObject = {name: _described(plan, name) for name in names}
    path.write_text(to_json({"products": products}, indent=1) + "\n", encoding="utf-8")


def _described(plan: Plan, name: str) -> Json:
    """Return the entry of a product: "bfloat16", "int8 by row", or its measured range."""
    if name in plan.kept:
        return "bfloat16"
    if name not in plan.ranges:
        return "int8 by row"
    measured = plan.ranges[name]
    # 0 stands for a symmetric range.
    low = measured.low or -measured.high
    return {"low": low, "high": measured.high, "divided": measured.divisors is not None}
