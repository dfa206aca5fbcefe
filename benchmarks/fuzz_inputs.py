"""Random and mutated requests to a model server, generated from its signatures.

A request depends only on a `random.Random` and on the served models (`Api`), so a seed and a number
reproduce it.
"""

import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import google_crc32c
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    prediction_log_pb2,
    regression_pb2,
)

HOST = "127.0.0.1"
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Api:
    """The served models.

    Attributes:
        models: model → signature → input → (dtype, such as DT_STRING, and shape).
        paths: directories of the models, by name.
    """

    models: dict[str, dict[str, dict[str, tuple[str, Shape]]]]
    paths: dict[str, str]

    def signature(self, rng: Random) -> tuple[str, str, dict[str, tuple[str, Shape]]]:
        """Return the name of a model, the name of one of its signatures, and the inputs of it."""
        model = rng.choice(sorted(self.models))
        signature = rng.choice(sorted(self.models[model]))
        return model, signature, self.models[model][signature]

    def words(self) -> list[str]:
        """Return all names that the server knows: of models, signatures, inputs and paths."""
        named = {name for signatures in self.models.values() for name in signatures}
        inputs = {
            name
            for signatures in self.models.values()
            for inputs in signatures.values()
            for name in inputs
        }
        return sorted({*self.models, *named, *inputs, *self.paths.values(), *_WORDS})


@dataclass(frozen=True)
class Call:
    """A gRPC request.

    Attributes:
        method: SERVICE/METHOD.
        message: the serialized message.
    """

    method: str
    message: bytes


# ---- values

_WORDS = ("stable", "canary", "signature_def", "tensorflow", "serving_default", "x", "1", "")
_TEXTS = (
    "", "a", "The [MASK] barked.", "[CLS]", "[PAD]", "é" * 40, "中文" * 20, "😀", "\x00", "\u202e",
    "\ufeff", "a\u0300" * 30, "\ud800", "\udcff", "a" * 5000, "dog " * 700, "##", "\r\n", "%s%n",
    "../../etc",
)  # fmt: skip
_INTEGERS = (
    0, 1, -1, 2, 3, 7, 31, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1,
    2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**30,
)  # fmt: skip
_FLOATS = (0.0, -0.0, 0.5, 1e-45, 3.4e38, 3.5e38, 1e308, -1e308, float("nan"), float("inf"))
# Replacements for JSON tokens: malformed numbers and strings, and tokens that parsers treat
# differently.
_TOKENS = (
    "null", "true", "False", "NaN", "-Infinity", "1e999", "-1e999", "1E400", "-0", "01", "0x10",
    "1.", ".5", "+1", "--1", "9" * 400, "1" + "0" * 5000, "1e-999", "[]", "{}", "[[[[", "]]]]",
    "{", "}",
    ",", ":", '""', '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\x"', '"', "'a'",
    '{"b64": "AA=="}',
    '{"b64": "@"}', '{"b64": 1}', '{"b64": "AA==", "b64": "AQ=="}', "/* */", "\\", "\x00", "\ufeff",
    '"instances"', '"inputs"', '"signature_name"', "[1, [2]]", '[{"a": 1}, 2]', "[" * 2000,
    '{"a":' * 500,
)  # fmt: skip
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[-+.\w]+|[\[\]{},:]')


def _text(rng: Random, words: list[str]) -> str:
    kind = rng.random()
    if kind < 0.3:
        return "dog " * rng.randrange(9)
    if kind < 0.5:
        return rng.choice(_TEXTS)
    if kind < 0.6:
        return rng.choice(words)
    return "".join(chr(rng.choice((rng.randrange(0x80), rng.randrange(0xD800)))) for _ in range(9))


def _leaf(rng: Random, dtype: str, words: list[str]) -> Any:
    """Return a JSON value that is usually valid for an input of this dtype."""
    if rng.random() < 0.03:
        dtype = rng.choice(("DT_STRING", "DT_FLOAT", "DT_INT32", "DT_BOOL"))
    if dtype == "DT_STRING":
        return _text(rng, words)
    if dtype == "DT_BOOL":
        return rng.random() < 0.5
    if "INT" in dtype:
        return rng.choice(_INTEGERS) if rng.random() < 0.1 else rng.randrange(5)
    return rng.choice(_FLOATS) if rng.random() < 0.1 else rng.choice((0, 1, 2.5, -3))


