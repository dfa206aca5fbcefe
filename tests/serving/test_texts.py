"""A server reads texts as they were read in training."""

from pathlib import Path

import numpy as np
import pytest

from model.tasks import Task
from model.tuning.batches import Batches
from model.tuning.encoding import Encoder
from model.tuning.examples import Texts
from pipeline.tokenizer import Vocabulary
from serving.texts import TextEncoder

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
    trained = Batches(encoder.encode(examples, task), task, len(rows), 0, length)
    served = TextEncoder(vocabulary, lower_case=True, max_seq_length=length, reads_masks=False)
    encoding = served.encode(*columns) if count == 1 else served.encode_pairs(*columns)
    features = {name: values.numpy() for name, values in encoding.features.items()}
    positions = features["input_ids"].shape[1]
    expected = trained.arrays(np.arange(len(rows)), positions)
    for name, values in features.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    assert encoding.truncated.numpy().sum() == trained.encoded.counts["truncated"]
