"""Whole words of Chinese text: the words that jieba 0.42.1 found, which `rjieba` must find, too."""

import itertools
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from clozeline.main import main
from pipeline import schema
from pipeline.manifest import read_manifest
from pipeline.records.chinese_words import continues_chinese_word, han_characters
from pipeline.records.masking import Masker, record_seeds
from pipeline.records.serialization import parse_examples
from pipeline.schema import SPECIAL_TOKENS
from pipeline.text.tokenizer import Vocabulary

SENTENCES = [
    "使用 语言 模型 来 预测 下 一个 词 的 概率 。",
    "我 爱 北京 天安门 ， 天安门 上 太阳升 。",
    "南京市 长江大桥 昨天 发生 了 一起 交通事故 。",
    "研究 生命 的 起源 是 生物学家 的 重要 课题 。",
    "他 说 的 确实 在理 ， 大家 都 表示同意 。",
    "中国科学院计算技术研究所 位于 北京市 海淀区 。",
    "北京 大学生 前来 应聘 的 人 很多 。",
    "这 本书 的 作者 是 一位 著名 的 经济学家 。",
    "人工智能 技术 正在 改变 我们 的 日常生活 方式 。",
    "上海浦东国际机场 今天 有 三百多个 航班 延误 。",
]
CHARACTERS = sorted({*"".join(SENTENCES)} - {" "})
PIECES = [*SPECIAL_TOKENS, "fox", "##es", *CHARACTERS]


def continues(sentence: str) -> list[bool]:
    """Whether each character continues a word of a sentence with spaces between words."""
    return [index > 0 for word in sentence.split() for index in range(len(word))]


def code_points(texts: list[str]) -> np.ndarray:
    """Code points of the characters, 0 for punctuation and padding."""
    length = max(map(len, texts))
    return np.array(
        [[ord(c) if c not in "，。 " else 0 for c in text.ljust(length)] for text in texts],
        np.uint32,
    )


def test_words_are_those_of_jieba() -> None:
    texts = [sentence.replace(" ", "") for sentence in SENTENCES]
    rows = continues_chinese_word(code_points(texts))
    for sentence, row in zip(SENTENCES, rows, strict=True):
        words = continues(sentence)
        assert row[: len(words)].tolist() == words
        assert not row[len(words) :].any()


def test_words_depend_on_no_other_row() -> None:
    texts = ["天安", "门上", "", "北京大", "学生", "𠀀𠀁京", *("学" * n for n in range(4))]
    together = continues_chinese_word(code_points(texts))
    alone = [continues_chinese_word(code_points([text.ljust(3)]))[0] for text in texts]
    np.testing.assert_array_equal(together, alone)
    assert not together[:, 0].any()


def test_no_rows_and_no_chinese() -> None:
    assert continues_chinese_word(np.zeros((0, 5), np.uint32)).shape == (0, 5)
    assert not continues_chinese_word(np.zeros((2, 5), np.uint32)).any()


def test_pieces_that_are_a_character() -> None:
    codes = han_characters(["京", "[UNK]", "##京", "a", "か", "。", "𠀀", "\uf900", "京都"])
    assert codes.tolist() == [0x4EAC, 0, 0, 0, 0, 0, 0x20000, 0xF900, 0]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Vocabulary]:
    path = tmp_path_factory.mktemp("chinese") / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path, Vocabulary.read(path)


