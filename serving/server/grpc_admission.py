"""What a gRPC call may take before its method runs, and until its answer is sent.

gRPC's own server gives every call a thread and waits there for the request without end, and parses
requests one after the other in the thread that accepts calls. Here a call waits for its request in
bounded time and number, is parsed in its own thread, and then takes its place in the budget that it
shares with REST.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving.server.backend import Backend
from serving.server.budget import Share
from serving.server.callers import Caller
from serving.server.limits import PIECE_BYTES, Limits
from serving.server.status import ServingError, invalid

_log = logging.getLogger(__name__)

# Calls that wait for their request: so many are waited for; of more, those that have taken longer
# than a client needs that sends at all; but never more than the threads there are for them.
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


def thread_count(limits: Limits) -> int:
    """Return how many threads calls need, those that wait for their requests included."""
    return limits.max_accepted_requests + _MOST_WAITING + _MAX_WAITING


class Admission(grpc.ServerInterceptor):
    """Turns every unary method into one that reads its only request itself."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._clocks = _Clocks(backend.limits.transfer_timeout_secs)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Return the method's handler; None if there is no such method."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        needs_place = handler_call_details.method not in _UNLIMITED

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            return self._answer(handler, requests, context, needs_place=needs_place)

        return grpc.stream_unary_rpc_method_handler(answer)

    def _answer(
        self,
        handler: Any,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
        *,
        needs_place: bool,
    ) -> bytes:
        caller, share = Caller(), self._backend.budget.request(_address(context.peer()))

        def at_end() -> None:
            caller.leave()
            self._clocks.forget(context)
            share.release()

        share.retain()  # by this thread, and by the call, whose answer is sent after it
        if not context.add_callback(at_end):
            share.release()  # it has ended already
        try:
            packed = self._request(context, requests)
            if packed is None:
                message = "Expected exactly one request message"
                raise ServingError(grpc.StatusCode.UNIMPLEMENTED, message)
            if needs_place:
                share.take_place()
            with self._backend.work, caller.served():
                answer = self._run(handler, packed, context, share)
            self._clocks.start_sending(context, len(answer))
            return answer
        except ServingError as error:
            context.abort(error.code, error.message)
            raise AssertionError("abort does not return") from error
        finally:
            share.give_place()
            share.release()

    def _request(self, context: grpc.ServicerContext, requests: Iterator[bytes]) -> bytes | None:
        """Return the call's request; see `_Clocks.received`."""
        try:
            return self._clocks.received(context, requests)
        except grpc.RpcError:
            # gRPC does not tell which. Its own log, which does, has a line for each such call.
            _log.error(
                "A gRPC call ended before its request was read: the client compressed it, which is "
                "refused, or went away, or took too long"
            )
            raise

    def _run(
        self, handler: Any, packed: bytes, context: grpc.ServicerContext, share: Share
    ) -> bytes:
        budget = self._backend.budget
        share.hold(len(packed))
        with budget.turn(len(packed)):
            try:
                request = handler.request_deserializer(packed)
            except DecodeError as error:
                raise invalid("The request message cannot be parsed") from error
        response = handler.unary_unary(request, context)
        size = response.ByteSize()
        share.hold(len(packed) + 2 * size)
        with budget.turn(size):
            answer: bytes = handler.response_serializer(response)
        share.hold(size)
        return answer


class _Clocks:
    """Cancels calls whose client sends no request, or takes no answer."""

    def __init__(self, timeout_secs: float) -> None:
        self._timeout_secs = timeout_secs
        self._lock = threading.Lock()
        self._waiting: dict[grpc.ServicerContext, float] = {}  # to its start, oldest first
        self._sending: dict[grpc.ServicerContext, float] = {}  # to its deadline
        threading.Thread(target=self._work, name="grpc-clocks", daemon=True).start()

    def received(self, context: grpc.ServicerContext, requests: Iterator[bytes]) -> bytes | None:
        """Return the call's request; None if the client ends without one.

        Raises:
            grpc.RpcError: the call ended meanwhile, or was cancelled because it took too long.
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
        """Take out the calls that have waited longest if there are too many."""
        evicted = []
        latest = time.monotonic() - _GRACE_SECS
        while len(self._waiting) > _MAX_WAITING:
            oldest = next(iter(self._waiting))
            if self._waiting[oldest] > latest and len(self._waiting) <= _MOST_WAITING:
                break
            del self._waiting[oldest]
            evicted.append(oldest)
        return evicted

    def start_sending(self, context: grpc.ServicerContext, size_bytes: int) -> None:
        """Give the client time to take an answer of this size."""
        allowed_secs = self._timeout_secs * (1 + size_bytes / PIECE_BYTES)
        with self._lock:
            self._sending[context] = time.monotonic() + allowed_secs

    def forget(self, context: grpc.ServicerContext) -> None:
        """Note that the call has ended."""
        with self._lock:
            self._sending.pop(context, None)

    def _work(self) -> None:
        while True:
            time.sleep(_TICK_SECS)
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
    """Return the address of gRPC's `ipv4:ADDRESS:PORT`."""
    return peer.partition(":")[2].rpartition(":")[0]
