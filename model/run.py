"""A run directory that describes itself: its config, vocabulary, checkpoints and measurements.

- `config.json`: model, training and dataset facts
- `vocab.txt`: the dataset's vocabulary
- `checkpoints/`: the last few, each whole
- `metrics.jsonl`: one line a measurement
- `logs/`: the same for TensorBoard
- `curves.png`: the same as a picture
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from model.bert.config import DOC_STRIDE, BertConfig, TrainingConfig, TuningConfig
from model.tasks.kinds import Head, Task
from pipeline.errors import InputError, JobError
from pipeline.manifest import VOCABULARY, Manifest
from pipeline.schema import Pairing
from pipeline.storage.files import publish, sync, write_atomically, writing
from pipeline.storage.locks import only_writer_of_all, staging
from pipeline.storage.strict_json import from_json, to_json
from pipeline.text.tokenizer import Vocabulary

if TYPE_CHECKING:
    import keras

    from model.training.strategy import Workers

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
LOGS = "logs"
CURVES = "curves.png"
FORMAT = "clozeline-run/1"

Checkpoint = Literal["last", "best", "auto"]
"""Which weights of a run: the last ones, those that were evaluated best, or `auto`: the best where
there are any, else the last."""


@dataclass(frozen=True)
class TextFacts:
    """What every run must know of the texts that it takes.

    Attributes:
        vocab_sha256: of `vocab.txt`, as hexadecimal digits.
        lower_case: whether texts are lower-cased and stripped of accents.
        max_seq_length: L, positions that an example may have.
    """

    vocab_sha256: str
    lower_case: bool
    max_seq_length: int


@dataclass(frozen=True)
class DatasetFacts(TextFacts):
    """What a pretraining run must know of the dataset it was trained on.

    Attributes:
        max_predictions: P, masked positions in a record, used or not.
        pairing: what a record is made of; without pairs no next sentences are learned.
    """

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
    """The contents of a run's `config.json`.

    Attributes:
        model: the model's numbers.
        training: the training's settings; none for a model that was imported.
        dataset: the facts of the dataset, or of the texts that are not in one.
        phase2_dataset: of the second phase's dataset.
        heads: the pretraining heads that are trained.
        task: what the model was tuned for.
        tuning: how.
    """

    model: BertConfig
    training: TrainingConfig | None
    dataset: TextFacts
    phase2_dataset: DatasetFacts | None = None
    heads: tuple[Head, ...] = ()
    task: Task | None = None
    tuning: TuningConfig | None = None

    def __post_init__(self) -> None:
        """Check what one part alone cannot tell.

        Raises:
            ValueError: a span task's `doc_stride` is below 1.
        """
        if self.tuning and self.task and self.task.kind == "span" and self.tuning.doc_stride < 1:
            raise ValueError(
                f"tuning doc_stride must be at least 1 for a span task, "
                f"received {self.tuning.doc_stride}"
            )

    def to_json(self) -> str:
        """Return the text of `config.json`."""
        parts = {
            name: part if isinstance(part, tuple) else dataclasses.asdict(part)
            for name, part in vars(self).items()
            if part
        }
        return to_json({"format": FORMAT, **parts}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Parse the text of `config.json`.

        Raises:
            ValueError: it is not one, or of another format; `TypeError` or `KeyError` where keys
                differ.
        """
        parts = from_json(text)
        if not isinstance(parts, dict) or parts.get("format") != FORMAT:
            raise ValueError(f"not a {FORMAT} config")

        def made(name: str, make: Callable[..., Any]) -> Any:
            return make(**parts[name]) if name in parts else None

        is_dataset = "pairing" in parts["dataset"]
        return cls(
            BertConfig.from_dict(parts["model"]),
            made("training", TrainingConfig),
            made("dataset", DatasetFacts if is_dataset else TextFacts),
            made("phase2_dataset", DatasetFacts),
            tuple(parts.get("heads", ())),
            Task.from_dict(parts["task"]) if "task" in parts else None,
            made("tuning", TuningConfig),
        )


