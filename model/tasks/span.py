"""Span extraction: find the answer to a question in a passage, as in SQuAD."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from model import served
from model.tasks.best_spans import MAX_ANSWER_WORDS, best_spans
from model.tasks.encoded import NO_LABEL, SHORTEST_WINDOW, Encoded
from model.tasks.evaluation import Evaluation
from model.tasks.passage_answers import (
    answer_measures,
    answer_scores,
    best_of_texts,
    passage_answers,
)
from model.tasks.reference_model import PLACES, farther
from model.tasks.squad import Questions, read_squad
from model.tasks.tables import Columns
from model.tasks.task_kind import (
    TABLE_FIELDS,
    WORD_FIELDS,
    ForeignHead,
    HeadQuestion,
    Task,
    TaskKind,
    TaskSignature,
)
from model.tasks.windows import ReadTexts, window_count, window_step
from pipeline import schema
from pipeline.errors import InputError
from pipeline.schema import Arrays, Tensors
from pipeline.storage.strict_json import JsonObject

if TYPE_CHECKING:
    from model.explaining.example import Example
    from model.tasks.encoder import Encoder
    from model.tasks.reference_model import ReferenceModel
    from model.training.sums import Batch, Sums

MAX_QUESTION_PIECES = 64
"""Maximum number of pieces of a question, as in google-research/bert (run_squad.py)."""


class Span(TaskKind[Questions]):
    """The kind `span`."""

    name = "span"
    takes_pairs = True
    is_per_position = True
    has_soft_targets = True
    metrics = ("span_f1", "exact_match")
    signature = TaskSignature(
        "answer",
        reads="question",
        view="passage",
        playground=("Who left?", "The door stood open. Ada Lovelace left, and the others stayed."),
        n_best="answers",
    )
    foreign_head = ForeignHead("BertForQuestionAnswering", "qa_outputs", "cls/squad")
    # There are neither classes to confuse nor numbers to compare.
    has_picture = False
    uses_windows = True
    window_dtypes = MappingProxyType(
        {"no_answer": "float32", "scores": "float32", "first": "int32", "last": "int32"}
    )
    default_length = 384  # as in google-research/bert (run_squad.py)
    # A longest question, its special tokens, and room for a dozen pieces of the passage.
    least_length = MAX_QUESTION_PIECES + 16

    def num_outputs(self, task: Task) -> int:
        """Return 2: the scores of the answer's start and end."""
        del task
        return 2

    @property
    def refused_fields(self) -> list[tuple[str, tuple[str, ...]]]:
        """Fields for columns, which SQuAD's JSON does not have."""
        return [
            (f"the files of a {self.name} task are not tables", TABLE_FIELDS),
            (f"a {self.name} task has no tags of words", WORD_FIELDS),
        ]

    def read(self, path: Path, columns: Columns, *, takes_pairs: bool | None) -> Questions:
        """Read a file in SQuAD's JSON format."""
        del columns, takes_pairs
        return read_squad(path)

    # ---- labels

    def task_of(self, examples: Questions) -> Task:
        """Return the task; all tasks of this kind are equal."""
        del examples
        return Task(self.name, (), takes_pairs=True)

    def learnable(self, examples: Questions) -> Questions:
        """Return the questions that `is_learnable`."""
        are_learnable = [question.is_learnable for question in examples.questions]
        if not any(are_learnable):
            raise InputError(
                f"`train` {examples.path}: no answer is where the file says (question "
                f"{', '.join(examples.misplaced[:1])}); answer_start counts the characters of the "
                "context before the answer"
            )
        return examples.select(are_learnable)

    # ---- encoding

    def encode_unlabelled(self, encoder: "Encoder", examples: Questions, task: Task) -> Encoded:
        """Encode questions with unknown answers."""
        # Encoded as questions without an answer, whose labels are then dropped.
        return dataclasses.replace(self.encode(encoder, examples, task), labels=None)

    def encode(self, encoder: "Encoder", examples: Questions, task: Task) -> Encoded:
        """Encode each question with all windows of its passage; the windows overlap."""
        del task
        all_questions = examples.questions
        questions = encoder.pieces([each.question for each in all_questions])
        # A passage has several questions in SQuAD, and is tokenized once.
        passages = {each.passage: index for index, each in enumerate(all_questions)}
        split = {passage: encoder.passage(passage) for passage in passages}
        asked_pieces, windows_of_passages, all_words, labels = [], [], [], []
        first_lengths, sources = [], []
        in_parts = truncated = 0
        for index, each in enumerate(all_questions):
            pieces, words, word_bytes = split[each.passage]
            question = questions[index][: question_room(encoder.max_seq_length)]
            # As in google-research/bert, the end of a long question is cut, not its passage.
            truncated += len(questions[index]) > len(question)
            room = encoder.max_seq_length - len(question) - 3
            # [CLS], the question and [SEP] stand before the passage.
            offset = len(question) + 2
            answer = _answer_pieces(each.passage, each.answers, words, word_bytes)
            parts = windows(len(pieces), room, encoder.doc_stride)
            in_parts += len(parts) > 1
            for first, end in parts:
                asked_pieces.append(question)
                windows_of_passages.append(pieces[first:end])
                at = (np.full(offset, NO_LABEL), words[first:end], np.full(1, NO_LABEL))
                all_words.append(np.concatenate(at, dtype=np.int32))
                labels.append(_answer_positions(answer, first, end - first, offset))
                first_lengths.append(offset)
                sources.append(index)
        return Encoded(
            encoder.sequences(asked_pieces, windows_of_passages),
            np.array(first_lengths, np.int32),
            np.array(labels, np.int32).reshape(-1, 2),
            np.array(sources, np.int32),
            all_words,
            [split[each.passage][2] for each in all_questions],
            {
                "in parts": in_parts,
                "question truncated": truncated,
                "answer not in its passage": len(examples.misplaced),
            },
        )

    # ---- learning

    def sums(self, logits: Any, batch: "Batch", weights: Any, task: Task) -> "Sums":
        """Return the sums of the loss (mean of start and end) and of the accuracy (both right)."""
        import tensorflow as tf

        from model.training.losses import cross_entropy

        del task
        scores = _scores_by_side(logits, batch)
        labels = tf.unstack(batch["task_labels"], num=2, axis=1)
        losses = [cross_entropy(*pair, weights)[0] for pair in zip(scores, labels, strict=True)]
        right = [
            tf.argmax(score, axis=-1, output_type=label.dtype) == label
            for score, label in zip(scores, labels, strict=True)
        ]
        both = tf.cast(right[0] & right[1], tf.float32)
        return {
            # The mean of both, as in google-research/bert (run_squad.py).
            "task_loss": tf.add_n(losses) / 2.0,
            "task_accuracy": tf.reduce_sum(both * weights),
            "task_weight": tf.reduce_sum(weights),
        }

    def soft_loss(self, logits: Any, batch: "Batch", weights: Any, temperature: float) -> Any:
        """Return the divergence of the positions' probabilities, the mean of start and end."""
        from model.training.distillation import soft_cross_entropy

        sides = zip(
            _scores_by_side(logits, batch),
            _scores_by_side(batch["teacher_logits"], batch),
            strict=True,
        )
        return sum(soft_cross_entropy(*side, weights, temperature) for side in sides) / 2.0

    def taught_labels(self, logits: np.ndarray, label: Any) -> np.ndarray:
        """Return the teacher's start and end."""
        del label
        return logits.argmax(axis=0).astype(np.int32)

    # ---- answers

    def mean_loss(
        self, examples: Questions, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
    ) -> float:
        """Return the mean cross-entropy of starts and ends, over questions with known offsets."""
        del task
        from scipy.special import log_softmax

        sides = [
            [-log_softmax(score[:, side])[label[side]] for side in (0, 1)]
            for score, label, source in zip(logits, encoded.labels, encoded.sources, strict=True)
            # An answer that is not at its offset has labels (0, 0), which say that there is none.
            if examples.questions[source].is_learnable
        ]
        return float(np.mean(sides))

    def evaluate(
        self, examples: Questions, encoded: Encoded, logits: Sequence[np.ndarray], task: Task
    ) -> Evaluation:
        """Return the answer to each question, and SQuAD's metrics if answers are known."""
        del task
        answered = passage_answers(examples.questions, encoded, logits)
        answers: list[JsonObject] = [
            {
                "id": question.id,
                "question": question.question,
                **({} if question.expected is None else {"expected": list(question.expected)}),
                "answer": answer.text,
                "score": answer.score,
            }
            for question, answer in zip(examples.questions, answered, strict=True)
        ]
        if encoded.labels is None:
            return Evaluation({}, answers)
        expected = [question.expected or () for question in examples.questions]
        texts = [answer.text for answer in answered]
        # By F1 and not by loss: an answer in other words of the passage may be right.
        errors = [1.0 - answer_scores(*pair)[1] for pair in zip(texts, expected, strict=True)]
        return Evaluation(answer_measures(texts, expected), answers, errors)

    # ---- explanation

    def head_questions(self, task: Task, example: "Example") -> list[HeadQuestion]:
        """Return the questions for the start and the end of the answer."""
        del task
        return [
            HeadQuestion(
                end,
                f"At which word does the answer {end}?",
                "softmax(Z w + b), Z the vectors of all positions",
                "4.2",
                example.written,
                output=output,
            )
            for output, end in enumerate(("start", "end"))
        ]

    # ---- serving

    def window_outputs(self, task: Task, logits: Any, at: Any, most: Any) -> Tensors:
        """Return the best answers in windows and the score of "no answer": [K · S] and [K]."""
        import tensorflow as tf

        del task
        count = 1 if most is None else tf.reduce_max(most)
        # All questions of a batch get as many answers as the one that asks for most.
        scores, first, last = best_spans(logits, at, count)
        spans = {"scores": scores, "first": first, "last": last}
        return {
            # Start and end at [CLS] stand for "no answer" (Devlin et al. 2018, section 4.3).
            "no_answer": tf.reduce_sum(logits[:, 0], axis=-1),
            **{name: tf.reshape(values, [-1]) for name, values in spans.items()},
        }

    def served_answers(self, task: Task, logits: Any, read: ReadTexts | None = None) -> Tensors:
        """Return the answer to each question, or the best N ones if `read` says how many.

        Returns:
            answer: string [B]. Words of the passage; "" = no answer.
            score: float32 [B]. Score of the best answer minus the score of "no answer", which is
                the lowest of the windows; an answer is returned if it is above 0.
            start, end, …: int32 [B]. Place of the answer, see `ReadTexts.places`.
            answers, scores, starts, ends, …: for the best N: the same, [B, N], padded with "" and
                0. These include answers with a score of 0 or less.
        """
        import tensorflow as tf

        del task
        assert read is not None
        scores, first, last = best_of_texts(logits, read)  # [B, N]
        rows = tf.range(tf.size(read.texts, tf.int64))
        nothing = tf.math.unsorted_segment_min(
            logits["no_answer"], read.rows, tf.size(read.texts, tf.int64)
        )
        scores -= nothing[:, tf.newaxis]
        is_answer = first != NO_LABEL
        if read.most is None:
            is_answer &= scores > 0
        else:
            is_answer &= tf.range(tf.shape(scores)[1]) < read.most[:, tf.newaxis]
            scores = tf.where(is_answer, scores, 0.0)
        # A negative first word has the place 0 to 0, hence the answer "".
        first = tf.where(is_answer, first, NO_LABEL)
        rows = tf.broadcast_to(rows[:, tf.newaxis], tf.shape(first))
        places = read.places(rows, first, last)
        texts = tf.gather(read.texts, rows)
        answers = tf.strings.substr(
            texts, places[served.START], places[served.END] - places[served.START]
        )
        if read.most is None:
            found = {served.ANSWER: answers, served.SCORE: scores, **places}
            return {name: values[:, 0] for name, values in found.items()}
        plural = {_plural(name): values for name, values in places.items()}
        return {served.ANSWERS: answers, served.SCORES: scores, **plural}

    def golden_row(self, reference: "ReferenceModel", task: Task, texts: Sequence[str]) -> Arrays:
        """Return the data to check answers: every run of words, `spans`, and its score.

        `spans` are int [N, 2], byte offset of the words and byte offset after their end.
        """
        del task
        question, passage = texts
        words, starts, limits = reference.words(passage, "bert")
        pieces = reference.word_pieces(words)
        asked_pieces = reference.text_pieces(question)
        first_part = asked_pieces[: question_room(reference.max_seq_length)]
        room = reference.max_seq_length - 3 - len(first_part)
        ids = [piece for word in pieces for piece in word]
        of_piece = np.repeat(np.arange(len(pieces)), [len(word) for word in pieces])
        by_words: dict[tuple[int, int], float] = {}
        nothing = np.inf
        begins = [0]
        while begins[-1] + room < len(ids) and len(begins) < reference.max_windows:
            # Written out once more, and not shared with the graph: the gate compares the two.
            begins.append(begins[-1] + min(reference.doc_stride, room))
        inputs = [[first_part, ids[begin : begin + room]] for begin in begins]
        for begin, logits in zip(begins, reference.logits(inputs), strict=True):
            nothing = min(nothing, float(logits[0].sum()))
            # The logits of the passage alone, without [CLS], question, [SEP] and the last [SEP].
            _add_spans(by_words, logits[len(first_part) + 2 : -1], of_piece[begin : begin + room])
        return {
            "passage": np.array(passage.encode(), object),
            "spans": np.array([(starts[first], limits[last]) for first, last in by_words], int),
            "span_scores": np.array([score - nothing for score in by_words.values()]),
            served.TRUNCATED: np.array(
                begins[-1] + room < len(ids) or len(first_part) < len(asked_pieces)
            ),
        }

    def expected_answer(
        self, task: Task, row: Mapping[str, np.ndarray], answer: Mapping[str, np.ndarray]
    ) -> Arrays:
        """Return the expected scores of the answered words, and the expected best scores.

        The best answers of the Python model may differ if two scores are almost equal.
        """
        del task
        if served.ANSWERS in answer:
            return _expected_answers(row, answer)
        score, of_spans = answer[served.SCORE], _scores_of_spans(row)
        if not of_spans:  # nothing to answer with
            nothing = np.array(b"", object)
            return {served.SCORE: score, served.ANSWER: nothing, **_expected_places(b"", 0, 0)}
        best = max(of_spans.values())
        words = int(answer[served.START]), int(answer[served.END])
        # Without an answer, only the score is compared; a span that the passage lacks is infinitely
        # wrong.
        of_chosen = best if score <= 0 else of_spans.get(words, np.inf)
        first, last = words if score > 0 else (0, 0)
        passage = row["passage"].item()
        return {
            served.SCORE: farther(best, of_chosen, score),
            served.ANSWER: np.array(passage[first:last], object),
            **_expected_places(passage, first, last),
        }


