"""Initial weights of a training: a run, or a checkpoint of another library."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from model.bert.config import MAX_SETTINGS_BYTES, BertConfig
from model.bert.network import LAYER, TASK_HEAD, weights_by_name
from model.existing import check_source_exists
from model.run import load_run
from model.run_config import CONFIG, FORMAT
from model.tasks.task_kind import Task
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY
from pipeline.storage.cache import CacheConfig
from pipeline.storage.files import read_bounded
from pipeline.text.tokenizer import Vocabulary


@dataclass(frozen=True)
class Source:
    """A trained model that provides initial weights.

    Attributes:
        path: the run or checkpoint.
        config: config of the model.
        vocabulary: contents of `vocab.txt`.
        lower_case: whether texts are lower-cased and stripped of accents.
        task: task of a fine-tuned model; None = pretrained.
        weights: arrays or variables by name, see `model.bert.network.weights_by_name`.
    """

    path: Path
    config: BertConfig
    vocabulary: bytes
    lower_case: bool
    task: Task | None
    weights: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights and their names, hexadecimal."""
        digest = hashlib.sha256()
        # Sorted: formats list weights in different orders.
        for name in sorted(self.weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.weights[name]).tobytes())
        return digest.hexdigest()

    def has_vocabulary(self, other: Vocabulary) -> bool:
        """Return whether the model has the same pieces as a vocabulary."""
        return Vocabulary.parse(self.vocabulary, Path(VOCABULARY)).pieces == other.pieces

    def with_layers(self, layers: Sequence[int]) -> "Source":
        """Return the model with some of its Transformer layers, as the start of a smaller student.

        Args:
            layers: indices of the layers, from 0, in ascending order.

        Raises:
            InputError: the model has no such layer.
        """
        count = self.config.num_hidden_layers
        missing = [layer for layer in layers if layer >= count]
        if missing:
            raise InputError(
                f"`layers_to_keep` {' '.join(map(str, layers))}: {self.path} has the layers 0 to "
                f"{count - 1}"
            )
        new = {f"{LAYER}{old}": f"{LAYER}{index}" for index, old in enumerate(layers)}
        weights = {}
        for path, values in self.weights.items():
            layer, _, rest = path.partition("/")
            if not layer.startswith(LAYER):
                weights[path] = values
            elif layer in new:
                weights[f"{new[layer]}/{rest}"] = values
        # As DistilBERT starts (Sanh et al. 2019, https://arxiv.org/abs/1910.01108, section 3).
        config = replace(self.config, num_hidden_layers=len(layers))
        return replace(self, config=config, weights=weights)

    def fill(self, weights: Mapping[str, Any], task: Task | None) -> list[str]:
        """Assign the weights to a model's variables; return the names of the other variables.

        The weights of a task head are only used for the same task.

        Args:
            weights: variables of the model by name.
            task: task of the model; None = pretraining.
        """
        missing = []
        for path, variable in weights.items():
            is_head = path.startswith(f"{TASK_HEAD}/")
            # Rows of a head stand for classes by index: those of another task mean something else.
            if path in self.weights and (self.task == task or not is_head):
                variable.assign(self.weights[path])
            else:
                missing.append(path)
        return missing


def open_source(path: Path, caching: CacheConfig | None = None, field: str = "init") -> Source:
    """Read a run or checkpoint.

    Args:
        path: the run or checkpoint.
        caching: local copies of remote files; None = in the default folder.
        field: name of the field of a config that names it, for messages.

    Raises:
        InputError: it does not exist, or cannot be used.
    """
    check_source_exists(path, field)
    if _is_run(path):
        run = load_run(path, caching)
        vocabulary = (path / VOCABULARY).read_bytes()
        weights = weights_by_name(run.load_model("auto"))
        return Source(path, run.config, vocabulary, run.dataset.lower_case, run.task, weights)
    # Imported here: the readers need h5py, safetensors and protobuf, which a run does not.
    from model.interchange import read_checkpoint

    read = read_checkpoint(path, caching)
    return Source(path, read.config, read.vocabulary, read.lower_case, read.task, read.weights)


def _is_run(path: Path) -> bool:
    config = path / CONFIG
    # `is_file` is False for a FIFO, which would block; `read_bounded` refuses large files.
    return config.is_file() and FORMAT.encode() in read_bounded(config, MAX_SETTINGS_BYTES)
