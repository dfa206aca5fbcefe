"""The command that estimates a pretraining."""

import json

import pytest

from clozeline.commands.plan import _duration, _size
from clozeline.main import main


def test_the_estimate_is_printed_and_returned(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["plan", "--text", "20 GB", "--devices", "8 x H100", "--price-per-hour", "2.5"]
    assert main([*flags, "--accumulation-steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "base on 20 GB of text, 8 × H100" in out
    assert "110,106,428" in out
    assert (
        "--model base --batch-size 256 --steps 7512020 --precision bfloat16 --accumulation" in out
    )
    assert main([*flags, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["steps"] == 7512020
    assert plan["fits"] is True
    assert plan["cost"] == pytest.approx(222.9, abs=0.1)
    assert plan["memory"]["parameters"] == 22 * 110_106_428


def test_a_recipe_says_which_optimizer_is_planned_with(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["plan", "--text", "20 GB", "--devices", "8 x H100"]
    assert main([*flags, "--recipe", "cpu-hours"]) == 0
    assert "--recipe cpu-hours --optimizer muon" in " ".join(capsys.readouterr().out.split())
    found = {}
    for recipe in ("cpu-hours", "bert-2018"):
        assert main([*flags, "--recipe", recipe, "--json"]) == 0
        found[recipe] = json.loads(capsys.readouterr().out)
    # One moment less for each weight in the layers' matrices, 12 × (4 × 768² + 2 × 768 × 3072).
    saved = found["bert-2018"]["checkpoint_bytes"] - found["cpu-hours"]["checkpoint_bytes"]
    assert saved == 4 * 84_934_656
    assert main([*flags, "--recipe", "cpu-hours", "--optimizer", "adamw", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found["bert-2018"]
    assert main([*flags, "--recipe", "fast"]) == 2
    assert "--recipe fast: expected bert-2018, cpu-hours" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text", "20Gb"], "--text '20Gb': expected a number with one of B, kB, MB, GB, TB"),
        (["--text", "0GB"], "--text '0GB': must be at least 1 B"),
        (["--text", "1GB", "--epochs", "2", "--steps", "9"], "--epochs: --steps says how long to"),
        (["--text", "1GB", "--devices", "8 x K80"], "--devices '8 x K80': unknown kind; give --pe"),
    ],
)
def test_wrong_flags_are_one_line(flags, message, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--devices", "L4", *flags]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"clozeline: {message}")
    assert said.err.count("\n") == 1


def test_a_model_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--text", "1GB", "--devices", "L4", "--model", "large", "--max-seq-length", "512"]
    assert main(["plan", *flags]) == 0
    assert "no: more --accumulation-steps, or --recompute" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("secs", "text"),
    [(0.25, "0.2 s"), (119.0, "119.0 s"), (120.0, "2.0 minutes"), (9_000.0, "2.5 hours"),
     (40 * 3600.0, "40.0 hours"), (86_400.0 * 1250.5, "1,250.5 days")],
)  # fmt: skip
def test_durations(secs: float, text: str) -> None:
    assert _duration(secs) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0.5, "0.5 B"), (999.0, "999 B"), (1_500.0, "1.5 kB"), (2.42e9, "2.42 GB")]
)
def test_sizes(count: float, text: str) -> None:
    assert _size(count) == text
