"""Checkpoints of other formats against the libraries that made them (`make_*_golden.py`)."""

import dataclasses
import json
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from benchmarks.commands import BUILD, published_encoder
from clozeline.main import main
from model.bert.config import BertConfig
from model.bert.network import build_model, weights_by_name
from model.configs import HuggingFaceExportConfig, ImportConfig
from model.interchange import Imported, read_checkpoint
from model.interchange.export_hugging_face import HuggingFaceExport, export_hugging_face
from model.interchange.import_checkpoint import import_checkpoint
from model.interchange.names import HEADS, encoder_weights, head_weights, task_weights
from model.interchange.write_tokenizer import tokenizer_files
from model.run import load_run, write_run
from model.run_config import RunConfig, TextFacts
from model.tasks.task_kind import Task
from model.tasks.vectors import VectorSettings
from model.training.config import TuningConfig
from pipeline.errors import InputError
from pipeline.manifest import sha256
from pipeline.text.tokenizer import Vocabulary, build_tokenizer

GOLDEN = Path(__file__).parents[2] / "golden"
HUGGING_FACE, GOOGLE = GOLDEN / "hugging_face", GOLDEN / "google"

SCORES = ("single", ("bad", "so-so", "good"), False)
EXPECTED: dict[Path, dict[str, Any]] = {
    HUGGING_FACE / "encoder": {"heads": ()},
    HUGGING_FACE / "pretraining": {"heads": ("masked_lm", "next_sentence")},
    HUGGING_FACE / "masked_lm": {"heads": ("masked_lm",), "has_pooler": False},
    HUGGING_FACE / "next_sentence": {"heads": ("next_sentence",)},
    HUGGING_FACE / "single": {"task": Task(*SCORES), "lower_case": False},
    HUGGING_FACE / "regression": {"task": Task("regression", (), False)},
    HUGGING_FACE / "tagging": {"task": Task("tagging", ("O", "B-PER"), False), "has_pooler": False},
    HUGGING_FACE / "span": {"task": Task("span", (), True), "has_pooler": False},
    GOOGLE / "pretraining": {"heads": ("masked_lm", "next_sentence"), "lower_case": False},
    GOOGLE / "single": {
        "task": Task("single", ("LABEL_0", "LABEL_1", "LABEL_2"), False),
        "lower_case": False,
    },
    GOOGLE / "span": {"task": Task("span", (), True), "lower_case": False},
}
"""What must be found in each golden directory."""

POOLER = ("pooled_dense/kernel", "pooled_dense/bias")

THEIR_OUTPUTS = {
    "encoder": ("sequence_output", "pooled_output"),
    "pretraining": ("masked_lm_logits", "next_sentence_logits"),
    "masked_lm": ("masked_lm_logits",),
    "next_sentence": ("next_sentence_logits",),
}
"""What the outputs of Hugging Face's models are in ours, in their order."""


def golden(folder: Path, kind: str) -> dict[str, np.ndarray]:
    """The inputs of a golden model, under our names, and its outputs."""
    names = {"attention_mask": "input_mask", "token_type_ids": "segment_ids"}
    found = {}
    for name, values in np.load(folder / "outputs.npz").items():
        name = name.removeprefix(f"{kind}/").removeprefix("input/")
        if "/" not in name or name.startswith("output/"):
            found[names.get(name, name)] = values
    return found


def built(imported: Imported) -> keras.Model:
    """The model with the weights that were read."""
    keras.utils.set_random_seed(3)
    model = build_model(imported.config, imported.task)
    weights = weights_by_name(model)
    for path, values in imported.weights.items():
        weights[path].assign(values)
    assert weights.keys() - imported.weights.keys() == {*imported.missing}
    return model


def outputs_of(model: keras.Model, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All that a model makes of a batch, the masked LM's scores of every position."""
    inputs = {name: tf.constant(batch[name], tf.int32) for name in model.get_layer("encoder").input}
    encoded = model.get_layer("encoder")(inputs)
    if "masked_lm_positions" in model.input:
        everywhere = np.tile(np.arange(inputs["input_ids"].shape[1]), (len(batch["input_ids"]), 1))
        positions = batch.get("masked_lm_positions", everywhere)
        inputs["masked_lm_positions"] = tf.constant(positions, tf.int32)
    return {name: value.numpy() for name, value in (encoded | model(inputs)).items()}


def close(found: np.ndarray, wanted: np.ndarray, name: str = "") -> None:
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0, err_msg=name)


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_task_heads_and_missing_weights_are_read(path: Path) -> None:
    imported, expected = read_checkpoint(path), EXPECTED[path]
    assert imported.task == expected.get("task")
    assert imported.heads == expected.get("heads", ())
    assert imported.lower_case == expected.get("lower_case", True)
    assert imported.unused == ()
    assert imported.max_seq_length == (16 if path.parent == HUGGING_FACE else 17)
    missing = [] if expected.get("has_pooler", True) else [*POOLER]
    if imported.task is None:
        for head in HEADS:
            if head not in imported.heads:
                missing += [weight.path for weight in head_weights(imported.config, head)]
    assert imported.missing == tuple(missing)
    assert all(values.dtype == np.float32 for values in imported.weights.values())


