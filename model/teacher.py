"""A teacher's answers to the examples of a fine-tuning, computed once and cached."""

import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.bert.network import build_task_model, weights_by_name
from model.source import Source, open_source
from model.tasks.batches import Batches
from model.tasks.encoded import NO_LABEL, Encoded
from model.tasks.encoder import Encoder
from model.tasks.labels import matching_names
from model.tasks.predict import predict
from model.tasks.task_kind import Task
from model.tasks.texts import of_texts
from model.training.predictor import Predictor
from pipeline.errors import InputError
from pipeline.schema import Arrays
from pipeline.storage.cache import CacheConfig
from pipeline.storage.files import write_atomically, writing
from pipeline.text.tokenizer import Vocabulary

CACHE = "teacher.npz"
"""File in the directory of a fine-tuning with a teacher's answers."""

logger = logging.getLogger(__name__)

EncodeExamples = Callable[[Encoder], Encoded]
"""Encodes the same examples for another vocabulary."""


@dataclass(frozen=True)
class Teacher:
    """A fine-tuned model that a student learns from.

    Attributes:
        source: the model.
        task: task of the student.
        columns: outputs of the teacher's head, in the order of the student's.
        encoder: encoder of the student's examples.
        strategy: distribution strategy of the student.
    """

    source: Source
    task: Task
    columns: tuple[int, ...]
    encoder: Encoder
    strategy: tf.distribute.Strategy

    @property
    def own_task(self) -> Task:
        """Task of the teacher."""
        assert self.source.task is not None
        return self.source.task

    @property
    def reads_the_same_pieces(self) -> bool:
        """Whether the teacher can read the student's encoded examples."""
        return (
            self.source.has_vocabulary(self.encoder.vocabulary)
            and self.source.lower_case == self.encoder.lower_case
            and self.source.config.max_position_embeddings >= self.encoder.max_seq_length
        )

    def with_answers(
        self,
        encoded: Encoded,
        encode: EncodeExamples,
        batch_size: int,
        cache: Path,
        *,
        writes: bool,
    ) -> Encoded:
        """Return the examples with the teacher's answers, from the cache if it has them.

        Args:
            encoded: the student's examples.
            encode: encodes the same examples with another encoder.
            batch_size: global batch size.
            cache: file with the answers.
            writes: whether to write the file.

        Raises:
            InputError: the file cannot be written.
            JobError: the disk is full or failed.
        """
        # A student is tuned several times (seeds, rates), and a large teacher is slow.
        key = self._key(encoded)
        logits = read_cache(cache, key)
        if logits is None:
            logger.info(f"{self.source.path}: answers {len(encoded):,} training examples")
            logits = self._logits(encoded, encode, batch_size)
            if writes:
                with writing(f"`run_dir` {cache.parent}"):
                    write_atomically(cache, cache_bytes(logits, key))
        return replace(encoded, teacher_logits=logits)

    def _key(self, encoded: Encoded) -> str:
        """Return a hash of everything that the answers depend on."""
        digest = hashlib.sha256(f"{self.source.sha256} {self.columns}".encode())
        for row in encoded.input_ids:
            # With the length, so that pieces of two rows cannot be exchanged without notice.
            digest.update(f"{len(row)} ".encode() + row.tobytes())
        digest.update(encoded.first_lengths.tobytes())
        return digest.hexdigest()

    def _logits(
        self, encoded: Encoded, encode: EncodeExamples, batch_size: int
    ) -> list[np.ndarray]:
        if self.reads_the_same_pieces:
            return self._predicted(encoded, self.encoder, batch_size)
        source = self.source
        encoder = Encoder(
            Vocabulary.parse(source.vocabulary, source.path),
            lower_case=source.lower_case,
            max_seq_length=min(source.config.max_position_embeddings, self.encoder.max_seq_length),
            doc_stride=self.encoder.doc_stride,
            long=self.encoder.long,
        )
        own = encode(encoder)
        logits = self._predicted(own, encoder, batch_size)
        if not self.task.is_per_position:
            averaged, _ = of_texts(own, logits)  # a text may have other windows
            # All windows of a text learn the teacher's answer to the whole text.
            return [averaged[source] for source in _numbered(encoded.sources)]
        return by_word(logits, own, encoded)

    def _predicted(self, encoded: Encoded, encoder: Encoder, batch_size: int) -> list[np.ndarray]:
        with self.strategy.scope():
            model = build_task_model(self.source.config, self.own_task)
        self.source.fill(weights_by_name(model), self.own_task)
        batches = Batches(
            encoded,
            self.own_task,
            batch_size,
            encoder.vocabulary.pad_id,
            encoder.max_seq_length,
            isinstance(self.strategy, tf.distribute.TPUStrategy),
        )
        predictor = Predictor(model, self.strategy, xla=False, name=self.source.path)
        logits = predict(predictor, batches)
        return [row[..., list(self.columns)] for row in logits]


