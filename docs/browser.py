"""Debian's Chromium, headless: for the tests of our pages and the pictures in the documents."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

WAIT_SECS = 120


class Browser:
    """Headless Chromium: opens pages, and tells what they said and asked for."""

    def __init__(self, profile: Path, *flags: str) -> None:
        """Start it with a new profile in an empty folder, and with further flags of Chromium."""
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in (
            "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
            "disable-background-networking", "disable-component-update", "disable-sync",
            f"user-data-dir={profile}", *flags,
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
        self.command("Emulation.setScrollbarsHidden", hidden=True)
        self.driver.get(url)

    def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what JavaScript returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """Return the first element that a CSS selector names."""
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """Return what stands in each element that a CSS selector names."""
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)"
        return self.run(script, selector)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Return what a condition gives as soon as it holds."""
        ignored = [StaleElementReferenceException]  # the page replaced it meanwhile
        wait = WebDriverWait(self.driver, WAIT_SECS, 0.05, ignored_exceptions=ignored)
        return wait.until(lambda _: condition())

    def press(self, *keys: str) -> None:
        """Press keys, letters or Selenium's names of others, one after the other."""
        pressed = [getattr(Keys, key.upper(), key) for key in keys]
        ActionChains(self.driver).send_keys(*pressed).perform()

    def log(self) -> list[str]:
        """Return what the console said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self) -> list[str]:
        """Return the addresses that were asked for since the last call."""
        messages = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        sent = [each for each in messages if each["method"] == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]

    def overflows(self) -> bool:
        """Return whether the page is wider than the window."""
        root = "document.documentElement"
        return self.run(f"return {root}.scrollWidth > {root}.clientWidth")

    def screenshot(self, path: Path, most_pixels: int = 4000) -> None:
        """Keep a picture of the page, as far down as so many pixels."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most_pixels)}
        picture = self.command(
            "Page.captureScreenshot", captureBeyondViewport=True, clip=clip | {"scale": 1}
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(picture["data"]))