@pytest.mark.parametrize("kind", [path.name for path in EXPECTED if path.parent == HUGGING_FACE])
def test_outputs_equal_those_of_hugging_face(kind: str) -> None:
    wanted = golden(HUGGING_FACE, kind)
    found = outputs_of(built(read_checkpoint(HUGGING_FACE / kind)), wanted)
    close(found["sequence_output"], wanted["sequence_output"])
    if kind == "span":
        wanted["output/0"] = np.stack([wanted["output/0"], wanted.pop("output/1")], -1)
    names = THEIR_OUTPUTS.get(kind, ("task_logits",))
    assert len(names) == sum(name.startswith("output/") for name in wanted)
    for index, name in enumerate(names):
        close(found[name], wanted[f"output/{index}"], name)


@pytest.mark.parametrize("kind", ["pretraining", "single", "span"])
def test_outputs_equal_those_of_google_research(kind: str) -> None:
    wanted = golden(GOOGLE, kind)
    found = outputs_of(built(read_checkpoint(GOOGLE / kind)), wanted)
    for head in HEADS:
        scores = found.pop(f"{head}_logits", None)
        if scores is not None:
            found[f"{head}_log_probabilities"] = tf.nn.log_softmax(scores).numpy()
    compared = found.keys() & wanted.keys()
    assert len(compared) == (4 if kind == "pretraining" else 1)
    for name in compared:
        close(found[name], wanted[name], name)


def test_the_table_names_every_weight(small_config: BertConfig) -> None:
    for task in (None, Task("span", (), True), Task("pair", ("no", "maybe", "yes"), True)):
        listed = encoder_weights(small_config)
        if task:
            listed += task_weights(small_config, task)
        else:
            listed += [weight for head in HEADS for weight in head_weights(small_config, head)]
        ours = weights_by_name(build_model(small_config, task))
        shapes = {path: tuple(variable.shape) for path, variable in ours.items()}
        assert {weight.path: weight.shape for weight in listed} == shapes


def run_of(path: Path, tmp_path: Path, **known: Any) -> Path:
    """The run that an import of a directory makes."""
    run = tmp_path / f"run-{path.name}"
    import_checkpoint(ImportConfig(from_dir=path, run_dir=run, **{"seed": 5, **known}))
    return run


def export_of(
    run: Path, tmp_path: Path, *, encoder_only: bool = False
) -> tuple[Path, HuggingFaceExport]:
    """Return the directory of an exported run, and the printed result."""
    output = tmp_path / f"export-{run.name}-{encoder_only}"
    said = export_hugging_face(
        HuggingFaceExportConfig(
            run_dir=run, output=output, checkpoint="last", encoder_only=encoder_only
        )
    )
    return output, said