def _plural(name: str) -> str:
    """Return the name of the starts or ends of several answers, in the same unit."""
    return name.replace(served.START, served.STARTS).replace(served.END, served.ENDS)


def _add_spans(
    by_words: dict[tuple[int, int], float], logits: np.ndarray, of_piece: np.ndarray
) -> None:
    """Add the scores of all runs of words of a window, for the reference answers of the gate.

    Args:
        by_words: highest score by first and last word.
        logits: float32 [pieces, 2]. Scores of starts and ends.
        of_piece: int [pieces]. Word of each piece.
    """
    for start, first in enumerate(of_piece.tolist()):
        for end, last in enumerate(of_piece[start:].tolist(), start):
            if last - first >= MAX_ANSWER_WORDS:
                break
            score = float(logits[start, 0] + logits[end, 1])
            by_words[first, last] = max(by_words.get((first, last), -np.inf), score)


def _expected_answers(row: Mapping[str, np.ndarray], answer: Mapping[str, np.ndarray]) -> Arrays:
    """Return the expected n best answers, see `Span.expected_answer`."""
    of_spans = _scores_of_spans(row)
    count = min(len(answer[served.ANSWERS]), len(of_spans))
    best = np.array(sorted(of_spans.values(), reverse=True)[:count])
    ends_of_words = (answer[name].tolist() for name in (served.STARTS, served.ENDS))
    words = list(zip(*ends_of_words, strict=True))[:count]
    of_chosen = np.array([of_spans.get(each, np.inf) for each in words])
    if len(set(words)) < count:
        of_chosen = np.full(count, np.inf)  # a span was given twice
    passage = row["passage"].item()
    places = [_expected_places(passage, *each) for each in words]
    found = {
        served.ANSWERS: np.array([passage[first:last] for first, last in words], object),
        served.SCORES: farther(best, of_chosen, answer[served.SCORES][:count]),
    }
    for name in _expected_places(b"", 0, 0):
        found[_plural(name)] = np.array([each[name] for each in places], np.int32)
    return found