def _sizes(rng: Random, shape: Shape, rows: int, length: int) -> list[int]:
    """Return the sizes of a tensor that usually fit a shape."""
    sizes = [length if size is None else size for size in shape]
    if sizes and shape[0] is None:
        sizes[0] = rows
    if sizes and rng.random() < 0.05:
        sizes[rng.randrange(len(sizes))] = rng.randrange(4)
    if rng.random() < 0.03:
        sizes.insert(rng.randrange(len(sizes) + 1), rng.randrange(1, 3))
    if sizes and rng.random() < 0.02:
        sizes.pop()
    return sizes


def _nested(rng: Random, dtype: str, sizes: list[int], words: list[str]) -> Any:
    if not sizes:
        return _leaf(rng, dtype, words)
    return [_nested(rng, dtype, sizes[1:], words) for _ in range(sizes[0])]


# ---- JSON


def document(rng: Random, api: Api) -> tuple[str, str, Any]:
    """Return a model, a verb and a JSON document that usually fits one of its signatures."""
    model, signature, inputs = api.signature(rng)
    words = api.words()
    made: dict[str, Any] = {}
    if signature != "serving_default" or rng.random() < 0.3:
        made["signature_name"] = signature
    rows, length = rng.choice((1, 1, 2, 3, 5, 40, 0)), rng.choice((1, 2, 4, 9, 70))
    if rng.random() < 0.15:
        made["examples"] = [_example(rng, words) for _ in range(rows)]
        if rng.random() < 0.3:
            made["context"] = _example(rng, words)
        return model, rng.choice(("classify", "regress")), made
    values = {
        name: _nested(rng, dtype, _sizes(rng, shape, rows, length), words)
        for name, (dtype, shape) in inputs.items()
    }
    if rng.random() < 0.5:
        made["inputs"] = values if len(values) > 1 else rng.choice((values, *values.values()))
    else:
        made["instances"] = _as_rows(values, bare=rng.random() < 0.5)
    return model, "predict", made


def _as_rows(values: dict[str, Any], *, bare: bool) -> Any:
    columns = [value if isinstance(value, list) else [value] for value in values.values()]
    if len(columns) == 1 and bare:
        return columns[0]
    return [dict(zip(values, row, strict=True)) for row in zip(*columns, strict=False)]


def _example(rng: Random, words: list[str]) -> dict[str, Any]:
    dtypes = ("DT_STRING", "DT_INT64", "DT_FLOAT")
    names = rng.sample(words, rng.randrange(3))
    return {name: _nested(rng, rng.choice(dtypes), [3] * rng.randrange(2), words) for name in names}


def _changed(rng: Random, value: Any, words: list[str]) -> Any:
    """Return a JSON value with one of its nodes replaced, removed, duplicated or nested."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        rest = {key: item for key, item in value.items() if key != name}
        kind = rng.random()
        if kind < 0.1:
            return rest
        if kind < 0.2:
            return rest | {_text(rng, words): value[name]}
        if kind < 0.3:
            return value | {_text(rng, words): value[name]}
        return rest | {name: _changed(rng, value[name], words)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.1:
            return value[:place] + value[place + 1 :]
        if kind < 0.2:
            return value[:place] + [value[place]] * rng.choice((2, 3, 300)) + value[place:]
        return [*value[:place], _changed(rng, value[place], words), *value[place + 1 :]]
    others: tuple[Any, ...] = (
        None, True, {}, [], [[]], [value], [value, value], {"b64": "AQ=="}, {"b64": value},
        rng.choice(_INTEGERS), rng.choice(_FLOATS), _text(rng, words), {"x": value},
    )  # fmt: skip
    return rng.choice(others)


def _with_other_tokens(rng: Random, text: str) -> str:
    tokens = list(_TOKEN.finditer(text))
    for token in rng.sample(tokens, min(len(tokens), rng.randrange(1, 4))):
        if rng.random() < 0.3:
            text = text[: token.start()] + rng.choice(_TOKENS) + text[token.start() :]
        else:
            text = text[: token.start()] + rng.choice(_TOKENS) + text[token.end() :]
    return text


def json_body(rng: Random, api: Api) -> tuple[str, str, bytes]:
    """Return a model, a verb and a body: valid, nearly valid or malformed JSON."""
    model, verb, made = document(rng, api)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 4))):
        made = _changed(rng, made, api.words())
    text = json.dumps(made, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.2:
        text = _with_other_tokens(rng, text)
    body = text.encode("utf-8", "surrogatepass")
    return model, verb, mutated(rng, body) if rng.random() < 0.15 else body


def mutated(rng: Random, data: bytes) -> bytes:
    """Return bytes after a few random edits: overwritten, removed, repeated or truncated."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.choice((1, 1, 2, 8, 64)))
        some = rng.choice((rng.randbytes(stop - start), b"\xff" * 9 + b"\x7f", b"\x00", b"\r\n"))
        replacement = rng.choice((b"", some, data[start:stop] * rng.choice((2, 50)), some))
        data = data[:start] + replacement + data[stop:]
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data


