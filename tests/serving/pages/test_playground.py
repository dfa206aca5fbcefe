"""The playground at `/` of the embedded server: headers, and use in Chromium."""

import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tensorflow as tf

from docs.browser import Browser
from model.bert.network import build_model, weights_by_name
from model.run import Run, load_run, write_run
from model.run_config import RunConfig
from model.tasks.task_kind import Task
from serving.client import Client, GrpcClient
from serving.export.signatures import TextModel
from serving.server.main import ModelServer
from serving.server.runner import Runner

SCREENSHOTS = Path(__file__).parents[3] / "build" / "screenshots"
HOST = "127.0.0.1"
LABELS = ("<b>bad</b>", "good")


def started(models: Path, rest_port: int = 0) -> ModelServer:
    server = ModelServer(models, HOST, rest_port, 0)
    server.start()
    return server


def url_of(server: ModelServer) -> str:
    return f"http://{HOST}:{server.rest_port}"


# ---- without a browser


class Plus(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def run(self, x):
        return {"y": x + 10.0}


@pytest.fixture(scope="module")
def plus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    base = tmp_path_factory.mktemp("plus")
    module = Plus()
    for path in ("b/7", "b/12", "a/3"):
        tf.saved_model.save(module, str(base / path), signatures={"serving_default": module.run})
    server = started(base)
    yield url_of(server)
    server.stop()


def test_the_names_of_the_loaded_models(plus: str) -> None:
    answer = requests.get(f"{plus}/playground/models")
    assert answer.json()["models"] == [
        {"name": "a", "versions": [3]}, {"name": "b", "versions": [12]},
    ]  # fmt: skip
    tasks = {task["signature"]: task for task in answer.json()["tasks"]}
    assert {name: task["view"] for name, task in tasks.items()} == {
        "classify": "classes", "score": "number", "answer": "passage",
    }  # fmt: skip
    assert all(len(task["texts"]) == 2 for task in tasks.values())


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/playground/style.css", "text/css"),
        ("/playground/attention.js", "text/javascript"),
        ("/playground/playground.js", "text/javascript"),
        ("/playground/models", "application/json"),
    ],
)
def test_every_file_has_a_strict_policy(plus: str, path: str, kind: str) -> None:
    answer = requests.get(plus + path)
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, kind)
    policy = answer.headers["content-security-policy"].split("; ")
    assert policy[:2] == ["default-src 'none'", "script-src 'self'"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_other_file_is_served(plus: str) -> None:
    for path in ("/playground", "/playground/", "/playground/../rest.py", "/explanation.html"):
        assert requests.get(plus + path).status_code == 404
    assert requests.post(f"{plus}/").status_code == 404
    assert requests.get(f"{plus}/v1/models").status_code == 400


# ---- in a browser


def save(run: Run, path: Path) -> None:
    """Export without what a person wants besides: no copy is checked against the run."""
    module = TextModel(run, run.load_model())
    tf.saved_model.save(module, str(path), signatures=module.signatures())


@pytest.fixture(scope="module")
def models(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fox`, a pretrained model, and `taste`, one that was tuned for classes of pairs."""
    base = tmp_path_factory.mktemp("playground")
    save(trained_run, base / "fox" / "1")
    task = Task("pair", LABELS, True)
    weights = weights_by_name(build_model(trained_run.config, task))
    rng = np.random.default_rng(3)
    for weight in weights.values():
        weight.assign(rng.normal(0, 0.3, weight.shape))
    config = RunConfig(trained_run.config, None, trained_run.dataset, task=task)
    vocabulary = (trained_run.path / "vocab.txt").read_bytes()
    write_run(base.parent / "tuned-run", config, vocabulary, weights)
    save(load_run(base.parent / "tuned-run"), base / "taste" / "4")
    return base


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ModelServer]:
    made = started(models)
    yield made
    made.stop()


@pytest.fixture
def page(browser: Browser, server: ModelServer) -> Iterator[Browser]:
    """The playground in a wide window; it must log no error and ask its server only."""
    browser.requested()
    browser.log()
    browser.open(url_of(server) + "/")
    browser.wait(lambda: browser.texts("#answer .name"))
    yield browser
    assert browser.log() == []
    assert {url.split("/")[2] for url in browser.requested() if not url.startswith("data:")} == {
        f"{HOST}:{server.rest_port}"
    }


def choose_task(page: Browser, task: str) -> None:
    page.find(f"input[name=task][value={task}]").click()


def choose_model(page: Browser, name: str) -> None:
    page.find("#model").send_keys(name)


def type_into(page: Browser, name: str, text: str) -> None:
    area = page.find(f"textarea[name={name}]")
    area.clear()
    area.send_keys(text)


def hint(page: Browser, words: str) -> str:
    page.wait(lambda: words in page.find("#hint").text)
    return page.find("#hint").text


def answer_of_curl(page: Browser) -> Any:
    """Send the request of the `curl` line that is shown."""
    program, flag, body, url = shlex.split(page.find("#curl").text)
    assert (program, flag) == ("curl", "-d")
    return requests.post(url, data=body.encode()).json()["predictions"]


@pytest.mark.browser
def test_fillings_as_one_types(page: Browser, server: ModelServer) -> None:
    type_into(page, "text", "It's the [MASK] that sees the [MASK].")
    client = Client(url_of(server))
    wanted = client.predict("fox", {"text": ["It's the [MASK] that sees the [MASK]."]}, "fill_mask")
    tokens = [token for mask in wanted["tokens"][0] for token in mask]
    page.wait(lambda: page.texts("#answer .name") == tokens)
    shown = [float(value) for value in page.texts("#answer .value")]
    np.testing.assert_allclose(shown, np.ravel(wanted["probabilities"][0]), atol=6e-5)
    assert page.texts("#answer h3") == ["[MASK] number 1", "[MASK] number 2"]
    [answer] = answer_of_curl(page)
    assert answer["tokens"] == wanted["tokens"][0].tolist()
    page.screenshot(SCREENSHOTS / "playground-fill.png")


@pytest.mark.browser
def test_pairs_and_fillings_in_pairs(page: Browser, server: ModelServer) -> None:
    type_into(page, "text_pair", "The boat.")
    page.wait(lambda: "fill_mask_pair" in page.find("#asked").text)
    choose_task(page, "next")
    type_into(page, "text", "The fox sees the oak.")
    type_into(page, "text_pair", "The oak.")
    pair = {"text": ["The fox sees the oak."], "text_pair": ["The oak."]}
    wanted = Client(url_of(server)).predict("fox", pair, "next_sentence")["is_next_probability"][0]
    page.wait(lambda: page.texts("#answer .value")[:1] == [f"{wanted:.4f}"])
    assert page.texts("#answer .name") == ["follows", "does not follow"]
    assert answer_of_curl(page)[0]["is_next_probability"] == pytest.approx(float(wanted), abs=1e-6)
    page.screenshot(SCREENSHOTS / "playground-next-sentence.png")


@pytest.mark.browser
def test_class_names_are_not_interpreted_as_html(page: Browser) -> None:
    choose_task(page, "classify")
    assert "fox has no signature classify" in hint(page, "no signature")
    assert not page.find("#answer-card").is_displayed()
    choose_model(page, "taste")
    page.wait(lambda: set(page.texts("#answer .name")) == set(LABELS))
    assert page.driver.find_elements("css selector", "#answer b") == []
    shown = dict(zip(page.texts("#answer .name"), page.texts("#answer .value"), strict=True))
    [answer] = answer_of_curl(page)
    for label, probability in zip(answer["labels"], answer["probabilities"], strict=True):
        assert shown[label] == f"{probability:.4f}"
    page.screenshot(SCREENSHOTS / "playground-classify.png")
    choose_task(page, "fill")
    assert "taste has no signature fill_mask" in hint(page, "no signature")


@pytest.mark.browser
def test_texts_are_compared(page: Browser) -> None:
    choose_task(page, "compare")
    type_into(page, "text", "The fox.\n<script>alert(1)</script>\nThe fox.")
    # Answers to texts that are not typed to their end may come first.
    page.wait(lambda: ["The fox." in row for row in page.texts("#answer tbody tr")] == [1, 0, 1])
    rows = [row.split() for row in page.texts("#answer tbody tr")]
    assert rows[0][-1] == rows[0][-3] == "1.000"
    first, second, _ = (np.array(each["mean"]) for each in answer_of_curl(page))
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert float(rows[0][-2].replace("−", "-")) == pytest.approx(cosine, abs=6e-4)
    assert "<script>alert(1)</script>" in page.find("#answer").text
    assert page.run("return document.scripts.length") == 2
    page.screenshot(SCREENSHOTS / "playground-compare.png")
    type_into(page, "text", "one")
    hint(page, "at least two texts")


@pytest.mark.browser
def test_lines_are_searched(page: Browser) -> None:
    choose_task(page, "search")
    type_into(page, "lines", "The oak sees.\n<i>x</i>\nThe fox.")
    type_into(page, "text", "The fox.")
    page.wait(lambda: page.texts("#answer .value")[:1] == ["1.0000"])
    page.wait(lambda: len(page.texts("#answer .value")) == 3)
    assert page.texts("#answer .name")[0] == "The fox."
    query, *others = (np.array(each["mean"]) for each in answer_of_curl(page))
    wanted = [query @ each / np.linalg.norm(query) / np.linalg.norm(each) for each in others]
    shown = [float(value) for value in page.texts("#answer .value")]
    np.testing.assert_allclose(shown, sorted(wanted, reverse=True), atol=6e-5)
    page.screenshot(SCREENSHOTS / "playground-search.png")
    page.find("textarea[name=lines]").clear()
    type_into(page, "text", "fox")
    hint(page, "Paste the lines to search")


@pytest.mark.browser
def test_lines_are_ranked_by_a_model_of_pairs(page: Browser, server: ModelServer) -> None:
    """As the clients rank them, over REST and gRPC."""
    texts = ["The oak sees.", "The fox.", "owl", "The fox sees the oak."]
    choose_model(page, "taste")
    choose_task(page, "search")
    type_into(page, "lines", "\n".join(texts))
    type_into(page, "text", "The fox.")
    ranked = Client(url_of(server)).ranked("taste", "The fox.", texts, batch_size=3)
    page.wait(lambda: page.texts("#answer .name") == [texts[index] for index, _ in ranked])
    assert page.texts("#answer .value") == [f"{score:.4f}" for _, score in ranked]
    [answer] = answer_of_curl(page)
    assert answer["order"] == [index for index, _ in ranked]
    over_grpc = GrpcClient(f"{HOST}:{server.grpc_port}").ranked("taste", "The fox.", texts)
    assert [index for index, _ in over_grpc] == answer["order"]
    np.testing.assert_allclose([score for _, score in over_grpc], [s for _, s in ranked], atol=1e-6)


@pytest.mark.browser
def test_attention_by_layer_and_head(page: Browser) -> None:
    choose_task(page, "attention")
    type_into(page, "text", "The lighthouses.")
    type_into(page, "text_pair", "")
    words = ["[CLS]", "the", "lighthouses", ".", "[SEP]"]
    page.wait(lambda: page.texts(".lines .reads li") == words)
    page.find("select[aria-label=Layer]").send_keys("layer 2")
    page.find("select[aria-label=Head]").send_keys("head 3")
    page.run("document.querySelector('.lines .reads').focus()")
    page.press("arrow_down", "arrow_down")
    [answer] = answer_of_curl(page)
    shares = np.array(answer["scores"])[1, 2, 1]  # of "the"
    by_word = [shares[0], shares[1], shares[2:5].sum(), shares[5], shares[6]]
    best = int(np.argmax(by_word))
    assert page.find(".status").text.startswith(f"the attends to: {words[best]} ")
    page.screenshot(SCREENSHOTS / "playground-attention.png")
    type_into(page, "text", "The fox.")
    page.wait(lambda: page.texts(".lines .reads li") == ["[CLS]", "the", "fox", ".", "[SEP]"])
    assert page.find("select[aria-label=Head]").get_attribute("value") == "2"


@pytest.mark.browser
def test_any_signature(page: Browser) -> None:
    choose_task(page, "any")
    page.find("#signature").send_keys("predict_ids")
    page.wait(lambda: page.driver.find_elements("css selector", "textarea[name=segment_ids]"))
    type_into(page, "input_ids", "[2, 3]")
    type_into(page, "input_mask", "[1, 1]")
    type_into(page, "segment_ids", "[0, 0")
    assert "segment_ids is not valid JSON" in hint(page, "not valid JSON")
    type_into(page, "segment_ids", "[0, 0]")
    type_into(page, "masked_lm_positions", "[1]")
    page.wait(lambda: "pooled_output" in page.find("#answer").text)
    type_into(page, "input_ids", '["a"]')
    assert "The server refused the request: " in hint(page, "The server refused")
    assert all("status of 400" in message for message in page.log())  # noted by Chromium itself


@pytest.mark.browser
def test_errors_are_shown_as_a_sentence(page: Browser) -> None:
    type_into(page, "text", "No gap.")
    assert hint(page, "no [MASK]").endswith("in place of the word to predict.")
    assert not page.find("#answer-card").is_displayed()
    type_into(page, "text", " ")
    hint(page, "Type a text.")
    type_into(page, "text", "The [MASK] " + "fox " * 40)
    truncated = "The text is longer than the model's maximum and was truncated."
    assert hint(page, "truncated") == truncated
    assert page.find("#answer-card").is_displayed()


@pytest.mark.browser
def test_the_page_recovers_when_the_server_returns(browser: Browser, models: Path) -> None:
    server = started(models)
    browser.open(url_of(server) + "/")
    browser.wait(lambda: browser.texts("#answer .name"))
    server.stop()
    type_into(browser, "text", "The [MASK]")
    assert "The server does not answer. Check that clozeline serve is running." in hint(
        browser, "does not answer"
    )
    again = started(models, server.rest_port)
    try:
        browser.find("textarea[name=text]").send_keys(" sees.")
        browser.wait(lambda: browser.find("#answer-card").is_displayed())
        assert browser.find("#hint").text == ""
    finally:
        again.stop()
    browser.log()  # of the refused connections, which Chromium notes by itself


@pytest.mark.browser
def test_an_outdated_response_does_not_replace_a_newer_one(
    page: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, go = Runner.run, threading.Event()

    def slow_for_boats(self: Runner, *arguments: Any) -> Any:
        if "boat" in repr(arguments):
            assert go.wait(30)
        return run(self, *arguments)

    monkeypatch.setattr(Runner, "run", slow_for_boats)
    type_into(page, "text", "The boat [MASK].")
    page.wait(lambda: page.run("return state.asked !== null && !state.asked.signal.aborted"))
    type_into(page, "text", "The [MASK] [MASK].")
    page.wait(lambda: len(page.texts("#answer h3")) == 2)
    go.set()
    page.wait(lambda: "[MASK] [MASK]" in page.find("#curl").text)
    assert len(page.texts("#answer h3")) == 2


@pytest.mark.browser
def test_on_a_phone_in_dark_mode_by_keyboard(browser: Browser, server: ModelServer) -> None:
    browser.open(url_of(server) + "/", 390, dark=True)
    browser.wait(lambda: browser.texts("#answer .name"))
    browser.find("input[name=task][value=fill]").send_keys("")
    for _ in range(5):
        browser.press("arrow_right")
    browser.wait(lambda: browser.texts(".lines li"))
    assert not browser.overflows()
    browser.screenshot(SCREENSHOTS / "playground-narrow-dark.png")
