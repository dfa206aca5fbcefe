"""What is served equals the Python model on the same text; the directory is what servers expect."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import prediction_log_pb2

from benchmarks.models import export_random
from clozeline.main import main
from model.bert.config import BertConfig
from model.bert.network import weights_by_name, with_intermediates
from model.run import Run, load_run
from pipeline.errors import InputError
from pipeline.storage import leases
from pipeline.storage.files import write_atomically
from pipeline.storage.remote import path_from
from pipeline.text.tokenizer import build_tokenizer
from serving.configs import ExportConfig
from serving.export import export, gate
from serving.tf_serving import WARM_UP_FILE
from tests.fork_server import FORKS

TEXTS = ["The [MASK] sees the [MASK] .", "boat", "The owl fears [MASK]", ""]
PAIRS = [("The fox sees the owl.", "The deer hears."), ("The boat", "and the [MASK] tide passes")]
LONG = "The fox sees the owl. " * 9

Answers = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def signatures(exported: Path) -> Any:
    return tf.saved_model.load(str(exported)).signatures


@pytest.fixture(scope="module")
def model(trained_run: Run) -> Any:
    return trained_run.load_model()


@pytest.fixture(scope="module")
def reference(trained_run: Run, model: Any) -> Callable[..., dict[str, np.ndarray]]:
    """One text or pair through the Python model, put together by hand."""
    vocabulary = trained_run.vocabulary
    tokenizer = build_tokenizer(vocabulary.pieces, lower_case=True)
    looking_in = with_intermediates(model.get_layer("encoder"))

    def answer(*texts: str) -> dict[str, np.ndarray]:
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
        heads = model(features | {"masked_lm_positions": np.array([positions], np.int32)})
        hidden = looking_in(features)
        return {
            "ids": np.array(ids),
            "segments": np.array(segments),
            "positions": np.array(positions),
            "masked": tf.nn.softmax(heads["masked_lm_logits"][0]).numpy(),
            "next": tf.nn.softmax(heads["next_sentence_logits"][0]).numpy(),
            "sequence": hidden["sequence_output"][0].numpy(),
            "pooled": hidden["pooled_output"][0].numpy(),
            "scores": np.stack([scores[0] for scores in hidden["attention_scores"]]),
        }

    return answer


def test_an_object_is_no_place_for_a_model(store: Any, tmp_path: Path) -> None:
    """Said before the run is read."""
    place = path_from("gs://bucket/models/fox")
    write_atomically(place, b"mine")
    with pytest.raises(InputError, match=f"^`output` {place}: is an object; name a folder$"):
        export.export(ExportConfig(run_dir=tmp_path, output=place))
    assert store.objects == {"bucket/models/fox": b"mine"}


def test_fill_mask_equals_the_python_model(
    trained_run: Run, signatures: Any, reference: Any
) -> None:
    answer = {
        name: value.numpy() for name, value in signatures["fill_mask"](tf.constant(TEXTS)).items()
    }
    assert answer["tokens"].shape == answer["probabilities"].shape == (4, 2, 5)
    assert answer["positions"].tolist() == [[2, 5], [-1, -1], [4, -1], [-1, -1]]
    for row, masks in ((0, 2), (2, 1)):
        expected = reference(TEXTS[row])
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


def test_next_sentence_equals_the_python_model(signatures: Any, reference: Any) -> None:
    first, second = zip(*PAIRS, strict=True)
    answer = signatures["next_sentence"](text=tf.constant(first), text_pair=tf.constant(second))
    expected = [reference(*pair)["next"][0] for pair in PAIRS]
    np.testing.assert_allclose(answer["is_next_probability"], expected, atol=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3  # the comparison can tell them apart


def test_embed_equals_the_python_model(signatures: Any, reference: Any) -> None:
    answer = signatures["embed"](tf.constant(TEXTS))
    for row, text in enumerate(TEXTS):
        expected = reference(text)
        np.testing.assert_allclose(answer["pooled"][row], expected["pooled"], atol=1e-5)
        mean = expected["sequence"].mean(axis=0)
        np.testing.assert_allclose(answer["mean"][row], mean, atol=1e-5)


# One text and two in one batch; the last row fills what a single text may have of the 32 positions.
MIXED = [("The fox sees the owl.", "The deer [MASK]"), ("boat", ""), ("oak " * 30, "")]


@pytest.fixture(scope="module")
def mixed(signatures: Any) -> Callable[[str], dict[str, np.ndarray]]:
    text, text_pair = (tf.constant(column) for column in zip(*MIXED, strict=True))
    return lambda name: {
        output: value.numpy()
        for output, value in signatures[name](text=text, text_pair=text_pair).items()
    }


def test_tokenize(trained_run: Run, mixed: Any, reference: Any) -> None:
    answer = mixed("tokenize")
    assert answer["input_ids"].shape == answer["tokens"].shape == (3, 32)
    for row, texts in enumerate(MIXED):
        expected = reference(*filter(None, texts))
        length = len(expected["ids"])
        assert answer["input_ids"][row, :length].tolist() == expected["ids"].tolist()
        assert answer["segment_ids"][row, :length].tolist() == expected["segments"].tolist()
        assert answer["input_mask"][row].tolist() == [1] * length + [0] * (32 - length)
        assert not answer["segment_ids"][row, length:].any()
        pieces = [trained_run.vocabulary.pieces[piece].encode() for piece in expected["ids"]]
        assert answer["tokens"][row].tolist() == pieces + [b""] * (32 - length)
    assert not answer["truncated"].any()


def test_tokens_and_attention_equal_the_python_model(mixed: Any, reference: Any) -> None:
    embedded, attention = mixed("embed_tokens"), mixed("attention")
    assert attention["scores"].shape == (3, 2, 4, 32, 32)
    assert (attention["tokens"] == mixed("tokenize")["tokens"]).all()
    for row, texts in enumerate(MIXED):
        expected = reference(*filter(None, texts))
        length = len(expected["ids"])
        vectors, scores = embedded["vectors"][row], attention["scores"][row]
        np.testing.assert_allclose(vectors[:length], expected["sequence"], atol=1e-5)
        np.testing.assert_allclose(embedded["pooled"][row], expected["pooled"], atol=1e-5)
        np.testing.assert_allclose(scores[:, :, :length, :length], expected["scores"], atol=1e-5)
        assert not vectors[length:].any()
        assert not scores[:, :, length:].any()
        assert not scores[:, :, :, length:].any()


def test_masks_of_pairs(mixed: Any, reference: Any) -> None:
    answer = mixed("fill_mask_pair")
    expected = reference(*MIXED[0])
    assert answer["positions"].tolist() == [expected["positions"].tolist(), [-1], [-1]]
    best = np.sort(expected["masked"][0])[::-1][:5]
    np.testing.assert_allclose(answer["probabilities"][0, 0], best, atol=1e-5)


def test_ids_given_by_the_caller(signatures: Any, model: Any, mixed: Any) -> None:
    tokenized = mixed("tokenize")
    ids = {name: tokenized[name] for name in ("input_ids", "input_mask", "segment_ids")}
    inputs = ids | {"masked_lm_positions": np.array([[10, 2], [1, 3], [31, 5]], np.int32)}
    answer = signatures["predict_ids"](**{name: tf.constant(x) for name, x in inputs.items()})
    for name, values in {**model(inputs), **model.get_layer("encoder")(ids)}.items():
        np.testing.assert_allclose(answer[name], values, atol=1e-5, err_msg=name)


def filled_as_a_server_does(requests: list[Answers]) -> Answers:
    """Join requests into a batch, each tensor filled with its own first element to the longest."""
    batch = {}
    for name in requests[0]:
        longest = max(request[name].shape[1] for request in requests)
        batch[name] = np.concatenate(
            [
                np.pad(
                    request[name],
                    [(0, 0), (0, longest - request[name].shape[1])],
                    constant_values=request[name].flat[0],
                )
                for request in requests
            ]
        )
    return batch


def test_requests_of_different_lengths_do_not_change_each_others_answers(
    signatures: Any, exported: Path
) -> None:
    """Every signature with an axis that differs between requests."""
    varying = [
        name for name, function in signatures.items()
        if any(spec.shape.rank > 1 for spec in function.structured_input_signature[1].values())
    ]  # fmt: skip
    assert varying == ["predict_ids"]
    ask = signatures["predict_ids"]
    requests = []
    # Of one row or of several, which their caller padded; one, three or two positions a row.
    for texts, positions in (
        ([("The fox", "")], [[2]]),
        ([("The owl fears the fox.", "A [MASK]."), ("The boat", "")], [[3, 1, 2], [2, 0, 1]]),
        ([(LONG, "")], [[5, 30]]),
        ([("", "")], [[1, 0]]),
    ):
        first, second = (tf.constant(list(column)) for column in zip(*texts, strict=True))
        tokenized = signatures["tokenize"](text=first, text_pair=second)
        request = {n: tokenized[n].numpy() for n in ("input_ids", "input_mask", "segment_ids")}
        requests.append(request | {"masked_lm_positions": np.array(positions, np.int32)})
    together = {
        name: value.numpy()
        for name, value in ask(**as_tensors(filled_as_a_server_does(requests))).items()
    }
    row = 0
    for request in requests:
        rows = slice(row, row + len(request["input_ids"]))
        row = rows.stop
        for name, alone in ask(**as_tensors(request)).items():
            own = (rows, *(slice(size) for size in alone.shape[1:]))
            np.testing.assert_allclose(together[name][own], alone, atol=1e-5, err_msg=name)
        assert not together["sequence_output"][rows, request["input_ids"].shape[1] :].any()
    assert row == 5


def as_tensors(arrays: Answers) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in arrays.items()}


def ids_request(columns: int, **changes: Any) -> dict[str, tf.Tensor]:
    """A request of two rows for `predict_ids`; some of its inputs changed."""
    arrays = {
        "input_ids": np.array([[2, *[5] * (columns - 1)]] * 2, np.int32),
        "input_mask": np.ones([2, columns], np.int32),
        "segment_ids": np.zeros([2, columns], np.int32),
        "masked_lm_positions": np.array([[1], [0]], np.int32),
    }
    return as_tensors(arrays | {name: np.array(x, np.int32) for name, x in changes.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_mask": [[1, 1]] * 2}, "input_mask and input_ids differ in shape"),
        ({"input_mask": [[1] * 9]}, "input_mask and input_ids differ in shape"),
        ({"segment_ids": [[0]] * 2}, "segment_ids and input_ids differ in shape"),
        ({"segment_ids": [[0] * 9] * 3}, "segment_ids and input_ids differ in shape"),
        ({"segment_ids": np.zeros([2, 0])}, "segment_ids and input_ids differ in shape"),
        ({"masked_lm_positions": [[1]]}, "masked_lm_positions and input_ids differ in rows"),
        ({"input_ids": [[2, -1, *[5] * 7]] * 2}, "input_ids must be at least 0 and below"),
        ({"input_ids": [[2, 99999, *[5] * 7]] * 2}, "input_ids must be at least 0 and below"),
        ({"input_mask": [[1, 2, *[1] * 7]] * 2}, "input_mask must be at least 0 and below"),
        ({"segment_ids": [[0, 2, *[1] * 7]] * 2}, "segment_ids must be at least 0 and below"),
        ({"segment_ids": [[0, -1, *[1] * 7]] * 2}, "segment_ids must be at least 0 and below"),
        ({"masked_lm_positions": [[1], [9]]}, "masked_lm_positions must be at least 0 and below"),
        ({"masked_lm_positions": [[-1], [0]]}, "masked_lm_positions must be at least 0 and below"),
        ({"input_ids": np.zeros([2, 0])} | {
            name: np.zeros([2, 0]) for name in ("input_mask", "segment_ids")
        }, "input_ids have no columns"),
    ],
)  # fmt: skip
def test_ids_that_do_not_fit_are_refused(
    signatures: Any, changes: dict[str, Any], message: str
) -> None:
    assert signatures["predict_ids"](**ids_request(9))["pooled_output"].shape[0] == 2
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["predict_ids"](**ids_request(9, **changes))


def test_ranks_are_checked_in_the_graph(exported: Path) -> None:
    """A model server compares them with no signature: it runs a session, as is done here."""
    arrays = {name: tensor.numpy() for name, tensor in ids_request(9).items()}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(exported))
        signature = loaded.signature_def["predict_ids"]
        options = config_pb2.CallableOptions(
            feed=[signature.inputs[name].name for name in arrays],
            fetch=[signature.outputs["pooled_output"].name],
        )
        run = session._make_callable_from_options(options)  # session.run compares shapes itself
        assert run(*arrays.values())[0].shape == (2, 24)
        for name in arrays:
            for shape in ((), (2,), (2, 9, 1)):
                wrong = {**arrays, name: np.zeros(shape, np.int32)}
                with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with exp"):
                    run(*wrong.values())


def test_too_many_ids_are_refused(signatures: Any) -> None:
    ids = {name: tf.ones([1, 33], tf.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than the model takes"):
        signatures["predict_ids"](**ids, masked_lm_positions=tf.zeros([1, 1], tf.int32))


def test_long_texts_are_truncated_with_a_note(signatures: Any) -> None:
    answer = signatures["embed"](tf.constant(["The fox", LONG]))
    assert answer["truncated"].numpy().tolist() == [False, True]
    pair = signatures["next_sentence"](text=tf.constant([LONG]), text_pair=tf.constant(["A fox"]))
    assert pair["truncated"].numpy().tolist() == [True]


@pytest.mark.parametrize("columns", [0, 7])
def test_empty_batch_gives_an_empty_answer(columns: int, signatures: Any) -> None:
    for name, function in signatures.items():
        _, inputs = function.structured_input_signature
        empty = {
            key: tf.zeros([0] if spec.dtype == tf.string else [0, columns], spec.dtype)
            for key, spec in inputs.items()
        }
        for output, value in function(**empty).items():
            assert value.shape[0] == 0, (name, output)


@pytest.mark.parametrize("signature", ["next_sentence", "attention"])
def test_columns_of_different_length_are_refused(signature: str, signatures: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="text and text_pair differ in length"):
        signatures[signature](text=tf.constant(["a", "b"]), text_pair=tf.constant(["c"]))


def test_a_scalar_does_not_crash_the_process(signatures: Any) -> None:
    """The graph refuses it by itself, whatever the server in front of it compares.

    Without the check it ends this process, too, which is a failure of this test.
    """
    refused = 0
    for function in signatures.values():
        names = function.structured_input_signature[1]
        if "text" in names:
            with pytest.raises(tf.errors.InvalidArgumentError, match="Shape of tensor"):
                function(**{name: tf.constant("a scalar") for name in names})
            refused += 1
    assert refused == 8


def test_directory(trained_run: Run, exported: Path, model: Any) -> None:
    assert sorted(path.name for path in exported.parent.iterdir()) == [
        "1", "batching.config", "models.config", "monitoring.config",
    ]  # fmt: skip
    assert (exported / "assets" / "vocab.txt").read_bytes() == (
        trained_run.path / "vocab.txt"
    ).read_bytes()
    parameters = sum(4 * weight.shape.num_elements() for weight in weights_by_name(model).values())
    stored = sum(path.stat().st_size for path in (exported / "variables").iterdir())
    assert stored < parameters + 12_000  # once, not twice


def test_every_signature_has_a_warm_up_request(exported: Path, signatures: Any) -> None:
    warmed = set()
    for record in tf.data.TFRecordDataset(str(exported / WARM_UP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        warmed |= {(request.model_spec.signature_name, len(value)) for value in inputs.values()}
        assert request.model_spec.name == "fox"
    others = {(name, 1) for name in signatures}
    assert warmed == others | {("serving_default", size) for size in (2, 4, 8, 16, 32)}


def parts_of_layers(version: Path) -> list[int]:
    return [len(layer.parts) for layer in tf.saved_model.load(str(version)).network.layers]


def test_layers_are_saved_in_two_parts(exported: Path) -> None:
    assert parts_of_layers(exported) == [2, 2]


def test_another_version_in_half_the_precision_and_four_parts(
    trained_run: Run, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "fox"
    (model / "9").mkdir(parents=True)
    where = ["--run", str(trained_run.path), "--output", str(model)]
    how = ["--precision", "bfloat16", "--tensor-parallel", "4"]
    assert main(["export", *where, *how, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["version"] == 10
    assert 1e-4 < result["largest_difference"] < 0.1
    weights = [
        next((version / "variables").glob("*.data*")).stat().st_size
        for version in (model / "10", exported)
    ]
    assert weights[0] < 0.7 * weights[1]  # four parts take more than two
    assert parts_of_layers(model / "10") == [4, 4]


@pytest.mark.parametrize(("heads", "units", "parts"), [(4, 40, 2), (3, 40, 1), (4, 41, 1)])
def test_only_what_can_be_divided_is(heads: int, units: int, parts: int) -> None:
    config = BertConfig(50, num_attention_heads=heads, intermediate_size=units)
    assert export.parts_of_a_layer(config, None) == parts
    with pytest.raises(InputError, match=f"`tensor_parallel` 5: must divide the model's {heads} "):
        export.parts_of_a_layer(config, 5)


def test_a_model_that_cannot_be_divided_is_refused(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--run", str(trained_run.path), "--output", str(tmp_path / "fox")]
    assert main(["export", *where, "--tensor-parallel", "3"]) == 2
    said = capsys.readouterr().err
    assert "--tensor-parallel 3: must divide the model's 4 attention heads and its inter" in said
    assert not (tmp_path / "fox").exists()


def test_failed_export_leaves_nothing(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("serving.export.export.write_warm_up", fail)
    arguments = ["export", "--run", str(trained_run.path), "--output", str(tmp_path / "fox")]
    assert main(arguments) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_graph_is_not_published(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("serving.export.inference_graph.HIDDEN", -1.0)  # padding is looked at
    arguments = ["export", "--run", str(trained_run.path), "--output", str(tmp_path / "fox")]
    assert main(arguments) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "not exported: serving_default answers otherwise than the Python model" in said
    assert list(tmp_path.iterdir()) == []


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "--run", str(tmp_path / "no"), "--output", str(tmp_path / "fox")]
    assert main(arguments) == 2
    assert "no run" in capsys.readouterr().err
    assert not (tmp_path / "fox").exists()


@pytest.mark.slow
def test_size_on_disk(tmp_path: Path) -> None:
    """Weights are there once; a vocabulary of 30,522 takes 3 MB, as pieces and as tables."""
    path = export_random(tmp_path, "mini")
    sizes = {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    of_weights = sum(size for file, size in sizes.items() if file.parent.name == "variables")
    weights = weights_by_name(load_run(tmp_path / "run-mini").load_model()).values()
    parameters = sum(weight.shape.num_elements() for weight in weights)
    assert parameters > 11e6
    assert of_weights <= 1.002 * 4 * parameters
    assert sum(sizes.values()) - of_weights < 3e6


@pytest.mark.parametrize("room", [0, 1_000, 15_000, 200_000])
def test_a_full_disk_stops_the_export_with_a_one_line_error(
    trained_run: Run,
    tmp_path: Path,
    full_disk: Callable[[int], Any],
    capsys: pytest.CaptureFixture,
    room: int,
) -> None:
    # What export-hf writes is smaller.
    names = ["export", "export-hf"] if room < 200_000 else ["export"]
    output = tmp_path / "new" / "model"
    for name in names:
        arguments = [name, "--run", str(trained_run.path), "--output", str(output)]
        with full_disk(room):
            assert main(arguments) == 1
        said = capsys.readouterr().err
        assert said.splitlines()[-1].startswith(f"clozeline: --output {output}: cannot be writ")
        assert "Traceback" not in said
        assert "{{" not in said
    assert list(tmp_path.iterdir()) == []


def test_exports_of_one_model_take_turns(
    trained_run: Run,
    tmp_path: Path,
    writer_of: Callable[[Path], subprocess.Popen],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "check", lambda *_: 0.0)  # other tests are about what it checks
    other = writer_of(tmp_path / "fox")
    monkeypatch.setattr(leases, "NOTICE_SECS", 0)
    monkeypatch.setattr(leases, "tell_of_waiting", lambda *_: other.stdin.close())  # it ends soon
    config = ExportConfig(run_dir=trained_run.path, output=tmp_path / "fox")
    assert export.export(config).path.name == "1"


@pytest.mark.slow
def test_two_exports_at_once_make_two_versions(trained_run: Run, tmp_path: Path) -> None:
    arguments = ["export", "--run", str(trained_run.path), "--output", str(tmp_path / "fox")]
    command = [sys.executable, "-m", "clozeline", *arguments]
    started = [FORKS.popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert sorted(path.name for path in (tmp_path / "fox").iterdir()) == [
        "1", "2", "batching.config", "models.config", "monitoring.config"
    ]  # fmt: skip
