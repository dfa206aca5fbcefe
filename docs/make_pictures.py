"""Draw the pictures of the documents: `make pictures RUN=... MODELS=...`."""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from PIL import Image

from docs.browser import Browser
from model.explaining.explanation import explain_texts
from model.run import load_run
from serving.pages.explanation_page import page
from serving.server.main import ModelServer

PICTURES = Path(__file__).parent / "pictures"
WIDTH = 900
COLOURS = 255  # of the palette: a picture stays below 200 kB
EXPLAINED = "A stirring and funny film, but the ending is far too long."


def keep(browser: Browser, name: str, most_pixels: int) -> None:
    """Write docs/pictures/NAME.png, with a palette."""
    path = PICTURES / f"{name}.png"
    browser.screenshot(path, most_pixels)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLOURS)
    small.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def explanation(browser: Browser, run: Path, folder: Path) -> None:
    """Show a page about one text."""
    explained = explain_texts(load_run(run), [EXPLAINED], layer=3, head=4)
    (folder / "page.html").write_bytes(page(explained))
    browser.open((folder / "page.html").as_uri(), WIDTH)
    browser.wait(lambda: browser.texts(".lines li"))
    keep(browser, "explanation", 1118)


def playground(browser: Browser, models: Path) -> None:
    """Show the attention of the first model."""
    server = ModelServer(models, "127.0.0.1", 0, 0)
    server.start()
    try:
        browser.open(f"http://127.0.0.1:{server.rest_port}/", WIDTH)
        browser.wait(lambda: browser.texts("#answer *"))
        browser.find("input[name=task][value=attention]").click()
        browser.wait(lambda: browser.texts(".lines li"))
        browser.find("input[name=view][value=map]").click()
        keep(browser, "playground", 1124)
    finally:
        server.stop()


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a run tuned for classes of texts")
    parser.add_argument("--models", type=Path, required=True, help="folder of exported models")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(Path(folder) / "profile")
        try:
            explanation(browser, options.run, Path(folder))
            playground(browser, options.models)
        finally:
            browser.driver.quit()


if __name__ == "__main__":
    main()
