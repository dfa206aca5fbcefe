"""TensorFlow Serving's REST API as a Starlette application.

    POST /v1/models/NAME[/versions/N|/labels/L]:predict|:classify|:regress
    GET  /v1/models/NAME[/versions/N|/labels/L][/metadata]
    GET  /monitoring/prometheus/metrics

and, in addition to the real server's API, the page of `serving.server.playground` at / and the
endpoints of `serving.server.health`.

Paths are case-insensitive, and a query string counts as part of the path: both as in TensorFlow
Serving.
"""

import asyncio
import collections
import logging
import re
import zlib
from collections.abc import AsyncIterator, Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote

from grpc import StatusCode
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send
from tensorflow_serving.apis import input_pb2

from pipeline.schema import Arrays
from serving.server.backend import Backend
from serving.server.budget import Share
from serving.server.callers import Caller, current_caller, forget_locals
from serving.server.describe import metadata_json, status_json
from serving.server.examples import (
    classification_json,
    classify,
    read_examples,
    regress,
    regression_json,
)
from serving.server.health import health_routes
from serving.server.json_answer import error_answer, predict_chunks
from serving.server.json_request import (
    Layout,
    parse_document,
    read_inputs,
    row_count,
    signature_name,
)
from serving.server.json_values import ParsedJson
from serving.server.limits import PIECE_BYTES
from serving.server.loading import Servable
from serving.server.origins import NOSNIFF, KnownHosts, OriginCheck
from serving.server.playground import playground_routes
from serving.server.signature_spec import ServableSignature, check_rows, size_bytes
from serving.server.status import HTTP_STATUS, ServingError, invalid, shortened
from serving.tf_serving import DEFAULT_SIGNATURE, METRICS_PATH, version_number

_log = logging.getLogger(__name__)
_Read = TypeVar("_Read")

_WHICH = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_ASK = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_WHICH}(?P<metadata>/metadata)?", re.I)
_RUN = re.compile(rf"/v1/models/(?P<name>[^/:]+){_WHICH}:(?P<verb>classify|regress|predict)", re.I)
# Compressed JSON of ids and masks reaches a ratio of 100; a bomb of one repeated byte 1,000.
_MAX_RATIO = 200
_RATIO_FROM_BYTES = 1024 * 1024
_NOT_FOUND = (
    "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n"
    "<H1>Not Found</H1>\n</BODY></HTML>\n"
)


class _VersionTooLargeError(Exception):
    """A version number that exceeds int64: HTTP 400 with an empty body."""


class _BodyTooLargeError(ServingError):
    """A request body over the limit: HTTP 413."""

    def __init__(self, limit: int) -> None:
        message = f"Request body is larger than {limit} bytes"
        super().__init__(StatusCode.RESOURCE_EXHAUSTED, message)


class _RatioError(ServingError):
    """A compressed body with a suspicious compression ratio: HTTP 413."""

    def __init__(self) -> None:
        message = f"Request body unpacks to more than {_MAX_RATIO} times its size"
        super().__init__(StatusCode.RESOURCE_EXHAUSTED, message)


class _MediaTypeError(ServingError):
    """A request body that is not declared as JSON, plain or gzip-compressed: HTTP 415."""

    def __init__(self, header: str, value: str, expected: str) -> None:
        message = f"{header} {value[:100]!r}: expected {expected}"
        super().__init__(StatusCode.INVALID_ARGUMENT, message)


def rest_app(backend: Backend, threads: futures.Executor, hosts: KnownHosts) -> ASGIApp:
    """Return the ASGI application.

    Args:
        backend: the models and their runner.
        threads: executor for predictions; the event loop only transfers bytes.
        hosts: host names under which clients may reach the server.
    """
    extras = [*playground_routes(backend.repository), *health_routes(backend.repository)]
    api = _RestApi(backend, threads)
    # The route takes other methods of the extras' paths, and the default paths without a slash. A
    # redirect to one with a slash would name whatever host the client says.
    router = Router([*extras, Route("/{path:path}", api)], redirect_slashes=False, default=api)
    return OriginCheck(router, hosts)


