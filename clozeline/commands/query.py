"""`clozeline query`: send a request to a running server."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from clozeline.options import Command, config_from
from clozeline.show.terminal import results
from serving.configs import QueryConfig

if TYPE_CHECKING:
    from serving.client.answers import Answer


@dataclass(frozen=True, kw_only=True)
class Query(Command):
    """Query a running server.

    The default signature depends on model and text: fill masks if there is a [MASK], else the
    fine-tuned task, else next-sentence prediction for two texts and an embedding for one.
    """

    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """One text, or a pair of texts."""
    model: str
    """Name of the model, which is the name of its folder."""
    server: str | None = None
    """HOST:PORT of the server's REST API, or of its gRPC API with --grpc. Default: 127.0.0.1 and
    the default port of `serve`."""
    grpc: bool = QueryConfig.grpc
    """Use gRPC instead of REST."""
    signature: str = QueryConfig.signature
    """Signature to call, for example attention or tokenize. Default: chosen to fit the texts."""
    n_best: int | None = None
    """Number of best answers from the passage (1 to 50), for a model tuned for spans. Default: the
    best one."""
    dimension: int | None = None
    """Number of components of a text's vector, for a model tuned for vectors: the first ones, of
    length 1 if the model normalizes. Default: all."""
    version: str | None = None
    """Version number, or label such as canary. Default: the newest version."""

    passages: Path | None = None
    """File with a passage per line: rank them by their relevance to the text, with a model that was
    tuned for vectors or on pairs."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: no text, or more than two; an address, a name or a version that cannot be
                one.
        """
        self.configuration()

    def configuration(self) -> QueryConfig:
        """Return the question."""
        return config_from(self, QueryConfig)

    def run(self) -> dict[str, Any]:
        """Ask and show the answer."""
        from clozeline.show.answer import show
        from serving.client.answers import query

        answer = query(self.configuration())
        results.print(show(self.text, answer))
        return as_json(answer)


def as_json(answer: "Answer") -> dict[str, Any]:
    """Return what `--json` prints of an answer."""
    return {"signature": answer.signature, **answer.outputs}
