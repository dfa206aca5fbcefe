"""TensorFlow Serving's REST API as a Starlette application.

    POST /v1/models/NAME[/versions/N|/labels/L]:predict|:classify|:regress
    GET  /v1/models/NAME[/versions/N|/labels/L][/metadata]
    GET  /monitoring/prometheus/metrics

and what the real server does not have: at / the page of `serving.server.playground`, and the
addresses of `serving.server.health`.

Paths match without regard to case, and a query string counts as part of the path: both as in
TensorFlow Serving.
"""

import asyncio
import functools
import logging
import re
import zlib
from collections.abc import AsyncIterator, Callable
from concurrent import futures
from urllib.parse import unquote

from grpc import StatusCode
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.server.backend import Backend
from serving.server.describe import metadata_json, status_json
from serving.server.examples import (
    classification_json,
    classify,
    read_examples,
    regress,
    regression_json,
)
from serving.server.health import health_routes
from serving.server.json_answer import error_answer, predict_answer
from serving.server.json_request import parse_document, read_inputs, signature_name
from serving.server.metrics import PATH as METRICS_PATH
from serving.server.origins import NOSNIFF, KnownHosts, OriginCheck
from serving.server.playground import playground_routes
from serving.server.signature import DEFAULT_SIGNATURE
from serving.server.status import HTTP_STATUS, ServingError, invalid, shortened

_log = logging.getLogger(__name__)

_WHICH = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_ASK = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_WHICH}(?P<metadata>/metadata)?", re.I)
_RUN = re.compile(rf"/v1/models/(?P<name>[^/:]+){_WHICH}:(?P<verb>classify|regress|predict)", re.I)
_MAX_VERSION = 2**63 - 1
_NOT_FOUND = (
    "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n"
    "<H1>Not Found</H1>\n</BODY></HTML>\n"
)


class _VersionTooLargeError(Exception):
    """A version that is no int64: answered 400 with an empty body."""


class _BodyTooLargeError(ServingError):
    """A request body over the limit: answered 413."""

    def __init__(self, limit: int) -> None:
        message = f"Request body is larger than {limit} bytes"
        super().__init__(StatusCode.RESOURCE_EXHAUSTED, message)


class _MediaTypeError(ServingError):
    """A request body that does not claim to be JSON: answered 415."""

    def __init__(self, media_type: str) -> None:
        message = f"Content-Type {media_type[:100]!r}: expected application/json"
        super().__init__(StatusCode.INVALID_ARGUMENT, message)


def rest_app(backend: Backend, threads: futures.Executor, hosts: KnownHosts) -> ASGIApp:
    """Return the application. Predictions run in `threads`; the event loop only moves bytes.

    Args:
        backend: the models and what runs them.
        threads: runs the predictions.
        hosts: the names under which clients may reach the server.
    """
    extras = [*playground_routes(backend.repository), *health_routes(backend.repository)]
    api = Route("/{path:path}", _RestApi(backend, threads))
    return OriginCheck(Starlette(routes=[*extras, api]), hosts)


