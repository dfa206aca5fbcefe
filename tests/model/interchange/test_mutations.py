"""Checkpoints with damaged bytes: imported or refused with one line, in bounded memory and time."""

import json
import os
import shutil
import sys
from pathlib import Path

import keras_hub
import pytest

from tests.fork_server import FORKS, ROOT
from tests.model.interchange import import_mutated

GOLDEN = Path(__file__).parents[2] / "golden" / "hugging_face" / "single"
SEEDS = 12


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory of each kind of file."""
    folder = tmp_path_factory.mktemp("checkpoints")
    plain, preset = folder / "plain", folder / "preset"
    shutil.copytree(GOLDEN, plain)
    tokenizer = json.loads((plain / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    (plain / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary))
    (plain / "tokenizer.json").unlink()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the"]
    backbone = keras_hub.models.BertBackbone(len(pieces), 1, 2, 4, 8, max_sequence_length=16)
    backbone.save_to_preset(str(preset))
    keras_hub.models.BertTokenizer(pieces).save_to_preset(str(preset))
    return {"hugging_face": GOLDEN, "plain": plain, "preset": preset}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("hugging_face", "config.json"),
        ("hugging_face", "tokenizer.json"),
        ("hugging_face", "model.safetensors"),
        ("plain", "vocab.txt"),
        ("preset", "model.weights.h5"),
    ],
)
def test_a_damaged_file_is_imported_or_refused_in_one_line(
    kind: str, name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    command = [sys.executable, import_mutated.__file__, checkpoints[kind], name, SEEDS, tmp_path]
    # The program ends by a signal if one import hangs, and with an error if memory is exhausted.
    environment = os.environ | {"PATH": "", "HOME": str(tmp_path)}
    ended = FORKS.run(list(map(str, command)), cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stderr[-2000:]
    cases = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [case["seed"] for case in cases] == list(range(SEEDS))
    assert {case["code"] for case in cases} <= {0, 2}, cases
    assert any(case["code"] == 2 for case in cases)
    for case in cases:
        assert case["said"].count("\n") == (case["code"] == 2), case
        assert case["said"].rstrip("\n").isprintable(), case
