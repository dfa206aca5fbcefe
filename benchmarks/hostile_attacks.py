"""Attacks of hostile clients on a model server on loopback, bounded in number and time.

`benchmarks.hostile` runs each attack in a separate process, so that it does not slow down the
interpreter that sends valid requests. This module does not import TensorFlow: requests are encoded
by hand.
"""

import argparse
import contextlib
import gzip
import json
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
from google.protobuf import struct_pb2

from pipeline import schema

HOST = "127.0.0.1"
_SERVICE = "/tensorflow.serving."
_MIB = 2**20
_PAUSE_SECS = 0.02


@dataclass(frozen=True)
class Target:
    """The server under attack, and when to stop."""

    model: str
    rest_port: int
    grpc_port: int
    deadline: float  # of time.monotonic()

    def is_open(self) -> bool:
        """Return whether the attack should continue."""
        return time.monotonic() < self.deadline

    def wait(self, secs: float = 3600.0) -> None:
        """Wait for `secs` seconds, but not past the deadline."""
        time.sleep(max(0.0, min(secs, self.deadline - time.monotonic())))


ATTACKS: dict[str, Callable[[Target], None]] = {}


def _attack(name: str) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    def register(function: Callable[[Target], None]) -> Callable[[Target], None]:
        ATTACKS[name] = function
        return function

    return register


def _at_once(target: Target, clients: int, work: Callable[[], None]) -> None:
    """Let concurrent clients repeat `work` until the deadline, ignoring errors."""

    def client() -> None:
        while target.is_open():
            with contextlib.suppress(OSError, grpc.RpcError):
                work()
            time.sleep(_PAUSE_SECS)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, target.deadline - time.monotonic()) + 1)


# ---- HTTP


def _connected(target: Target) -> socket.socket:
    return socket.create_connection((HOST, target.rest_port), timeout=5)


def _head(target: Target, length: str, *headers: str, verb: str = "predict") -> bytes:
    lines = [f"POST /v1/models/{target.model}:{verb} HTTP/1.1", f"Host: {HOST}", *headers, length]
    return "\r\n".join([*lines, "", ""]).encode()


def _post(target: Target, body: bytes, *headers: str, verb: str = "predict") -> None:
    """Send a request, and read the response to its end or until the deadline."""
    with _connected(target) as client:
        length = f"Content-Length: {len(body)}"
        client.sendall(_head(target, length, "Connection: close", *headers, verb=verb))
        client.sendall(body)
        client.settimeout(max(0.1, target.deadline - time.monotonic()))
        while client.recv(_MIB):
            pass


def _posts(
    clients: int, make: Callable[[], bytes], *headers: str, verb: str = "predict"
) -> Callable[[Target], None]:
    def attack(target: Target) -> None:
        body = make()
        _at_once(target, clients, lambda: _post(target, body, *headers, verb=verb))

    return attack


def _json(**document: object) -> bytes:
    return json.dumps(document).encode()


_GZIP = "Content-Encoding: gzip"
_LONG = "dog " * 600  # more pieces than any model takes