def _scores_of_spans(row: Mapping[str, np.ndarray]) -> dict[tuple[int, int], float]:
    """Return the reference scores of `Span.golden_row` by first byte and byte after the last."""
    spans = (tuple(span) for span in row["spans"].tolist())
    return dict(zip(spans, row["span_scores"].tolist(), strict=True))


def _expected_places(passage: bytes, first: int, last: int) -> Arrays:
    """Return the place of bytes in all units, computed by Python's codecs: int32 []."""
    return {
        side + unit: np.array(count(passage[:offset]), np.int32)
        for side, offset in ((served.START, first), (served.END, last))
        for unit, count in PLACES.items()
    }


SPAN = Span()


# ---- encoding


def question_room(max_seq_length: int) -> int:
    """Return the maximum number of pieces of a question; it leaves room for a passage piece."""
    # The shortest window has a piece for the question already.
    return min(MAX_QUESTION_PIECES, max(max_seq_length - SHORTEST_WINDOW + 1, 0))


def windows(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Return (start, end) of the overlapping windows that cover a passage.

    Args:
        length: number of pieces in the passage.
        room: maximum number of pieces in a window.
        stride: pieces between the starts of two windows, at most `room` (larger values are reduced,
            since windows would not cover the passage).

    Raises:
        ValueError: `room` or `stride` is below 1, so no window would follow the first one.
    """
    if room < 1 or stride < 1:
        raise ValueError(f"room and stride must be at least 1, received {room} and {stride}")
    step = int(window_step(room, stride))
    starts = range(0, int(window_count(length, room, step)) * step, step)
    return [(start, min(start + room, length)) for start in starts]


def _answer_pieces(
    passage: str,
    answers: Sequence[tuple[str, int]],
    words: np.ndarray,
    word_bytes: np.ndarray,
) -> tuple[int, int] | None:
    """Return the first and last piece of the first answer's words; None without an answer.

    google-research/bert also trains on the first answer only. Offsets are compared in bytes because
    the tokenizer returns byte offsets.
    """
    if not answers or not len(words):
        return None
    text, first = answers[0]
    first_byte = len(passage[:first].encode())
    end_byte = first_byte + len(text.encode())
    # Words that overlap the answer: annotators also marked parts of words.
    inside = np.flatnonzero((word_bytes[:, 1] > first_byte) & (word_bytes[:, 0] < end_byte))
    if not len(inside):
        return None
    pieces = np.flatnonzero((words >= inside[0]) & (words <= inside[-1]))
    return int(pieces[0]), int(pieces[-1])


def _answer_positions(
    answer: tuple[int, int] | None, first: int, length: int, offset: int
) -> tuple[int, int]:
    """Return the first and last position of an answer in a window; (0, 0) if it is not inside.

    Args:
        answer: first and last piece of the answer, counted in the passage.
        first: index of the window's first piece in the passage.
        length: number of pieces in the window.
        offset: position of the window's first piece in the model's input.
    """
    # As in google-research/bert: a window with a part of the answer is trained as without one.
    if answer is None or answer[0] < first or answer[1] >= first + length:
        return 0, 0
    return answer[0] - first + offset, answer[1] - first + offset


# ---- learning


def _scores_by_side(logits: Any, batch: "Batch") -> list[Any]:
    """Return the scores of starts and of ends, float32 [B, L] each.

    Padding gets a large negative score, so that softmax gives it no probability.
    """
    import tensorflow as tf

    from model.bert.kernels import HIDDEN

    hidden = (1.0 - tf.cast(batch[schema.INPUT_MASK], tf.float32)) * HIDDEN
    return [logits[:, :, side] + hidden for side in (0, 1)]