@dataclass(frozen=True)
class Run:
    """A run that was read from its directory.

    Attributes:
        path: the directory.
        saved: the contents of its `config.json`.
        vocabulary: the pieces by id.
    """

    path: Path
    saved: RunConfig
    vocabulary: Vocabulary

    @property
    def config(self) -> BertConfig:
        """The model's numbers."""
        return self.saved.model

    @property
    def training(self) -> TrainingConfig | None:
        """The training's settings; None for an imported model."""
        return self.saved.training

    @property
    def dataset(self) -> TextFacts:
        """The facts of the last dataset, which has the longest records, or of the texts."""
        return self.saved.phase2_dataset or self.saved.dataset

    @property
    def heads(self) -> tuple[Head, ...]:
        """The pretraining heads that are trained."""
        return self.saved.heads

    @property
    def task(self) -> Task | None:
        """The task that the model was tuned for."""
        return self.saved.task

    @property
    def doc_stride(self) -> int:
        """Pieces between the starts of two windows of a long passage, at least 1.

        The default for a model that was not tuned here: an imported one does not record its own.
        """
        return (self.saved.tuning and self.saved.tuning.doc_stride) or DOC_STRIDE

    def load_model(self, checkpoint: Checkpoint = "last") -> "keras.Model":
        """Return the pretraining model, or the tuned one, with a checkpoint's weights.

        Args:
            checkpoint: the last one that can be read, the one that was evaluated best, or either.

        Raises:
            InputError: there is no such checkpoint, or none can be read.
        """
        from model.bert.network import build_model, weights_by_name
        from model.training.checkpoints import Checkpoints

        model = build_model(self.config, self.task)
        checkpoints = Checkpoints(self.path / CHECKPOINTS, writes=False)
        state = {"model": weights_by_name(model)}
        if checkpoint == "best" or (checkpoint == "auto" and checkpoints.marked):
            checkpoints.restore_best(state)
        elif checkpoints.restore(state) is None:
            raise InputError(
                f"{self.path}: no checkpoint yet; start the command that makes it again"
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
    return Run(path, config, vocabulary)


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
    except OSError as error:
        raise JobError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file}: damaged: {error}; put it back from a copy, "
            "or start a run in another directory: the checkpoints need it"
        ) from error


def trained_config(path: Path) -> RunConfig | None:
    """Return a run's config if it has been trained for at least one checkpoint.

    One that has not may be started with anything.

    Raises:
        InputError: there is a config that cannot be read.
    """
    return read_config(path) if checkpoint_steps(path / CHECKPOINTS) else None


def checkpoint_name(step: int) -> str:
    """Return the name of a step's checkpoint, which is a directory."""
    return f"step-{step:08d}"


def checkpoint_steps(directory: Path) -> list[int]:
    """Return the steps that a directory has checkpoints of, ascending.

    Other names in it are not ours: a copy `step-00000020.bak`, say.

    Raises:
        JobError: the directory cannot be listed, which does not mean that it is empty.
    """
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JobError(f"{directory}: cannot be listed: {error.strerror}") from error
    matches = [re.fullmatch(r"step-(\d{8,})", name, re.ASCII) for name in names]
    return sorted(int(match[1]) for match in matches if match)


def write_run(path: Path, config: RunConfig, vocabulary: bytes, weights: dict[str, Any]) -> None:
    """Make a run of weights that come from elsewhere: its checkpoint is of step 0.

    It needs no lock: the rename succeeds only where there is no run.

    Args:
        path: the directory; it appears when it is whole.
        config: what the run says of itself.
        vocabulary: the bytes of `vocab.txt`.
        weights: variables, by the names that `model.bert.network.weights_by_name` gives.

    Raises:
        InputError: there is something already, or the path cannot be written.
        JobError: the disk is full or failed.
    """
    from model.training.checkpoints import Checkpoints

    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: is there already; give another --run, or remove it")
    with writing(f"--run {path}"), staging(path.parent, f".{path.name}-") as made:
        (made / VOCABULARY).write_bytes(vocabulary)
        (made / CONFIG).write_text(config.to_json(), encoding="utf-8")
        checkpoints = Checkpoints(made / CHECKPOINTS)
        checkpoints.save(0, {"model": weights})
        checkpoints.wait()
        publish(made, path)


