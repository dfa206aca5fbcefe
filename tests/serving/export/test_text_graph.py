"""The text graph of an exported model tokenizes like the training."""

from pathlib import Path

import numpy as np
import pytest

from model.tasks.batches import Batches
from model.tasks.encoding import Encoder
from model.tasks.span import Question, Questions
from model.tasks.tagging import TaggedSentences
from model.tasks.task_kind import Task
from model.tasks.texts import Texts
from pipeline.text.tokenizer import Vocabulary
from serving.export.text_graph import TextEncoder

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
    encoding, words = served.encode_question(["b c"] * len(UNUSUAL), UNUSUAL)
    asked = [Question("id", "b c", passage, ()) for passage in UNUSUAL]
    task = Task("span", (), takes_pairs=True)
    encoded = task.definition.encode(
        Encoder(vocabulary, **how), Questions(Path("file"), asked), task
    )
    for row in range(len(UNUSUAL)):
        first_window = encoded.sources.tolist().index(row)
        count = int(encoding.features["input_mask"][row].numpy().sum())
        ids, at = encoding.features["input_ids"][row, :count], words.at[row, :count]
        np.testing.assert_array_equal(ids, encoded.input_ids[first_window])
        np.testing.assert_array_equal(at, encoded.words[first_window])
        places = np.stack([words.starts[row], words.limits[row]], axis=-1)
        known = encoded.word_bytes[row]
        np.testing.assert_array_equal(places[: len(known)], known)
        assert not places[len(known) :].any()
        assert bool(encoding.truncated[row]) == (encoded.sources.tolist().count(row) > 1)


def test_tagged_words_are_those_between_white_space() -> None:
    """As in a training file: a word with punctuation, or without a character that is read."""
    vocabulary = Vocabulary.parse("\n".join(PIECES).encode(), Path("vocab.txt"))
    sentence = ["a.b.", "U.N.", "'s", "(", "c", ")", "ax\u00adx", "a.", "“a”", "中c"]
    task = Task("tagging", ("B", "O"), takes_pairs=False)
    examples = TaggedSentences(Path("file"), [sentence], [["O"] * len(sentence)], [1])
    encoder = Encoder(vocabulary, lower_case=True, max_seq_length=64)
    trained = task.definition.encode(encoder, examples, task)
    served = TextEncoder(vocabulary, lower_case=True, max_seq_length=64, reads_masks=False)
    encoding, words = served.encode_words([" \x00 ".join(sentence)])
    assert [word.decode() for word in words.texts[0].numpy()] == sentence
    np.testing.assert_array_equal(encoding.features["input_ids"][0], trained.input_ids[0])
    at = words.at[0].numpy()
    is_first = (at != -1) & (at != np.concatenate([[-1], at[:-1]]))
    np.testing.assert_array_equal(is_first, trained.labels[0] != -1)
