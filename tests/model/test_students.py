"""Students: runs that learn a teacher's answers, resume exactly, and refuse what cannot teach."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.network import build_model, weights_by_name
from model.configs import FinetuneConfig
from model.finetune import finetune, prepare
from model.run import load_run, write_run
from model.run_config import RunConfig, TextFacts
from model.source import open_source
from model.tasks.objective import Tuning
from model.tasks.task_kind import Task
from model.teacher import CACHE
from model.training.config import ExecutionConfig, UpdateConfig
from pipeline.errors import InputError
from pipeline.manifest import sha256
from tests.model.stopping import stop_after

WORDS = ["the", "film", "was", "dull", "fine", "so", "and", "plot", "who", "in", "rome", "."]
SIZES = {
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20,
    "max_position_embeddings": 24, "initializer_range": 0.3, "hidden_dropout_prob": 0.05,
}  # fmt: skip
UPDATES = UpdateConfig(batch_size=8, steps=6, learning_rate=1e-2, precision="float32")

TASKS = {
    "single": Task("single", ("bad", "good"), takes_pairs=False),
    "regression": Task("regression", (), takes_pairs=False),
    "tagging": Task("tagging", ("B-X", "O"), takes_pairs=False),
    "span": Task("span", (), takes_pairs=True),
}

Write = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Write a run with random weights, tuned for a task or not."""

    def write_one(
        task: Task | None, seed: int, size: int = 16, extra: tuple[str, ...] = ()
    ) -> Path:
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *extra, *WORDS]
        vocabulary = "".join(f"{piece}\n" for piece in pieces).encode()
        config = BertConfig(vocab_size=len(pieces), hidden_size=size, **SIZES)
        facts = TextFacts(sha256(vocabulary), lower_case=True, max_seq_length=24)
        tf.keras.utils.set_random_seed(seed)
        weights = weights_by_name(build_model(config, task))
        path = tmp_path_factory.mktemp("runs") / "run"
        heads = () if task else ("masked_lm",)
        write_run(path, RunConfig(config, None, facts, heads=heads, task=task), vocabulary, weights)
        return path

    return write_one


@pytest.fixture(scope="module")
def init(write: Write) -> Path:
    return write(None, 1)