def tensors(path: Path) -> dict[str, np.ndarray]:
    """All weights of a directory by their names, as float32."""
    found: dict[str, np.ndarray] = {}
    for file in path.glob("*.safetensors"):
        opened = safe_open(file, "np")
        assert opened.metadata() == {"format": "pt"}
        found |= {name: np.float32(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("kind", [path.name for path in EXPECTED if path.parent == HUGGING_FACE])
def test_round_trip_is_bit_identical(kind: str, tmp_path: Path) -> None:
    original = HUGGING_FACE / kind
    run = run_of(original, tmp_path, takes_pairs=kind == "regression")
    export, said = export_of(run, tmp_path)
    theirs, ours = tensors(original), tensors(export)
    assert theirs.keys() == ours.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)
    there, here = (json.loads((path / "config.json").read_text()) for path in (original, export))
    for name in ("architectures", "id2label", "hidden_act", "layer_norm_eps", "type_vocab_size"):
        assert here.get(name) == there.get(name)
    assert said.architecture == there["architectures"][0]
    first, again = read_checkpoint(original), read_checkpoint(export)
    if kind == "regression":
        assert again.task == Task("regression", (), takes_pairs=True)
        again = dataclasses.replace(again, task=first.task)
    for name in ("config", "vocabulary", "lower_case", "max_seq_length", "heads", "task"):
        assert getattr(again, name) == getattr(first, name)
    assert (export / "vocab.txt").read_bytes() == first.vocabulary
    assert {oct(file.stat().st_mode) for file in export.iterdir()} == {oct(0o100644)}


def test_an_export_of_the_encoder_alone(tmp_path: Path) -> None:
    run = run_of(HUGGING_FACE / "single", tmp_path)
    export, said = export_of(run, tmp_path, encoder_only=True)
    assert said.architecture == "BertModel"
    assert said.left_out == ("task/kernel", "task/bias")
    theirs = tensors(HUGGING_FACE / "single")
    wanted = {name.removeprefix("bert.") for name in theirs if name.startswith("bert.")}
    assert tensors(export).keys() == wanted
    assert read_checkpoint(export).task is None


TUNED = TuningConfig("0" * 64, "r")


VECTORS = VectorSettings(dimensions=(64, 32))


@pytest.mark.parametrize(
    ("kind", "vectors", "changes", "expected"),
    [
        ("similarity", VECTORS, {}, ("dimensions 64 32",)),
        ("similarity", VectorSettings(), {}, ()),
        ("single", None, {"long": "mean-of-windows"}, ("long mean-of-windows",)),
        ("single", None, {}, ()),
        ("span", None, {"doc_stride": 64}, ("doc_stride 64",)),
        ("span", None, {"doc_stride": 128}, ()),
    ],
)
def test_settings_that_an_export_leaves_out(
    kind: str,
    vectors: VectorSettings | None,
    changes: dict[str, Any],
    expected: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """They change the answers of the run, and transformers has no place for them."""
    labels = ("a", "b") if kind == "single" else ()
    task = Task(kind, labels, takes_pairs=kind == "span", vectors=vectors)
    tuning = dataclasses.replace(TUNED, **changes)
    read = read_checkpoint(HUGGING_FACE / "single")
    config, vocabulary = read.config, read.vocabulary
    facts = TextFacts(sha256(vocabulary), lower_case=True, max_seq_length=16)
    saved = RunConfig(config, None, facts, task=task, tuning=tuning)
    write_run(tmp_path / "run", saved, vocabulary, weights_by_name(build_model(config, task)))
    _, said = export_of(tmp_path / "run", tmp_path)
    assert said.left_out_settings == expected


def test_an_export_that_cannot_be_written(tmp_path: Path) -> None:
    run = run_of(HUGGING_FACE / "span", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=r"`output` .*file/export: .*file is a file; name a folder"
    ):
        export_hugging_face(
            HuggingFaceExportConfig(run_dir=run, output=tmp_path / "file" / "export")
        )
    with pytest.raises(InputError, match="no best checkpoint"):
        export_hugging_face(
            HuggingFaceExportConfig(run_dir=run, output=tmp_path / "export", checkpoint="best")
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run-span"]


def test_missing_weights_are_drawn_from_the_seed(tmp_path: Path) -> None:
    path = HUGGING_FACE / "encoder"
    heads = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        (tmp_path / name).mkdir()
        model = load_run(run_of(path, tmp_path / name, seed=seed)).load_model()
        heads.append(weights_by_name(model)["next_sentence/kernel"].numpy())
    np.testing.assert_array_equal(heads[0], heads[1])
    assert not np.array_equal(heads[0], heads[2])


def test_takes_pairs(tmp_path: Path) -> None:
    run = load_run(run_of(HUGGING_FACE / "single", tmp_path, takes_pairs=True))
    assert run.task == Task("pair", ("bad", "so-so", "good"), True)
    assert read_checkpoint(export_of(run.path, tmp_path)[0]).task == run.task
    with pytest.raises(InputError, match=r"`takes_pairs`: .*tagging is not a text classifier"):
        run_of(HUGGING_FACE / "tagging", tmp_path, takes_pairs=True)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, export = tmp_path / "run", tmp_path / "export"
    source = HUGGING_FACE / "encoder"
    flags = ["--from", str(source), "--run", str(run), "--casing", "cased", "--json"]
    assert main(["import", *flags]) == 0
    printed = capsys.readouterr()
    assert "named [rowN]" in " ".join(printed.err.split())
    result = json.loads(printed.out)
    assert (result["format"], result["lower_case"], result["heads"]) == ("hugging_face", False, [])
    assert len(result["not_found"]) == 7
    assert main(["export-hf", "--run", str(run), "--output", str(export)]) == 0
    assert "masked_lm (5), next_sentence (2)" in capsys.readouterr().out
    assert not read_checkpoint(export).lower_case
    for command, last in (("import", str(run)), ("export-hf", str(export))):
        flags = {
            "import": ["--from", str(source), "--run"],
            "export-hf": ["--run", str(run), "--output"],
        }
        assert main([command, *flags[command], last]) == 2
        assert f"{last}: already exists; choose another" in capsys.readouterr().err


PUBLISHED = lzma.decompress((GOLDEN / "vocab_uncased_en.txt.xz").read_bytes())

HARD_TEXTS = [
    "The quick brown fox, isn't it?  Naïve CAFÉ résumé — 3.14€ (½) ﬁne…",
    "狗和猫 日本語のテキスト 한국어 עברית العربية हिन्दी ไทย",
    "emoji 🐕‍🦺👍🏽 zero\u200bwidth soft\u00adhyphen tab\tnew\nline \x00 control\x07",
    "x" * 150 + " " + "é" * 399 + " " + "ab" * 450 + " I\u0307stanbul ẞtraße ΣΊΣΥΦΟ",
    "",
]


@pytest.mark.parametrize("lower_case", [True, False])
def test_their_tokenizer_gives_our_ids(lower_case: bool) -> None:
    vocabulary = Vocabulary.parse(PUBLISHED, Path("vocab.txt"))
    files = tokenizer_files(vocabulary, lower_case=lower_case, max_length=77)
    theirs = Tokenizer.from_str(json.dumps(files["tokenizer.json"]))
    ours = build_tokenizer(vocabulary.pieces, lower_case=lower_case).tokenize(HARD_TEXTS)
    for text, ids in zip(HARD_TEXTS, ours.to_list(), strict=True):
        assert theirs.encode(text, add_special_tokens=False).ids == ids, text
    pair = theirs.encode("a dog", "sat.")
    assert pair.tokens == ["[CLS]", "a", "dog", "[SEP]", "sat", ".", "[SEP]"]
    assert pair.type_ids == [0, 0, 0, 0, 1, 1, 1]
    assert theirs.encode("[MASK]").tokens[1] == "[MASK]"
    assert files["tokenizer_config.json"]["model_max_length"] == 77


KERAS_HUB_SIZES = {
    "num_layers": 1,
    "num_heads": 3,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
    "dropout": 0.25,
}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "cat", "dog", "sat", "##s", "."]
BATCH = {
    "input_ids": np.array([[2, 7, 9, 3, 5, 8, 10, 3], [2, 6, 8, 11, 3, 0, 0, 0]]),
    "input_mask": np.array([[1] * 8, [1, 1, 1, 1, 1, 0, 0, 0]]),
    "segment_ids": np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0] * 8]),
}


