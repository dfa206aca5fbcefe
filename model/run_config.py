"""Contents of a run's `config.json`, and names of its files."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model.bert.config import BertConfig
from model.tasks.kinds import Head
from model.tasks.task_kind import Task
from model.training.config import RelationsConfig, TrainingConfig, TuningConfig
from pipeline.errors import InputError
from pipeline.manifest import Manifest
from pipeline.schema import Pairing
from pipeline.storage.files import absence
from pipeline.storage.remote_files import names_in
from pipeline.storage.strict_json import from_json, read_json_file, to_json

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
LOGS = "logs"
CURVES = "curves.png"
FORMAT = "clozeline-run/1"

Checkpoint = Literal["last", "best", "auto"]
"""Checkpoint of a run. last: the latest; best: the best by evaluation; auto: best if there is one,
else last."""


@dataclass(frozen=True)
class TextFacts:
    """Settings of a run's input texts.

    Attributes:
        vocab_sha256: SHA-256 of `vocab.txt`, hexadecimal.
        lower_case: whether texts are lower-cased and stripped of accents.
        max_seq_length: L, maximum number of positions of an example.
    """

    vocab_sha256: str
    lower_case: bool
    max_seq_length: int


@dataclass(frozen=True)
class DatasetFacts(TextFacts):
    """Settings of a pretraining run's dataset.

    Attributes:
        max_predictions: P, maximum number of masked positions in a record.
        pairing: kind of sentence pairs; `none`: no pairs, and no next-sentence head.
        streams: number of record streams; None = a dataset of an older release, without them.
        sha256: SHA-256 of the records and their order, hexadecimal; None in runs of older releases.
    """

    max_predictions: int
    pairing: Pairing
    streams: int | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> "DatasetFacts":
        """Return the settings in a dataset's manifest."""
        return cls(
            manifest.vocab_sha256,
            manifest.lower_case,
            manifest.max_seq_length,
            manifest.max_predictions,
            manifest.pairing,
            manifest.streams,
            manifest.sha256,
        )


@dataclass(frozen=True)
class RunConfig:
    """The contents of a run's `config.json`.

    Attributes:
        model: config of the model.
        training: hyperparameters; None for an imported model.
        dataset: settings of the dataset, or of the input texts of other models.
        phase2_dataset: settings of the dataset of phase 2; None = no phase 2.
        heads: pretraining heads that were trained.
        task: task of a fine-tuned model; None = pretrained.
        tuning: further hyperparameters of a fine-tuned run.
        recipe: name of the recipe that the hyperparameters are from; "" = none.
        relations: settings of a pretrained student's training by its teacher; None = no teacher.
    """

    model: BertConfig
    training: TrainingConfig | None
    dataset: TextFacts
    phase2_dataset: DatasetFacts | None = None
    heads: tuple[Head, ...] = ()
    task: Task | None = None
    tuning: TuningConfig | None = None
    recipe: str = ""
    relations: RelationsConfig | None = None

    def __post_init__(self) -> None:
        """Check the consistency of the parts.

        Raises:
            ValueError: `doc_stride` is below 1 in a task that reads long texts in windows.
        """
        if self.tuning is None or self.task is None:
            return
        if self.task.definition.uses_windows and self.tuning.doc_stride < 1:
            raise ValueError(
                f"tuning doc_stride must be at least 1 for a {self.task.kind} task, "
                f"received {self.tuning.doc_stride}"
            )

    def to_json(self) -> str:
        """Return the text of `config.json`."""
        # Empty parts are left out, so a config of an older release stays equal, byte for byte.
        parts = {name: _as_json(part) for name, part in vars(self).items() if part}
        return to_json({"format": FORMAT, **parts}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Parse the text of `config.json`.

        Raises:
            ValueError: it is not a config, or has another format.
            TypeError: it has unknown keys, or lacks keys; also `KeyError`.
        """
        parts = from_json(text)
        if not isinstance(parts, dict) or parts.get("format") != FORMAT:
            raise ValueError(f"not a {FORMAT} config")

        def part(name: str, make: Callable[..., Any]) -> Any:
            return make(**parts[name]) if name in parts else None

        # Fine-tuned and imported runs have no dataset of records.
        is_dataset = "pairing" in parts["dataset"]
        return cls(
            BertConfig.from_dict(parts["model"]),
            part("training", TrainingConfig),
            part("dataset", DatasetFacts if is_dataset else TextFacts),
            part("phase2_dataset", DatasetFacts),
            tuple(parts.get("heads", ())),
            Task.from_dict(parts["task"]) if "task" in parts else None,
            part("tuning", TuningConfig),
            parts.get("recipe", ""),
            part("relations", RelationsConfig),
        )


def _as_json(part: Any) -> Any:
    """Return a part of the config as JSON values."""
    if isinstance(part, tuple | str):
        return part
    return part.to_dict() if isinstance(part, Task) else dataclasses.asdict(part)


def read_config(path: Path) -> RunConfig | None:
    """Return a run's config; None if the run does not exist yet.

    Raises:
        InputError: it is damaged.
        JobError: it cannot be read because of a disk failure.
    """
    return read_json_file(
        path / CONFIG,
        RunConfig.from_json,
        "put it back from a copy, or start a run in another directory",
    )


def check_is_run_or_free(path: Path) -> None:
    """Check that a training can write its run to a directory without replacing other files.

    Raises:
        InputError: the directory's config is damaged or not a run's, or there is none but files
            with the names of a run's.
        JobError: the config cannot be read because of a disk failure.
    """
    if read_config(path) is not None:
        return
    others = {METRICS, CURVES, CHECKPOINTS} & set(names_in(str(path)))
    if others:
        raise InputError(
            f"`run_dir` {path}: is no run (no {CONFIG}), but has {min(others)}, which a training "
            "would change; choose another directory"
        )


def existing_config(path: Path) -> RunConfig:
    """Return the config of a run that must exist.

    Raises:
        InputError: the directory is not a run, or its config is damaged.
        JobError: the config cannot be read because of a disk failure.
    """
    config = read_config(path)
    if config is None:
        no_run = f"no run (no {CONFIG}); make one with clozeline pretrain or finetune"
        raise InputError(f"{path}: {absence(path) or no_run}")
    return config


def short_sha(sha256: str) -> str:
    """Return an abbreviated SHA-256 for error messages."""
    return f"sha256 {sha256[:12]}…"
