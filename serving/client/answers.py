"""Query a model server with texts, and show its response as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from model.tasks.kinds import all_kinds
from pipeline.console import import_quietly, table
from pipeline.errors import InputError
from pipeline.schema import MASK
from serving.client.client import Client, GrpcClient, ServerError, Signature, Version

# Names of text inputs, in the order in which users type the texts.
_TEXTS = ("text", "question", "text_pair", "passage", "context")
_FOR_MASKS = ("fill_mask", "fill_mask_pair")
_FOR_TEXTS = ("next_sentence", "embed", "embed_tokens")
_SHOWN_VALUES = 6
_NOT_SERVED = ("Servable not found", "Unrecognized servable version label")  # in both servers


def signature_for(texts: Sequence[str], known: Mapping[str, Signature]) -> str:
    """Return the default signature for these texts: the first suitable one that the model has.

    Raises:
        InputError: no signature takes this number of texts.
    """
    has_mask = any(MASK in text for text in texts)
    # A fine-tuned task's signature is preferred to those that every model has.
    for_texts = (*(kind.signature.name for kind in all_kinds()), *_FOR_TEXTS)
    for name in (*_FOR_MASKS, *for_texts) if has_mask else for_texts:
        if name in known and len(known[name].inputs) == len(texts):
            return name
    names = ", ".join(sorted(known))
    raise InputError(
        f"no signature takes {len(texts)} such texts; name one of {names} with --signature"
    )


def ask(
    server: str,
    model: str,
    texts: Sequence[str],
    *,
    over_grpc: bool,
    signature: str = "",
    version: Version = None,
) -> dict[str, Any]:
    """Send one text or pair to a server.

    Args:
        server: address HOST:PORT.
        model: name of the model.
        texts: one or two texts.
        over_grpc: whether to use gRPC; the server's port must be its gRPC port.
        signature: name of the signature; "" = choose one that fits the texts.
        version: number or label of the version; None = the newest.

    Returns:
        `signature`, and each of its outputs for this text, as plain lists and numbers.

    Raises:
        InputError: the signature does not take these texts, or the server refused the request.
        ServerError: the server cannot be reached, failed, or sent an unusable response.
    """
    if over_grpc:
        import_quietly("tensorflow")  # it defines the tensor messages of the gRPC API
    client: Client | GrpcClient = GrpcClient(server) if over_grpc else Client(f"http://{server}")
    try:
        known = client.signatures(model, version)
        signature = signature or signature_for(texts, known)
        inputs = _inputs(signature, known[signature], texts) if signature in known else {}
        outputs = client.predict(model, inputs, signature, version)
    except ServerError as error:
        if any(missing in str(error) for missing in _NOT_SERVED):
            raise InputError(_not_served(server, model, version, error)) from error
        raise
    return {"signature": signature} | {
        name: _plain(values[0] if values.ndim and len(values) == 1 else values)
        for name, values in outputs.items()
    }


def _not_served(server: str, model: str, version: Version, error: ServerError) -> str:
    """Return the error message for a model, version or label that the server does not serve."""
    if isinstance(version, str):
        flags = f"--model {model} --version {version}"
        advice = "labels are those of the models.config that serve's --models names"
    else:
        flags = f"--model {model}" + ("" if version is None else f" --version {version}")
        advice = "the name is that of a folder under serve's --models"
        advice += "" if version is None else ", the version that of a folder in it"
    return f"{flags}: not served at {server} ({error}); {advice}"


def _inputs(name: str, signature: Signature, texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the texts by the signature's input names, each as a batch of one.

    Raises:
        InputError: the signature takes fewer texts, or inputs that are not texts.
    """
    names = sorted(signature.inputs, key=_position)
    takes = ", ".join(f"{each} ({signature.inputs[each]})" for each in names) or "nothing"
    if len(names) > 2 or set(signature.inputs.values()) - {"DT_STRING"}:
        raise InputError(
            f"--signature {name}: takes {takes}; query asks only for what takes one or two texts"
        )
    if len(texts) > len(names):
        raise InputError(
            f"--signature {name}: takes {takes}, received {len(texts)} texts; "
            f"leave {texts[-1]!r} out"
        )
    padded = [*texts, ""]  # an empty second text means a single text
    return {each: [text] for each, text in zip(names, padded, strict=False)}


