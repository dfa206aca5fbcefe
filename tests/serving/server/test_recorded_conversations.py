"""Replay every REST exchange recorded from TensorFlow Serving 2.20 against the embedded server.

The records are in the shared folder; those of other tests' tables are here once more, and all the
others. What is answered otherwise is listed with its reason, and must be.
"""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import tensorflow as tf

import clozeline
from serving.server.limits import Limits
from serving.server.main import ModelServer

RECORDS = Path(clozeline.__file__).parents[2] / "shared" / "tf-serving" / "conversations.md"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not RECORDS.exists(), reason="the records are not there"),
]


@dataclass(frozen=True)
class Conversation:
    """A request and what the real server answered."""

    title: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    answer: str

    @property
    def is_whole(self) -> bool:
        """Whether the record has all of the answer."""
        return "bytes in all] ..." not in self.answer


def conversations() -> list[Conversation]:
    """Read those of the section on REST that have a request and an answer."""
    text = RECORDS.read_text(encoding="utf-8") if RECORDS.exists() else ""
    section = text.partition("## REST records")[2].partition("\n## ")[0]
    found = []
    for part in re.split(r"^### ", section, flags=re.MULTILINE)[1:]:
        title = part.splitlines()[0]
        blocks = re.findall(r"^```\n(.*?)^```", part, flags=re.MULTILINE | re.DOTALL)
        if len(blocks) == 2 and blocks[1].startswith("HTTP/1.1 "):
            found.append(conversation(title, *blocks))
    return found


def conversation(title: str, request: str, answer: str) -> Conversation:
    first, *rest = request.removesuffix("\n").split("\n")
    method, path = first.split(" ", 1)
    headers = {}
    while rest and re.match(r"[A-Z][A-Za-z-]+: ", rest[0]):
        name, value = rest.pop(0).split(": ", 1)
        headers[name] = value
    body = "\n".join(rest)
    is_literal = body.startswith(("b'", 'b"'))
    data = ast.literal_eval(body) if is_literal else body.encode()
    head, _, content = answer.partition("\n\n")
    content = content.replace("[no newline at end]\n", "").strip("\n")
    return Conversation(title, method, path, headers, data, int(head.split()[1]), content)


class Text(tf.Module):
    """Vectors of texts, of the size that was recorded, from a variable as there."""

    def __init__(self) -> None:
        super().__init__()
        self.ones = tf.Variable(tf.ones([384]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def pooled(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        text = tf.ensure_shape(text, [None])
        return {"pooled": tf.tile(self.ones[tf.newaxis], [tf.shape(text)[0], 1])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def below_hundred(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.debugging.assert_less(x, 100.0, message="too big")
        return {"y": tf.identity(x)}


RECORDED = Limits(checks_method_names=True)
"""Non-default settings of the recorded server."""


@pytest.fixture(scope="module")
def server(tmp_path_factory, save_types, save_classifier):
    base = tmp_path_factory.mktemp("models")
    text = Text()
    tf.saved_model.save(text, str(base / "m" / "1"), signatures=text.pooled)
    tf.saved_model.save(text, str(base / "fail" / "1"), signatures=text.below_hundred)
    save_types(base / "types" / "1")
    save_classifier(base / "cr" / "1")
    started = ModelServer(base, "127.0.0.1", 0, 0, RECORDED)
    started.start()
    yield started
    started.stop()


OTHERWISE = {
    "malformed JSON": "in Python's words",
    "malformed JSON 2": "in Python's words",
    "inputs empty list": "the recorded model failed on an empty batch, ours do not",
    "inputs named empty list": "the recorded model failed on an empty batch, ours do not",
    "wrong rank": "the recorded model took it, ours refuse it as a guard against scalars",
    "outside /v1": "the playground is there",
    "predict, server without the TF Text op libraries": "ours has them",
}
"""Reasons for intended differences, by title of the exchange."""

FUNCTION = re.compile(r"\{\{function_node [^}]*\}\}")
"""What TensorFlow writes before a node that it has not taken out of its function."""


@pytest.mark.parametrize("said", conversations(), ids=lambda said: said.title)
def test_recorded_exchanges_are_reproduced_except_for_intended_differences(
    server, said: Conversation
) -> None:
    url = f"http://127.0.0.1:{server.rest_port}{said.path}"
    answer = requests.request(
        said.method, url, data=said.body or None, headers=said.headers, timeout=30
    )
    assert agrees(said, answer) != (said.title in OTHERWISE)


def test_every_known_difference_refers_to_a_record() -> None:
    titles = [said.title for said in conversations()]
    assert len(titles) == len(set(titles)) > 140
    assert set(OTHERWISE) <= set(titles)


def agrees(said: Conversation, answer: requests.Response) -> bool:
    if answer.status_code != said.status:
        return False
    if not said.is_whole or said.method == "HEAD":
        return True
    wanted, found = (FUNCTION.sub("", text) for text in (said.answer, answer.text))
    try:
        return json.loads(found) == json.loads(wanted)
    except ValueError:
        return found.strip() == wanted.strip()
