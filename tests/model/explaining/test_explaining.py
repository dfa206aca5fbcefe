"""Worked example, rollout and attribution against an independent computation in NumPy."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.bert.config import BertConfig
from model.bert.network import build_model, weights_by_name
from model.explaining.example import Example
from model.explaining.explanation import Explanation, explain_texts
from model.explaining.read_example import read_example
from model.explaining.rollout import attention_rollout
from model.run import Run, load_run, write_run
from model.run_config import DatasetFacts, RunConfig
from model.tasks.kinds import Head
from model.tasks.task_kind import Task
from pipeline.errors import InputError
from pipeline.manifest import sha256
from pipeline.schema import SPECIAL_TOKENS

PIECES = (*SPECIAL_TOKENS, "i", "love", "my", "dog", "cat", "light", "##house", "##s", "爱", ".")
TEXTS = ("I love my lighthouses.", "🦄 爱 my [MASK]")
LAYER, HEAD = 1, 2

MakeRun = Callable[..., Run]


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory, small_config: BertConfig) -> MakeRun:
    """Makes a run of random weights, no bias of which is 0."""

    def make(heads: tuple[Head, ...] = (), task: Task | None = None) -> Run:
        config = dataclasses.replace(small_config, vocab_size=len(PIECES))
        weights = weights_by_name(build_model(config, task))
        rng = np.random.default_rng(5)
        for name, weight in weights.items():
            weight.assign(rng.normal(name.endswith("gamma"), 0.5, weight.shape))
        vocabulary = "".join(f"{piece}\n" for piece in PIECES).encode()
        facts = DatasetFacts(sha256(vocabulary), True, 16, 4, "nsp")
        path = tmp_path_factory.mktemp("runs") / "run"
        write_run(path, RunConfig(config, None, facts, heads=heads, task=task), vocabulary, weights)
        return load_run(path)

    return make


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> Run:
    return make_run(("masked_lm", "next_sentence"))


@pytest.fixture(scope="module")
def explained(run: Run) -> Explanation:
    return explain_texts(run, TEXTS, LAYER, HEAD)


class ByHand:
    """BERT's formulas in float64, for one example, from a run's weights."""

    def __init__(self, run: Run) -> None:
        model = run.load_model()
        self.config = run.config
        self.weights = {w.path: w.numpy().astype(np.float64) for w in model.weights}

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(
            (centred**2).mean(-1, keepdims=True) + self.config.layer_norm_eps
        )
        return scaled * self.weights[f"{name}/gamma"] + self.weights[f"{name}/beta"]

    def dense(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/bias"]

    def embed(self, example: Example, token_vectors: np.ndarray | None = None) -> dict:
        table = self.weights["token_embedding/embeddings"]
        found = {
            "token": table[example.input_ids] if token_vectors is None else token_vectors,
            "segment": self.weights["segment_embedding/embeddings"][example.segment_ids],
            "position": self.weights["position_embedding/embeddings"][: len(example)],
        }
        found["sum"] = sum(found.values())
        found["embedding"] = self.norm(found["sum"], "embeddings_layer_norm")
        return found

    def layer(self, x: np.ndarray, index: int) -> dict:
        """What a layer computes; by head a list."""
        name = f"transformer_layer_{index}"
        heads = [self.head(x, name, head) for head in range(self.config.num_attention_heads)]
        found: dict = {part: [head[part] for head in heads] for part in heads[0]}
        found["concatenated"] = np.concatenate(found["gathered"], -1)
        kernel = self.weights[f"{name}/self_attention_layer/attention_output/kernel"]
        attended = found["concatenated"] @ kernel.reshape(-1, x.shape[-1])
        attended += self.weights[f"{name}/self_attention_layer/attention_output/bias"]
        found["attended"] = self.norm(x + attended, f"{name}/self_attention_layer_norm")
        wide = self.dense(found["attended"], f"{name}/feedforward_intermediate_dense")
        found["intermediate"] = gelu_new(wide)
        narrow = self.dense(found["intermediate"], f"{name}/feedforward_output_dense")
        found["output"] = self.norm(found["attended"] + narrow, f"{name}/feedforward_layer_norm")
        return found

    def head(self, x: np.ndarray, name: str, head: int) -> dict:
        found = {}
        for part, short in (("queries", "query"), ("keys", "key"), ("values", "value")):
            prefix = f"{name}/self_attention_layer/{short}"
            kernel, bias = self.weights[f"{prefix}/kernel"], self.weights[f"{prefix}/bias"]
            found[part] = x @ kernel[:, head] + bias[head]
        found["scores"] = found["queries"] @ found["keys"].T / math.sqrt(found["keys"].shape[-1])
        found["weights"] = softmax(found["scores"])
        found["gathered"] = found["weights"] @ found["values"]
        return found

    def encode(self, example: Example, token_vectors: np.ndarray | None = None) -> dict:
        x = self.embed(example, token_vectors)["embedding"]
        attention = []
        for index in range(self.config.num_hidden_layers):
            layer = self.layer(x, index)
            x = layer["output"]
            attention.append(layer["weights"])
        return {"z": x, "p": np.tanh(self.dense(x[0], "pooled_dense")), "attention": attention}

    def masked_lm(self, example: Example, position: int, vectors: np.ndarray | None = None):
        z = self.encode(example, vectors)["z"][position]
        hidden = gelu_new(self.dense(z, "masked_lm/intermediate_dense"))
        hidden = self.norm(hidden, "masked_lm/intermediate_layer_norm")
        table = self.weights["token_embedding/embeddings"]
        return softmax(table @ hidden + self.weights["masked_lm/output_bias"])


def gelu_new(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_the_example_equals_the_models_input(explained: Explanation) -> None:
    example = explained.example
    assert example.pieces == (
        "[CLS]", "i", "love", "my", "light", "##house", "##s", ".", "[SEP]",
        "[UNK]", "爱", "my", "[MASK]", "[SEP]",
    )  # fmt: skip
    assert example.written[4:10] == ("light", "house", "s", ".", "[SEP]", "🦄")
    assert example.words[4] == [4, 5, 6]
    assert example.segment_ids.tolist() == [0] * 9 + [1] * 5
    assert example.masks == [12]
    assert explained.notes == ()


def test_every_step_is_that_of_the_formulas(run: Run, explained: Explanation) -> None:
    by_hand, example = ByHand(run), explained.example
    expected = by_hand.embed(example)
    below = by_hand.layer(expected["embedding"], 0)["output"]
    layer = by_hand.layer(below, LAYER)
    expected |= {
        name: value[HEAD] if isinstance(value, list) else value for name, value in layer.items()
    }
    expected["pooled"] = by_hand.encode(example)["p"]
    assert [step.name for step in explained.steps] == list(expected)
    letters = {"L": 14, "H": 12, "D": 4, "I": 20}
    for step in explained.steps:
        assert step.values.shape == tuple(letters[axis] for axis in step.shape.split(" × "))
        np.testing.assert_allclose(step.values, expected[step.name], atol=1e-5, err_msg=step.name)


def test_attention_of_every_layer_and_head_and_rollout(run: Run, explained: Explanation) -> None:
    expected = np.array(ByHand(run).encode(explained.example)["attention"])
    np.testing.assert_allclose(explained.attention, expected, atol=1e-5)
    rolled = np.eye(14)
    for heads in expected:
        mixed = heads.mean(0) + np.eye(14)
        rolled = mixed / mixed.sum(-1, keepdims=True) @ rolled
    np.testing.assert_allclose(explained.rollout, rolled, atol=1e-5)


def test_rollout_goes_from_the_first_layer_to_the_last() -> None:
    """The last layer looks only at piece 0, whose vector the first one took from piece 1."""
    take_from_one, look_at_zero = np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0], [1.0, 0]])
    rolled = attention_rollout(np.array([[take_from_one], [look_at_zero]]))
    np.testing.assert_allclose(rolled, [[0.5, 0.5], [0.25, 0.75]])


def test_predictions_are_those_of_the_heads(run: Run, explained: Explanation) -> None:
    by_hand, example = ByHand(run), explained.example
    masked, following = explained.predictions
    assert (masked.kind, masked.position) == ("masked_lm", 12)
    probabilities = by_hand.masked_lm(example, 12)
    best = np.argsort(-probabilities)[:10]
    assert [answer for answer, _ in masked.answers] == [PIECES[index] for index in best]
    np.testing.assert_allclose([p for _, p in masked.answers], probabilities[best], atol=1e-5)
    logits = by_hand.dense(by_hand.encode(example)["p"], "next_sentence")
    expected = dict(zip(("follows", "does not follow"), softmax(logits), strict=True))
    assert dict(following.answers) == pytest.approx(expected, abs=1e-5)
    assert following.answers[0][1] >= following.answers[1][1]


def test_integrated_gradients_are_those_of_a_fine_riemann_sum(
    run: Run, explained: Explanation
) -> None:
    by_hand, example = ByHand(run), explained.example
    found = explained.predictions[0].attribution
    assert found is not None
    end = by_hand.embed(example)["token"]
    start = np.where(example.is_special[:, None], end, 0)

    def value(vectors: np.ndarray) -> float:
        return by_hand.masked_lm(example, 12, vectors)[found.answer]

    assert found.value == pytest.approx(value(end), abs=1e-5)
    assert found.baseline_value == pytest.approx(value(start), abs=1e-5)
    by_piece, points, small = np.zeros(len(example)), 200, 1e-4
    for share in (np.arange(points) + 0.5) / points:
        vectors = start + share * (end - start)
        for position in np.flatnonzero(~example.is_special):
            nudge = np.zeros_like(end)
            nudge[position] = small * (end - start)[position]
            slope = (value(vectors + nudge) - value(vectors - nudge)) / (2 * small)
            by_piece[position] += slope / points
    np.testing.assert_allclose(found.by_piece, by_piece, atol=1e-4)
    assert np.abs(by_piece).max() > 1e-2


def check_complete(explained: Explanation) -> None:
    for prediction in explained.predictions:
        found = prediction.attribution
        assert found is not None
        difference = found.value - found.baseline_value
        assert abs(difference) > 1e-3
        assert found.by_piece.sum() == pytest.approx(difference, rel=0.01)
        assert found.is_complete
        assert found.error <= 0.01
        assert np.all(found.by_piece[explained.example.is_special] == 0)


def test_attributions_add_up(explained: Explanation) -> None:
    check_complete(explained)


@pytest.mark.parametrize(
    ("task", "kinds"),
    [
        (Task("single", ("bad", "good", "fair"), False), ["class"]),
        (Task("regression", (), True), ["score"]),
        (Task("tagging", ("O", "NOUN"), False), ["tag"] * 4),
        (Task("span", (), True), ["start", "end"]),
    ],
    ids=lambda value: value.kind if isinstance(value, Task) else "",
)
def test_tuned_runs(make_run: MakeRun, task: Task, kinds: list[str]) -> None:
    run = make_run(task=task)
    explained = explain_texts(run, TEXTS[: 1 + task.takes_pairs], 0, 0)
    assert [prediction.kind for prediction in explained.predictions] == kinds
    by_hand = ByHand(run)
    encoded = by_hand.encode(explained.example)
    first = explained.predictions[0]
    if task.is_per_position:
        scores = by_hand.dense(encoded["z"], "task")
        expected = softmax(scores[1] if task.kind == "tagging" else scores[:, 0])
    elif task.kind == "regression":
        expected = by_hand.dense(encoded["p"], "task")
    else:
        expected = softmax(by_hand.dense(encoded["p"], "task"))
    values = [value for _, value in first.answers]
    np.testing.assert_allclose(values, np.sort(expected)[::-1][:10], atol=1e-5)
    check_complete(explained)


def test_words_that_are_tagged(make_run: MakeRun) -> None:
    """Those between white space, as in training and when served."""
    run = make_run(task=Task("tagging", ("O", "NOUN"), False))
    example = read_example(run, ["I.cat \u200b my\u3000lighthouses. 爱."])
    assert example.pieces[1:-1] == (
        "i", ".", "cat", "my", "light", "##house", "##s", ".", "爱", ".",
    )  # fmt: skip
    assert example.tagged_words == [[1, 2, 3], [4], [5, 6, 7, 8], [9, 10]]


def test_a_bare_encoder_has_no_predictions(make_run: MakeRun) -> None:
    explained = explain_texts(make_run(), TEXTS, 0, 0)
    assert explained.predictions == ()
    assert "answers nothing" in explained.notes[0]


def test_a_text_without_a_mask_and_a_text_that_is_too_long(run: Run) -> None:
    explained = explain_texts(run, ["I love my dog", "I love my cat. " * 3], 0, 0)
    assert len(explained.example) == 16
    assert explained.example.cut_pieces == 4 + 15 - 13
    assert "takes; cut off at the end: 6 pieces." in explained.notes[0]
    assert "no [MASK]" in explained.notes[1]
    assert explained.predictions[0].position == 14
    assert explain_texts(run, ["I love my dog"], 0, 0, position=2).predictions[0].position == 2


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([""], {}, "`text` '': has no word in it"),
        (["dog", "\u200b \n"], {}, "has no word in it"),
        (["dog"], {"layer": 2}, "`layer` 3: the model has layers 1 to 2"),
        (["dog"], {"head": -1}, "`head` 0: the model has heads 1 to 3"),
        (["dog"], {"position": 3}, "`position` 3: must be from 0 to 2"),
    ],
)
def test_inputs_that_cannot_be_explained(
    run: Run, texts: list[str], options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        explain_texts(run, texts, **{"layer": 0, "head": 0} | options)


def test_a_wrong_number_of_texts(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`text`: .* was trained on single texts"):
        read_example(make_run(("masked_lm",)), TEXTS)
    with pytest.raises(InputError, match=r"`text`: .* takes two texts"):
        read_example(make_run(task=Task("pair", ("no", "yes"), True)), TEXTS[:1])
    with pytest.raises(InputError, match=r"`text`: .* takes one text"):
        read_example(make_run(task=Task("single", ("no", "yes"), False)), TEXTS)
