"""Let the signatures of a model share the functions that read its weights and tables.

TensorFlow inlines the functions that a signature calls, optimizes the graph of each signature as a
whole, and gives each graph kernels of its own. oneDNN's kernels keep packed copies of the weights,
so a model with 8 signatures that call the encoder has 8 of them, and the graph of the tokenizer is
optimized 8 times. Therefore signatures are split before and after their calls of a function that
reads variables or constants of the model, if there is more than one call of it in the model: the
parts run one after the other, and the function between them exists once.

Functions that are called in a loop or under a condition stay as they are, and so do signatures of
another form than those that `tf.saved_model.save` writes for functions.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from pipeline.schema import Tensors

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_AROUND_A_CALL = ("Placeholder", "Identity", "NoOp")

NamedFunction = Callable[..., Mapping[str, Any]]
"""Tensors by name → tensors by name."""

_ByPosition = Callable[..., Sequence[Any]]
_Key = tuple[Any, ...]


def shared(functions: Mapping[str, Any]) -> dict[str, NamedFunction]:
    """Return functions with the same results that share the operations that read the variables.

    Args:
        functions: signatures of a loaded SavedModel, `tf.types.experimental.ConcreteFunction` by
            name. They must live as long as the returned ones.
    """
    bodies = {name: _body(function) for name, function in functions.items()}
    different = {body.key: body for body in bodies.values() if body}
    calls = Counter(key for body in different.values() for key in body.weighty.values())
    called: dict[_Key, _ByPosition] = {}
    by_key: dict[_Key, NamedFunction] = {}
    for name, body in bodies.items():
        if body and body.key not in by_key:
            often = {call: key for call, key in body.weighty.items() if calls[key] > 1}
            by_key[body.key] = _split(body, often, called) if often else functions[name]
    return {name: by_key[body.key] if body else functions[name] for name, body in bodies.items()}


@dataclass(frozen=True)
class _Body:
    """The function that a signature calls.

    Attributes:
        key: equal for calls of the same function with the same captured tensors.
        graph: the function's graph.
        arguments: names of the tensors in the graph that the arguments are, by argument.
        captured: other inputs of the graph: tensors outside of it, by the inputs' names.
        results: names of the tensors in the graph that are returned, by result.
        weighty: calls of functions that read variables or constants of the model, in order: a key
            like `key` by the name of the operation.
    """

    key: _Key
    graph: Any
    arguments: Mapping[str, str]
    captured: Mapping[str, Any]
    results: Mapping[str, str]
    weighty: Mapping[str, _Key]


def _body(function: Any) -> _Body | None:
    """Return the function that a signature calls; None if the signature does anything else."""
    operations = function.graph.get_operations()
    calls = [each for each in operations if each.type in _CALLS]
    outputs = function.structured_outputs
    if len(calls) != 1 or not isinstance(outputs, dict):
        return None
    call = calls[0]
    if any(each.type not in _AROUND_A_CALL for each in operations if each is not call):
        return None
    name = call.get_attr("f").name
    graph = _graph(function.graph, name)
    outside = {placeholder.name: tensor for tensor, placeholder in function.graph.captures}
    arguments, captured = {}, {}
    for tensor, inner in zip(call.inputs, graph.inputs, strict=True):
        if tensor.name in outside:
            captured[inner.name] = outside[tensor.name]
        else:
            arguments[tensor.op.name] = inner.name
    if arguments.keys() != function.structured_input_signature[1].keys():
        return None
    results = {}
    for result, tensor in zip(sorted(outputs), function.graph.outputs, strict=True):
        source = tensor.op.inputs[0] if tensor.op.type == "Identity" else tensor
        if source.op is not call:
            return None
        results[result] = graph.outputs[source.value_index].name
    key = (name, *map(id, captured.values()), *arguments.items(), *results.items())
    weighty = _weighty(graph, captured)
    return _Body(key, graph, arguments, captured, results, weighty)


def _graph(graph: Any, name: str) -> Any:
    """Return the graph of a function in the library of a graph."""
    library = graph.as_graph_def().library.function
    definition = next(each for each in library if each.signature.name == name)
    with graph.as_default():
        return function_def_to_graph(definition)


def _weighty(graph: Any, captured: Mapping[str, Any]) -> dict[str, _Key]:
    """Return `_Body.weighty`."""
    keys: dict[str, _Key] = {}
    for call in graph.get_operations():
        names = [tensor.name for tensor in call.inputs]
        outside = [captured.get(name) for name in names]
        if call.type in _CALLS and any(tensor is not None for tensor in outside):
            # An argument counts by its place; one that is given twice has two.
            places = [
                names.index(name) if tensor is None else (id(tensor),)
                for name, tensor in zip(names, outside, strict=True)
            ]
            keys[call.name] = (call.get_attr("f").name, *places)
    return keys


@dataclass(frozen=True)
class _BoundFunction:
    """A function of tensors by position, and the names of these tensors."""

    function: _ByPosition
    inputs: Sequence[str]
    outputs: Sequence[str]


@dataclass(frozen=True)
class _Steps:
    """Functions that run one after the other.

    Attributes:
        steps: the functions.
        arguments: names of the tensors that the arguments are, by argument.
        results: names of the tensors that are returned, by result.
    """

    steps: Sequence[_BoundFunction]
    arguments: Mapping[str, str]
    results: Mapping[str, str]

    def __call__(self, **arguments: tf.Tensor) -> Tensors:
        """Return the results."""
        tensors = {self.arguments[name]: value for name, value in arguments.items()}
        for step in self.steps:
            returned = step.function(*[tensors[name] for name in step.inputs])
            tensors.update(zip(step.outputs, returned, strict=True))
        return {name: tensors[tensor] for name, tensor in self.results.items()}


def _split(body: _Body, calls: Mapping[str, _Key], called: dict[_Key, _ByPosition]) -> _Steps:
    """Split a function before and after calls.

    Args:
        body: the function.
        calls: keys of the calls by the names of the operations, in order.
        called: functions that are called, by key; those of these calls are added.
    """
    nodes = {node.name: node for node in body.graph.as_graph_def().node}
    steps = []
    parts = _parts(body, calls)
    for index, part in enumerate(parts):
        inputs, outputs = _inputs(part), _outputs(part, parts[index + 1 :], body)
        key = calls.get(part[0].name)
        if key:
            outputs = [tensor.name for tensor in part[0].outputs]
        arguments = {name: spec for name, spec in inputs.items() if name not in body.captured}
        captured = {name: body.captured[name] for name in inputs if name in body.captured}
        definition = graph_pb2.GraphDef()
        definition.node.extend(_cut(nodes[each.name], part) for each in part)
        function = called.get(key) if key else None
        function = function or _function(definition, arguments, captured, outputs)
        if key:
            called[key] = function
        steps.append(_BoundFunction(function, tuple(arguments), outputs))
    return _Steps(steps, body.arguments, body.results)


def _parts(body: _Body, calls: Collection[str]) -> list[list[Any]]:
    """Return the operations in parts that run one after the other; each call is a part."""
    graph = body.graph
    done = {tensor.op for tensor in graph.inputs}
    results = [graph.get_tensor_by_name(name).op for name in body.results.values()]
    ends = [*results, *graph.control_outputs]
    needed = set(_needed(results, done))
    # Checks that wait for none of the calls run before them: they may be of the calls' inputs.
    checks = [
        end
        for end in graph.control_outputs
        if end not in needed and not any(op.name in calls for op in _needed([end], done))
    ]
    parts = []
    for name in calls:
        call = graph.get_operation_by_name(name)
        before = _needed([*_parents(call), *checks], done)
        parts += [before, [call]]
        # Constants are repeated where they are used: the optimizer has to see that they are.
        done.update(each for each in [*before, call] if each.type != "Const")
    parts.append(_needed(ends, done))
    return [part for part in parts if part]


def _parents(operation: Any) -> list[Any]:
    return [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)


def _needed(ends: Iterable[Any], done: Collection[Any]) -> list[Any]:
    """Return the operations that have to run for some, these included, without the done ones."""
    needed: dict[Any, None] = {}  # a set that keeps the order
    waiting = list(ends)
    while waiting:
        operation = waiting.pop()
        if operation not in needed and operation not in done:
            needed[operation] = None
            waiting.extend(_parents(operation))
    return list(needed)


def _inputs(part: Sequence[Any]) -> dict[str, tf.TensorSpec]:
    """Return the tensors that operations need of others, in order."""
    return {
        tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype)
        for operation in part
        for tensor in operation.inputs
        if tensor.op not in part
    }


def _outputs(part: Sequence[Any], later: Sequence[Sequence[Any]], body: _Body) -> list[str]:
    """Return the tensors that later parts need of this one, or that are results."""
    needed = {name for each in later for name in _inputs(each)} | set(body.results.values())
    return [
        tensor.name for operation in part for tensor in operation.outputs if tensor.name in needed
    ]


def _cut(node: Any, part: Sequence[Any]) -> Any:
    """Return a node that waits for no operation of another part."""
    cut = type(node)()
    cut.CopyFrom(node)
    names = {f"^{operation.name}" for operation in part}
    kept = [name for name in node.input if not name.startswith("^") or name in names]
    del cut.input[:]
    cut.input.extend(kept)
    return cut


def _function(
    definition: Any,
    inputs: Mapping[str, tf.TensorSpec],
    captured: Mapping[str, Any],
    outputs: Sequence[str],
) -> _ByPosition:
    """Return a graph as a function.

    Args:
        definition: the graph.
        inputs: dtypes and shapes of the inputs by name, in order.
        captured: tensors outside of the graph, by the names that they have in it.
        outputs: names of the tensors to return.
    """

    def run(*values: Any) -> list[Any]:
        graph = tf.compat.v1.get_default_graph()
        known = {name: graph.capture(tensor) for name, tensor in captured.items()}
        known.update(zip(inputs, values, strict=True))
        # Error messages contain the names of operations, which stay the same.
        return tf.graph_util.import_graph_def(definition, known, outputs, name="")

    traced = tf.function(run, input_signature=list(inputs.values()), autograph=False)
    function = traced.get_concrete_function()
    # Not the function itself: it compares the arguments with its signature at each call, which
    # takes 0.15 ms, and the runner has compared them already.
    outside = list(function.captured_inputs)
    return lambda *values: function._call_flat([*values], outside)
