"""Query a model server with texts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model import served
from model.tasks.task_kind import all_kinds
from pipeline.errors import InputError, unreadable
from pipeline.progress import counted
from pipeline.quiet_imports import import_quietly
from pipeline.schema import MASK
from pipeline.storage.encodings import decoded_lines
from pipeline.storage.strict_json import Json, JsonObject
from serving.client.client import Client, GrpcClient, ServerError, Signature, Version
from serving.configs import QueryConfig

# Names of text inputs, in the order in which users type the texts.
_TEXTS = (served.TEXT, "question", served.TEXT_PAIR, "passage", "context")
_FOR_MASKS = (served.FILL_MASK, served.FILL_MASK_PAIR)
_FOR_TEXTS = (served.NEXT_SENTENCE, served.EMBED, served.SIMILARITY, served.EMBED_TOKENS)
_NOT_SERVED = ("Servable not found", "Unrecognized servable version label")  # in both servers


@dataclass(frozen=True)
class Answer:
    """Answer of a server about one text or pair.

    Attributes:
        signature: the signature that ran.
        outputs: each output by its name, as plain lists and numbers, without a batch axis.
    """

    signature: str
    outputs: JsonObject


def query(config: QueryConfig) -> Answer:
    """Ask a running server about one text or a pair, or rank passages by a text.

    Returns:
        The answer. Of passages it is `passages`: line number, text and score of each, best first.

    Raises:
        InputError, ServerError: as `ask` and `rank`.
    """
    if config.passages:
        return rank(config, config.passages)
    return ask(
        config.address,
        config.model,
        config.text,
        over_grpc=config.grpc,
        signature=config.signature,
        version=config.wanted_version,
        n_best=config.n_best,
        dimension=config.dimension,
    )


def rank(config: QueryConfig, path: Path) -> Answer:
    """Rank the lines of a file by their relevance to a text.

    Raises:
        InputError: the file cannot be read or has no texts, or the model compares no texts.
        JobError: the machine fails to read the file.
        ServerError: the server cannot be reached, failed, or sent an unusable response.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(f"`passages` {path}", error) from error
    lines = decoded_lines(data, f"`passages` {path}")
    passages = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not passages:
        raise InputError(f"`passages` {path}: contains no texts")
    client, version = _client(config.address, over_grpc=config.grpc), config.wanted_version
    with _naming_the_model(config.address, config.model, version):
        texts = [line for _, line in passages]
        signature = client.comparing_signature(config.model, version)
        ranked = client.ranked(config.model, config.text[0], texts, version=version)
    rows: list[JsonObject] = [
        {"line": passages[index][0], served.TEXT: passages[index][1], served.SCORE: score}
        for index, score in ranked
    ]
    return Answer(signature, {served.PASSAGES: rows})


def signature_for(
    texts: Sequence[str],
    known: Mapping[str, Signature],
    n_best: int | None = None,
    dimension: int | None = None,
) -> str:
    """Return the default signature for these texts: the first suitable one that the model has.

    Args:
        texts: one or two texts.
        known: the model's signatures by name.
        n_best: number of requested answers; None = the signature need not take one.
        dimension: requested number of components; None = the signature need not take one.

    Raises:
        InputError: no signature takes this number of texts.
    """
    if dimension is not None:
        if served.EMBED_DIMENSION in known:
            return served.EMBED_DIMENSION
        raise InputError(
            "`dimension`: the model has vectors of one size only; those tuned for vectors have more"
        )
    if n_best is not None:
        for kind in all_kinds():
            if kind.signature.n_best in known:
                return kind.signature.n_best
        raise InputError(
            "`n_best`: the model has one answer only; models tuned for spans have more"
        )
    has_mask = any(MASK in text for text in texts)
    # A fine-tuned task's signature is preferred to those that every model has, such as `embed`.
    of_tasks = [kind.signature.name for kind in all_kinds()]
    for_texts = (*(name for name in of_tasks if name not in _FOR_TEXTS), *_FOR_TEXTS)
    for name in (*_FOR_MASKS, *for_texts) if has_mask else for_texts:
        if name in known and len(known[name].inputs) == len(texts):
            return name
    names = ", ".join(sorted(known))
    raise InputError(
        f"no signature takes {len(texts)} such texts; name one of {names} with `signature`"
    )