def _position(name: str) -> int:
    return _TEXTS.index(name) if name in _TEXTS else len(_TEXTS)


def _plain(value: Any) -> Any:
    """Convert an array to lists of text and numbers; invalid UTF-8 becomes U+FFFD."""
    values = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(values, list):
        return [_plain(each) for each in values]
    if isinstance(values, str):
        values = values.encode("utf-8", "surrogateescape")
    return values.decode("utf-8", "replace") if isinstance(values, bytes) else values


def show(texts: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return a human-readable view of a response."""
    views = _SHOW | {
        kind.signature.name: _TASK_VIEWS[kind.signature.view]
        for kind in all_kinds()
        if kind.signature.view
    }
    needed, view = views.get(answer["signature"], ((), _values))
    # A signature of another exporter may have the same name as ours but other outputs.
    shown = (view if answer.keys() >= set(needed) else _values)(texts, answer)
    if answer.get("truncated"):
        return Group(shown, "The text is longer than the model takes; its end was cut off.")
    return shown


def _fillings(texts: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return a table of the candidates for each mask, one column per mask."""
    tokens, probabilities = answer["tokens"], answer["probabilities"]
    masks = [index for index, position in enumerate(answer["positions"]) if position >= 0]
    rows = [
        [rank + 1, *(f"{tokens[m][rank]} {probabilities[m][rank]:.3f}" for m in masks)]
        for rank in range(len(tokens[0]))
    ]
    columns = ["", *(f"mask {index + 1}" for index in range(len(masks)))]
    return Group(Text(" ".join(texts), style="bold"), table("", columns, rows))


def _next_sentence(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    return f"{answer['is_next_probability']:.3f}  is the next sentence"


def _classes(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return the classes with their probabilities, the most probable first."""
    pairs = zip(answer["probabilities"], answer["labels"], strict=True)
    rows = [[label, f"{probability:.3f}"] for probability, label in sorted(pairs, reverse=True)]
    return table("", ["class", "probability"], rows)


def _score(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    return f"{answer['score']:.3f}"


def _vector(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    vector = np.array(answer["mean"])
    head = ", ".join(f"{value:+.3f}" for value in vector[:_SHOWN_VALUES])
    return f"mean vector: {len(vector)} numbers, length {np.linalg.norm(vector):.3f}: {head}…"


def _attention(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return the piece that each piece attends to most, per layer, averaged over the heads."""
    real = [index for index, token in enumerate(answer["tokens"]) if token]
    tokens = [answer["tokens"][index] for index in real]
    scores = np.array(answer["scores"])[:, :, real][:, :, :, real].mean(axis=1)  # [layers, L, L]
    rows = [
        [token, *(f"{tokens[layer[row].argmax()]} {layer[row].max():.2f}" for layer in scores)]
        for row, token in enumerate(tokens)
    ]
    columns = ["looks at", *(f"layer {number + 1}" for number in range(len(scores)))]
    return table("", columns, rows)


def _values(_: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return all outputs by name, long ones shortened."""
    return table("", ["output", "value"], [
        [name, _short(value)] for name, value in answer.items() if name not in _NOT_SHOWN
    ])  # fmt: skip


def _short(value: Any) -> str:
    if isinstance(value, list):
        more = ", …" if len(value) > 4 * _SHOWN_VALUES else ""
        return ", ".join(map(_short, value[: 4 * _SHOWN_VALUES])) + more
    return f"{value:.3f}" if isinstance(value, float) else str(value)


_NOT_SHOWN = ("signature", "truncated")
_SHOW = {
    "fill_mask": (("tokens", "probabilities", "positions"), _fillings),
    "fill_mask_pair": (("tokens", "probabilities", "positions"), _fillings),
    "next_sentence": (("is_next_probability",), _next_sentence),
    "embed": (("mean",), _vector),
    "embed_tokens": (("mean",), _vector),
    "attention": (("tokens", "scores"), _attention),
}
"""By signature: the outputs that its view requires, and the view function."""

_TASK_VIEWS = {
    "classes": (("labels", "probabilities"), _classes),
    "number": (("score",), _score),
}
"""The same by the view that a kind of task names for its signature."""