def randomize(model: keras.Model) -> None:
    """Give every weight other numbers, LayerNorms and biases too."""
    rng = np.random.default_rng(4)
    for weight in model.weights:
        centre = 1.0 if weight.path.endswith("gamma") else 0.0
        weight.assign(rng.normal(centre, 0.3, weight.shape))


def keras_hub_outputs(model: keras.Model, **more: Any) -> dict[str, np.ndarray]:
    """What a model of KerasHub's makes of the batch."""
    names = {"token_ids": "input_ids", "padding_mask": "input_mask", "segment_ids": "segment_ids"}
    inputs = {theirs: tf.constant(BATCH[ours], tf.int32) for theirs, ours in names.items()}
    outputs = model({**inputs, **more})
    outputs = outputs if isinstance(outputs, dict) else {"scores": outputs}
    return {name: value.numpy() for name, value in outputs.items()}


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, keras.Model]]:
    """A masked LM and a classifier with random weights, and where KerasHub has saved them."""
    folder = tmp_path_factory.mktemp("presets")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(PIECES) + "\n")
    made = {}
    hub = keras_hub.models
    tokenizer = hub.BertTokenizer(str(vocabulary), lowercase=False)
    for kind, task, preprocessor, settings in (
        ("masked_lm", hub.BertMaskedLM, hub.BertMaskedLMPreprocessor, {}),
        ("single", hub.BertTextClassifier, hub.BertTextClassifierPreprocessor, {"num_classes": 3}),
    ):
        backbone = hub.BertBackbone(vocabulary_size=len(PIECES), **KERAS_HUB_SIZES)
        model = task(backbone, preprocessor=preprocessor(tokenizer, sequence_length=8), **settings)
        randomize(model)
        model.save_to_preset(str(folder / kind))
        made[kind] = (folder / kind, model)
    return made


def test_a_preset_with_a_classifier(presets: dict[str, tuple[Path, keras.Model]]) -> None:
    path, theirs = presets["single"]
    imported = read_checkpoint(path)
    assert imported.task == Task("single", ("LABEL_0", "LABEL_1", "LABEL_2"), False)
    assert (imported.lower_case, imported.unused, imported.missing) == (False, (), ())
    assert (
        imported.config.hidden_dropout_prob == imported.config.attention_probs_dropout_prob == 0.25
    )
    found = outputs_of(built(imported), BATCH)
    close(found["task_logits"], keras_hub_outputs(theirs)["scores"])
    wanted = keras_hub_outputs(theirs.backbone)
    for name in ("sequence_output", "pooled_output"):
        close(found[name], wanted[name], name)


def test_a_preset_with_an_unsupported_head(
    presets: dict[str, tuple[Path, keras.Model]], tmp_path: Path
) -> None:
    path = tmp_path / "preset"
    shutil.copytree(presets["single"][0], path)
    changed(path / "task.json", class_name="BertTextEmbedder")
    imported = read_checkpoint(path)
    assert (imported.task, imported.heads) == (None, ())
    assert imported.unused == ("layers/dense/vars/0", "layers/dense/vars/1")
    assert len(imported.missing) == 7


