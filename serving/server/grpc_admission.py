"""Admission control for gRPC calls: limits on time and number before the method runs.

gRPC's server gives every call a thread that waits for the request without a time limit, and parses
all requests in the single thread that accepts calls. Here the number and time of waiting calls are
limited, a request is parsed in the call's own thread, and it then acquires a place in the budget
that it shares with REST.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from serving.server.backend import Backend
from serving.server.budget import Share
from serving.server.callers import Caller
from serving.server.limits import PIECE_BYTES, Limits
from serving.server.status import ServingError, invalid
from serving.server.wire import check_elements

_log = logging.getLogger(__name__)

# Limits on calls that wait for their request. Above _MAX_WAITING, those that wait longer than
# _GRACE_SECS are cancelled (a client that sends at all needs less); above _MOST_WAITING, the number
# of threads for waiting calls, also younger ones.
_MAX_WAITING = 64
_GRACE_SECS = 0.5
_MOST_WAITING = 256
_TICK_SECS = 0.5
_UNLIMITED = frozenset(
    f"/tensorflow.serving.{method}"
    for method in (
        "PredictionService/GetModelMetadata",
        "ModelService/GetModelStatus",
        "ModelService/HandleReloadConfigRequest",
    )
)
_REQUESTS = {
    f"/{service.full_name}/{method.name}": method.input_type
    for file in (prediction_service_pb2, model_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def thread_count(limits: Limits) -> int:
    """Return the number of threads for calls, including those that wait for their request."""
    return limits.max_accepted_requests + _MOST_WAITING + _MAX_WAITING


class Admission(grpc.ServerInterceptor):
    """Converts every unary method to a streaming one that reads its only request itself."""

    def __init__(self, backend: Backend, clocks: "CallClocks") -> None:
        self._backend = backend
        self._clocks = clocks

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Return the method's handler; None if the method does not exist."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            return self._answer(handler, method, requests, context)

        return grpc.stream_unary_rpc_method_handler(answer)

    def _answer(
        self,
        handler: Any,
        method: str,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> bytes:
        caller, share = Caller(), self._backend.budget.request(_address(context.peer()))

        def at_end() -> None:
            caller.leave()
            self._clocks.forget(context)
            share.release()

        share.retain()  # one reference for this thread, one for the call, which outlives it
        if not context.add_callback(at_end):
            share.release()  # the call has already ended
        try:
            packed = self._request(context, requests)
            if packed is None:
                message = "Expected exactly one request message"
                raise ServingError(grpc.StatusCode.UNIMPLEMENTED, message)
            if method not in _UNLIMITED:
                share.take_place()
            with self._backend.work, caller.served():
                request, size_bytes = self._parsed(handler, method, packed, share)
                answer = self._run(handler, request, size_bytes, context, share)
            self._clocks.start_sending(context, len(answer))
            return answer
        except ServingError as error:
            context.abort(error.code, error.message)
            raise AssertionError("abort does not return") from error
        finally:
            share.give_place()
            share.release()

    def _request(self, context: grpc.ServicerContext, requests: Iterator[bytes]) -> bytes | None:
        """Return the call's request; see `CallClocks.received`."""
        try:
            return self._clocks.received(context, requests)
        except grpc.RpcError:
            # gRPC does not say which of these; its own log does, but with a line for each call.
            _log.error(
                "A gRPC call ended before its request was read: the client compressed it, which is "
                "refused, or went away, or took too long"
            )
            raise

    def _parsed(
        self, handler: Any, method: str, packed: bytes, share: Share
    ) -> tuple[Message, int]:
        """Return the request message and the bytes it holds, packed and parsed."""
        share.hold(len(packed))
        with self._backend.budget.turn(len(packed)):
            size_bytes = len(packed) + check_elements(packed, _REQUESTS[method])
            share.hold(size_bytes)
            try:
                request: Message = handler.request_deserializer(packed)
            except DecodeError as error:
                raise invalid("The request message cannot be parsed") from error
        return request, size_bytes

    def _run(
        self,
        handler: Any,
        request: Message,
        request_bytes: int,
        context: grpc.ServicerContext,
        share: Share,
    ) -> bytes:
        budget = self._backend.budget
        response = handler.unary_unary(request, context)
        size = response.ByteSize()
        share.hold(request_bytes + 2 * size)
        with budget.turn(size):
            answer: bytes = handler.response_serializer(response)
        share.hold(size)
        return answer


class CallClocks:
    """A thread that cancels calls whose client sends no request or does not read the response.

    Args:
        timeout_secs: time limit for a request, and for each `PIECE_BYTES` of a response.
    """

    def __init__(self, timeout_secs: float) -> None:
        self._timeout_secs = timeout_secs
        self._lock = threading.Lock()
        self._waiting: dict[grpc.ServicerContext, float] = {}  # start time by call, oldest first
        self._sending: dict[grpc.ServicerContext, float] = {}  # deadline by call
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="grpc-clocks", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to end."""
        self._stopping.set()

    def received(self, context: grpc.ServicerContext, requests: Iterator[bytes]) -> bytes | None:
        """Wait for the call's request; return None if the client sends none.

        Raises:
            grpc.RpcError: the call ended, or was cancelled because it took too long.
        """
        with self._lock:
            self._waiting[context] = time.monotonic()
            evicted = self._evicted()
        for each in evicted:
            each.cancel()
        try:
            return next(requests, None)
        finally:
            with self._lock:
                self._waiting.pop(context, None)

    def _evicted(self) -> list[grpc.ServicerContext]:
        """Remove and return the calls that have waited longest, if there are too many."""
        evicted = []
        latest = time.monotonic() - _GRACE_SECS
        while len(self._waiting) > _MAX_WAITING:
            # Dictionaries keep their order, so the first one waits longest.
            oldest = next(iter(self._waiting))
            if self._waiting[oldest] > latest and len(self._waiting) <= _MOST_WAITING:
                break
            del self._waiting[oldest]
            evicted.append(oldest)
        return evicted

    def start_sending(self, context: grpc.ServicerContext, size_bytes: int) -> None:
        """Set the deadline for the client to read a response of this size."""
        allowed_secs = self._timeout_secs * (1 + size_bytes / PIECE_BYTES)
        with self._lock:
            self._sending[context] = time.monotonic() + allowed_secs

    def forget(self, context: grpc.ServicerContext) -> None:
        """Remove a call that has ended."""
        with self._lock:
            self._sending.pop(context, None)

    def _work(self) -> None:
        while not self._stopping.wait(_TICK_SECS):
            now_secs = time.monotonic()
            with self._lock:
                late = [each for each, deadline in self._sending.items() if deadline < now_secs]
                started_by = now_secs - self._timeout_secs
                late += [each for each, start in self._waiting.items() if start < started_by]
                for context in late:
                    self._sending.pop(context, None)
                    self._waiting.pop(context, None)
            for context in late:
                context.cancel()


def _address(peer: str) -> str:
    """Return the address part of gRPC's `ipv4:ADDRESS:PORT`."""
    return peer.partition(":")[2].rpartition(":")[0]
