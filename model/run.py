"""A run directory that describes itself: its config, vocabulary, checkpoints and measurements.

- `config.json`: model, training and dataset facts
- `vocab.txt`: the dataset's vocabulary
- `checkpoints/`: the last few, each whole
- `metrics.jsonl`: one line a measurement
- `logs/`: the same for TensorBoard
- `curves.png`: the same as a picture
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import BertConfig, TrainingConfig
from pipeline.errors import InputError
from pipeline.files import write_atomically
from pipeline.manifest import VOCABULARY, Manifest
from pipeline.schema import Pairing
from pipeline.tokenizer import Vocabulary

if TYPE_CHECKING:
    import keras

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
LOGS = "logs"
CURVES = "curves.png"
FORMAT = "clozeline-run/1"


@dataclass(frozen=True)
class DatasetFacts:
    """What a run must know of the dataset it was trained on.

    Attributes:
        vocab_sha256: of `vocab.txt`, as hexadecimal digits.
        lower_case: whether texts were lower-cased and stripped of accents.
        max_seq_length: L, positions in a record.
        max_predictions: P, masked positions in a record, used or not.
        pairing: what a record is made of; without pairs no next sentences are learned.
    """

    vocab_sha256: str
    lower_case: bool
    max_seq_length: int
    max_predictions: int
    pairing: Pairing

    @classmethod
    def of(cls, manifest: Manifest) -> "DatasetFacts":
        """Return the facts that stand in a dataset's manifest."""
        return cls(
            manifest.vocab_sha256,
            manifest.lower_case,
            manifest.max_seq_length,
            manifest.max_predictions,
            manifest.pairing,
        )


@dataclass(frozen=True)
class RunConfig:
    """The contents of a run's `config.json`."""

    model: BertConfig
    training: TrainingConfig
    dataset: DatasetFacts
    phase2_dataset: DatasetFacts | None = None

    def to_json(self) -> str:
        """Return the text of `config.json`."""
        parts = {name: vars(part) for name, part in vars(self).items() if part}
        return json.dumps({"format": FORMAT, **parts}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Parse the text of `config.json`.

        Raises:
            ValueError: it is not one, or of another format; `TypeError` or `KeyError` where keys
                differ.
        """
        parts = json.loads(text)
        if not isinstance(parts, dict) or parts.get("format") != FORMAT:
            raise ValueError(f"not a {FORMAT} config")
        return cls(
            BertConfig.from_dict(parts["model"]),
            TrainingConfig(**parts["training"]),
            DatasetFacts(**parts["dataset"]),
            DatasetFacts(**parts["phase2_dataset"]) if "phase2_dataset" in parts else None,
        )


@dataclass(frozen=True)
class Run:
    """A run that was read from its directory.

    Attributes:
        path: the directory.
        config: the model's numbers.
        training: the training's settings.
        dataset: the facts of the last dataset, which has the longest records.
        vocabulary: the pieces by id.
    """

    path: Path
    config: BertConfig
    training: TrainingConfig
    dataset: DatasetFacts
    vocabulary: Vocabulary

    def load_model(self) -> "keras.Model":
        """Return the pretraining model with the weights of the latest readable checkpoint.

        Raises:
            InputError: there is no checkpoint, or none can be read.
        """
        from model.checkpoints import Checkpoints
        from model.network import build_pretraining_model, weights_by_name

        model = build_pretraining_model(self.config)
        checkpoints = Checkpoints(self.path / CHECKPOINTS, writes=False)
        if checkpoints.restore({"model": weights_by_name(model)}) is None:
            raise InputError(
                f"{self.path}: no checkpoint yet; train it further with clozeline pretrain"
            )
        return model


def load_run(path: Path) -> Run:
    """Read a run's directory; its weights wait for `load_model`.

    Raises:
        InputError: it is no run, or its files do not fit together.
    """
    config = read_config(path)
    if config is None:
        raise InputError(f"{path}: no run (no {CONFIG}); make one with clozeline pretrain")
    vocabulary = Vocabulary.read(path / VOCABULARY)
    if vocabulary.sha256 != config.dataset.vocab_sha256:
        raise InputError(
            f"{path / VOCABULARY}: not the vocabulary that {path / CONFIG} names "
            f"({_short(vocabulary.sha256)}, not {_short(config.dataset.vocab_sha256)}); "
            "copy the dataset's there again"
        )
    dataset = config.phase2_dataset or config.dataset
    return Run(path, config.model, config.training, dataset, vocabulary)


def read_config(path: Path) -> RunConfig | None:
    """Return a run's config; None where there is none yet.

    Raises:
        InputError: there is one that cannot be read.
    """
    file = path / CONFIG
    try:
        return RunConfig.from_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file}: cannot be read: {error}; remove {path} to start again"
        ) from error


def trained_config(path: Path) -> RunConfig | None:
    """Return a run's config if it has been trained for at least one checkpoint.

    One that has not may be started with anything.

    Raises:
        InputError: there is a config that cannot be read.
    """
    return read_config(path) if any((path / CHECKPOINTS).glob("step-*")) else None


def open_run(path: Path, config: RunConfig, dataset: Path) -> None:
    """Make the run's directory, or check that the one that is there may go on with this config.

    The number of steps may change from one start to the next; nothing else that decides on the
    sequence of updates may.

    Raises:
        InputError: the run was trained with another model, vocabulary or setting.
    """
    there = trained_config(path)
    if there is not None:
        _check_same(path, there, config, dataset)
    vocabulary = (dataset / VOCABULARY).read_bytes()
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / VOCABULARY, vocabulary)
    write_atomically(path / CONFIG, config.to_json().encode())


def _check_same(path: Path, there: RunConfig, config: RunConfig, dataset: Path) -> None:
    """Raise `InputError` on the first difference that keeps a run from going on."""
    new = "start a new run with another --run"
    if there.dataset.vocab_sha256 != config.dataset.vocab_sha256:
        raise InputError(
            f"{dataset} has another vocabulary ({_short(config.dataset.vocab_sha256)}) than {path} "
            f"was trained with ({_short(there.dataset.vocab_sha256)}); {new}"
        )
    may_change = {"steps"}
    parts = ["model", "dataset", "training"]
    if there.phase2_dataset:
        parts.append("phase2_dataset")
    else:
        may_change |= {"phase2_steps", "phase2_batch_size"}  # it may be given a second phase now
    for part in parts:
        before, now = vars(getattr(there, part)), vars(getattr(config, part))
        for name, value in now.items():
            if before[name] != value and not (part == "training" and name in may_change):
                raise InputError(
                    f"{path} was started with {part} {name} {before[name]}, not {value}; "
                    f"give the same again, or {new}"
                )


def _short(sha256: str) -> str:
    return f"sha256 {sha256[:12]}…"


class Metrics:
    """The run's `metrics.jsonl`: one JSON object a line, each with its `step` and `split`."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Open the file, without the lines of steps that are about to be done again."""
        self.path = path
        self.cut(first_step)

    def cut(self, step: int) -> None:
        """Remove the lines of the steps after this one."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        write_atomically(self.path, "".join(kept).encode())

    def lines(self) -> list[dict[str, Any]]:
        """Return what has been written; a line that was cut off is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if math.isfinite(_step_of(line))]

    def add(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")


def _step_of(line: str) -> float:
    """Return a line's step; infinity for one that was cut off."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