def test_a_preset_with_a_masked_lm(presets: dict[str, tuple[Path, keras.Model]]) -> None:
    path, theirs = presets["masked_lm"]
    imported = read_checkpoint(path)
    assert imported.heads == ("masked_lm",)
    assert imported.missing == ("next_sentence/kernel", "next_sentence/bias")
    assert imported.unused == ()
    assert "exact GELU and epsilon 1e-5" in imported.notes[-1]
    # As KerasHub computes the head; our config has one activation and one epsilon for all.
    model = built(imported)
    head = model.get_layer("masked_lm")
    head.intermediate_activation, head.layer_norm_epsilon = keras.activations.gelu, 1e-5
    positions = np.array([[1, 6, 0], [2, 3, 4]])
    wanted = keras_hub_outputs(theirs, mask_positions=tf.constant(positions, tf.int32))
    found = outputs_of(model, {**BATCH, "masked_lm_positions": positions})
    close(found["masked_lm_logits"], wanted["scores"])


def test_keras_hub_loads_an_export(
    presets: dict[str, tuple[Path, keras.Model]], tmp_path: Path
) -> None:
    path, theirs = presets["single"]
    export, _ = export_of(run_of(path, tmp_path), tmp_path, encoder_only=True)
    again = keras_hub.models.BertBackbone.from_preset(str(export))
    wanted = keras_hub_outputs(theirs.backbone)
    for name, values in keras_hub_outputs(again).items():
        close(values, wanted[name], name)
    tokenizer = keras_hub.models.BertTokenizer.from_preset(str(export))
    assert tokenizer("the cats sat.").tolist() == [5, 7, 10, 9, 11]


def changed(path: Path, **settings: Any) -> None:
    """Change settings in a JSON file; None removes one."""
    there = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: value for name, value in there.items() if value is not None}))


def settings(name: str, **values: Any) -> Callable[[Path], None]:
    """A change of settings in a directory's file."""
    return lambda path: changed(path / name, **values)


def without(*names: str) -> Callable[[Path], None]:
    """Remove files of a directory."""
    return lambda path: [(path / name).unlink() for name in names]


def tensor(name: str, values: np.ndarray | None) -> Callable[[Path], None]:
    """Replace or remove a weight of a directory."""

    def change(path: Path) -> None:
        found = {**load_file(path / "model.safetensors"), name: values}
        there = {name: values for name, values in found.items() if values is not None}
        save_file(there, path / "model.safetensors", metadata={"format": "pt"})

    return change


def pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def index_of(name: str) -> Callable[[Path], None]:
    """Let an index name this file of weights."""

    def spoil(path: Path) -> None:
        (path / "model.safetensors").rename(path.parent / "elsewhere.safetensors")
        index = {"weight_map": {"bert.pooler.dense.weight": name}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


def truncated(name: str) -> Callable[[Path], None]:
    """Cut a file in half."""
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:2000])


def vocabulary_with(more: dict[str, Any]) -> Callable[[Path], None]:
    """Add pieces to a `tokenizer.json`."""

    def change(path: Path) -> None:
        model = json.loads((path / "tokenizer.json").read_text())["model"]
        changed(path / "tokenizer.json", model=model | {"vocab": model["vocab"] | more})

    return change


def other_vocabulary(text: str) -> Callable[[Path], None]:
    return lambda path: (path / "vocab.txt").write_text(text) and None


WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
SPECIAL = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (settings("config.json", model_type="roberta"), "model_type roberta: not a supported"),
        (settings("config.json", position_embedding_type="relative_key"),
         "config.json: position_embedding_type relative_key: not a supported"),
        (settings("config.json", is_decoder=True), "is_decoder True: not a supported"),
        (settings("config.json", add_cross_attention=True), "add_cross_attention True: not a"),
        (settings("config.json", tie_word_embeddings=False), "tie_word_embeddings False: not a"),
        (settings("config.json", pruned_heads={"0": [1]}), "pruned_heads .*: not a supported"),
        (settings("config.json", quantization_config={"bits": 4}), "quantization_config .*: not"),
        (settings("config.json", hidden_act="silu"), "hidden_act must be one of gelu, .*'silu'"),
        (settings("config.json", vocab_size=None), "vocab_size is missing from"),
        (settings("config.json", intermediate_size=24),
         "intermediate.dense.weight has the shape 20×12, but the config requires 24×12; config"),
        (settings("config.json", num_hidden_layers=3),
         "no encoder.layer.2.attention.self.query.weight in it .16 of 53 weights of the encoder"),
        (settings("config.json", num_hidden_layers=1000), "weights in it, too few for the 1,000"),
        (settings("config.json", num_hidden_layers=10**30), "num_hidden_layers must be at most"),
        (settings("config.json", id2label=[7]), r"id2label must be an object .*, not \[7\]"),
        (tensor("classifier.weight", None), "no classifier.weight in it, which BertForSequ"),
        (tensor("bert.pooler.dense.bias", None), "no pooler.dense.bias in it .1 of 2 weights of"),
        (tensor(WORD_EMBEDDINGS, np.zeros((28, 12), np.int8)),
         "bert.embeddings.word_embeddings.weight is I8, not floating point"),
        (tensor("bert.pooler.dense.bias", np.full(12, np.nan, np.float32)),
         "pooler.dense.bias contains NaN or infinity; it was saved after its training"),
        (tensor("bert.pooler.dense.bias", np.full(12, 1e300)),
         "pooler.dense.bias contains NaN or infinity"),
        (tensor("pooler.dense.bias", np.zeros(12, np.float32)),
         "pooler.dense.bias is the same weight as .*pooler.dense.bias in model.saf.*; remove one"),
        (truncated("model.safetensors"), "model.safetensors: cannot be read as safetensors: "),
        (pickled, "pytorch_model.bin: a pickle, .* it is never read; .* t.BertForSequenceClassifi"),
        (without("model.safetensors"), "no model.safetensors; give a directory with one"),
        (index_of("../elsewhere.safetensors"),
         "index.json: lists ../elsewhere.safetensors, which is not in its"),
        (index_of("a\0b"), "cannot be read: embedded null byte"),
        (index_of("x" * 10_000), "/xxx.* cannot be read: File name too long"),
        (without("tokenizer.json"), r"no vocabulary \(vocab.txt or tokenizer.json\); copy"),
        (other_vocabulary(SPECIAL), "vocab.txt: line 2 differs from the piece with id 1"),
        (vocabulary_with({"new": 99}), "the ids of its 27 pieces do not count up from 0"),
        (vocabulary_with({"new": True}), r"model.vocab has an id that is not .*: True"),
        (vocabulary_with({f"new{index}": 26 + index for index in range(3)}),
         "tokenizer.json: 29 pieces, but the config's vocab_size is 28; config and vocabul"),
        (settings("tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer"),
         "tokenizer_class BertJapaneseTokenizer does not tokenize like BERT"),
        (settings("tokenizer_config.json", strip_accents=False), "strip_accents False with do_lo"),
        (settings("tokenizer_config.json", tokenize_chinese_chars=False), "tokenize_chinese_chars"),
        (settings("tokenizer.json", model={"type": "BPE"}), "not a BERT tokenizer: model is BPE"),
        (settings("tokenizer.json", pre_tokenizer={"type": "Whitespace"}),
         "not a BERT tokenizer: pre_tokenizer is Whitespace, not BertPreTokenizer"),
        (settings("tokenizer.json", added_tokens=[{"content": "<x>", "id": 99}]),
         "tokenizer.json: added_tokens has <x>, which its tokenizer keeps whole"),
        (settings("tokenizer.json", added_tokens=[{"content": "\ud800", "id": 26}]),
         "tokenizer.json: cannot be read as JSON: .*surrogates not allowed"),
        (vocabulary_with({"a\nb": 26}),
         "tokenizer.json: a piece with a line break in it"),
        (lambda path: (path / "config.json").write_text("{"), "config.json: cannot be read as JSO"),
        (lambda path: (path / "config.json").write_text("[]"), "config.json: expected a JSON obj"),
        (without("config.json"), "neither config.json .* nor bert_config.json .* in it; give a"),
    ],
)  # fmt: skip
def test_bad_hugging_face_directories(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "spoilt"
    shutil.copytree(HUGGING_FACE / "regression", path)
    spoil(path)
    with pytest.raises(InputError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("change", "file", "what"),
    [
        (np.transpose, "model-00002-of-00002.safetensors", "has the shape"),
        (lambda values: values * np.nan, "model-00002-of-00002.safetensors", "contains NaN"),
        (None, "model.safetensors.index.json", "no .* in it"),
    ],
    ids=["shape", "NaN", "missing"],
)
def test_a_bad_weight_of_several_files(
    change: Callable[[np.ndarray], np.ndarray] | None, file: str, what: str, tmp_path: Path
) -> None:
    shutil.copytree(HUGGING_FACE / "regression", tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    last = {name: np.ascontiguousarray(change(weights.pop(name)))} if change else {}
    weights.pop(name, None)
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for shard, tensors in zip(shards, (weights, last), strict=True):
        save_file(tensors, tmp_path / shard)
    weight_map = dict.fromkeys(weights, shards[0]) | {name: shards[1]}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match=rf"^{tmp_path / file}: .*{what}"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("model.ckpt-1.index"), r"google: no \*.index; give a directory with one"),
        (lambda path: shutil.copy(path / "model.ckpt-1.index", path / "model.ckpt-2.index"),
         "google: several checkpoints, and no file that names the latest; give"),
        (truncated("model.ckpt-1.data-00000-of-00001"), "model.ckpt-1: cannot be read as a check"),
        (without("vocab.txt"), "vocab.txt: no vocabulary: No such file .*; copy it there"),
        (settings("bert_config.json", hidden_act="tanh"), "bert_config.json: hidden_act must be"),
        (settings("bert_config.json", vocab_size=13), "has the shape 12×12, but the config"),
    ],
)  # fmt: skip
def test_bad_checkpoints_of_google(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "google"
    shutil.copytree(GOOGLE / "single", path)
    spoil(path)
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)


