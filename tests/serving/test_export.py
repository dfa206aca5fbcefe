"""What is served equals the Python model on the same text; the directory is what servers expect."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

import clozeline
from model.run import Run
from pipeline.tokenizer import build_tokenizer
from serving.export import WARM_UP

TEXTS = ["The [MASK] sees the [MASK] .", "boat", "The owl fears [MASK]", ""]
PAIRS = [("The fox sees the owl.", "The deer hears."), ("The boat", "and the [MASK] tide passes")]
LONG = "The fox sees the owl. " * 9


@pytest.fixture(scope="module")
def signatures(exported: Path) -> Any:
    return tf.saved_model.load(str(exported)).signatures


def reference(run: Run, *texts: str) -> dict[str, np.ndarray]:
    """One text or pair through the Python model, put together by hand."""
    vocabulary = run.vocabulary
    tokenizer = build_tokenizer(vocabulary.pieces, lower_case=True)
    ids, segments = [vocabulary.cls_id], [0]
    for segment, text in enumerate(texts):
        for index, part in enumerate(text.split("[MASK]")):
            masks = [vocabulary.mask_id] if index else []
            ids += masks + tokenizer.tokenize([part]).to_list()[0]
        ids.append(vocabulary.sep_id)
        segments += [segment] * (len(ids) - len(segments))
    positions = [index for index, piece in enumerate(ids) if piece == vocabulary.mask_id] or [0]
    features = {
        "input_ids": np.array([ids], np.int32),
        "input_mask": np.ones((1, len(ids)), np.int32),
        "segment_ids": np.array([segments], np.int32),
    }
    model = run.load_model()
    heads = model(features | {"masked_lm_positions": np.array([positions], np.int32)})
    hidden = model.get_layer("encoder")(features)
    return {
        "positions": np.array(positions),
        "masked": tf.nn.softmax(heads["masked_lm_logits"][0]).numpy(),
        "next": tf.nn.softmax(heads["next_sentence_logits"][0]).numpy(),
        "sequence": hidden["sequence_output"][0].numpy(),
        "pooled": hidden["pooled_output"][0].numpy(),
    }


def test_fill_mask_equals_the_python_model(trained_run: Run, signatures: Any) -> None:
    answer = {
        name: value.numpy() for name, value in signatures["fill_mask"](tf.constant(TEXTS)).items()
    }
    assert answer["tokens"].shape == answer["probabilities"].shape == (4, 2, 5)
    assert answer["positions"].tolist() == [[2, 5], [-1, -1], [4, -1], [-1, -1]]
    for row, masks in ((0, 2), (2, 1)):
        expected = reference(trained_run, TEXTS[row])
        assert answer["positions"][row, :masks].tolist() == expected["positions"].tolist()
        for mask in range(masks):
            best = np.argsort(-expected["masked"][mask])[:5]
            np.testing.assert_allclose(
                answer["probabilities"][row, mask], expected["masked"][mask][best], atol=1e-5
            )
            pieces = [trained_run.vocabulary.pieces[piece] for piece in best]
            assert [token.decode() for token in answer["tokens"][row, mask]] == pieces
    assert (answer["tokens"][1] == b"").all()
    assert (answer["probabilities"][1] == 0).all()
    assert not answer["truncated"].any()


def test_next_sentence_equals_the_python_model(trained_run: Run, signatures: Any) -> None:
    first, second = zip(*PAIRS, strict=True)
    answer = signatures["next_sentence"](text=tf.constant(first), text_pair=tf.constant(second))
    expected = [reference(trained_run, *pair)["next"][0] for pair in PAIRS]
    np.testing.assert_allclose(answer["is_next_probability"], expected, atol=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3  # the comparison can tell them apart


def test_embed_equals_the_python_model(trained_run: Run, signatures: Any) -> None:
    answer = signatures["embed"](tf.constant(TEXTS))
    for row, text in enumerate(TEXTS):
        expected = reference(trained_run, text)
        np.testing.assert_allclose(answer["pooled"][row], expected["pooled"], atol=1e-5)
        np.testing.assert_allclose(
            answer["mean"][row], expected["sequence"].mean(axis=0), atol=1e-5
        )


def test_long_texts_are_cut_and_it_is_said(signatures: Any) -> None:
    answer = signatures["embed"](tf.constant(["The fox", LONG]))
    assert answer["truncated"].numpy().tolist() == [False, True]
    pair = signatures["next_sentence"](text=tf.constant([LONG]), text_pair=tf.constant(["A fox"]))
    assert pair["truncated"].numpy().tolist() == [True]


@pytest.mark.parametrize("signature", ["fill_mask", "embed", "next_sentence"])
def test_empty_batch_gives_an_empty_answer(signature: str, signatures: Any) -> None:
    empty = tf.constant([], tf.string)
    inputs = {"text": empty} | ({"text_pair": empty} if signature == "next_sentence" else {})
    for value in signatures[signature](**inputs).values():
        assert value.shape[0] == 0


def test_columns_of_different_length_are_refused(signatures: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="text and text_pair differ in length"):
        signatures["next_sentence"](text=tf.constant(["a", "b"]), text_pair=tf.constant(["c"]))


def test_a_scalar_does_not_end_the_process(exported: Path) -> None:
    """The graph refuses it by itself, whatever the server in front of it compares."""
    script = (
        "import sys, tensorflow as tf, tensorflow_text\n"
        "signatures = tf.saved_model.load(sys.argv[1]).signatures\n"
        "for name in ('fill_mask', 'embed'):\n"
        "    try: signatures[name](text=tf.constant('a scalar'))\n"
        "    except tf.errors.InvalidArgumentError as error:\n"
        "        print('Shape of tensor' in error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(exported)], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["True", "True"], (done.returncode, done.stderr)


def test_loads_with_tensorflow_and_its_text_ops_alone(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(exported, copy)
    script = (
        "import sys, tensorflow as tf, tensorflow_text\n"
        "answer = tf.saved_model.load(sys.argv[1]).signatures['embed'](tf.constant(['a fox']))\n"
        "ours = {'keras_hub', 'model', 'pipeline', 'serving'} & set(sys.modules)\n"
        "print(answer['pooled'].shape, sorted(ours))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(copy)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "(1, 24) []", done.stderr[-500:]


def test_directory(trained_run: Run, exported: Path) -> None:
    assert sorted(path.name for path in exported.parent.iterdir()) == ["1"]
    assert (exported / "assets" / "vocab.txt").read_bytes() == (
        trained_run.path / "vocab.txt"
    ).read_bytes()
    parameters = sum(4 * variable.shape.num_elements() for variable in (
        weight.value for weight in trained_run.load_model().variables if "seed" not in weight.path
    ))  # fmt: skip
    stored = sum(path.stat().st_size for path in (exported / "variables").iterdir())
    assert stored < parameters + 10_000  # once, not twice


def test_every_signature_has_a_warm_up_request(exported: Path, signatures: Any) -> None:
    warmed = set()
    for record in tf.data.TFRecordDataset(str(exported / WARM_UP)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        signatures[request.model_spec.signature_name](**tensors)
        warmed.add(request.model_spec.signature_name)
    assert warmed == {"serving_default", "fill_mask", "next_sentence", "embed"}


def test_versions_count_up(trained_run: Run, exported: Path, tmp_path: Path) -> None:
    model = tmp_path / "fox"
    (model / "9").mkdir(parents=True)
    arguments = ["export", "--run", str(trained_run.path), "--output", str(model)]
    assert clozeline.main(arguments) == 0
    assert sorted(path.name for path in model.iterdir()) == ["10", "9"]


def test_failed_export_leaves_nothing(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("serving.export.write_warm_up", fail)
    arguments = ["export", "--run", str(trained_run.path), "--output", str(tmp_path / "fox")]
    assert clozeline.main(arguments) == 1
    assert list((tmp_path / "fox").iterdir()) == []


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "--run", str(tmp_path / "no"), "--output", str(tmp_path / "fox")]
    assert clozeline.main(arguments) == 2
    assert "no run" in capsys.readouterr().err
    assert not (tmp_path / "fox").exists()