class _RestApi:
    """Handles every path and method: the errors for unknown ones are part of the API too."""

    def __init__(self, backend: Backend, threads: futures.Executor) -> None:
        self._backend = backend
        self._limits = backend.limits
        self._threads = threads
        self._verbs = {  # in lower case only, as in TensorFlow Serving
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        request = Request(scope, receive)
        client = scope.get("client")
        share = self._backend.budget.request(client[0] if client else "")
        try:
            response = await self._response(request, share)
            response.headers.update(NOSNIFF)
            await response(scope, receive, send)
        finally:
            share.release()

    async def _response(self, request: Request, share: Share) -> Response:
        try:
            return await self._answer(request, share)
        except ServingError as error:
            forget_locals(error)
            return _json(_status(error), error_answer(error.message))
        except _VersionTooLargeError:
            return _json(400, b"")
        except Exception as error:
            _log.exception("%s %s failed", request.method, request.url.path)
            return _json(500, error_answer(type(error).__name__))

    async def _answer(self, request: Request, share: Share) -> Response:
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
            return await self._run(request, run, share)
        if request.method == "GET" and (ask := _ASK.fullmatch(target)):
            return self._describe(ask)
        raise invalid(f"Malformed request: {shortened(request.method)} {shortened(target)}")

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

    async def _run(self, request: Request, run: re.Match[str], share: Share) -> Response:
        """Handle a predict, classify or regress request."""
        _check_media_type(request.headers.get("content-type", ""))
        name, version, label = unquote(run["name"]), _version(run), run["label"] or ""
        caller = Caller()
        with self._backend.counted(name, run["verb"].capitalize(), "REST"):
            try:
                async with asyncio.timeout(self._limits.rest_timeout_secs):
                    async with asyncio.timeout(self._limits.transfer_timeout_secs):
                        body = await self._body(request, share)
                    share.take_place()
                    query = _ReceivedQuery(body, name, version, label, share)
                    answer = self._start(self._verbs[run["verb"]], query, caller)
                    return _InPieces(await _unless_gone(request, answer))
            except TimeoutError as error:
                message = "Timed out waiting for notification"
                raise ServingError(StatusCode.DEADLINE_EXCEEDED, message) from error
            except ClientDisconnect as error:
                raise ServingError(StatusCode.CANCELLED, "The client went away") from error
            finally:
                caller.leave()  # cancels queued work; a running prediction cannot be stopped

    def _start(
        self,
        verb: Callable[["_ReceivedQuery"], list[bytes]],
        query: "_ReceivedQuery",
        caller: Caller,
    ) -> asyncio.Future[list[bytes]]:
        """Run a verb in a thread; the thread holds the query's share until it ends."""

        def work() -> list[bytes]:
            try:
                with self._backend.work, caller.served():
                    return verb(query)
            finally:
                query.share.give_place()
                query.share.release()

        query.share.retain()
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _predict(self, query: "_ReceivedQuery") -> list[bytes]:
        """Return the response body of a predict request; runs in a thread, like the next two."""
        signature, layout, inputs = self._in_turn(self._read_predict, query)
        query.share.hold(len(query.body) + size_bytes(inputs))
        outputs = self._backend.runner.run(signature, inputs)
        query.share.hold(len(query.body) + size_bytes(outputs))
        with self._backend.budget.turn(size_bytes(outputs)):
            current_caller().check()
            answer = list(predict_chunks(outputs, layout, self._limits.max_answer_bytes))
        query.share.hold(sum(map(len, answer)))
        return answer

    def _in_turn(self, read: Callable[["_ReceivedQuery"], _Read], query: "_ReceivedQuery") -> _Read:
        """Return what a function reads; the parsed JSON, its local variable, is freed in the turn.

        A garbage collection afterwards would traverse it.
        """
        with self._backend.budget.turn(len(query.body)):
            current_caller().check()
            return read(query)

    def _read_predict(self, query: "_ReceivedQuery") -> tuple[ServableSignature, Layout, Arrays]:
        document = parse_document(query.body)
        requested = signature_name(document) or DEFAULT_SIGNATURE
        servable = self._backend.repository.find(query.name, query.version, query.label)
        if requested not in servable.signatures:
            message = f'Serving signature name: "{shortened(requested)}" not found'
            raise invalid(f"{message} in signature def")
        signature = servable.signatures[requested]
        self._check_rows(document, signature)
        return signature, *read_inputs(document, signature)

    def _read_examples(self, query: "_ReceivedQuery") -> tuple[Servable, str, input_pb2.Input]:
        document = parse_document(query.body)
        requested = signature_name(document) or DEFAULT_SIGNATURE
        servable = self._backend.repository.find(query.name, query.version, query.label)
        if requested in servable.signatures:
            self._check_rows(document, servable.signatures[requested])
        return servable, requested, read_examples(document)

    def _check_rows(self, document: dict[str, ParsedJson], signature: ServableSignature) -> None:
        """Refuse too many rows before they are converted, or another reason is found."""
        check_rows(row_count(document, signature), self._backend.runner.most_rows(signature))

    def _classify(self, query: "_ReceivedQuery") -> list[bytes]:
        """Return the response body of a classify request."""
        servable, requested, examples = self._in_turn(self._read_examples, query)
        return [classification_json(classify(servable, requested, examples, self._backend))]

    def _regress(self, query: "_ReceivedQuery") -> list[bytes]:
        """Return the response body of a regress request."""
        servable, requested, examples = self._in_turn(self._read_examples, query)
        return [regression_json(regress(servable, requested, examples, self._backend))]

    async def _body(self, request: Request, share: Share) -> bytes:
        limit = self._limits.max_request_bytes
        body = bytearray()
        async for chunk in _decoded(request, limit):
            body += chunk
            if len(body) > limit:
                raise _BodyTooLargeError(limit)
            share.hold(len(body))
        return bytes(body)


@dataclass(frozen=True)
class _ReceivedQuery:
    """A completely received predict, classify or regress request."""

    body: bytes
    name: str
    version: int | None
    label: str
    share: Share


async def _unless_gone(request: Request, answer: asyncio.Future[list[bytes]]) -> list[bytes]:
    """Wait for the answer; raise ClientDisconnect as soon as the client disconnects."""
    gone = asyncio.ensure_future(_disconnected(request))
    either: set[asyncio.Future[Any]] = {answer, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        gone.cancel()
        answer.add_done_callback(_look_at)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _look_at(answer: asyncio.Future[list[bytes]]) -> None:
    """Retrieve an unused result, so that asyncio does not log its error as never retrieved."""
    if not answer.cancelled():
        answer.exception()


async def _decoded(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the body, decompressed if it is gzip. Ends after the first chunk over the limit.

    Raises:
        ServingError: the body as sent exceeds the limit, or its compression ratio `_MAX_RATIO`; its
            gzip data are damaged or truncated; or it has another content coding.
    """
    # It is a number: h11 refuses a request with anything else.
    if int(request.headers.get("content-length", 0)) > limit:
        raise _BodyTooLargeError(limit)
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        async for chunk in request.stream():
            yield chunk
    elif coding in ("gzip", "x-gzip"):
        async for part in _unpacked(request, limit):
            yield part
    else:
        raise _MediaTypeError("Content-Encoding", coding, "gzip, or none")


async def _unpacked(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield a gzip body's document; see `_decoded`."""
    gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)  # + 16: of gzip's format, not zlib's
    packed, unpacked = 0, 0
    async for chunk in request.stream():
        packed += len(chunk)
        if packed > limit:
            raise _BodyTooLargeError(limit)
        if gzip.eof:
            continue  # data after the first gzip member do not belong to the document
        try:
            # Decompress at most one byte more than the limit, so that a bomb cannot expand.
            part = await asyncio.to_thread(gzip.decompress, chunk, limit + 1 - unpacked)
        except zlib.error as error:
            if not unpacked:
                return  # no gzip at all counts as empty, as in TensorFlow Serving
            raise invalid("Request body is damaged gzip") from error
        unpacked += len(part)
        yield part
        if unpacked > limit:
            return
        if unpacked > max(_RATIO_FROM_BYTES, packed * _MAX_RATIO):
            raise _RatioError
    if unpacked and not gzip.eof:
        raise invalid("Request body is gzip that is cut off")


def _target(scope: Scope) -> str:
    """Return the raw path with its query string."""
    query = scope["query_string"]
    return (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")


def _version(match: re.Match[str]) -> int | None:
    if match["version"] is None:
        return None
    number = version_number(match["version"])
    if number is None:
        raise _VersionTooLargeError
    return number


def _check_media_type(content_type: str) -> None:
    """Refuse types that a form on another site can send: text/plain and multipart/form-data.

    x-www-form-urlencoded is accepted: `curl -d` and Python's urllib send JSON with that type, and a
    form of that type cannot contain valid JSON.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    known = ("", "application/json", "application/x-www-form-urlencoded")
    if media_type not in known and not media_type.endswith("+json"):
        raise _MediaTypeError("Content-Type", media_type, "application/json")


def _status(error: ServingError) -> int:
    if isinstance(error, _BodyTooLargeError | _RatioError):
        return 413
    return 415 if isinstance(error, _MediaTypeError) else HTTP_STATUS[error.code]


def _json(status: int, body: bytes) -> Response:
    return _InPieces([body], status)


class _InPieces(Response):
    """A JSON response in chunks, of which the connection buffers one piece at a time.

    Chunks are not joined, and each is freed once it is sent, because responses can be large.
    """

    def __init__(self, chunks: list[bytes], status: int = 200) -> None:
        length = {"content-length": str(sum(map(len, chunks)))}
        super().__init__(None, status, length, "application/json")
        self._chunks = collections.deque(chunks)
        chunks.clear()

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the response (ASGI)."""
        head = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **head})
        while self._chunks:
            chunk = self._chunks.popleft()
            for start in range(0, len(chunk), PIECE_BYTES):
                piece = chunk[start : start + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})
