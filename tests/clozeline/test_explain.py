"""`clozeline explain`: what it prints, its JSON, its page and its picture."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from clozeline.main import main
from model.explaining.explanation import Explanation, explain_texts
from model.run import Run
from pipeline.storage.recognition import is_page, is_picture
from serving.pages import explanation_page as pages
from serving.pages.explanation_page import page, page_data

TEXTS = ("The [MASK] sees the lighthouses.", "A 🦄 </script><b>爱</b> $x$ follows the net.")


@pytest.fixture(scope="module")
def explained(trained_run: Run) -> Explanation:
    return explain_texts(trained_run, TEXTS, 1, 2)


def test_the_command_prints_and_writes(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "[b]page.html"
    assert main(
        ["explain", "--run", str(trained_run.path), *TEXTS, "--output", str(output),
         "--layer", "2", "--head", "3", "--json"]
    ) == 0  # fmt: skip
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["layer"], found["head"]) == (2, 3)
    assert found["pieces"][:7] == ["[CLS]", "the", "[MASK]", "sees", "the", "light", "##house"]
    assert np.shape(found["attention"]) == (2, 4, len(found["pieces"]), len(found["pieces"]))
    values = {step["name"]: step["values"] for step in found["steps"]}
    np.testing.assert_allclose(values["weights"], found["attention"][1][2], atol=1e-6)
    assert np.shape(values["gathered"]) == (len(found["pieces"]), 6)
    masked, following = found["predictions"]
    assert masked["position"] == 2
    added = masked["attribution"]
    difference = added["value"] - added["baseline_value"]
    assert sum(added["by_piece"]) == pytest.approx(difference, rel=0.01)
    assert sum(p for _, p in following["answers"]) == pytest.approx(1)
    assert "Which piece stands at position 2 ([MASK])?" in printed.err
    assert "🦄" in printed.err
    assert "layer 2, head 3" in printed.err
    assert output.read_bytes().startswith(b"<!doctype html>")
    assert is_page(output.read_bytes())  # so it would be written again
    assert [path.name for path in output.parent.iterdir()] == ["[b]page.html"]
    assert "[b]page.html: written" in printed.err


def test_bad_input_is_one_line(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run", str(trained_run.path)]
    for arguments, message in (
        ([*run], "TEXT: expected one or two texts, got 0"),
        ([*run, "a", "b", "c"], "TEXT: expected one or two texts, got 3"),
        ([*run, " "], "TEXT ' ': has no word in it; give a sentence"),
        ([*run, "the", "--output", "x.pdf"], "--output x.pdf: must end in .html or .png"),
        ([*run, "the", "--head", "5"], "--head 5: the model has heads 1 to 4"),
        (["--run", str(tmp_path), "the"], "no run (no config.json)"),
    ):
        assert main(["explain", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert message in printed.err


def test_no_text_ends_the_data_of_the_page(explained: Explanation) -> None:
    html = page(explained).decode()
    assert html.count("</script>") == 2
    data = html.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data) == json.loads(json.dumps(page_data(explained)))
    assert "<b>" not in html


def test_the_picture_has_the_letters_that_a_font_has(explained: Explanation) -> None:
    import matplotlib.image

    from clozeline.show.attention_picture import picture

    png = picture(explained)
    assert is_picture(png)
    drawn = matplotlib.image.imread(io.BytesIO(png))
    assert drawn.shape == (1080, 1920, 4)
    green, red = (drawn[..., 1] > drawn[..., 0] + 0.2), (drawn[..., 0] > drawn[..., 1] + 0.2)
    assert green.sum() > 500
    assert red.sum() > 500


def test_a_long_text_of_a_base_model_stays_below_5_mb() -> None:
    """256 positions, 12 layers of 12 different heads: the data that compress worst."""
    shares = np.random.default_rng(1).gamma(1.0, size=(12, 12, 256, 256)).astype(np.float32)
    shares /= shares.sum(-1, keepdims=True)
    packed = pages.packed(shares)
    others = 256 * (13 * pages.SHOWN_COLUMNS * 12 + 8 * 24) + 100_000
    assert len(packed["deflated"]) + others < 5_000_000
    assert packed["levels"] >= 31


def test_packed_attention_is_unpacked(explained: Explanation) -> None:
    import base64
    import zlib

    packed = pages.packed(explained.attention)
    assert packed["levels"] == 255
    levels = zlib.decompress(base64.b64decode(packed["deflated"]), -zlib.MAX_WBITS)
    shares = (np.frombuffer(levels, np.uint8) / 255) ** 2
    np.testing.assert_allclose(shares.reshape(explained.attention.shape), explained.attention,
                               atol=1 / 255)  # fmt: skip