# ---- HTTP


def _http(target: str, body: bytes, headers: dict[str, str], method: str = "POST") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + body


def _headers(body: bytes) -> dict[str, str]:
    return {"Host": HOST, "Connection": "close", "Content-Length": str(len(body))}


def rest_body(rng: Random, api: Api) -> bytes:
    """Return a well-formed HTTP request to a signature."""
    model, verb, body = json_body(rng, api)
    return _http(f"/v1/models/{model}:{verb}", body, _headers(body))


def rest_path(rng: Random, api: Api) -> bytes:
    """Return a request with a random method and a random path."""
    parts = (
        "/v1/models", "/V1/MODELS", "/", "//", "/versions/", "/labels/", "/metadata",
        ":predict", ":classify", ":regress", ":explain", "1", "7", "-1", "9" * 18, "9" * 19,
        "9" * 20, "%2F", "%00",
        "%ff", "%E4%B8%AD", "..", "?", "?a=b", "#", "/monitoring/prometheus/metrics",
        "/v2/health/live",
        "/v2/health/ready", "/v2/models/", "/ready", "/playground.js", "*", "@", "\\", "%",
        "a" * 3000,
        "+", ";", "&", "=", "[", "]", "~", "é", " ", "http://localhost/v1/models", "localhost:80",
    )  # fmt: skip
    names = [word for word in api.words() if word.isascii() and word.isprintable()]
    if rng.random() < 0.5:
        which = rng.choice(("", "/versions/1", "/versions/9", "/labels/stable", "/metadata"))
        target = f"/v1/models/{rng.choice(names)}{which}{rng.choice(('', ':predict', ':regress'))}"
    else:
        target = ""
    if rng.random() < 0.7:
        target += "".join(rng.choice((*parts, *names)) for _ in range(rng.randrange(1, 6)))
    methods = ("GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE",
               "CONNECT", "get", "FOO", "PRI")  # fmt: skip
    body = b'{"instances": [1.0]}' if rng.random() < 0.5 else b""
    return _http(target or "/", body, _headers(body), rng.choice(methods))


def rest_headers(rng: Random, api: Api) -> bytes:
    """Return a request to a signature with unusual headers."""
    model, verb, made = document(rng, api)
    body = json.dumps(made).encode("utf-8", "surrogatepass")
    headers = _headers(body)
    sizes = ("0", "-1", "+5", "1e3", "5, 5", "", "99999999999999999999", " 7", "0x5", "1_0", "٣")
    names: dict[str, tuple[str, ...]] = {
        "Content-Length": sizes,
        "Transfer-Encoding": ("chunked", "gzip, chunked", "identity", "chunked, chunked", "x", ""),
        "Content-Encoding": ("gzip", "br", "identity", "deflate", "GZIP", "gzip, gzip", "", "*"),
        "Content-Type": ("application/json", "text/plain", "application/json; charset=utf-16",
                         "a/b",
                         "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
                         ";"),
        "Host": ("evil.example", "localhost:99999", "[::1]", "[", "", "127.0.0.1.", "a b", "é"),
        "Origin": ("null", "http://evil.example", f"http://{HOST}", "http://[", "", "file://"),
        "Sec-Fetch-Site": ("cross-site", "none", "same-origin", ""),
        "Expect": ("100-continue", "x"),
        "Connection": ("keep-alive", "upgrade", "close, upgrade", "x"),
        "Upgrade": ("websocket", "h2c", "TLS/1.0"),
        "Accept-Encoding": ("gzip", "br;q=1, *;q=0"),
        "Cookie": ("a=" + "b" * 4000,),
        "X": ("\x01", "a\tb", "\u00e9", "a" * 70_000, ""),
        "": ("a",),
        "a b": ("c",),
        "Content-Length ": ("5",),
    }  # fmt: skip
    for name in rng.sample(sorted(names), rng.randrange(1, 4)):
        headers[name] = rng.choice(names[name])
    if headers.get("Transfer-Encoding") == "chunked":
        if rng.random() < 0.7:
            headers.pop("Content-Length", None)
        body = _chunked(rng, body)
    return _http(f"/v1/models/{model}:{verb}", body, headers)


