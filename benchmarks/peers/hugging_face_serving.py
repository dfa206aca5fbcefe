"""Time the inference of Hugging Face's BertModel in PyTorch, ONNX Runtime and OpenVINO.

    python hugging_face_serving.py settings.json

For each line of standard input, a JSON list of a batch size, a length and a number of batches, it
prints a JSON list of the wall time and the CPU time of each batch in milliseconds. The script is
self-contained; `hugging_face_serving.txt` lists what it imports.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import BertConfig, BertModel

NAMES = ("input_ids", "attention_mask", "token_type_ids")


def main(settings: dict) -> None:
    """Run the model on random batches, and print the times, until standard input ends."""
    torch.manual_seed(1)
    torch.set_num_threads(settings["threads"])
    model = BertModel(BertConfig(**settings["model"])).eval()
    kind = {"torch": _torch, "onnx": _onnx, "openvino": _openvino}[settings["mode"].split()[0]]
    answer = kind(model, settings)
    for line in sys.stdin:
        batch, length, count = json.loads(line)
        ids = np.random.default_rng(2).integers(5, settings["model"]["vocab_size"], [batch, length])
        inputs = (ids, np.ones_like(ids), np.zeros_like(ids))
        taken = []
        for _ in range(count):
            wall, cpu = time.perf_counter(), time.process_time()
            answer(inputs)
            taken.append([1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)])
        print(json.dumps(taken), flush=True)


def _torch(model: BertModel, settings: dict) -> Callable[[tuple], None]:
    """Return the PyTorch inference function: bfloat16 weights, compiled if the mode says so."""
    model = model.to(torch.bfloat16)
    forward = torch.compile(model) if "compiled" in settings["mode"] else model

    def answer(inputs: tuple) -> None:
        with torch.inference_mode():
            forward(**dict(zip(NAMES, map(torch.from_numpy, inputs), strict=True)))

    return answer


def _onnx(model: BertModel, settings: dict) -> Callable[[tuple], None]:
    """Return the ONNX Runtime inference function, with all graph optimizations."""
    file = _exported(model)
    if "int8" in settings["mode"]:
        in_int8 = file.with_name("int8.onnx")
        quantize_dynamic(file, in_int8, weight_type=QuantType.QInt8)
        file = in_int8
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["threads"]
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(zip(NAMES, inputs, strict=True)))


def _openvino(model: BertModel, settings: dict) -> Callable[[tuple], None]:
    """Return the OpenVINO inference function, in bfloat16 or quantized by NNCF."""
    import nncf
    import openvino

    converted = openvino.convert_model(_exported(model))
    if "int8" in settings["mode"]:
        rng = np.random.default_rng(3)
        shape = [1, settings["max_length"]]
        ids = [rng.integers(5, settings["model"]["vocab_size"], shape) for _ in range(32)]
        samples = [dict(zip(NAMES, (x, x**0, x * 0), strict=True)) for x in ids]
        kind = nncf.ModelType.TRANSFORMER
        converted = nncf.quantize(converted, nncf.Dataset(samples), model_type=kind)
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": settings["threads"],
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.compile_model(converted, "CPU", hints)
    return lambda inputs: compiled(dict(zip(NAMES, inputs, strict=True)))


def _exported(model: BertModel) -> Path:
    """Return the model as an ONNX file."""
    file = Path(tempfile.mkdtemp()) / "model.onnx"
    ids = torch.ones([2, 16], dtype=torch.int64)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    torch.onnx.export(
        model, (), str(file), kwargs=dict.fromkeys(NAMES, ids), input_names=list(NAMES),
        dynamic_shapes=dict.fromkeys(NAMES, shape), dynamo=True, verbose=False,
    )  # fmt: skip
    return file


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
