"""Datasets of every kind, from the real writer, through the real reader and the trainer."""

import json
from pathlib import Path

import numpy as np
import pytest

from clozeline.main import main
from model.run import load_run
from model.training.input import eval_batches, train_batches
from pipeline.manifest import MANIFEST, Manifest, read_manifest
from pipeline.text.tokenizer import Vocabulary
from serving.export.signatures import TextModel


def make(corpus: Path, vocab: Path, output: Path, *more: str) -> Manifest:
    where = ["--input", str(corpus / "*.txt"), "--vocab", str(vocab), "--output", str(output)]
    how = ["--max-seq-length", "32", "--eval-rate", "0.2", "--shards", "2", *more]
    assert main(["preprocess", *where, *how]) == 0
    return read_manifest(output)


@pytest.fixture(scope="module", params=["streams", "old"])
def dynamic(
    prose_corpus: Path,
    vocab_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Path:
    """A dataset with dynamic masks, as it is written now and by the first release."""
    output = tmp_path_factory.mktemp("dynamic") / "ds"
    manifest = make(prose_corpus, vocab_path, output, "--masks=dynamic", "--masking=whole-word")
    if request.param == "old":
        del manifest.settings["streams"]
        (output / MANIFEST).write_text(manifest.to_json())
    return output


def stream(
    dataset: Path, examples: int, *, batch_size: int = 1, seed: int = 3, skip: int = 0
) -> dict[str, np.ndarray]:
    """The first examples of the train stream after some."""
    manifest = read_manifest(dataset)
    batches = train_batches(
        dataset, manifest, batch_size=batch_size, seed=seed, skip_examples=skip
    ).take(examples // batch_size)
    found = list(batches.as_numpy_iterator())
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


def unmasked(batch: dict[str, np.ndarray]) -> np.ndarray:
    ids = batch["input_ids"].copy()
    row, slot = np.nonzero(batch["masked_lm_weights"])
    ids[row, batch["masked_lm_positions"][row, slot]] = batch["masked_lm_ids"][row, slot]
    return ids


def test_dynamic_masks_change_from_epoch_to_epoch(dynamic: Path) -> None:
    epoch = read_manifest(dynamic).examples("train")
    two = stream(dynamic, 2 * epoch)
    texts, order = unmasked(two), []
    for half in (slice(0, epoch), slice(epoch, 2 * epoch)):
        order.append(np.lexsort(texts[half].T))
    first, second = (
        {name: values[half][rows] for name, values in two.items()}
        for half, rows in zip((slice(0, epoch), slice(epoch, 2 * epoch)), order, strict=True)
    )
    np.testing.assert_array_equal(unmasked(first), unmasked(second))  # every record, twice
    alike = (first["masked_lm_positions"] == second["masked_lm_positions"]).all(axis=1)
    assert alike.mean() < 0.3
    assert two["masked_lm_weights"].any(axis=1).all()


@pytest.mark.parametrize("skip", [5, 40, 130])
def test_dynamic_masks_are_the_same_after_a_restart(dynamic: Path, skip: int) -> None:
    whole = stream(dynamic, skip + 20, batch_size=5)
    for name, values in stream(dynamic, 20, batch_size=5, skip=skip).items():
        np.testing.assert_array_equal(values, whole[name][skip:], err_msg=name)
    other = stream(dynamic, skip + 20, batch_size=5, seed=4)
    assert not np.array_equal(other["masked_lm_positions"], whole["masked_lm_positions"])


def test_dynamic_masks_depend_on_seed_epoch_and_record_not_on_the_batch(dynamic: Path) -> None:
    epoch = read_manifest(dynamic).examples("train")
    one, other = (stream(dynamic, epoch // size * size, batch_size=size) for size in (1, epoch))
    orders = [np.lexsort(unmasked(each).T) for each in (one, other)]
    for name in ("input_ids", "masked_lm_positions", "masked_lm_ids"):
        np.testing.assert_array_equal(one[name][orders[0]], other[name][orders[1]], err_msg=name)


def test_dynamic_masks_of_the_eval_split_stay(dynamic: Path, vocab_path: Path) -> None:
    manifest = read_manifest(dynamic)
    found = []
    for size in (4, 7):
        batches = list(eval_batches(dynamic, manifest, "eval", batch_size=size).as_numpy_iterator())
        joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        order = np.lexsort(unmasked(joined).T)
        order = order[joined["example_weights"][order] == 1]
        found.append({name: values[order] for name, values in joined.items()})
    assert len(found[0]["input_ids"]) == manifest.examples("eval")
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)
    assert (found[0]["input_ids"] == Vocabulary.read(vocab_path).mask_id).sum() > 20


def small_model(folder: Path, manifest: Manifest) -> Path:
    """Write a config of one layer: most of such a test is tracing and compiling."""
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
    model = {**sizes, "intermediate_size": 32, "vocab_size": manifest.vocab_size}
    (folder / "model.json").write_text(json.dumps(model))
    return folder / "model.json"


def test_training_without_pairs(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No pairs, masked while training, compressed: the masked LM alone learns and is served."""
    dataset, run = tmp_path / "ds", tmp_path / "run"
    kind = ["--pairing", "none", "--masks", "dynamic", "--compression", "gzip"]
    make(prose_corpus, vocab_path, dataset, *kind)
    model = small_model(tmp_path, read_manifest(dataset))
    where = ["--dataset", str(dataset), "--run", str(run), "--model", str(model)]
    how = ["--steps", "150", "--batch-size", "8", "--learning-rate", "0.01", "--seed", "1"]
    capsys.readouterr()
    assert main(["pretrain", *where, *how, "--no-xla", "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert "next sentence" not in said.err
    assert not any(name.startswith("next_sentence") for name in result)
    assert result["loss"] == result["masked_lm_loss"]
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert result["masked_lm_loss"] < first["masked_lm_loss"] - 0.5
    trained = load_run(run)
    signatures = TextModel(trained, trained.load_model()).signatures()
    assert "next_sentence" not in signatures
    assert "fill_mask" in signatures


def test_training_on_swapped_segments(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = tmp_path / "ds"
    model = small_model(tmp_path, make(prose_corpus, vocab_path, dataset, "--pairing", "sop"))
    capsys.readouterr()
    where = ["--dataset", str(dataset), "--run", str(tmp_path / "run"), "--model", str(model)]
    assert main(["pretrain", *where, "--steps", "2", "--no-xla", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["next_sentence_loss"] > 0
