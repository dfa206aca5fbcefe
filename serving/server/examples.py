"""Classify, Regress and MultiInference: signatures that take `tf.train.Example`s.

Their inputs and outputs have fixed names. In SavedModels of TensorFlow 1, `method_name` states a
signature's purpose; `tf.saved_model.save` always writes Predict there. So, as in TensorFlow
Serving, it is ignored unless the server is configured to check it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from grpc import StatusCode
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    regression_pb2,
)

from pipeline.schema import Arrays
from serving.server.answer_size import check_answer
from serving.server.backend import Backend
from serving.server.json_answer import number_text, string_text
from serving.server.json_values import ParsedJson, converter, is_base64, is_utf8, json_type, quoted
from serving.server.loading import Servable
from serving.server.signature_spec import check_rows
from serving.server.status import ServingError, invalid, shortened
from serving.server.wire import MAX_ENTRIES
from serving.tf_serving import DEFAULT_SIGNATURE

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
_KINDS = {CLASSIFY: "classification", REGRESS: "regression"}
_COLUMNS = {"classes": np.dtype(np.object_), "scores": np.dtype(np.float32)}
_CLASS_BYTES = 64  # memory of a label, score or regression value as a protobuf message
_INT64 = range(-(2**63), 2**63)
_to_float, _to_bytes = converter(tf.float32), converter(tf.string)


def read_examples(document: dict[str, ParsedJson]) -> input_pb2.Input:
    """Return the `examples` of a JSON request, with its `context` if it has one.

    Raises:
        ServingError: INVALID_ARGUMENT: there are none, or one cannot be converted to an Example.
    """
    if "examples" not in document:
        raise _misformatted(
            document, "When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise _misformatted(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _misformatted(document, "'examples' value is an empty array")
    read = input_pb2.Input()
    if "context" in document:
        read.example_list_with_context.context.CopyFrom(_example(document["context"]))
        read.example_list_with_context.examples.extend(map(_example, examples))
    else:
        read.example_list.examples.extend(map(_example, examples))
    return read


def _misformatted(document: dict[str, ParsedJson], reason: str) -> ServingError:
    return invalid(f"JSON Value: {quoted(document)} {reason}")


def _example(value: ParsedJson) -> example_pb2.Example:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    if len(value) > MAX_ENTRIES:
        raise invalid(f"Example: a map has more than {MAX_ENTRIES} entries")
    example = example_pb2.Example()
    for name, content in value.items():
        if not is_utf8(name):
            raise invalid(f"Feature: {shortened(name)} has a name that is not UTF-8")
        feature = feature_pb2.Feature()
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)
        example.features.feature[name].CopyFrom(feature)
    return example


def _add(feature: feature_pb2.Feature, name: str, value: ParsedJson) -> None:
    kind, converted = _feature_value(name, value)
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        expected = present.removesuffix("_list")
        raise invalid(
            f"Unexpected element type in feature: {shortened(name)} expecting type: {expected}"
        )
    getattr(feature, kind).value.append(converted)


def _feature_value(name: str, value: ParsedJson) -> tuple[str, Any]:
    """Return the field of `Feature` for a JSON value, and the value converted to its type."""
    # Before int: in Python, a bool is one.
    if isinstance(value, bool):
        return "int64_list", int(value)
    if isinstance(value, str) or is_base64(value):
        return "bytes_list", _to_bytes(value)
    if isinstance(value, int):
        if value in _INT64:
            return "int64_list", value
        # TensorFlow Serving's own distinction: larger integers are floats to its JSON parser.
        if 0 <= value < 2**64:
            raise invalid(
                f"Feature: {shortened(name)} has uint64 element. Only int64 is supported."
            )
    if isinstance(value, int | float):
        return "float_list", _to_float(value)
    raise invalid(
        f"Feature: {shortened(name)} has element with unexpected JSON type: {json_type(value)}"
    )


def classify(
    servable: Servable, signature_name: str, examples: input_pb2.Input, backend: Backend
) -> classification_pb2.ClassificationResult:
    """Return the label and score of every class for each example.

    Raises:
        ServingError: the signature does not classify, there are no examples, or the graph failed.
    """
    outputs, rows = _run(servable, signature_name, CLASSIFY, examples, backend)
    columns = {name: outputs[name] for name in _COLUMNS if name in outputs}
    for name, array in columns.items():
        _check_column(name, array, rows)
    widths = [array.shape[1] for array in columns.values()]
    if len({*widths}) > 1:
        vs = " vs. ".join(map(str, widths))
        raise invalid(f"Tensors class and score should match in dim_size(1). Got {vs}")
    size_bytes = sum(_CLASS_BYTES * array.size for array in columns.values())
    check_answer(size_bytes, backend.runner.max_answer_bytes)
    with backend.budget.turn(size_bytes):
        return _classifications(columns, rows, widths[0])


def _classifications(
    columns: Arrays, rows: int, width: int
) -> classification_pb2.ClassificationResult:
    """Return classes [rows, width] and scores [rows, width], of which one may be missing."""
    result = classification_pb2.ClassificationResult()
    for row in range(rows):
        added = result.classifications.add()
        for index in range(width):
            added.classes.add(
                **(
                    {"label": _label(columns["classes"][row, index])}
                    if "classes" in columns
                    else {}
                ),
                **({"score": columns["scores"][row, index]} if "scores" in columns else {}),
            )
    return result


def _label(value: bytes) -> str:
    """Return a class label as text, which is all that the message can hold."""
    return value.decode("utf-8", "replace")


def _check_column(name: str, array: np.ndarray, rows: int) -> None:
    """Check the shape and dtype of a classification output."""
    if array.ndim != 2:
        raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
    if array.dtype != _COLUMNS[name]:
        expected, received = map(_dtype_name, (_COLUMNS[name], array.dtype))
        raise invalid(f"Expected {name} Tensor of {expected}. Got: {received}")
    if len(array) != rows:
        raise invalid(f"Expected {name} output batch size of {rows}. Got: {len(array)}")


def regress(
    servable: Servable, signature_name: str, examples: input_pb2.Input, backend: Backend
) -> regression_pb2.RegressionResult:
    """Return a number for each example.

    Raises:
        ServingError: the signature does not regress, there are no examples, or the graph failed.
    """
    outputs, rows = _run(servable, signature_name, REGRESS, examples, backend)
    values = outputs["outputs"]
    if values.ndim != 1 and not (values.ndim == 2 and values.shape[1] == 1):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{_shape(values)}"
        )
    if len(values) != rows:
        raise invalid(f"Input batch size did not match output batch size: {rows} vs. {len(values)}")
    if values.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_dtype_name(values.dtype)}")
    size_bytes = _CLASS_BYTES * values.size
    check_answer(size_bytes, backend.runner.max_answer_bytes)
    result = regression_pb2.RegressionResult()
    with backend.budget.turn(size_bytes):
        for value in values.ravel():
            result.regressions.add(value=value)
    return result


def _shape(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _dtype_name(dtype: np.dtype) -> str:
    """Return a dtype's name as in protocol buffers."""
    return types_pb2.DataType.Name(tf.dtypes.as_dtype(dtype).as_datatype_enum)


def multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest, backend: Backend
) -> inference_pb2.MultiInferenceResponse:
    """Return the result of every task on the same examples.

    Raises:
        ServingError: tasks that do not go together, or one of them failed.
    """
    response = inference_pb2.MultiInferenceResponse()
    seen = set()
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if task.model_spec.name != servable.name:
            raise invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        # As TensorFlow Serving: each signature runs once in a request.
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        result = inference_pb2.InferenceResult()
        if task.method_name == CLASSIFY:
            classes = classify(servable, name, request.input, backend)
            result.classification_result.CopyFrom(classes)
        elif task.method_name == REGRESS:
            numbers = regress(servable, name, request.input, backend)
            result.regression_result.CopyFrom(numbers)
        else:
            message = f"Unsupported signature method_name: {shortened(task.method_name)}"
            raise ServingError(StatusCode.UNIMPLEMENTED, message)
        result.model_spec.CopyFrom(answering_spec(servable, name))
        response.results.append(result)
    return response


def answering_spec(servable: Servable, signature_name: str) -> model_pb2.ModelSpec:
    """Return the model spec of a response: the model, version and signature that produced it."""
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def _run(
    servable: Servable, name: str, method: str, examples: input_pb2.Input, backend: Backend
) -> tuple[Arrays, int]:
    """Run a signature on examples; return its outputs and the number of examples."""
    if name not in servable.definitions:
        raise invalid(f"No signature was found with the name: {shortened(name)}")
    definition = servable.definitions[name]
    if backend.limits.checks_method_names and definition.method_name != method:
        raise invalid(
            f"Expected {_KINDS[method]} signature method_name to be {method}. "
            f"Was: {definition.method_name}"
        )
    _check_definition(definition, method)
    runner = backend.runner
    kind = examples.WhichOneof("kind")
    count = len(getattr(examples, kind).examples) if kind else 0
    if not count:
        raise invalid("Input is empty.")
    check_rows(count, runner.most_rows(servable.signatures[name]))
    # Serializing holds the interpreter, so large requests take turns.
    with backend.budget.turn(examples.ByteSize()):
        serialized = list(_bounded(_serialized(examples), runner.max_input_bytes))
    # Filled afterwards: `np.array` would strip the zero bytes at the end of a message.
    texts = np.empty(len(serialized), dtype=np.object_)
    texts[:] = serialized
    return runner.run(servable.signatures[name], {"inputs": texts}), len(serialized)


