"""A run directory that describes itself: its config, vocabulary, checkpoints and measurements.

- `config.json`: model, training and dataset facts
- `vocab.txt`: the dataset's vocabulary
- `checkpoints/`: the last few, each whole
- `metrics.jsonl`: one line a measurement
- `logs/`: the same for TensorBoard
- `curves.png`: the same as a picture
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from model.bert.config import BertConfig
from model.bert.network import build_model, weights_by_name
from model.run_config import (
    CHECKPOINTS,
    CONFIG,
    Checkpoint,
    RunConfig,
    TextFacts,
    read_config,
    short_sha,
)
from model.tasks.kinds import Head, Task
from model.training.checkpoints import Checkpoints
from model.training.config import DOC_STRIDE, TrainingConfig
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY
from pipeline.storage.files import publish, writing
from pipeline.storage.locks import staging
from pipeline.text.tokenizer import Vocabulary


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

    def load_model(self, checkpoint: Checkpoint = "last") -> keras.Model:
        """Return the pretraining model, or the tuned one, with a checkpoint's weights.

        Args:
            checkpoint: the last one that can be read, the one that was evaluated best, or either.

        Raises:
            InputError: there is no such checkpoint, or none can be read.
        """
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
            f"({short_sha(vocabulary.sha256)}, not {short_sha(config.dataset.vocab_sha256)}); "
            "copy the dataset's there again"
        )
    return Run(path, config, vocabulary)


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
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: already exists; choose another --run, or remove it")
    with writing(f"--run {path}"), staging(path.parent, f".{path.name}-") as made:
        (made / VOCABULARY).write_bytes(vocabulary)
        (made / CONFIG).write_text(config.to_json(), encoding="utf-8")
        checkpoints = Checkpoints(made / CHECKPOINTS)
        checkpoints.save(0, {"model": weights})
        checkpoints.wait()
        publish(made, path)