@contextlib.contextmanager
def only_writer_of_runs(paths: Sequence[Path], workers: "Workers") -> Iterator[None]:
    """Let the chief worker hold the locks of runs; if it cannot, every worker ends.

    Raises:
        InputError: another process writes one of the runs.
        JobError: the chief could not have the locks; or their files cannot be written.
    """
    held = only_writer_of_all({path: f"--run {path}" for path in paths if workers.is_chief})
    failure: Exception | None = None
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held)
        except (InputError, JobError) as error:
            failure = error
        if workers.any(failure is not None):
            raise failure or JobError("the first worker cannot write --run; its message says why")
        yield


def open_run(path: Path, config: RunConfig, vocabulary: bytes, data: Path) -> None:
    """Make the run's directory, or check that the one that is there may go on with this config.

    The number of steps may change from one start to the next; nothing else that decides on the
    sequence of updates may.

    Args:
        path: the directory.
        config: what the run is about to be.
        vocabulary: the bytes of `vocab.txt`.
        data: what it is to be trained on, for messages.

    Raises:
        InputError: the run was trained with another model, vocabulary or setting.
    """
    there = trained_config(path)
    if there is not None:
        _check_same(path, there, config, data)
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / VOCABULARY, vocabulary)
    write_atomically(path / CONFIG, config.to_json().encode())


def _check_same(path: Path, there: RunConfig, config: RunConfig, data: Path) -> None:
    """Raise `InputError` on the first difference that keeps a run from going on."""
    new = "start a new run with another --run"
    if there.training is None or (there.task is None) != (config.task is None):
        is_tuned = "tuned for a task" if there.task else "pretrained"
        kind = is_tuned if there.training else "imported"
        raise InputError(f"{path} has been {kind}; give it as --init, and {new}")
    if there.dataset.vocab_sha256 != config.dataset.vocab_sha256:
        raise InputError(
            f"{data} has another vocabulary ({_short(config.dataset.vocab_sha256)}) than {path} "
            f"was trained with ({_short(there.dataset.vocab_sha256)}); {new}"
        )
    may_change = {"steps"}
    parts = ["model", "dataset", "training", "task", "tuning"]
    if there.phase2_dataset:
        parts.append("phase2_dataset")
    else:
        may_change |= {"phase2_steps", "phase2_batch_size"}  # it may be given a second phase now
    for part in parts:
        before, now = (_fields(getattr(of, part)) for of in (there, config))
        for name, value in now.items():
            if before[name] != value and not (part == "training" and name in may_change):
                raise InputError(
                    f"{path} was started with {part} {name} {before[name]}, not {value}; "
                    f"give the same again, or {new}"
                )


def _fields(part: Any) -> dict[str, Any]:
    return vars(part) if part else {}


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
        lines = self._text().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        write_atomically(self.path, "".join(kept).encode())

    def lines(self) -> list[dict[str, Any]]:
        """Return what has been written; a line that was cut off is left out."""
        if not self.path.exists():
            return []
        lines = self._text().splitlines()
        return [from_json(line) for line in lines if math.isfinite(_step_of(line))]

    def _text(self) -> str:
        # A damaged line does not keep a run from being resumed.
        return self.path.read_text(encoding="utf-8", errors="replace")

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        if self.path.exists():
            sync(self.path)
            sync(self.path.parent)

    def add(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            JobError: the disk is full or failed; `InputError` if the path cannot be written.
        """
        with writing(str(self.path)), self.path.open("a", encoding="utf-8") as file:
            file.write(to_json({"step": step, "split": split, **values}) + "\n")


def _step_of(line: str) -> float:
    """Return a line's step; infinity for one that was cut off or is damaged."""
    try:
        return int(from_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