def _check_definition(definition: meta_graph_pb2.SignatureDef, method: str) -> None:
    """Check that a signature has the inputs and outputs of a method, like TensorFlow Serving.

    Raises:
        ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION: an input or output is missing or
            extra.
    """
    outputs = definition.outputs.keys()
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if method == CLASSIFY and len(outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(outputs)}")
    if method == REGRESS and len(outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in definition.inputs:
        raise _unusable(f"No {_KINDS[method]} inputs found in SignatureDef: {definition}")
    if method == CLASSIFY and not outputs & _COLUMNS.keys():
        raise _unusable(
            'Expected classification signature outputs to contain at least one of "classes" or '
            f'"scores". Signature was: {definition}'
        )
    if method == REGRESS and "outputs" not in outputs:
        raise _unusable(f"No regression outputs found in SignatureDef: {definition}")


def _unusable(message: str) -> ServingError:
    return ServingError(StatusCode.FAILED_PRECONDITION, message)


def _bounded(examples: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """Yield serialized examples up to a total size; each of them repeats the context."""
    total_bytes = 0
    for example in examples:
        total_bytes += len(example)
        if total_bytes > max_bytes:
            raise invalid(f"The examples with their context take more than {max_bytes} bytes")
        yield example


def _serialized(examples: input_pb2.Input) -> Iterable[bytes]:
    """Yield each serialized example, preceded by the serialized context.

    Concatenated protobuf messages are merged when parsed, so the example's features override the
    context's.
    """
    if examples.WhichOneof("kind") == "example_list_with_context":
        context = examples.example_list_with_context.context.SerializeToString()
        for example in examples.example_list_with_context.examples:
            yield context + example.SerializeToString()
    else:
        for example in examples.example_list.examples:
            yield example.SerializeToString()


def classification_json(result: classification_pb2.ClassificationResult) -> bytes:
    """Return classes as a REST response body: for each example a list of [label, score]."""
    rows = [
        ", ".join(
            f"[{string_text(one.label.encode())}, {number_text(one.score)}]" for one in row.classes
        )
        for row in result.classifications
    ]
    return _results(f"[{row}]" for row in rows)


def regression_json(result: regression_pb2.RegressionResult) -> bytes:
    """Return regression values as a REST response body."""
    return _results(number_text(row.value) for row in result.regressions)


def _results(rows: Iterable[str]) -> bytes:
    text = f'{{\n    "results": [{", ".join(rows)}\n    ]\n}}'
    return text.encode()  # labels are protobuf strings, so valid UTF-8
