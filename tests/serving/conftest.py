"""A run trained for two steps, the model exported from it, and a browser to look at pages."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import clozeline
from model.run import Run, load_run

TINY = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 32, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture(scope="session")
def trained_run(
    prose_corpus: Path, vocab_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    folder = tmp_path_factory.mktemp("trained")
    size = len(vocab_path.read_text(encoding="utf-8").splitlines())
    (folder / "tiny.json").write_text(json.dumps(TINY | {"vocab_size": size}))
    assert clozeline.main(
        ["preprocess", "--input", str(prose_corpus / "*.txt"), "--vocab", str(vocab_path),
         "--output", str(folder / "ds"), "--max-seq-length", "32", "--max-predictions", "4",
         "--eval-rate", "0.2"]
    ) == 0  # fmt: skip
    assert clozeline.main(
        ["pretrain", "--dataset", str(folder / "ds"), "--run", str(folder / "run"),
         "--model", str(folder / "tiny.json"), "--steps", "2", "--batch-size", "8"]
    ) == 0  # fmt: skip
    return load_run(folder / "run")


@pytest.fixture(scope="session")
def exported(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`models/fox/1`."""
    models = tmp_path_factory.mktemp("models")
    arguments = ["export", "--run", str(trained_run.path), "--output", str(models / "fox")]
    assert clozeline.main(arguments) == 0
    return models / "fox" / "1"


class Browser:
    """Headless Chromium: opens pages, and tells what they said and asked for."""

    SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in (
            "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
            "disable-background-networking", "disable-component-update", "disable-sync",
            f"user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service("/usr/bin/chromedriver"))

    def open(self, url: str, width: int = 1280, *, dark: bool = False) -> None:
        """Go to a page, in a window of a width in CSS pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900,
                     deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        self.driver.get(url)

    def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)"
        return self.run(script, selector)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Return what a condition gives as soon as it holds."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.wait import WebDriverWait

        ignored = [StaleElementReferenceException]  # the page replaced it meanwhile
        wait = WebDriverWait(self.driver, 30, 0.05, ignored_exceptions=ignored)
        return wait.until(lambda _: condition())

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        pressed = [getattr(Keys, key.upper(), key) for key in keys]
        ActionChains(self.driver).send_keys(*pressed).perform()

    def log(self) -> list[str]:
        """What the console said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        messages = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        sent = [each for each in messages if each["method"] == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]

    def overflows(self) -> bool:
        """Whether the page is wider than the window."""
        root = "document.documentElement"
        return self.run(f"return {root}.scrollWidth > {root}.clientWidth")

    def screenshot(self, name: str) -> None:
        """Keep a picture of the page from its top, for people to look at."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000)}
        picture = self.command(
            "Page.captureScreenshot", captureBeyondViewport=True, clip=clip | {"scale": 1}
        )
        self.SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        (self.SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.driver.quit()
