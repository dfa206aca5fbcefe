"""The file that says how each product of an int8 model is computed."""

import json
from pathlib import Path

import numpy as np

from serving.export.plan_file import write_plan
from serving.export.quantization import Plan, Range


def test_every_product_of_every_layer_is_described(tmp_path: Path) -> None:
    ranges = {
        "0/qkv": Range(0.0, 2.5),
        "1/output": Range(-0.25, 3.0, np.ones(4, np.float32)),
        "1/intermediate": Range(0.0, 9.0),
    }
    write_plan(tmp_path / "int8.json", Plan(ranges, frozenset({"1/intermediate"})), layers=2)
    products = json.loads((tmp_path / "int8.json").read_text(encoding="utf-8"))["products"]
    by_layer = [{name for name in products if name.startswith(f"{layer}/")} for layer in range(3)]
    assert by_layer[2] == set()
    assert {name[2:] for name in by_layer[0]} == {name[2:] for name in by_layer[1]}
    # A symmetric range begins at its negative end; a kept product wins over its range.
    assert products["0/qkv"] == {"low": -2.5, "high": 2.5, "divided": False}
    assert products["1/output"] == {"low": -0.25, "high": 3.0, "divided": True}
    assert products["1/intermediate"] == "bfloat16"
    others = products.keys() - ranges.keys()
    assert others
    assert {products[name] for name in others} == {"int8 by row"}
