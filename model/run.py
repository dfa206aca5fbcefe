"""Run directories: config, vocabulary, checkpoints and metrics.

- `config.json`: configs of the model, the training and the dataset
- `vocab.txt`: the dataset's vocabulary
- `checkpoints/`: the latest complete checkpoints
- `metrics.jsonl`: metrics, one line per measurement
- `logs/`: the metrics for TensorBoard
- `curves.png`: plot of the metrics
"""

from dataclasses import dataclass, field
from pathlib import Path

import keras

from model.bert.config import BertConfig
from model.bert.network import Variables, build_model, weights_by_name
from model.run_config import (
    CHECKPOINTS,
    CONFIG,
    Checkpoint,
    RunConfig,
    TextFacts,
    existing_config,
    short_sha,
)
from model.tasks.encoder import Encoder
from model.tasks.kinds import Head
from model.tasks.task_kind import Task
from model.training.checkpoints import Checkpoints
from model.training.config import DOC_STRIDE, Long, TrainingConfig
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY
from pipeline.storage.cache import CacheConfig
from pipeline.storage.files import hidden_prefix, publish, writing
from pipeline.storage.locks import staging
from pipeline.storage.outputs import Output, check_outputs
from pipeline.text.tokenizer import Vocabulary


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        path: directory of the run.
        saved: contents of `config.json`.
        vocabulary: vocabulary of the run.
        caching: local copies of the files of a remote run.
    """

    path: Path
    saved: RunConfig
    vocabulary: Vocabulary
    caching: CacheConfig = field(default_factory=CacheConfig)

    @property
    def config(self) -> BertConfig:
        """Config of the model."""
        return self.saved.model

    @property
    def training(self) -> TrainingConfig | None:
        """Hyperparameters of the training; None for an imported model."""
        return self.saved.training

    @property
    def dataset(self) -> TextFacts:
        """Dataset facts of the last phase, which has the longest records."""
        return self.saved.phase2_dataset or self.saved.dataset

    @property
    def heads(self) -> tuple[Head, ...]:
        """Pretraining heads that were trained."""
        return self.saved.heads

    @property
    def task(self) -> Task | None:
        """Task that the model was fine-tuned for; None for a pretrained model."""
        return self.saved.task

    @property
    def doc_stride(self) -> int:
        """Pieces between the starts of two windows of a long passage, at least 1.

        Imported models have no such setting, and get the default.
        """
        # 0 stands in configs of kinds without windows.
        return (self.saved.tuning and self.saved.tuning.doc_stride) or DOC_STRIDE

    @property
    def long(self) -> Long:
        """Parts read of a text that is too long; imported models read the beginning."""
        return self.saved.tuning.long if self.saved.tuning else "first"

    @property
    def encoder(self) -> Encoder:
        """The encoder of a fine-tuned model's examples."""
        return Encoder(
            self.vocabulary,
            lower_case=self.dataset.lower_case,
            max_seq_length=self.dataset.max_seq_length,
            doc_stride=self.doc_stride,
            long=self.long,
        )

    def load_model(self, checkpoint: Checkpoint = "last") -> keras.Model:
        """Return the pretraining or fine-tuned model, with the weights of a checkpoint.

        Args:
            checkpoint: last: the last readable checkpoint; best: the best one by evaluation; auto:
                best if there is one, else last.

        Raises:
            InputError: there is no such checkpoint, or none can be read.
        """
        model = build_model(self.config, self.task)
        checkpoints = Checkpoints(self.path / CHECKPOINTS, writes=False, caching=self.caching)
        state = {"model": weights_by_name(model)}
        # `marked` and not `best`: a best checkpoint that cannot be read must be an error, not the
        # last one.
        if checkpoint == "best" or (checkpoint == "auto" and checkpoints.marked):
            checkpoints.restore_best(state)
        elif checkpoints.restore(state) is None:
            raise InputError(f"{self.path}: no checkpoint yet; run its training command again")
        return model


def load_run(path: Path, caching: CacheConfig | None = None) -> Run:
    """Read a run's config and vocabulary; `load_model` reads the weights.

    Args:
        path: directory of the run.
        caching: local copies of the files of a remote run; None = in the default folder.

    Raises:
        InputError: the directory is not a run, or its files are inconsistent.
    """
    config = existing_config(path)
    vocabulary = Vocabulary.read(path / VOCABULARY)
    if vocabulary.sha256 != config.dataset.vocab_sha256:
        raise InputError(
            f"{path / VOCABULARY}: not the vocabulary that {path / CONFIG} names "
            f"({short_sha(vocabulary.sha256)}, not {short_sha(config.dataset.vocab_sha256)}); "
            "copy the dataset's there again"
        )
    return Run(path, config, vocabulary, caching or CacheConfig())


def write_run(path: Path, config: RunConfig, vocabulary: bytes, weights: Variables) -> None:
    """Create a run from imported weights, with a checkpoint at step 0.

    The final rename fails if another process has created the directory.

    Args:
        path: directory of the run; it is created atomically.
        config: contents of `config.json`.
        vocabulary: contents of `vocab.txt`.
        weights: variables by name, see `model.bert.network.weights_by_name`.

    Raises:
        InputError: the path already exists, or cannot be written.
        JobError: the disk is full or failed.
    """
    check_outputs([Output("run_dir", path, "new folder")])
    with writing(f"`run_dir` {path}"), staging(path.parent, hidden_prefix(path)) as staged:
        (staged / VOCABULARY).write_bytes(vocabulary)
        (staged / CONFIG).write_text(config.to_json(), encoding="utf-8")
        checkpoints = Checkpoints(staged / CHECKPOINTS)
        # Step 0 and no optimizer: the run has weights, and no training to resume.
        checkpoints.save(0, {"model": weights})
        checkpoints.wait()
        publish(staged, path, CONFIG)