def _chunked(rng: Random, body: bytes) -> bytes:
    sizes = (len(body), len(body) // 2 + 1, 7)
    step = rng.choice(sizes) or 1
    chunks = [body[start : start + step] for start in range(0, len(body), step)]
    text = b"".join(b"%x%s\r\n%s\r\n" % (len(c), rng.choice((b"", b";a=b")), c) for c in chunks)
    end = rng.choice(
        (b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"", b"-1\r\n\r\n", b"fffffffffffffffff\r\n")
    )
    return text + end


def rest_gzip(rng: Random, api: Api) -> bytes:
    """Return a request with a compressed body that may be truncated, damaged or uncompressed."""
    model, verb, body = json_body(rng, api)
    packed = rng.choice((
        lambda: gzip.compress(body),
        lambda: zlib.compress(body),
        lambda: gzip.compress(gzip.compress(body)),
        lambda: gzip.compress(body) + gzip.compress(body),
        lambda: gzip.compress(body + b" " * rng.choice((10**4, 10**6, 10**7))),
        lambda: gzip.compress(body) + b"\x00" * 99,
        lambda: body,
    ))()  # fmt: skip
    if rng.random() < 0.5:
        packed = mutated(rng, packed)
    headers = {**_headers(packed), "Content-Encoding": "gzip"}
    return _http(f"/v1/models/{model}:{verb}", packed, headers)


def rest_raw(rng: Random, api: Api) -> bytes:
    """Return one or several HTTP requests, mutated."""
    make = rng.choice((rest_body, rest_path, rest_headers))
    requests = b"".join(make(rng, api) for _ in range(rng.choice((1, 1, 1, 3))))
    return mutated(rng, requests[:20_000])


REST: dict[str, Callable[[Random, Api], bytes]] = {
    "REST body": rest_body,
    "REST path": rest_path,
    "REST headers": rest_headers,
    "REST gzip": rest_gzip,
    "REST raw bytes": rest_raw,
}

# ---- protocol buffers

_NUMBER_KINDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def _scalar(rng: Random, field: FieldDescriptor, words: list[str]) -> Any:
    kind = field.cpp_type
    if kind in _NUMBER_KINDS:
        low, high = _NUMBER_KINDS[kind]
        return min(max(rng.choice(_INTEGERS), low), high)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        values = [value.number for value in field.enum_type.values]
        return rng.choice(values)
    text = _text(rng, words).encode("utf-8", "replace")
    return text if field.type == FieldDescriptor.TYPE_BYTES else text.decode()


def fill(rng: Random, message: Message, words: list[str], depth: int = 5) -> None:
    """Set random fields of a message, and of its nested messages, to random values."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < (0.6 if depth < 3 else 0.3):
            continue
        is_message = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
        if is_message and not depth:
            continue
        if is_message and field.message_type.GetOptions().map_entry:
            _fill_map(rng, getattr(message, field.name), field, words, depth)
        elif field.is_repeated:
            repeated = getattr(message, field.name)
            for _ in range(rng.choice((0, 1, 2, 3))):
                if is_message:
                    fill(rng, repeated.add(), words, depth - 1)
                else:
                    repeated.append(_scalar(rng, field, words))
        elif is_message:
            inner = getattr(message, field.name)
            inner.SetInParent()
            fill(rng, inner, words, depth - 1)
        else:
            setattr(message, field.name, _scalar(rng, field, words))


def _fill_map(
    rng: Random, table: Any, field: FieldDescriptor, words: list[str], depth: int
) -> None:
    key, value = field.message_type.fields
    for _ in range(rng.randrange(3)):
        name = rng.choice(words) if key.type == FieldDescriptor.TYPE_STRING else rng.randrange(9)
        if value.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            fill(rng, table[name], words, depth - 1)
        else:
            table[name] = _scalar(rng, value, words)


def _tensor(rng: Random, proto: Any, dtype: str, shape: Shape, words: list[str]) -> None:
    """Fill a TensorProto; it usually fits the input."""
    if rng.random() < 0.1:
        fill(rng, proto, words)
        if rng.random() < 0.5:
            return
    descriptor = proto.DESCRIPTOR.fields_by_name["dtype"].enum_type
    number = descriptor.values_by_name[dtype].number
    proto.dtype = rng.randrange(130) if rng.random() < 0.05 else number
    sizes = _sizes(rng, shape, rng.choice((0, 1, 2, 3, 40)), rng.choice((1, 2, 4, 9)))
    for size in sizes:
        odd = rng.choice((-1, -2, 2**31, 2**62, 2**63 - 1))
        proto.tensor_shape.dim.add().size = odd if rng.random() < 0.03 else size
    count = rng.choice((1, 1, 0, 2)) if rng.random() < 0.3 else 1
    for size in sizes:
        count *= size
    fields = {"DT_STRING": "string_val", "DT_FLOAT": "float_val", "DT_BOOL": "bool_val",
              "DT_INT64": "int64_val", "DT_HALF": "half_val",
              "DT_DOUBLE": "double_val"}  # fmt: skip
    name = fields.get(dtype, "int_val")
    field = proto.DESCRIPTOR.fields_by_name[name]
    if rng.random() < 0.2 and dtype != "DT_STRING":
        proto.tensor_content = rng.randbytes(count * rng.choice((1, 2, 4, 4, 8)))
        return
    leaf = {"DT_FLOAT": 0.5, "DT_DOUBLE": 0.5, "DT_BOOL": True}.get(dtype, 1)
    for _ in range(min(count, 400)):
        some = _scalar(rng, field, words)
        plain = dtype != "DT_STRING" and rng.random() < 0.8
        getattr(proto, name).append(leaf if plain else some)


def _spec(rng: Random, spec: Any, model: str, signature: str, words: list[str]) -> None:
    if rng.random() < 0.05:
        fill(rng, spec, words)
        return
    spec.name, spec.signature_name = model, signature
    if rng.random() < 0.05:
        spec.version.value = rng.choice((0, 1, 7, -1, 2**63 - 1))
    elif rng.random() < 0.05:
        spec.version_label = rng.choice(words)


def predict_request(rng: Random, api: Api, request: Any = None) -> Any:
    """Return a PredictRequest that usually fits a signature."""
    request = predict_pb2.PredictRequest() if request is None else request
    model, signature, inputs = api.signature(rng)
    words = api.words()
    _spec(rng, request.model_spec, model, signature, words)
    for name, (dtype, shape) in inputs.items():
        if rng.random() < 0.03:
            continue
        key = rng.choice(words) if rng.random() < 0.03 else name
        _tensor(rng, request.inputs[key], dtype, shape, words)
    if rng.random() < 0.1:
        request.output_filter.extend(rng.sample(words, rng.randrange(3)))
    return request


def _predict(rng: Random, api: Api) -> Any:
    request = predict_request(rng, api)
    if rng.random() < 0.1:
        fill(rng, request, api.words())
    return request


def _with_examples(kind: Callable[[], Any]) -> Callable[[Random, Api], Any]:
    def make(rng: Random, api: Api) -> Any:
        request = kind()
        fill(rng, request, api.words(), 7)
        model, signature, _ = api.signature(rng)
        spec = request.tasks.add().model_spec if hasattr(request, "tasks") else request.model_spec
        _spec(rng, spec, model, signature, api.words())
        if hasattr(request, "tasks"):
            request.tasks[
                -1
            ].method_name = f"tensorflow/serving/{rng.choice(('classify', 'regress'))}"
            del request.tasks[: -rng.choice((1, 2))]
        if rng.random() < 0.7:
            examples = request.input.example_list.examples
            example = examples.add() if rng.random() < 0.5 or not examples else examples[0]
            example.features.feature[rng.choice(("x", "text"))].float_list.value.append(0.5)
        return request

    return make


def _filled(kind: Callable[[], Any]) -> Callable[[Random, Api], Any]:
    def make(rng: Random, api: Api) -> Any:
        request = kind()
        fill(rng, request, api.words())
        if rng.random() < 0.7:
            request.model_spec.name = rng.choice(sorted(api.models))
            request.model_spec.ClearField("version_choice")
        if hasattr(request, "metadata_field") and rng.random() < 0.7:
            request.metadata_field[:] = ["signature_def"]
        return request

    return make


def _reload(rng: Random, api: Api) -> Any:
    request = model_management_pb2.ReloadConfigRequest()
    if rng.random() < 0.3:
        fill(rng, request, api.words(), 6)
    for _ in range(rng.randrange(4)):
        config = request.config.model_config_list.config.add()
        if rng.random() < 0.5:
            fill(rng, config, api.words())
        if rng.random() < 0.9:
            config.name, config.base_path = rng.choice(sorted(api.paths.items()))
        if rng.random() < 0.1:
            config.base_path = rng.choice(
                ("/proc", "/dev", "/", "/dev/null", "/proc/self/fd", "//")
            )
    return request


_MAKERS: dict[str, Callable[[Random, Api], Any]] = {
    "PredictionService/Predict": _predict,
    "PredictionService/Classify": _with_examples(classification_pb2.ClassificationRequest),
    "PredictionService/Regress": _with_examples(regression_pb2.RegressionRequest),
    "PredictionService/MultiInference": _with_examples(inference_pb2.MultiInferenceRequest),
    "PredictionService/GetModelMetadata": _filled(get_model_metadata_pb2.GetModelMetadataRequest),
    "ModelService/GetModelStatus": _filled(get_model_status_pb2.GetModelStatusRequest),
    "ModelService/HandleReloadConfigRequest": _reload,
}


def _call(method: str) -> Callable[[Random, Api], Call]:
    def make(rng: Random, api: Api) -> Call:
        message = _MAKERS[method](rng, api).SerializeToString()
        return Call(method, mutated(rng, message) if rng.random() < 0.2 else message)

    return make


GRPC: dict[str, Callable[[Random, Api], Call]] = {
    f"gRPC {method.partition('/')[2]}": _call(method) for method in _MAKERS
}

# ---- files


def _framed(record: bytes) -> bytes:
    """Return a record in the TFRecord format, with its length and checksums."""

    def checksum(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + checksum(length) + record + checksum(record)


def warm_up_file(rng: Random, api: Api) -> bytes:
    """Return a warm-up file (PredictionLog records), possibly mutated."""
    records = []
    for _ in range(rng.randrange(3)):
        log = prediction_log_pb2.PredictionLog()
        predict_request(rng, api, log.predict_log.request)
        if rng.random() < 0.1:
            fill(rng, log, api.words(), 7)
        record = log.SerializeToString()
        records.append(_framed(mutated(rng, record) if rng.random() < 0.3 else record))
    packed = b"".join(records)
    return mutated(rng, packed) if rng.random() < 0.4 else packed


def text_config(rng: Random, api: Api) -> bytes:
    """Return a `models.config` or a batching configuration, possibly mutated."""
    model, path = rng.choice(sorted(api.paths.items()))
    models = f"""model_config_list {{ config {{ name: "{model}" base_path: "{path}"
  model_version_policy {{ specific {{ versions: 1 versions: 9223372036854775807 }} }}
  version_labels {{ key: "stable" value: 1 }} }} }}"""
    batching = """max_batch_size { value: 32 } batch_timeout_micros { value: 2000 }
allowed_batch_sizes: 1 allowed_batch_sizes: 32 num_batch_threads { value: 2 }
max_enqueued_batches { value: 64 } pad_variable_length_inputs: true"""
    text = rng.choice((models, batching))
    for _ in range(rng.randrange(3)):
        text = _with_other_tokens(rng, text)
    body = text.encode("utf-8", "surrogatepass")
    return mutated(rng, body) if rng.random() < 0.3 else body


FILES: dict[str, Callable[[Random, Api], bytes]] = {
    "warm-up file": warm_up_file,
    "text configuration": text_config,
}
