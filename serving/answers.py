"""A question in words to a server, and its answer as a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from pipeline.console import import_quietly, table
from pipeline.errors import InputError
from pipeline.schema import MASK
from serving.client import Client, GrpcClient, ServerError


def signature_for(texts: Sequence[str]) -> str:
    """Return the signature that answers: two texts, a text with a mask, a text without."""
    if len(texts) == 2:
        return "next_sentence"
    return "fill_mask" if MASK in texts[0] else "embed"


def ask(server: str, model: str, texts: Sequence[str], *, over_grpc: bool) -> dict[str, Any]:
    """Ask a server about one text or a pair.

    Returns:
        `signature`, and each output of it for this one text, as plain lists and numbers.

    Raises:
        InputError: nothing answers there, or the server refuses.
    """
    if over_grpc:
        import_quietly("tensorflow")  # whose messages gRPC's tensors are
    client: Client | GrpcClient = GrpcClient(server) if over_grpc else Client(f"http://{server}")
    signature = signature_for(texts)
    inputs = {name: [text] for name, text in zip(("text", "text_pair"), texts, strict=False)}
    try:
        outputs = client.predict(model, inputs, signature)
    except ServerError as error:
        if "Servable not found" in str(error):
            raise InputError(
                f"--model {model}: not served at {server} ({error}); "
                "the name is that of a folder under serve's --models"
            ) from error
        raise
    return {"signature": signature} | {
        name: _plain(np.asarray(values)[0]) for name, values in outputs.items()
    }


def _plain(value: Any) -> Any:
    """Return an array as lists of text and numbers."""
    values = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(values, list):
        return [_plain(each) for each in values]
    return values.decode("utf-8") if isinstance(values, bytes) else values


def show(texts: Sequence[str], answer: dict[str, Any]) -> RenderableType:
    """Return an answer as a person reads it."""
    if answer["signature"] == "next_sentence":
        shown: RenderableType = f"{answer['is_next_probability']:.3f}  is the next sentence"
    elif answer["signature"] == "fill_mask":
        shown = _fillings(texts[0], answer)
    else:
        vector = np.array(answer["mean"])
        head = ", ".join(f"{value:+.3f}" for value in vector[:6])
        shown = f"mean vector: {len(vector)} numbers, length {np.linalg.norm(vector):.3f}: {head}…"
    if answer["truncated"]:
        return Group(shown, "The text was longer than the model takes; its end was cut off.")
    return shown


def _fillings(text: str, answer: dict[str, Any]) -> RenderableType:
    """Return one table with the candidates for every mask, a column a mask."""
    tokens, probabilities = answer["tokens"], answer["probabilities"]
    masks = [index for index, position in enumerate(answer["positions"]) if position >= 0]
    rows = [
        [rank + 1, *(f"{tokens[m][rank]} {probabilities[m][rank]:.3f}" for m in masks)]
        for rank in range(len(tokens[0]))
    ]
    columns = ["", *(f"mask {index + 1}" for index in range(len(masks)))]
    return Group(Text(text, style="bold"), table("", columns, rows))