def open_teacher(
    path: Path,
    task: Task,
    encoder: Encoder,
    strategy: tf.distribute.Strategy,
    caching: CacheConfig,
) -> Teacher:
    """Open a teacher for a student's task.

    Args:
        path: run or checkpoint.
        task: task of the student.
        encoder: encoder of the student's examples.
        strategy: distribution strategy of the student.
        caching: local copies of remote files.

    Raises:
        InputError: it cannot be read, has another task, or its positions are those of another
            vocabulary.
    """
    source = open_source(path, caching, "teacher")
    own = source.task
    if own is None:
        raise InputError(f"`teacher` {path}: not tuned for a task; clozeline finetune does that")
    if (own.kind, own.takes_pairs) != (task.kind, task.takes_pairs):
        raise InputError(
            f"`teacher` {path}: tuned for a {own.kind} task{' of pairs' * own.takes_pairs}, "
            f"and this is a {task.kind} task{' of pairs' * task.takes_pairs}"
        )
    # Classes by name, not by index: two files may have them in another order.
    known = matching_names({*task.labels}, own)
    missing = sorted({*task.labels} - known.keys())
    if missing:
        raise InputError(
            f"`teacher` {path}: has no class {missing[0]!r}, which the training file has; its "
            f"classes are {', '.join(own.labels[:10])}"
        )
    columns = tuple(own.labels.index(known[label]) for label in task.labels)
    teacher = Teacher(source, task, columns or tuple(range(task.num_outputs)), encoder, strategy)
    if task.is_per_position and not task.has_classes and not teacher.reads_the_same_pieces:
        raise InputError(
            f"`teacher` {path}: reads other pieces than the student (another vocabulary, or fewer "
            f"positions than {encoder.max_seq_length}), and a {task.kind} task learns from scores "
            "of pieces; tune both from checkpoints with the same vocabulary"
        )
    return teacher


def _numbered(sources: np.ndarray) -> np.ndarray:
    """Return the sources numbered from 0 without gaps."""
    return np.unique(sources, return_inverse=True)[1]


def by_word(logits: Sequence[np.ndarray], own: Encoded, encoded: Encoded) -> list[np.ndarray]:
    """Return a teacher's logits at the student's positions, for words that both label.

    Each word is labelled once, in the order of the text, whatever pieces it has.

    Args:
        logits: float32 [L, C] each. The teacher's.
        own: the teacher's examples.
        encoded: the student's examples.

    Returns:
        float32 [L, C] each, 0 at positions without a label.
    """
    of_words = np.concatenate(
        [row[label != NO_LABEL] for row, label in zip(logits, own.labels, strict=True)]
    )
    found, done = [], 0
    for label in encoded.labels:
        at = np.flatnonzero(label != NO_LABEL)
        row = np.zeros((len(label), of_words.shape[1]), np.float32)
        row[at] = of_words[done : done + len(at)]
        done += len(at)
        found.append(row)
    return found


def cache_bytes(logits: Sequence[np.ndarray], key: str) -> bytes:
    """Return the contents of the cache file."""
    # In memory first, so that the file is written at once or not at all.
    data = io.BytesIO()
    lengths = np.array([len(row) for row in logits])
    np.savez(data, key=np.array(key), lengths=lengths, logits=np.concatenate(logits))
    return data.getvalue()


def read_cache(path: Path, key: str) -> list[np.ndarray] | None:
    """Return the logits in the cache file; None if it has others, or is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays: Arrays = {name: archive[name] for name in archive.files}
        if str(arrays["key"]) != key:
            return None
        return np.split(arrays["logits"], np.cumsum(arrays["lengths"])[:-1])
    except (OSError, ValueError, LookupError, EOFError):
        return None