def test_the_latest_of_several_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "google"
    shutil.copytree(GOOGLE / "single", path)
    shutil.copy(path / "model.ckpt-1.index", path / "model.ckpt-0.index")  # has no data
    (path / "checkpoint").write_text('model_checkpoint_path: "elsewhere/model.ckpt-1"\n')
    assert read_checkpoint(path).task is not None


def linked(path: Path) -> None:
    """Let a weight be the first bytes of another file."""
    with h5py.File(path / "model.weights.h5", "a") as file:
        del file["layers/dense/vars/1"]
        secret = [(str(path / "config.json"), 0, 48)]
        file.create_dataset("layers/dense/vars/1", (12,), np.float32, external=secret)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            settings("config.json", class_name="RobertaBackbone"),
            "RobertaBackbone, not BertBackbone",
        ),
        (settings("config.json", config={"num_layers": 1}), "config.json: no dropout in it; save"),
        (settings("task.json", config={"num_classes": 0}), "num_classes 0: must be a whole number"),
        (settings("task.json", config={"num_classes": 10**9}), "num_classes 1000000000: must be"),
        (without("tokenizer.json"), r"no vocabulary \(tokenizer.json and assets/tokenizer/vocabul"),
        (without("assets/tokenizer/vocabulary.txt"), "vocabulary.txt: no vocabulary: No such file"),
        (without("model.weights.h5"), "model.weights.h5: cannot be read: No such file"),
        (without("task.weights.h5"), "task.weights.h5: cannot be read: No such file"),
        (truncated("model.weights.h5"), "model.weights.h5: cannot be read as HDF5"),
        (linked, "layers/dense/vars/1 is not an array of floats in this file"),
    ],
)
def test_bad_presets(
    spoil: Callable[[Path], None],
    message: str,
    presets: dict[str, tuple[Path, keras.Model]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "preset"
    shutil.copytree(presets["single"][0], path)
    spoil(path)
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)


def test_a_directory_that_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing: does not exist"):
        read_checkpoint(tmp_path / "nothing")
    with pytest.raises(InputError, match="json: not a directory; give its"):
        read_checkpoint(HUGGING_FACE / "encoder" / "config.json")
    with pytest.raises(InputError, match="already a run; there is nothing to import"):
        read_checkpoint(run_of(HUGGING_FACE / "encoder", tmp_path))


def with_older_names(path: Path) -> None:
    """As transformers 2 to 4 wrote files: other names, buffers, and the tied weights again."""
    found = tensors(path)
    for file in path.glob("model*.safetensors*"):
        file.unlink()
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): values
        for name, values in found.items()
    }
    older["bert.embeddings.position_ids"] = np.arange(17)[None]
    older["cls.predictions.decoder.weight"] = found[WORD_EMBEDDINGS]
    older["cls.predictions.decoder.bias"] = older.pop("cls.predictions.bias")
    older["something.else"] = np.ones(3, np.float32)
    save_file(older, path / "model.safetensors")


def test_names_of_older_files(tmp_path: Path) -> None:
    path = tmp_path / "older"
    shutil.copytree(HUGGING_FACE / "pretraining", path)
    with_older_names(path)
    imported, wanted = read_checkpoint(path), read_checkpoint(HUGGING_FACE / "pretraining")
    assert imported.unused == ("something.else",)
    assert imported.heads == wanted.heads
    for name, values in wanted.weights.items():
        np.testing.assert_array_equal(imported.weights[name], values, err_msg=name)


def test_numbers_that_no_weight_of_ours_has_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "batches"
    shutil.copytree(HUGGING_FACE / "regression", path)
    tensor("norm.num_batches_tracked", np.ones((), np.int64))(path)
    assert read_checkpoint(path).unused == ("norm.num_batches_tracked",)