def laid_out(vocabulary: Vocabulary, rng: Random, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of sentences with [SEP] after each, and the number of each position's word."""
    ids = np.zeros((rows, 200), np.int64)
    words = np.zeros((rows, 200), np.int64)
    for row in range(rows):
        position, word = 1, 0
        ids[row, 0] = vocabulary.cls_id
        for sentence in rng.sample(SENTENCES, 8):
            for characters in [*sentence.split(), ["fox", "##es"]]:
                word += 1
                for character in characters:
                    ids[row, position], words[row, position] = vocabulary.ids[character], word
                    position += 1
            ids[row, position] = vocabulary.sep_id
            position += 1
    return ids, words


@pytest.mark.parametrize("masking", ["token", "whole-word", "span"])
def test_a_masked_word_is_masked_whole(masking: str, vocabulary: tuple[Path, Vocabulary]) -> None:
    ids, words = laid_out(vocabulary[1], Random(1), 2000)
    masker = Masker(vocabulary[1], masking=masking, mask_rate=0.15, max_predictions=40)  # type: ignore[arg-type]
    masked = masker(ids, (ids > 0).astype(np.int64), record_seeds("x", np.arange(2000)))
    chosen = np.zeros(ids.shape, bool)
    row, slot = np.nonzero(masked["masked_lm_weights"])
    chosen[row, masked["masked_lm_positions"][row, slot]] = True
    # For each record and word: the number of its pieces, and how many of them are chosen.
    keys = np.arange(2000)[:, None] * 200 + words
    size = np.bincount(keys.ravel())
    taken = np.bincount(keys[chosen], minlength=len(size))
    is_word = np.isin(np.arange(len(size)), keys[words > 0])
    whole = (taken[is_word] == 0) | (taken[is_word] == size[is_word])
    assert whole.all() == (masking != "token")
    # A span may not fit into the rest of the predictions, so fewer pieces are chosen.
    rate = {"token": 0.15, "whole-word": 0.15, "span": 0.14}[masking]
    assert chosen.sum() / (words > 0).sum() == pytest.approx(rate, abs=0.01)
    # Each word is chosen at the same rate, whatever its length; short spans fit more often.
    for length in (1, 2, 3) if masking != "span" else ():
        expected = 1 - (1 - rate) ** length if masking == "token" else rate
        chosen_words = (taken > 0)[is_word & (size == length)]
        assert chosen_words.mean() == pytest.approx(expected, abs=0.03)


def test_static_and_dynamic_masks_are_equal(
    vocabulary: tuple[Path, Vocabulary], tmp_path: Path
) -> None:
    """Both are made of a record's pieces, so dynamic masks need no more features."""
    rng = Random(2)
    texts = ["".join(rng.choices(SENTENCES, k=9)).replace(" ", "") for _ in range(40)]
    corpus = tmp_path / "in.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    where = ["--input", str(corpus), "--input-format", "jsonl", "--vocab", str(vocabulary[0])]
    how = ["--masking", "whole-word", "--eval-rate", "0", "--shards", "1", "--seed", "3"]
    records = {}
    for masks in ("static", "dynamic"):
        output = ["--output", str(tmp_path / masks), "--masks", masks, "--language", "zh"]
        assert main(["preprocess", *where, *how, *output, "--max-seq-length", "64"]) == 0
        records[masks] = parsed(tmp_path / masks)
    manifest = read_manifest(tmp_path / "static")
    assert "rjieba" in manifest.versions
    name = manifest.splits["train"][0].name.removesuffix(".tfrecord")
    read = records["dynamic"]
    numbers = np.arange(len(read[schema.INPUT_IDS]))
    masker = Masker(vocabulary[1], masking="whole-word", mask_rate=0.15, max_predictions=10)
    seeds = record_seeds(f"3/{name}/masks", numbers)
    masked = masker(read[schema.INPUT_IDS], read[schema.INPUT_MASK], seeds)
    for feature in (schema.INPUT_IDS, *schema.MASKED_LM_FEATURES):
        np.testing.assert_array_equal(masked[feature], records["static"][feature])
    # Every run of characters between two marks of punctuation is a sentence of the list.
    known = {word for sentence in SENTENCES for word in sentence.split()}
    row = read[schema.INPUT_IDS][0]
    pieces = [PIECES[piece] for piece in row]
    starts = ~continues_chinese_word(han_characters(PIECES)[row][None])[0]
    bounds = [*np.flatnonzero(starts), len(row)]
    found = ["".join(pieces[a:b]) for a, b in itertools.pairwise(bounds) if pieces[a] in CHARACTERS]
    assert len(found) > 10
    assert sum(word in known for word in found) >= len(found) - 4  # words cut at the ends of A, B


def parsed(dataset: Path) -> dict[str, np.ndarray]:
    import tensorflow as tf

    manifest = read_manifest(dataset)
    path = dataset / manifest.splits["train"][0].name
    serialized = list(tf.data.TFRecordDataset(str(path)))
    features = parse_examples(tf.stack(serialized), manifest.features)
    return {name: values.numpy() for name, values in features.items()}