def texts(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Examples of each task, labelled and not."""
    folder = tmp_path_factory.mktemp("files")
    made: dict[str, dict[str, Path]] = {name: {} for name in TASKS}
    for kind, count in (("train", 16), ("unlabelled", 11)):
        for name in TASKS:
            path = folder / f"{kind}-{name}.{'json' if name == 'span' else 'tsv'}"
            lines, asked = ["text\tlabel"] if kind == "train" else ["text"], []
            for index, text in enumerate(texts(len(name) + count, count)):
                label = {"single": ("bad", "good")[index % 2], "regression": str(index / 4)}.get(
                    name
                )
                lines.append(f"{text}\t{label}" if kind == "train" else text)
                answers = {"answers": [{"text": text.split()[0], "answer_start": 0}]}
                answers = answers if kind == "train" else {}
                asked.append({"context": text, "qas": [{"id": "1", "question": "who", **answers}]})
            if name == "span":
                path.write_text(json.dumps({"data": [{"paragraphs": asked}]}))
            elif name == "tagging":
                words = [line.split("\t")[0].split() for line in lines[1:]]
                tag = " B-X" if kind == "train" else ""
                other = " O" if kind == "train" else ""
                path.write_text("\n\n".join(
                    "\n".join(w + (tag if w == "dull" else other) for w in row) for row in words
                ))  # fmt: skip
            else:
                path.write_text("\n".join(lines) + "\n")
            made[name][kind] = path
    return made


@pytest.fixture
def config(init: Path, files: dict[str, dict[str, Path]], tmp_path: Path) -> Callable[..., Any]:
    def make(task: str = "single", **more: Any) -> FinetuneConfig:
        fields: dict[str, Any] = {
            "run_dir": tmp_path / "run", "task": task, "train": files[task]["train"], "init": init,
            "updates": UPDATES, "execution": ExecutionConfig(xla=False, strategy="one"),
        }  # fmt: skip
        return FinetuneConfig(**fields | more)

    return make


def weights(run: Path) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in load_run(run).load_model().weights}


@pytest.mark.parametrize("name", TASKS)
def test_a_student_of_every_kind_of_task(
    name: str, config: Callable[..., Any], write: Write, files: dict[str, dict[str, Path]]
) -> None:
    teacher = write(TASKS[name], 2, size=20)  # of another width
    asked = config(name, teacher=teacher, unlabelled=files[name]["unlabelled"], teacher_weight=1.0,
                   temperature=1.0, updates=dataclasses.replace(UPDATES, steps=40))  # fmt: skip
    finetune(asked)
    lines = (asked.run_dir / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if '"train"' in line]
    assert losses[-1] >= 0
    with np.load(asked.run_dir / CACHE) as cached:
        assert len(cached["lengths"]) == 27
    tuning = load_run(asked.run_dir).saved.tuning
    assert tuning is not None
    assert (tuning.teacher, tuning.teacher_weight) == (str(teacher), 1.0)
    assert tuning.unlabelled_sha256 == sha256(asked.unlabelled.read_bytes())


def test_labels_and_teacher_share_the_loss() -> None:
    """The share of each, and examples without a label, calculated by hand."""
    logits = np.log(np.float32([[0.25, 0.75], [0.5, 0.5]]))
    batch = {
        "task_labels": np.int32([0, 1]),
        "example_weights": np.float32([1, 1]),
        "are_labelled": np.float32([1, 0]),
        "teacher_logits": np.log(np.float32([[0.5, 0.5], [0.9, 0.1]])),
    }
    tuning = Tuning(TASKS["single"], 1, teacher_weight=0.25, temperature=1.0)
    sums = tuning.sums({"task_logits": logits}, {k: tf.constant(v) for k, v in batch.items()})
    divergences = [
        0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75),
        0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5),
    ]
    expected = 0.75 * -np.log(0.25) + 0.25 * sum(divergences)
    assert sums["task_loss"].numpy() == pytest.approx(expected, abs=1e-6)
    assert sums["task_weight"].numpy() == 2


@pytest.mark.slow
def test_a_student_resumes_exactly(
    config: Callable[..., Any], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = write(TASKS["single"], 2)
    whole, part = config(teacher=teacher, run_dir=tmp_path / "whole"), config(teacher=teacher)
    finetune(whole)
    with monkeypatch.context() as stopping:
        stop_after(stopping, 3)
        with pytest.raises(KeyboardInterrupt):
            finetune(part)
    cached = part.run_dir / CACHE
    answers = cached.read_bytes()
    with pytest.raises(InputError, match=r"was started with tuning temperature 2\.0, not 3\.0"):
        finetune(dataclasses.replace(part, temperature=3.0))
    cached.write_bytes(b"damaged")
    finetune(part)
    assert cached.read_bytes() == answers
    expected, found = weights(whole.run_dir), weights(part.run_dir)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(values, found[name], err_msg=name)


@pytest.mark.parametrize("name", ["single", "tagging"])
def test_a_teacher_of_another_vocabulary(
    name: str, config: Callable[..., Any], write: Write
) -> None:
    """The same weights under other ids, so the answers are the same."""
    teacher = write(TASKS[name], 2)
    moved = write(TASKS[name], 2, extra=("unused", "##s", "more"))
    run = load_run(teacher)
    model = run.load_model()
    other = load_run(moved).load_model()
    table = model.get_layer("encoder").get_layer("token_embedding").embeddings.numpy()
    for weight, value in zip(other.weights, model.weights, strict=True):
        weight.assign(np.insert(table, 5, np.ones((3, 16)), axis=0)
                      if weight.shape != value.shape else value)  # fmt: skip
    copy = moved.parent / "copy"
    saved = load_run(moved)
    write_run(copy, saved.saved, (moved / "vocab.txt").read_bytes(), weights_by_name(other))
    cached = []
    for path in (teacher, copy):
        asked = config(name, teacher=path)
        asked = dataclasses.replace(asked, run_dir=asked.run_dir / path.name)
        if path == copy:
            finetune(asked)
        else:  # other tests train with a teacher of the same vocabulary
            prepare(asked, open_source(asked.init, asked.caching), tf.distribute.get_strategy())
        with np.load(asked.run_dir / CACHE) as found:
            cached.append(found["logits"])
    same = np.all(cached[1] != 0, axis=-1)
    assert same.any()
    np.testing.assert_allclose(cached[0][same], cached[1][same], atol=1e-5)


@pytest.mark.parametrize(
    ("task", "teacher", "more", "message"),
    [
        ("single", None, {}, "not tuned for a task"),
        ("single", "regression", {}, "tuned for a regression task, and this is a single task"),
        ("single", Task("single", ("bad", "ugly"), takes_pairs=False), {}, "has no class 'good'"),
        ("span", "span", {"extra": ("unused",)}, "reads other pieces than the student"),
    ],
)
def test_unusable_teachers(
    task: str, teacher: Any, more: dict[str, Any], message: str,
    config: Callable[..., Any], write: Write,
) -> None:  # fmt: skip
    path = write(TASKS.get(teacher, teacher) if teacher else None, 2, **more)
    with pytest.raises(InputError, match=message) as raised:
        finetune(config(task, teacher=path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unlabelled": Path("more.tsv")}, "`unlabelled`: needs a `teacher`"),
        ({"teacher": Path("t"), "teacher_weight": 0.0}, "`teacher_weight` 0.0: must be above 0"),
        ({"teacher": Path("t"), "teacher_weight": 1.5}, "and at most 1"),
        ({"teacher": Path("t"), "temperature": 0.0}, "`temperature` 0.0: must be above 0"),
        ({"teacher": Path("nowhere")}, "`teacher` nowhere: no such run or checkpoint"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str, config: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=message):
        finetune(config(**fields))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 layers that was tuned for `TASKS["single"]`."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary = "".join(f"{piece}\n" for piece in pieces).encode()
    sizes = {**SIZES, "num_hidden_layers": 4}
    config = BertConfig(vocab_size=len(pieces), hidden_size=16, **sizes)
    facts = TextFacts(sha256(vocabulary), lower_case=True, max_seq_length=24)
    tf.keras.utils.set_random_seed(5)
    weights = weights_by_name(build_model(config, TASKS["single"]))
    path = tmp_path_factory.mktemp("deep") / "run"
    saved = RunConfig(config, None, facts, heads=(), task=TASKS["single"])
    write_run(path, saved, vocabulary, weights)
    return path


@pytest.mark.slow
def test_a_student_starts_from_layers_of_another_run(
    deep: Path, config: Callable[..., Any]
) -> None:
    """With a learning rate of almost 0 it keeps the weights that it starts with."""
    asked = config(
        init=deep, layers_to_keep=(0, 3), teacher=deep,
        updates=dataclasses.replace(UPDATES, steps=1, learning_rate=1e-12),
    )  # fmt: skip
    finetune(asked)
    run = load_run(asked.run_dir)
    assert run.config.num_hidden_layers == 2
    assert run.saved.tuning is not None
    assert run.saved.tuning.layers_to_keep == (0, 3)
    before, after = weights(deep), weights(asked.run_dir)
    old = {
        "transformer_layer_0": "transformer_layer_0",
        "transformer_layer_1": "transformer_layer_3",
    }
    for name, values in after.items():
        layer, _, rest = name.partition("/")
        source = f"{old.get(layer, layer)}/{rest}" if rest else name
        np.testing.assert_allclose(values, before[source], atol=1e-6, err_msg=name)
    assert {name.split("/")[0] for name in before} - {name.split("/")[0] for name in after} == {
        "transformer_layer_2", "transformer_layer_3",
    }  # fmt: skip
    longer = dataclasses.replace(asked.updates, steps=2)
    finetune(dataclasses.replace(asked, updates=longer))  # resumed
    with pytest.raises(InputError, match="started with tuning layers_to_keep"):
        finetune(dataclasses.replace(asked, layers_to_keep=(0, 2)))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((0, 4), "`layers_to_keep` 0 4: .* has the layers 0 to 3"),
        ((2, 0), "`layers_to_keep` 2 0: must be in ascending order, from 0"),
        ((1, 1), "`layers_to_keep` 1 1: must be in ascending order, from 0"),
        ((-1, 2), "`layers_to_keep` -1 2: must be in ascending order, from 0"),
    ],
)
def test_layers_that_a_student_cannot_start_from(
    layers: tuple[int, ...], message: str, deep: Path, config: Callable[..., Any]
) -> None:
    with pytest.raises(InputError, match=message):
        finetune(config(init=deep, layers_to_keep=layers))