class _RestApi:
    """Every path and method: which are errors, and how, is part of the API."""

    def __init__(self, backend: Backend, threads: futures.Executor) -> None:
        self._backend = backend
        self._limits = backend.limits
        self._threads = threads
        self._accepted = 0  # predictions between their first byte and their answer
        self._verbs = {  # in lower case only, as in TensorFlow Serving
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ServingError as error:
            response = _json(_status(error), error_answer(error.message))
        except _VersionTooLargeError:
            response = _json(400, b"")
        except Exception as error:
            _log.exception("%s %s failed", request.method, request.url.path)
            response = _json(500, error_answer(type(error).__name__))
        response.headers.update(NOSNIFF)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        target = _target(request.scope)
        if request.method == "GET" and target == METRICS_PATH:
            return Response(self._backend.metrics.page(), media_type="text/plain")
        if not target.lower().startswith("/v1/"):
            return Response(_NOT_FOUND, 404, media_type="text/html")
        if request.method == "OPTIONS":
            known = request.headers.get("origin", "").startswith(("http://", "https://"))
            return Response(b"", 200 if known else 400, media_type="text/html")
        run = _RUN.fullmatch(target)
        if request.method == "POST" and run and run["verb"] in self._verbs:
            return await self._run(request, run)
        if request.method == "GET" and (ask := _ASK.fullmatch(target)):
            return self._describe(ask)
        raise invalid(f"Malformed request: {request.method} {shortened(target)}")

    def _describe(self, ask: re.Match[str]) -> Response:
        if not ask["name"]:
            raise invalid("Missing model name in request.")
        name, version = unquote(ask["name"]), _version(ask)
        if ask["metadata"]:
            servable = self._backend.repository.find(name, version, ask["label"] or "")
            return _json(200, metadata_json(servable))
        return _json(
            200, status_json(self._backend.repository.statuses(name, version, ask["label"] or ""))
        )

    async def _run(self, request: Request, run: re.Match[str]) -> Response:
        """Predict, classify or regress."""
        _check_media_type(request.headers.get("content-type", ""))
        asked = unquote(run["name"]), _version(run), run["label"] or ""
        with self._backend.counted(asked[0], run["verb"].capitalize(), "REST"):
            if self._accepted >= self._limits.max_accepted_requests:
                raise ServingError(
                    StatusCode.UNAVAILABLE,
                    f"The server is busy: {self._accepted} predictions accepted; try again later",
                )
            self._accepted += 1
            future = None
            try:
                async with asyncio.timeout(self._limits.rest_timeout_secs):
                    answer = self._verbs[run["verb"]]
                    work = functools.partial(answer, await self._body(request), *asked)
                    future = asyncio.get_running_loop().run_in_executor(self._threads, work)
                    return _json(200, await asyncio.shield(future))
            except TimeoutError as error:  # a run itself cannot be stopped; its result is dropped
                message = "Timed out waiting for notification"
                raise ServingError(StatusCode.DEADLINE_EXCEEDED, message) from error
            except ClientDisconnect as error:
                raise ServingError(StatusCode.CANCELLED, "The client went away") from error
            finally:
                if future:
                    future.add_done_callback(self._done)
                else:
                    self._accepted -= 1

    def _done(self, future: asyncio.Future[bytes]) -> None:
        self._accepted -= 1
        if not future.cancelled():
            future.exception()  # looked at, so that asyncio does not log it when no one waits

    def _predict(self, body: bytes, name: str, version: int | None, label: str) -> bytes:
        """Return the answer to a predict request (in a thread, as the next two)."""
        document = parse_document(body)
        wanted = signature_name(document) or DEFAULT_SIGNATURE
        servable = self._backend.repository.find(name, version, label)
        if wanted not in servable.signatures:
            raise invalid(
                f'Serving signature name: "{shortened(wanted)}" not found in signature def'
            )
        signature = servable.signatures[wanted]
        layout, inputs = read_inputs(document, signature)
        return predict_answer(self._backend.runner.run(signature, inputs), layout)

    def _classify(self, body: bytes, name: str, version: int | None, label: str) -> bytes:
        """Return the answer to a classify request."""
        document = parse_document(body)
        wanted, examples = signature_name(document) or DEFAULT_SIGNATURE, read_examples(document)
        servable = self._backend.repository.find(name, version, label)
        return classification_json(classify(servable, wanted, examples, self._backend))

    def _regress(self, body: bytes, name: str, version: int | None, label: str) -> bytes:
        """Return the answer to a regress request."""
        document = parse_document(body)
        wanted, examples = signature_name(document) or DEFAULT_SIGNATURE, read_examples(document)
        servable = self._backend.repository.find(name, version, label)
        return regression_json(regress(servable, wanted, examples, self._backend))

    async def _body(self, request: Request) -> bytes:
        limit = self._limits.max_message_bytes
        body = bytearray()
        async for chunk in _decoded(request, limit):
            body += chunk
            if len(body) > limit:
                raise _BodyTooLargeError(limit)
        return bytes(body)


async def _decoded(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the body, decompressed if it is gzip; a broken gzip body counts as empty."""
    if int(request.headers.get("content-length", 0)) > limit:
        raise _BodyTooLargeError(limit)
    decode: Callable[[bytes], bytes] = bytes
    if request.headers.get("content-encoding", "").lower() == "gzip":
        # One byte over the limit is enough to know: no gzip bomb gets to unfold.
        gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
        decode = functools.partial(gzip.decompress, max_length=limit + 1)
    async for chunk in request.stream():
        try:
            yield decode(chunk)
        except zlib.error:
            return


def _target(scope: Scope) -> str:
    """Return the path as it was sent, with its query string."""
    query = scope["query_string"]
    return (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")


def _version(match: re.Match[str]) -> int | None:
    if match["version"] is None:
        return None
    if len(match["version"]) > 19 or int(match["version"]) > _MAX_VERSION:
        raise _VersionTooLargeError
    return int(match["version"])


def _check_media_type(content_type: str) -> None:
    """Refuse what a form of another site's page can send: text/plain and multipart/form-data.

    `curl -d` and Python's urllib call JSON a form; a form of a page cannot be JSON in that type.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    known = ("", "application/json", "application/x-www-form-urlencoded")
    if media_type not in known and not media_type.endswith("+json"):
        raise _MediaTypeError(media_type)


def _status(error: ServingError) -> int:
    if isinstance(error, _BodyTooLargeError):
        return 413
    return 415 if isinstance(error, _MediaTypeError) else HTTP_STATUS[error.code]


def _json(status: int, body: bytes) -> Response:
    return Response(body, status, media_type="application/json")