def _filled(unit: bytes, size: int) -> bytes:
    """Return a request of about `size` bytes whose instances are copies of `unit`."""
    return b'{"instances": [' + b",".join([unit] * (size // (len(unit) + 1))) + b"]}"


ATTACKS |= {
    "gzip: 63 MiB of []": _posts(4, lambda: gzip.compress(_filled(b"[]", 63 * _MIB)), _GZIP),
    "gzip: 3 MiB of [], 16 clients": _posts(
        16, lambda: gzip.compress(_filled(b"[]", 3 * _MIB)), _GZIP
    ),
    "gzip: many short members": _posts(4, lambda: gzip.compress(b"[") * 30_000, _GZIP),
    "JSON: 3.9 MB of []": _posts(8, lambda: _filled(b"[]", 3_900_000)),
    "JSON: 3.9 MB of {}": _posts(8, lambda: _filled(b"{}", 3_900_000)),
    "JSON: 3.9 MB of integers": _posts(8, lambda: _filled(b"1", 3_900_000)),
    "JSON: 100,000 ids": _posts(
        8,
        lambda: _json(
            signature_name="predict_ids",
            inputs={name: [[1] * 100_000] for name in schema.ENCODER_INPUTS}
            | {schema.MASKED_LM_POSITIONS: [[1]]},
        ),
    ),
    "JSON: 30 kB, 16 clients": _posts(16, lambda: _filled(b"[]", 30_000)),
    "JSON: nested deeply": _posts(8, lambda: b'{"instances": ' + b"[" * 3_900_000),
    "JSON: signature name of 3.9 MB": _posts(
        8, lambda: _json(signature_name="x" * 3_900_000, instances=["a"])
    ),
    "JSON: unknown key of 3.9 MB": _posts(8, lambda: _json(x="y" * 3_900_000, instances=["a"])),
    "JSON: 290,000 keys": _posts(
        8, lambda: _json(instances=["a"], **{str(number): 0 for number in range(290_000)})
    ),
    "JSON: 290,000 features": _posts(
        4,
        lambda: _json(examples=[{str(number): 0 for number in range(290_000)}]),
        verb="classify",
    ),
    "body over the limit": _posts(8, lambda: b" " * 40 * _MIB),
    "attention of long texts": _posts(
        4, lambda: _json(signature_name="attention", instances=[{"text": _LONG, "text_pair": ""}])
    ),
    "attention of 1,000 long texts": _posts(
        2,
        lambda: _json(
            signature_name="attention", instances=[{"text": _LONG, "text_pair": ""}] * 1000
        ),
    ),
    "vectors of 1,000 long texts": _posts(
        2,
        lambda: _json(
            signature_name="embed_tokens", instances=[{"text": _LONG, "text_pair": ""}] * 1000
        ),
    ),
    "embedding of 1,000 long texts": _posts(
        2, lambda: _json(signature_name="embed", instances=[_LONG] * 1000)
    ),
    "pages of other sites": _posts(
        16,
        lambda: _json(instances=["a"]),
        "Origin: http://evil.example",
        "Content-Type: text/plain",
    ),
    "two lengths": _posts(16, lambda: b"0\r\n\r\n", "Transfer-Encoding: chunked"),
}


@_attack("clients that leave")
def _leave(target: Target) -> None:
    body = _json(signature_name="embed", instances=[_LONG] * 8)

    def ask() -> None:
        with _connected(target) as client:
            client.sendall(_head(target, f"Content-Length: {len(body)}") + body)
            time.sleep(0.05)

    _at_once(target, 32, ask)


@_attack("lines that are no HTTP")
def _noise(target: Target) -> None:
    def ask() -> None:
        with _connected(target) as client:
            client.sendall(b"\x16\x03\x01\x00\xa5\x01\x00 not HTTP\r\n\r\n")
            client.recv(1000)

    _at_once(target, 8, ask)


@_attack("upgrades, and paths that do not exist")
def _upgrades(target: Target) -> None:
    def ask() -> None:
        with _connected(target) as client:
            path = f"/{random.random()}"
            head = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: h2c"
            client.sendall(head.encode() + b"\r\n\r\n")
            client.recv(1000)

    _at_once(target, 8, ask)


@_attack("1,100 idle connections")
def _idle(target: Target) -> None:
    _hold(target, target.rest_port, 1100, lambda: b"")


@_attack("connections as fast as they can be opened")
def _flood(target: Target) -> None:
    def ask() -> None:
        opened = []
        try:
            for _ in range(500):
                opened.append(socket.create_connection((HOST, target.rest_port), timeout=1))
        finally:
            for client in opened:
                client.close()

    _at_once(target, 1, ask)


@_attack("1,100 idle gRPC connections")
def _idle_grpc(target: Target) -> None:
    _hold(target, target.grpc_port, 1100, lambda: b"")


@_attack("128 slow heads")
def _slow_heads(target: Target) -> None:
    head = _head(target, "Content-Length: 5")
    _hold(target, target.rest_port, 128, lambda: head[:-4], b"X: y\r\n")


@_attack("128 slow bodies")
def _slow_bodies(target: Target) -> None:
    _hold(target, target.rest_port, 128, lambda: _head(target, "Content-Length: 999") + b"{", b" ")


@_attack("128 slow bodies of 3.9 MB")
def _large_slow_bodies(target: Target) -> None:
    start = _head(target, "Content-Length: 3900000") + b"{" + b" " * 3_800_000
    _hold(target, target.rest_port, 128, lambda: start, b" ")


@_attack("bodies without end")
def _endless_bodies(target: Target) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"

    def ask() -> None:
        with _connected(target) as client:
            client.sendall(_head(target, "Transfer-Encoding: chunked"))
            for _ in range(1000):
                client.sendall(chunk)

    _at_once(target, 8, ask)


@_attack("64 clients that read nothing")
def _no_reading(target: Target) -> None:
    instances = [{"text": _LONG, "text_pair": ""}] * 2
    body = _json(signature_name="embed_tokens", instances=instances)
    request = _head(target, f"Content-Length: {len(body)}") + body
    _hold(target, target.rest_port, 64, lambda: request)


@_attack("10,000 pipelined requests")
def _pipelined(target: Target) -> None:
    request = f"GET /v1/models/{target.model} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() * 10_000

    def ask() -> None:
        with _connected(target) as client:
            client.sendall(request)
            client.recv(1000)

    _at_once(target, 8, ask)


def _hold(
    target: Target, port: int, count: int, start: Callable[[], bytes], then: bytes = b""
) -> None:
    """Keep connections open, send `then` each second, and reopen closed connections."""
    clients: list[socket.socket | None] = [None] * count
    first = start()
    while target.is_open():
        for number, client in enumerate(clients):
            if not target.is_open():
                break
            try:
                if client is None:
                    client = socket.create_connection((HOST, port), timeout=1)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    client.sendall(first)
                    clients[number] = client
                elif then:
                    client.sendall(then)
            except OSError:
                clients[number] = None
        target.wait(1)
    for client in clients:
        if client:
            client.close()


# ---- gRPC


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    digits = []
    while True:
        value, digit = value >> 7, value & 127
        digits.append(digit | (128 if value else 0))
        if not value:
            return bytes(digits)


def _field(number: int, value: bytes | int) -> bytes:
    """Return one field of a protocol buffer."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


_DT_STRING, _DT_INT64, _DT_VARIANT = 7, 9, 21


def _tensor(dtype: int, shape: list[int], *values: bytes) -> bytes:
    dims = b"".join(_field(2, _field(1, size)) for size in shape)
    return _field(1, dtype) + _field(2, dims) + b"".join(values)


def _predict(target: Target, inputs: dict[str, bytes], signature: str = "") -> bytes:
    spec = _field(1, target.model.encode()) + _field(3, signature.encode())
    entries = (_field(2, _field(1, name.encode()) + _field(2, t)) for name, t in inputs.items())
    return _field(1, spec) + b"".join(entries)


@contextlib.contextmanager
def _channel(target: Target) -> Iterator[grpc.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"{HOST}:{target.grpc_port}", options) as channel:
        yield channel


def _calls(target: Target, clients: int, message: bytes, method: str, **options: object) -> None:
    def ask() -> None:
        with _channel(target) as channel:
            left_secs = max(0.1, target.deadline - time.monotonic())
            channel.unary_unary(_SERVICE + method)(message, timeout=left_secs, **options)

    _at_once(target, clients, ask)


def _predicts(
    clients: int, inputs: Callable[[], dict[str, bytes]], signature: str = ""
) -> Callable[[Target], None]:
    def attack(target: Target) -> None:
        message = _predict(target, inputs(), signature)
        _calls(target, clients, message, "PredictionService/Predict")

    return attack


def _in_hash_order(count: int) -> list[str]:
    """Return names in the order of protobuf's hash table, for which parsing is quadratic."""
    table = struct_pb2.Struct()
    for number in range(count):
        table.fields[str(number)].null_value = 0
    return list(table.fields)


_VARIANT = _field(1, b"tensorflow::TensorList") + _field(2, b"\xff" * 8 + b"\x7f")
_HUGE = _tensor(_DT_INT64, [2**26], _field(10, b"\x01"))
ATTACKS |= {
    "gRPC: variant tensor": _predicts(
        1, lambda: {"text": _tensor(_DT_VARIANT, [1], _field(15, _VARIANT))}
    ),
    "gRPC: 100 inputs of 512 MB": _predicts(4, lambda: {f"x{n}": _HUGE for n in range(100)}),
    "gRPC: 1 MiB string, 20,000 times": _predicts(
        4, lambda: {"text": _tensor(_DT_STRING, [20_000], _field(8, b"a" * _MIB))}
    ),
    "gRPC: 40,000 dimensions": _predicts(
        8, lambda: {"text": _tensor(_DT_STRING, [2**62] * 40_000)}
    ),
    "gRPC: overflowing shape": _predicts(8, lambda: {"text": _tensor(_DT_STRING, [2**62, 0])}),
    "gRPC: 3.9 MB of empty strings": _predicts(
        8, lambda: {"text": _tensor(_DT_STRING, [1_950_000], _field(8, b"") * 1_950_000)}
    ),
    "gRPC: 200,000 unknown inputs": _predicts(4, lambda: {f"{n}": b"" for n in range(200_000)}),
    "gRPC: 200,000 inputs in hash order": _predicts(
        4, lambda: dict.fromkeys(_in_hash_order(200000), b"")
    ),
    "gRPC: 3.9 MB of numbers": _predicts(
        8, lambda: {"text": _tensor(_DT_INT64, [3_900_000], _field(10, b"\1" * 3_900_000))}
    ),
    "gRPC: 1,000 times 1,900 empty strings": _predicts(
        4, lambda: {"text": _tensor(_DT_STRING, [1000, 1900], _field(8, b"") * 1_900_000)}
    ),
    "gRPC: attention of long texts": _predicts(
        4,
        lambda: {
            "text": _tensor(_DT_STRING, [4], *[_field(8, _LONG.encode())] * 4),
            "text_pair": _tensor(_DT_STRING, [4], *[_field(8, b"")] * 4),
        },
        "attention",
    ),
    "gRPC: message over the limit": _predicts(
        8, lambda: {"text": _tensor(_DT_STRING, [1], _field(8, b"a" * 60 * _MIB))}
    ),
}


@_attack("gRPC: bytes that are no message")
def _garbage(target: Target) -> None:
    _calls(target, 16, b"\xff" * 1000, "PredictionService/Predict")


@_attack("gRPC: compressed bomb")
def _grpc_bomb(target: Target) -> None:
    message = _predict(target, {"text": _tensor(_DT_STRING, [1], _field(8, b"a" * 60 * _MIB))})
    gz = grpc.Compression.Gzip
    _calls(target, 4, message, "PredictionService/Predict", compression=gz)


@_attack("gRPC: empty ReloadConfig")
def _unload(target: Target) -> None:
    _calls(target, 2, _field(1, _field(1, b"")), "ModelService/HandleReloadConfigRequest")


@_attack("gRPC: 512 streams that send nothing")
def _streams(target: Target) -> None:
    def nothing() -> Iterator[bytes]:
        target.wait()
        yield from ()

    def ask() -> None:
        with _channel(target) as channel:
            method = channel.stream_unary(_SERVICE + "PredictionService/Predict")
            calls = [method.future(nothing()) for _ in range(128)]
            for call in calls:
                with contextlib.suppress(grpc.RpcError, grpc.FutureTimeoutError):
                    call.result(timeout=max(0.1, target.deadline - time.monotonic()))

    _at_once(target, 4, ask)


@_attack("gRPC: clients that leave")
def _leave_grpc(target: Target) -> None:
    text = _tensor(_DT_STRING, [8], *[_field(8, _LONG.encode())] * 8)
    message = _predict(target, {"text": text}, "embed")

    def ask() -> None:
        with _channel(target) as channel:
            channel.unary_unary(_SERVICE + "PredictionService/Predict")(message, timeout=0.05)

    _at_once(target, 16, ask)


@_attack("gRPC: answers that nobody reads")
def _no_reading_grpc(target: Target) -> None:
    """Speak HTTP/2 by hand: with a flow-control window of zero, the server cannot send a response.

    96 concurrent calls, fewer than the server admits; further ones would be refused as busy.
    """
    long = _field(8, _LONG.encode()) * 2
    inputs = {
        "text": _tensor(_DT_STRING, [2], long),
        "text_pair": _tensor(_DT_STRING, [2], _field(8, b"") * 2),
    }
    message = _predict(target, inputs, "embed_tokens")
    path = f"{_SERVICE}PredictionService/Predict".encode()
    block = b"\x83\x86"  # :method POST, :scheme http
    for name, value in ((b":path", path), (b":authority", b"localhost"), (b"te", b"trailers"),
                        (b"content-type", b"application/grpc")):  # fmt: skip
        block += b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
    frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, struct.pack(">HI", 4, 0))
    data = b"\x00" + struct.pack(">I", len(message)) + message
    for stream in range(1, 12, 2):
        frames += _frame(1, 4, stream, block) + _frame(0, 1, stream, data)
    _hold(target, target.grpc_port, 16, lambda: frames)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def main() -> None:
    """Run one attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("model")
    parser.add_argument("rest_port", type=int)
    parser.add_argument("grpc_port", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    deadline = time.monotonic() + min(options.seconds, 120)
    target = Target(options.model, options.rest_port, options.grpc_port, deadline)
    ATTACKS[options.attack](target)
    os._exit(0)  # do not wait for connections that the server still holds


if __name__ == "__main__":
    main()