def ask(
    server: str,
    model: str,
    texts: Sequence[str],
    *,
    over_grpc: bool,
    signature: str = "",
    version: Version = None,
    n_best: int | None = None,
    dimension: int | None = None,
) -> Answer:
    """Send one text or pair to a server.

    Args:
        server: address HOST:PORT.
        model: name of the model.
        texts: one or two texts.
        over_grpc: whether to use gRPC; the server's port must be its gRPC port.
        signature: name of the signature; "" = choose one that fits the texts.
        version: number or label of the version; None = the newest.
        n_best: number of answers, for signatures that take it; None = their default, or one.
        dimension: number of components of a vector, for signatures that take it.

    Raises:
        InputError: the signature does not take these texts, or the server refused the request.
        ServerError: the server cannot be reached, failed, or sent an unusable response.
    """
    client = _client(server, over_grpc=over_grpc)
    with _naming_the_model(server, model, version):
        known = client.signatures(model, version)
        signature = signature or signature_for(texts, known, n_best, dimension)
        inputs: JsonObject = {}
        if signature in known:
            numbers = {served.N_BEST: n_best, served.DIMENSION: dimension}
            inputs = _inputs(signature, known[signature], texts, numbers)
        outputs = client.predict(model, inputs, signature, version)
    return Answer(
        signature,
        {
            name: _plain(values[0] if values.ndim and len(values) == 1 else values)
            for name, values in outputs.items()
        },
    )


def _client(server: str, *, over_grpc: bool) -> Client | GrpcClient:
    if over_grpc:
        # Quietly: TensorFlow prints to standard error on import.
        import_quietly("tensorflow")  # it defines the tensor messages of the gRPC API
    return GrpcClient(server) if over_grpc else Client(f"http://{server}")


@contextmanager
def _naming_the_model(server: str, model: str, version: Version) -> Iterator[None]:
    """Convert the server's answer that it does not serve a model into an `InputError`."""
    try:
        yield
    except ServerError as error:
        if any(missing in str(error) for missing in _NOT_SERVED):
            raise InputError(_not_served(server, model, version, error)) from error
        raise


def _not_served(server: str, model: str, version: Version, error: ServerError) -> str:
    """Return the error message for a model, version or label that the server does not serve."""
    if isinstance(version, str):
        named = f"`model` {model} `version` {version}"
        advice = "labels are those of the models.config that serve's `models` names"
    else:
        named = f"`model` {model}" + ("" if version is None else f" `version` {version}")
        advice = "the name is that of a folder under serve's `models`"
        advice += "" if version is None else ", the version that of a folder in it"
    return f"{named}: not served at {server} ({error}); {advice}"


_DEFAULTS = {served.N_BEST: 5}
"""Numbers that signatures take if the user gives none."""

_WITHOUT = {
    served.N_BEST: "gives one answer only",
    served.DIMENSION: "has vectors of one size only",
}
"""Behaviour of signatures that take no such number."""


def _inputs(
    name: str, signature: Signature, texts: Sequence[str], given: Mapping[str, int | None]
) -> JsonObject:
    """Return the texts and numbers by the signature's input names, each as a batch of one.

    Args:
        name: name of the signature.
        signature: its inputs.
        texts: one or two texts.
        given: numbers by the input that takes them; None = not given.

    Raises:
        InputError: the signature takes fewer texts, other inputs, or lacks or needs a number.
    """
    numbers = given.keys() & signature.inputs.keys()
    for each, number in given.items():
        if number is not None and each not in numbers:
            raise InputError(f"`{each}`: the signature {name} {_WITHOUT[each]}")
        if number is None and each in numbers and each not in _DEFAULTS:
            raise InputError(f"`signature` {name}: needs `{each}`")
    texts_of = {each: of for each, of in signature.inputs.items() if each not in numbers}
    # A signature's inputs have no order of their own: texts go to the names that usually come
    # first.
    names = sorted(texts_of, key=_position)
    takes = ", ".join(f"{each} ({signature.inputs[each]})" for each in names) or "nothing"
    if len(names) > 2 or set(texts_of.values()) - {"DT_STRING"}:
        raise InputError(
            f"`signature` {name}: takes {takes}; query asks only for what takes one or two texts"
        )
    if len(texts) > len(names):
        raise InputError(
            f"`signature` {name}: takes {takes}, received {counted(len(texts), 'texts')}; "
            f"leave {texts[-1]!r} out"
        )
    padded = [*texts, ""]  # an empty second text means a single text
    inputs: JsonObject = {each: [text] for each, text in zip(names, padded, strict=False)}
    return inputs | {each: [given[each] or _DEFAULTS[each]] for each in numbers}


def _position(name: str) -> int:
    return _TEXTS.index(name) if name in _TEXTS else len(_TEXTS)


def _plain(value: Any) -> Json:
    """Convert an array to lists of text and numbers; invalid UTF-8 becomes U+FFFD."""
    values = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(values, list):
        return [_plain(each) for each in values]
    if isinstance(values, str):
        values = values.encode("utf-8", "surrogateescape")
    return values.decode("utf-8", "replace") if isinstance(values, bytes) else values