def test_an_output_matrix_of_its_own_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "untied"
    shutil.copytree(HUGGING_FACE / "masked_lm", path)
    tensor("cls.predictions.decoder.weight", np.ones((28, 12), np.float32))(path)
    assert read_checkpoint(path).unused == ("cls.predictions.decoder.weight",)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_of_an_unsupported_task_the_encoder_is_imported(problem: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    shutil.copytree(HUGGING_FACE / "single", path)
    changed(path / "config.json", problem_type=problem)
    imported = read_checkpoint(path)
    assert imported.task is None
    assert imported.unused == ("classifier.bias", "classifier.weight")
    assert f"{problem} with 3 outputs is not supported" in imported.notes[-1]


def test_indistinguishable_labels(tmp_path: Path) -> None:
    path = tmp_path / "twice"
    shutil.copytree(HUGGING_FACE / "single", path)
    changed(path / "config.json", id2label={"0": "a", "1": "b", "2": "a"})
    with pytest.raises(InputError, match="id2label names both row 0 and row 2 a; give"):
        read_checkpoint(path)
    changed(path / "config.json", id2label={"0": "a", "2": "b"})
    task = read_checkpoint(path).task
    assert task is not None
    assert task.labels == ("a", "LABEL_1", "b")


@pytest.mark.parametrize("architectures", [None, []])
def test_architectures_that_say_nothing(architectures: Any, tmp_path: Path) -> None:
    path = tmp_path / "unsaid"
    shutil.copytree(HUGGING_FACE / "single", path)
    changed(path / "config.json", architectures=architectures)
    imported = read_checkpoint(path)
    assert (imported.task, imported.unused) == (None, ("classifier.bias", "classifier.weight"))


def test_casing_by_the_pieces(tmp_path: Path) -> None:
    for kind, lower_case in (("single", False), ("regression", False)):
        path = tmp_path / kind
        shutil.copytree(HUGGING_FACE / kind, path)
        (path / "tokenizer_config.json").unlink()
        (path / "vocab.txt").write_bytes(read_checkpoint(path).vocabulary)
        (path / "tokenizer.json").unlink()
        imported = read_checkpoint(path)
        assert imported.lower_case == lower_case
        assert imported.notes[-1].startswith("no file says whether texts are lower-cased")
    vocabulary = path / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("Dog", "hound"))
    assert read_checkpoint(path).lower_case


@pytest.mark.slow
def test_a_real_checkpoint(tmp_path: Path) -> None:
    try:
        path = published_encoder()
    except subprocess.CalledProcessError:
        pytest.skip("the checkpoint cannot be installed here")
    wanted = dict(np.load(GOLDEN / "minilm.npz"))
    run = run_of(path, tmp_path)
    loaded = load_run(run)
    texts = ["The quick brown fox jumps over the lazy dog.", "狗 barked " * 30]
    tokenizer = build_tokenizer(loaded.vocabulary.pieces, lower_case=loaded.dataset.lower_case)
    for row, pieces in zip((0, 2), tokenizer.tokenize(texts).to_list(), strict=True):
        ids = wanted["input/input_ids"][row]
        assert [101, *pieces, 102] == ids[: len(pieces) + 2].tolist()
    batch = {
        "input_ids": wanted["input/input_ids"],
        "input_mask": wanted["input/attention_mask"],
        "segment_ids": wanted["input/token_type_ids"],
    }
    encoder = loaded.load_model().get_layer("encoder")
    inputs = {name: tf.constant(values, tf.int32) for name, values in batch.items()}
    found = {name: values.numpy() for name, values in encoder(inputs).items()}
    real = batch["input_mask"][:, ::7, None]
    close(found["sequence_output"][:, ::7] * real, wanted["sequence_output"] * real)
    close(found["pooled_output"], wanted["output/1"])
    theirs, ours = tensors(path), tensors(export_of(run, tmp_path)[0])
    del theirs["embeddings.position_ids"]  # counts up, no weight
    assert {name: sha256(values.tobytes()) for name, values in theirs.items()} == {
        name: sha256(values.tobytes()) for name, values in ours.items()
    }


PEER = BUILD / "hugging_face_training" / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="no environment with transformers (`make bench`)")
def test_transformers_loads_every_export(tmp_path: Path) -> None:
    """In an environment with PyTorch: no warning, the same pieces, the same scores."""
    exports, wanted = {}, {}
    for kind in (path.name for path in EXPECTED if path.parent == HUGGING_FACE):
        run, batch = run_of(HUGGING_FACE / kind, tmp_path), golden(HUGGING_FACE, kind)
        outputs = outputs_of(load_run(run).load_model(), batch)
        for encoder_only in (False, True) if kind in ("pretraining", "span") else (False,):
            export, _ = export_of(run, tmp_path, encoder_only=encoder_only)
            np.savez(export / "batch.npz", **batch)
            names = THEIR_OUTPUTS.get("encoder" if encoder_only else kind, ("task_logits",))
            exports[export] = kind
            wanted[export] = [outputs[name] for name in names]
            if kind == "span" and not encoder_only:
                wanted[export] = [*np.moveaxis(outputs["task_logits"], -1, 0)]
    script = Path(__file__).parent / "load_with_transformers.py"
    done = subprocess.run([PEER, script, *exports], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for export, kind in exports.items():
        found = dict(np.load(export / "outputs.npz"))
        np.testing.assert_array_equal(
            found.pop("input_ids"), golden(HUGGING_FACE, kind)["input_ids"]
        )
        assert len(found) == len(wanted[export])
        for index, values in enumerate(wanted[export]):
            close(values, found[str(index)], str(export))
