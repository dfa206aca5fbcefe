"""The text graph of an exported model tokenizes like the training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model.tasks.batches import Batches
from model.tasks.encoded import Encoded
from model.tasks.encoder import Encoder
from model.tasks.squad import Question, Questions
from model.tasks.tagging import TAGGING, TaggedSentences
from model.tasks.task_kind import Task
from model.tasks.texts import Texts
from pipeline.text.tokenizer import Vocabulary
from serving.export.text_graph import TextEncoder, Windows

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##x", ".", "["]
TEXTS = ["a b", "", "a ax b c. a b c [MASK] a", "unknown words. é", "c", "a a a a b b b b c c"]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("length", [6, 7, 9, 30])
def test_the_same_pieces_as_in_training(count: int, length: int) -> None:
    vocabulary = Vocabulary.parse("\n".join(PIECES).encode(), Path("vocab.txt"))
    columns = [TEXTS, TEXTS[::-1]][:count]
    task = Task("regression", (), takes_pairs=count == 2)
    rows = list(zip(*columns, strict=True))
    examples = Texts(Path("file"), rows, [], [], [])
    encoder = Encoder(vocabulary, lower_case=True, max_seq_length=length)
    trained = Batches(task.definition.encode(encoder, examples, task), task, len(rows), 0, length)
    served = TextEncoder(vocabulary, lower_case=True, max_seq_length=length, reads_masks=False)
    encoding = served.encode(*columns) if count == 1 else served.encode_pairs(*columns)
    features = {name: values.numpy() for name, values in encoding.features.items()}
    positions = features["input_ids"].shape[1]
    expected = trained.arrays(np.arange(len(rows)), positions)
    for name, values in features.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    assert encoding.truncated.numpy().sum() == trained.encoded.counts["truncated"]


# U+0000 ends a text for TF Text's splitting operation; 2CEB0 is an ideograph that google's BERT
# does not split at; the accents of the last ones stand alone, or on punctuation.
UNUSUAL = [
    "", " \x00\u200b ", "a \x00 b c.", "\ufeffa\x00x b\u200b c", "a\U0002ceb0b 中c", "a≠b",
    ".\u0301 \u0301 é b", "a.b. U.N. (c)", "\x0ca\u2028b\x85c",
]  # fmt: skip


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("length", [7, 30])
def test_the_same_words_as_in_training(lower_case: bool, length: int) -> None:
    vocabulary = Vocabulary.parse("\n".join(PIECES).encode(), Path("vocab.txt"))
    how = {"lower_case": lower_case, "max_seq_length": length}
    served = TextEncoder(vocabulary, **how, reads_masks=False)
    windows = served.question_windows(["b c"] * len(UNUSUAL), UNUSUAL, 2, 3)
    asked = [Question("id", "b c", passage, ()) for passage in UNUSUAL]
    task = Task("span", (), takes_pairs=True)
    trained = Encoder(vocabulary, **how, doc_stride=2)
    encoded = task.definition.encode(trained, Questions(Path("file"), asked), task)
    assert_same_windows(windows, encoded, encoded.words, 3)
    for row, known in enumerate(encoded.word_bytes):
        words = windows.read.words
        np.testing.assert_array_equal(np.stack([words.starts[row], words.limits[row]], -1), known)


def assert_same_windows(
    windows: Windows, encoded: Encoded, words: Sequence[np.ndarray], most: int
) -> None:
    """Compare served windows with those of training, of which a text may have more."""
    counts = np.bincount(encoded.sources)
    numbers = np.concatenate([np.arange(count) for count in counts])
    rows = np.flatnonzero(numbers < most)
    features, at = windows.layout(slice(None))
    lengths = features["input_mask"].numpy().sum(axis=1)
    assert windows.read.rows.numpy().tolist() == encoded.sources[rows].tolist()
    for window, row in enumerate(rows):
        ids = features["input_ids"][window, : lengths[window]]
        np.testing.assert_array_equal(ids, encoded.input_ids[row])
        np.testing.assert_array_equal(at[window, : lengths[window]], words[row])
    np.testing.assert_array_equal(windows.truncated, counts > most)


@pytest.mark.parametrize("length", [5, 7, 12, 30])
def test_the_same_windows_of_words_as_in_training(length: int) -> None:
    vocabulary = Vocabulary.parse("\n".join(PIECES).encode(), Path("vocab.txt"))
    how = {"lower_case": True, "max_seq_length": length}
    sentences = [["a"], ["axxx", "b"] * 7, ["c", "axxxx", "\u200b."] * 5, ["b"] * length]
    texts = [" ".join(words) for words in sentences]
    windows = TextEncoder(vocabulary, **how, reads_masks=False).word_windows(texts, 100)
    tags = [[""] * len(words) for words in sentences]
    examples = TaggedSentences(Path("file"), sentences, tags, [1] * len(sentences))
    task = Task("tagging", ("B", "O"), takes_pairs=False)
    encoded = TAGGING.encode_unlabelled(Encoder(vocabulary, **how), examples, task)
    features, at = windows.layout(slice(None))
    for window, labels in enumerate(encoded.labels):
        ids = features["input_ids"][window, : len(labels)]
        np.testing.assert_array_equal(ids, encoded.input_ids[window])
        np.testing.assert_array_equal(at[window, : len(labels)] != -1, labels != -1)
    assert windows.read.counts.numpy().tolist() == [len(words) for words in sentences]
    assert not windows.truncated.numpy().any()


def test_tagged_words_are_those_between_white_space() -> None:
    """As in a training file: a word with punctuation, or without a character that is read."""
    vocabulary = Vocabulary.parse("\n".join(PIECES).encode(), Path("vocab.txt"))
    sentence = ["a.b.", "U.N.", "'s", "(", "c", ")", "ax\u00adx", "a.", "“a”", "中c"]
    task = Task("tagging", ("B", "O"), takes_pairs=False)
    examples = TaggedSentences(Path("file"), [sentence], [["O"] * len(sentence)], [1])
    encoder = Encoder(vocabulary, lower_case=True, max_seq_length=64)
    trained = task.definition.encode(encoder, examples, task)
    served = TextEncoder(vocabulary, lower_case=True, max_seq_length=64, reads_masks=False)
    windows = served.word_windows([" \x00 ".join(sentence)], 1)
    assert [word.decode() for word in windows.read.words.words[0].numpy()] == sentence
    features, at = windows.layout(slice(None))
    np.testing.assert_array_equal(features["input_ids"][0], trained.input_ids[0])
    np.testing.assert_array_equal(at[0] != -1, trained.labels[0] != -1)
