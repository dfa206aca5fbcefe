"""`clozeline query`: send a request to a running server."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from clozeline.options import Command
from pipeline.errors import InputError
from serving.addresses import checked_address
from serving.tf_serving import GRPC_PORT, MAX_VERSION, REST_PORT, version_number


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
    grpc: bool = False
    """Use gRPC instead of REST."""
    signature: str = ""
    """Signature to call, for example attention or tokenize. Default: chosen to fit the texts."""
    version: str | None = None
    """Version number, or label such as canary. Default: the newest version."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            InputError: no text, or more than two; an address, a name or a version that cannot be
                one.
        """
        if self.server is not None:
            checked_address("--server", self.server)
        if not 1 <= len(self.text) <= 2:
            raise InputError(f"TEXT: expected one or two texts, got {len(self.text)}")
        for flag, name in (("--model", self.model), ("--version", self.version)):
            if name is not None and not (name and name.isprintable()):
                raise InputError(f"{flag} {name!a}: expected a name")
        version = self.version or ""
        is_number = version.isascii() and version.isdigit()
        if is_number and version_number(version) is None:
            raise InputError(f"--version {self.version}: must be at most {MAX_VERSION}")

    def run(self) -> dict[str, Any]:
        """Ask and show the answer."""
        from pipeline.console import results
        from serving.client.answers import ask, show

        server = self.server or f"127.0.0.1:{GRPC_PORT if self.grpc else REST_PORT}"
        version = self.version
        number = version_number(version) if version else None
        answer = ask(
            server,
            self.model,
            self.text,
            over_grpc=self.grpc,
            signature=self.signature,
            version=version if number is None else number,
        )
        results.print(show(self.text, answer))
        return answer
