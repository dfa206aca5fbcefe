"""The page that `clozeline explain` writes, in Chromium."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from docs.browser import Browser
from model.explaining.explanation import Explanation, explain_texts
from model.run import Run
from serving.pages.explanation_page import page

SCREENSHOTS = Path(__file__).parents[3] / "build" / "screenshots"
pytestmark = pytest.mark.browser

TEXTS = ("The [MASK] sees the lighthouses.", "A 🦄 </script><b>爱</b> follows the net.")
LAYER, HEAD = 1, 2


@pytest.fixture(scope="module")
def explained(trained_run: Run) -> Explanation:
    return explain_texts(trained_run, TEXTS, LAYER, HEAD)


@pytest.fixture(scope="module")
def url(explained: Explanation, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_bytes(page(explained))
    return path.as_uri()


@pytest.fixture
def opened(browser: Browser, url: str) -> Iterator[Browser]:
    """The page in a wide window; it must log no error and send no request."""
    browser.requested()
    browser.log()
    browser.open(url)
    browser.wait(lambda: browser.texts(".lines li"))
    yield browser
    assert browser.log() == []
    assert browser.requested() == [url]


def choose(browser: Browser, label: str, text: str) -> None:
    browser.find(f"select[aria-label={label}]").send_keys(text)


def word_shares(explained: Explanation, layer: int, head: int) -> np.ndarray:
    words, shares = explained.example.words, explained.attention[layer, head]
    return np.array(
        [[shares[np.ix_(row, column)].sum() / len(row) for column in words] for row in words]
    )


def words_of(explained: Explanation) -> list[str]:
    example = explained.example
    return ["".join(example.written[at] for at in word) for word in example.words]


def test_it_shows_answers_words_and_steps(opened: Browser, explained: Explanation) -> None:
    best = [answer for answer, _ in explained.predictions[0].answers]
    cards = opened.driver.find_elements("css selector", "#answers article")
    assert len(cards) == 2
    shown = cards[0].find_elements("css selector", ".answers .name")
    assert [each.text for each in shown] == best
    words = words_of(explained)
    shown_words = opened.texts("#answers article:first-of-type .word")
    assert [word.replace("\n", "") for word in shown_words] == words
    assert {"🦄", "爱", "<", "b", "lighthouses"} <= set(words)
    assert len(
        opened.driver.find_elements("css selector", "#answers article:first-child .piece")
    ) == len(explained.example)
    assert "add up to" in cards[0].text
    assert opened.texts("#steps tbody tr:first-child td") == ["[CLS]", "0", "2", "A"]
    opened.find("#steps > button").click()
    opened.wait(lambda: len(opened.texts("#steps table")) == 1 + len(explained.steps))
    tables = opened.driver.find_elements("css selector", "#steps table")
    for step, table in zip(explained.steps, tables[1:], strict=True):
        first = table.find_element("css selector", "tbody td:nth-child(2)").text
        value = np.atleast_2d(step.values)[0, 0]
        assert float(first.replace("−", "-")) == pytest.approx(value, abs=6e-4)
    opened.screenshot(SCREENSHOTS / "explanation-steps.png")


def test_text_is_not_interpreted_as_html(opened: Browser) -> None:
    assert opened.driver.find_elements("css selector", "b") == []
    assert opened.run("return document.scripts.length") == 2


def test_lines_of_a_word_and_another_layer_and_head(
    opened: Browser, explained: Explanation
) -> None:
    words = words_of(explained)
    assert opened.texts(".lines .reads li") == words
    opened.screenshot(SCREENSHOTS / "explanation-wide.png")

    def status_after_pointing(layer: int, head: int) -> None:
        opened.run("document.querySelector('.lines .reads').focus()")
        reader = words.index("lighthouses")  # of three pieces
        opened.press(*["arrow_down"] * (reader + 1))
        shares = word_shares(explained, layer, head)[reader]
        best = int(np.argmax(shares))
        opened.wait(lambda: opened.find(".status").text.startswith("lighthouses attends to: "))
        strongest = opened.find(".status").text.split(": ", 1)[1].split(", ")[0]
        assert strongest.startswith(f"{words[best]} ")
        shown = float(strongest.split()[-2]) / 100
        assert shown == pytest.approx(shares[best], abs=0.012)

    status_after_pointing(LAYER, HEAD)
    before = opened.run("return document.querySelector('.lines canvas').toDataURL()")
    choose(opened, "Layer", "layer 1")
    choose(opened, "Head", "head 1")
    status_after_pointing(0, 0)
    assert opened.run("return document.querySelector('.lines canvas').toDataURL()") != before
    choose(opened, "Layer", "all layers")
    assert opened.find("select[aria-label=Head]").get_attribute("disabled")


def test_pieces_of_words_and_special_pieces_can_be_shown_and_hidden(
    opened: Browser, explained: Explanation
) -> None:
    whole, hide = opened.driver.find_elements("css selector", ".attention input[type=checkbox]")
    whole.click()
    assert opened.texts(".lines .read li") == list(explained.example.written)
    hide.click()
    hidden = [text for text in explained.example.written if text not in ("[CLS]", "[SEP]")]
    assert opened.texts(".lines .read li") == hidden


def test_the_heat_map_by_keys_and_all_heads(opened: Browser, explained: Explanation) -> None:
    opened.find("input[value=lines]").send_keys(" ")
    opened.press("arrow_right")
    opened.wait(
        lambda: opened.driver.find_elements("css selector", "canvas[aria-label^='Heat map:']")
    )
    opened.run("document.querySelector('.figure canvas').focus()")
    opened.press("arrow_down", "arrow_down", "arrow_right")
    words, shares = words_of(explained), word_shares(explained, LAYER, HEAD)
    status = opened.find(".status").text
    assert status.startswith(f"{words[1]} attends to {words[1]}: ")
    assert float(status.split()[-2]) / 100 == pytest.approx(shares[1, 1], abs=0.012)
    opened.screenshot(SCREENSHOTS / "explanation-heat-map.png")
    opened.find("input[value=heads]").click()
    opened.run("document.querySelector('.figure canvas').focus()")
    opened.press("arrow_up", "arrow_left")
    assert opened.find(".status").text == "layer 1, head 2"
    opened.screenshot(SCREENSHOTS / "explanation-all-heads.png")
    opened.press("enter")
    assert opened.find("input[value=map]").is_selected()
    assert opened.find("select[aria-label=Head]").get_attribute("value") == "1"


def test_on_a_phone_in_dark_mode(browser: Browser, url: str) -> None:
    browser.open(url, 390, dark=True)
    browser.wait(lambda: browser.texts(".lines li"))
    assert not browser.overflows()
    dark = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert max(map(int, dark[4:-1].split(","))) < 60
    browser.screenshot(SCREENSHOTS / "explanation-narrow-dark.png")
    browser.find("input[value=map]").click()
    assert not browser.overflows()


def test_256_positions_of_a_base_model_are_smooth(
    browser: Browser, explained: Explanation, tmp_path: Path
) -> None:
    """Counted in work, not in time: lines are a few strokes, and the page is below 5 MB."""
    import dataclasses

    example = explained.example
    times = 1 + 256 // len(example)
    long = dataclasses.replace(
        example,
        **{name: (getattr(example, name) * times)[:256] for name in ("pieces", "written")},
        **{
            name: np.tile(getattr(example, name), times)[:256]
            for name in ("input_ids", "segment_ids", "is_special")
        },
    )
    rng = np.random.default_rng(2)
    attention = rng.gamma(0.3, size=(12, 12, 256, 256)).astype(np.float32)
    attention /= attention.sum(-1, keepdims=True)
    big = dataclasses.replace(
        explained, example=long, attention=attention, rollout=attention[0, 0], predictions=()
    )
    path = tmp_path / "long.html"
    path.write_bytes(page(big))
    assert path.stat().st_size < 5_000_000
    browser.open(path.as_uri())
    browser.wait(lambda: browser.texts(".lines li"))
    assert len(browser.texts(".lines .reads li")) == len(long.words)
    count = (
        "let strokes = 0; const stroke = CanvasRenderingContext2D.prototype.stroke;"
        "CanvasRenderingContext2D.prototype.stroke = function (...paths) {"
        "strokes += 1; return stroke.apply(this, paths); };"
        "const select = document.querySelector('select'); select.value = '7';"
        "select.dispatchEvent(new Event('change')); return strokes"
    )
    assert 1 <= browser.run(count) <= 13
    browser.find("input[value=heads]").click()
    browser.screenshot(SCREENSHOTS / "explanation-base-all-heads.png")
    assert browser.log() == []
