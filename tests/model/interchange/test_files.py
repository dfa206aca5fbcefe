"""Malformed checkpoint files: refused quickly, with a one-line error."""

import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import hypothesis
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from clozeline.commands.import_checkpoint import as_json
from clozeline.main import main
from model.interchange import read_checkpoint
from model.interchange.import_checkpoint import ImportResult
from pipeline.errors import InputError
from pipeline.text.tokenizer import Vocabulary

GOLDEN = Path(__file__).parents[2] / "golden"
HUGGING_FACE, GOOGLE = GOLDEN / "hugging_face", GOLDEN / "google"
SECRET = "hunter2"


def copy_of(original: Path, tmp_path: Path) -> Path:
    """A directory like another, to be spoilt."""
    path = tmp_path / "checkpoint"
    shutil.copytree(original, path)
    return path


def edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    settings = (json.loads(path.read_text()) if path.exists() else {}) | values
    path.write_text(
        json.dumps({key: value for key, value in settings.items() if value is not None})
    )


def refused(path: Path, message: str) -> str:
    """The one line that says why a directory is refused."""
    with pytest.raises(InputError, match=message) as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    return str(caught.value)


# Files that are something else

NAMES = [
    (HUGGING_FACE / "pretraining", "config.json"),
    (HUGGING_FACE / "pretraining", "tokenizer_config.json"),
    (HUGGING_FACE / "pretraining", "tokenizer.json"),
    (HUGGING_FACE / "pretraining", "special_tokens_map.json"),
    (HUGGING_FACE / "pretraining", "added_tokens.json"),
    (HUGGING_FACE / "pretraining", "vocab.txt"),
    (HUGGING_FACE / "pretraining", "model.safetensors.index.json"),
    (HUGGING_FACE / "pretraining", "model-00002-of-00004.safetensors"),
    (HUGGING_FACE / "single", "model.safetensors"),
    (GOOGLE / "single", "bert_config.json"),
    (GOOGLE / "single", "vocab.txt"),
    (GOOGLE / "single", "model.ckpt-1.index"),
    (GOOGLE / "single", "model.ckpt-1.data-00000-of-00001"),
]


def a_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def a_fifo(file: Path) -> None:
    os.mkfifo(file)


def a_directory(file: Path) -> None:
    file.mkdir()


def a_private_file(file: Path) -> None:
    private = file.parent.parent / "private"
    private.write_text(f"{SECRET}\n{SECRET}\n")
    file.symlink_to(private)


def a_circle(file: Path) -> None:
    file.symlink_to(file.name)


@pytest.mark.parametrize(
    ("original", "name"), NAMES, ids=lambda value: getattr(value, "name", value)
)
@pytest.mark.parametrize("become", [a_device, a_fifo, a_directory, a_private_file, a_circle])
def test_only_regular_files_of_the_directory_are_read(
    original: Path, name: str, become: Callable[[Path], None], tmp_path: Path
) -> None:
    path = copy_of(original, tmp_path)
    (path / name).unlink(missing_ok=True)
    become(path / name)
    why = {a_fifo: "not a regular file", a_directory: "not a regular file", a_circle: "cannot be"}
    said = refused(path, f"{name}: {why.get(become, 'a link that points outside ')}")
    assert SECRET not in said


def test_a_link_to_nothing(tmp_path: Path) -> None:
    path = copy_of(HUGGING_FACE / "single", tmp_path)
    (path / "vocab.txt").symlink_to("nothing")
    refused(path, r"vocab\.txt: a link to a file that does not exist")


def test_a_snapshot_in_the_cache_of_hugging_face(tmp_path: Path) -> None:
    model = tmp_path / "hub" / "models--someone--model"
    snapshot = model / "snapshots" / "0123abcd"
    (model / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for index, file in enumerate((HUGGING_FACE / "single").iterdir()):
        shutil.copy(file, model / "blobs" / str(index))
        (snapshot / file.name).symlink_to(f"../../blobs/{index}")
    wanted = read_checkpoint(HUGGING_FACE / "single")
    assert read_checkpoint(snapshot).vocabulary == wanted.vocabulary
    (tmp_path / "hub" / "latest").symlink_to(snapshot)  # the user's own link leads anywhere
    assert read_checkpoint(tmp_path / "hub" / "latest").vocabulary == wanted.vocabulary
    (tmp_path / "hub" / "other").write_text(SECRET)
    (snapshot / "vocab.txt").symlink_to("../../../other")
    assert SECRET not in refused(snapshot, r"vocab\.txt: a link that points outside .*model; copy")


def test_a_directory_of_links_is_not_the_cache_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "models--mine" / "elsewhere"
    shutil.copytree(HUGGING_FACE / "single", path)
    (path.parent / "private").write_text(SECRET)
    (path / "vocab.txt").symlink_to("../private")
    assert SECRET not in refused(path, r"vocab\.txt: a link that points outside ")


@pytest.mark.parametrize(("original", "name"), NAMES[:7] + NAMES[9:11], ids=str)
def test_files_larger_than_their_kind_are_not_read(
    original: Path, name: str, tmp_path: Path
) -> None:
    path = copy_of(original, tmp_path)
    with (path / name).open("ab") as file:
        file.truncate(2**42)
    refused(path, f"{name}: 4,398,046,511,104 bytes, above the limit of [0-9,]+ for this kind")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"architectures": ["\\ud800"]}', "surrogates not allowed"),
        ("\ufeff{}", "BOM"),
        (f"{SECRET} is no JSON", "Expecting value"),
    ],
    ids=["lists", "objects", "digits", "surrogate", "mark", "text"],
)
def test_files_that_are_not_json(text: str, message: str, tmp_path: Path) -> None:
    for original, names in (
        (HUGGING_FACE / "pretraining", [name for _, name in NAMES[:7] if name.endswith("json")]),
        (GOOGLE / "single", ["bert_config.json"]),
    ):
        for name in names:
            path = tmp_path / name
            shutil.copytree(original, path)
            (path / name).write_text(text)
            assert SECRET not in refused(path, f"{name}: cannot be read as JSON: .*{message}")


# Two formats in one directory


def test_a_hugging_face_directory_may_have_a_bert_config_too(tmp_path: Path) -> None:
    path = copy_of(HUGGING_FACE / "single", tmp_path)
    shutil.copy(GOOGLE / "pretraining" / "bert_config.json", path)
    imported = read_checkpoint(path)
    assert (imported.form, imported.notes[1:]) == ("hugging_face", ())
    for file in (GOOGLE / "pretraining").glob("model.ckpt*"):
        shutil.copy(file, path)
    imported = read_checkpoint(path)
    assert imported.form == "hugging_face"
    assert imported.notes[-1].endswith(
        "also holds a TensorFlow 1 checkpoint (bert_config.json); it is ignored"
    )
    # As Google published its small models: config.json and a pickle next to its own checkpoint.
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    shutil.copy(GOOGLE / "pretraining" / "vocab.txt", path)
    assert read_checkpoint(path).form == "google"
    (path / "model.ckpt-1.index").unlink()
    refused(path, "pytorch_model.bin: a pickle")


# A message that is there to be run


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_the_suggested_command_contains_no_text_of_the_checkpoint(
    name: str, tmp_path: Path
) -> None:
    evil = "BertModel'); open('owned', 'w').write('"
    path = tmp_path / "it's $(touch owned) `touch owned` \" dir"
    shutil.copytree(HUGGING_FACE / "single", path)
    (path / "model.safetensors").rename(path / name)
    edit(path / "config.json", architectures=[evil])
    command = refused(path, "never read").partition("convert it: ")[2].partition(", and copy")[0]
    assert "owned'" not in command
    python, *arguments = shlex.split(command)
    assert (python, arguments[2:]) == ("python", [str(path), "NEW"])
    assert "t.BertModel.from_pretrained(sys.argv[1])" in arguments[1]
    # As a shell runs it, with a library that only says what it is called with.
    (tmp_path / "transformers.py").write_text(
        "class BertModel:\n"
        "    def from_pretrained(path): print(path); return BertModel()\n"
        "    def save_pretrained(self, path): print(path)\n"
    )
    command = command.replace("python", shlex.quote(sys.executable), 1)
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(path), "NEW"]
    assert not (tmp_path / "owned").exists()


def test_the_suggested_command_uses_the_class_of_the_model(tmp_path: Path) -> None:
    for kind, name in (("single", "BertForSequenceClassification"), ("span", "BertForQuestion")):
        path = tmp_path / kind
        shutil.copytree(HUGGING_FACE / kind, path)
        (path / "model.safetensors").rename(path / "pytorch_model.bin")
        refused(path, f"t.{name}")


# Values that cannot be


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("config.json", {"layer_norm_eps": float("nan")}, "layer_norm_eps must be above 0, rec"),
        ("config.json", {"layer_norm_eps": float("inf")}, "layer_norm_eps must be above 0, rec"),
        ("config.json", {"layer_norm_eps": 10**400}, "layer_norm_eps must be above 0, received"),
        ("config.json", {"initializer_range": "0.1"}, "initializer_range must be above 0, rec"),
        ("config.json", {"hidden_dropout_prob": float("nan")}, "hidden_dropout_prob must be at l"),
        ("config.json", {"hidden_size": -12}, "hidden_size must be a whole number of at least 1"),
        ("config.json", {"num_hidden_layers": True}, "num_hidden_layers must be a whole number"),
        ("config.json", {"vocab_size": 28.0}, "vocab_size must be a whole number"),
        ("config.json", {"vocab_size": "x" * 10**6}, "vocab_size must be a whole number"),
        ("config.json", {"hidden_act": ["gelu"]}, r"hidden_act must be one of .*\['gelu'\]"),
        ("config.json", {"hidden_size": 3 * 10**4}, "has the shape 28×12, but the con"),
        ("config.json", {"hidden_size": 3 * 10**15}, "at most 100,000,000,000 parameters; these"),
        ("config.json", {"max_position_embeddings": 10**9}, "has the shape 17×12, but the con"),
        ("config.json", {"max_position_embeddings": 10**15}, "000 parameters; these sizes give m"),
        ("config.json", {"model_type": "x\n\x1b[2J" * 1000}, r"model_type 'x\\n.*: not a supp"),
        ("config.json", {"architectures": 7}, "architectures must be a list, not 7"),
        ("config.json", {"architectures": "Bert"}, "architectures must be a list, not Bert"),
        ("config.json", {"architectures": [[7]]}, r"architectures must be a list of strings"),
        ("config.json", {"problem_type": 7}, "problem_type must be a string, not 7"),
        ("config.json", {"problem_type": "x"}, "problem_type x: must be one of"),
        ("config.json", {"takes_pairs": "no"}, "takes_pairs must be true or false, not no"),
        ("config.json", {"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}},
         "id2label names a row 3 .d., but the head has 3 rows, counted from 0"),
        ("config.json", {"id2label": {"-1": "a"}}, "id2label names a row -1 .a., but the head"),
        ("config.json", {"id2label": {"00": "a"}}, "id2label names a row 00 .a., but the head"),
        ("config.json", {"id2label": {"x": "a"}}, "id2label names a row x .a., but the head has"),
        ("config.json", {"id2label": {"0": ["a"]}}, r"id2label names row 0 \['a'\]: not a str"),
        ("config.json", {"id2label": {"0": True}}, "id2label names row 0 True: not a str"),
        ("config.json", {"id2label": {"0": "x", "2": "x"}}, "names both row 0 and row 2 x; give"),
        ("tokenizer_config.json", {"model_max_length": 1}, "at least 5, not 1"),
        ("tokenizer_config.json", {"model_max_length": -1}, "at least 5, not -1"),
        ("tokenizer_config.json", {"model_max_length": float("nan")}, "at least 5, not nan"),
        ("tokenizer_config.json", {"model_max_length": "512"}, "at least 5, not 512"),
        ("tokenizer_config.json", {"model_max_length": True}, "at least 5, not True"),
        ("tokenizer_config.json", {"do_lower_case": "no"},
         "do_lower_case must be true or false, not no"),
        ("tokenizer_config.json", {"do_lower_case": 0}, "do_lower_case must be true or false"),
        ("tokenizer_config.json", {"strip_accents": "no"}, "strip_accents must be true or false"),
        ("tokenizer_config.json", {"tokenizer_class": 7}, "tokenizer_class must be a string, not"),
        ("tokenizer_config.json", {"cls_token": 7}, "cls_token must be a token, not 7"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "[CLS]"}}},
         "added_tokens_decoder has an id that is not a whole number from 0: x"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"3": 7}}, "must be a token, not 7"),
        ("tokenizer_config.json", {"never_split": "no"}, "never_split must be a list, not no"),
        ("tokenizer.json", {"added_tokens": [7]}, "added_tokens must be a token, not 7"),
        ("tokenizer.json", {"added_tokens": 7}, "added_tokens must be a list, not 7"),
        ("tokenizer.json", {"added_tokens": [{"content": "[CLS]", "id": -3}]}, "from 0: -3"),
        ("tokenizer.json", {"added_tokens": [{"content": "[CLS]", "id": 1.5}]}, "from 0: 1.5"),
        ("tokenizer.json", {"model": [7]}, r"model must be an object .*, not \[7\]"),
        ("tokenizer.json", {"normalizer": "x"}, "normalizer must be an object .*, not x"),
        ("tokenizer.json", {"truncation": "x"}, "truncation must be an object .*, not x"),
        ("special_tokens_map.json", {"mask_token": ["[MASK]"]}, "mask_token must be a token, not"),
        ("added_tokens.json", {"[MASK]": "5"}, r"\[MASK\] has an id that is not .*: 5"),
    ],
)  # fmt: skip
def test_values_of_a_wrong_kind(
    name: str, values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = copy_of(HUGGING_FACE / "single", tmp_path)
    edit(path / name, **values)
    assert f"{name}: " in refused(path, message) or "has the shape" in message


def test_more_labels_than_rows_in_every_kind_of_head(tmp_path: Path) -> None:
    for kind, rows, counted in (
        ("regression", 1, "1 row"), ("tagging", 2, "2 rows"), ("span", 2, "2 rows")
    ):  # fmt: skip
        path = tmp_path / kind
        shutil.copytree(HUGGING_FACE / kind, path)
        edit(path / "config.json", id2label={str(index): f"l{index}" for index in range(rows)})
        read_checkpoint(path)
        edit(path / "config.json", id2label={str(index): f"l{index}" for index in range(rows + 1)})
        refused(path, f"id2label names a row {rows} .l{rows}., but the head has {counted},")


def test_the_commands_report_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy_of(HUGGING_FACE / "single", tmp_path)
    edit(path / "config.json", hidden_act="\n\x1b[31m")
    for command in (
        ["import", "--from", str(path), "--run", str(tmp_path / "run")],
        ["finetune", "--init", str(path), "--run", str(tmp_path / "run"), "--task", "single",
         "--train", str(path / "config.json")],
    ):  # fmt: skip
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "config.json: hidden_act must be one of" in said
        assert "\x1b" not in said


def test_a_directory_that_is_not_a_run_is_refused_unread(tmp_path: Path) -> None:
    from model.source import open_source

    path = copy_of(HUGGING_FACE / "single", tmp_path)
    (path / "config.json").unlink()
    os.mkfifo(path / "config.json")
    with pytest.raises(InputError, match=r"config\.json: not a regular file"):
        open_source(path)
    (path / "config.json").unlink()
    with (path / "config.json").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(InputError, match=r"config\.json: larger than 16,777,216 bytes"):
        open_source(path)


# Sizes that a few bytes claim


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset of KerasHub's with a small model."""
    path = tmp_path_factory.mktemp("presets") / "preset"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the"]
    backbone = keras_hub.models.BertBackbone(len(pieces), 1, 2, 4, 8, max_sequence_length=16)
    backbone.save_to_preset(str(path))
    keras_hub.models.BertTokenizer(pieces).save_to_preset(str(path))
    return path


EMBEDDING = "layers/reversible_embedding/vars/0"


def test_an_array_that_is_not_stored(preset: Path, tmp_path: Path) -> None:
    """Before, 19 GB were allocated for a file of 37 kB."""
    path = copy_of(preset, tmp_path)
    rows = 1_200_000_000
    with h5py.File(path / "model.weights.h5", "a") as file:
        del file[EMBEDDING]
        file.create_dataset(EMBEDDING, (rows, 4), np.float32)
    config = json.loads((path / "config.json").read_text())["config"]
    edit(path / "config.json", config=config | {"vocabulary_size": rows})
    assert (path / "model.weights.h5").stat().st_size < 100_000
    refused(path, "vars/0 has the shape 1200000000×4, but 0 bytes are stored of it; save")


@pytest.mark.parametrize("is_written", [True, False])
def test_an_array_that_is_compressed_to_nothing(
    is_written: bool, preset: Path, tmp_path: Path
) -> None:
    path = copy_of(preset, tmp_path)
    with h5py.File(path / "model.weights.h5", "a") as file:
        del file[EMBEDDING]
        how = {"chunks": (100_000, 4), "compression": "gzip"}
        if is_written:
            how["data"] = np.zeros((1_000_000, 4), np.float32)
        file.create_dataset(EMBEDDING, (1_000_000, 4), np.float32, **how)
    refused(path, "bytes of weights in a file of .*; compressed weights are read up to 4 times")


def test_weights_that_are_compressed(preset: Path, tmp_path: Path) -> None:
    path, wanted = copy_of(preset, tmp_path), read_checkpoint(preset)
    with h5py.File(path / "model.weights.h5", "a") as file:
        values = file[EMBEDDING][()]
        del file[EMBEDDING]
        file.create_dataset(EMBEDDING, data=values, compression="gzip", chunks=True)
    found = read_checkpoint(path).weights["token_embedding/embeddings"]
    np.testing.assert_array_equal(found, wanted.weights["token_embedding/embeddings"])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "metadata.json"])
def test_values_of_a_wrong_kind_in_a_preset(name: str, preset: Path, tmp_path: Path) -> None:
    path = copy_of(preset, tmp_path)
    if name == "metadata.json":  # is not read
        (path / name).write_text("[" * 100_000)
        read_checkpoint(path)
        return
    edit(path / name, config=7)
    refused(path, rf"{name}: config must be an object .*, not 7")
    edit(path / name, class_name=[7])
    refused(path, rf"{name}: class_name must be a string, not \[7\]")


def test_errors_of_a_preset_use_its_own_names(preset: Path, tmp_path: Path) -> None:
    path = copy_of(preset, tmp_path)
    config = json.loads((path / "config.json").read_text())["config"]
    edit(path / "config.json", config=config | {"num_heads": -1})
    refused(path, r"config\.json: num_heads must be a whole number of at least 1, received -1")


def test_a_vocabulary_that_is_elsewhere(preset: Path, tmp_path: Path) -> None:
    path = copy_of(preset, tmp_path)
    shutil.move(path / "assets", tmp_path / "elsewhere")
    (path / "assets").symlink_to(tmp_path / "elsewhere")
    refused(path, r"vocabulary\.txt: a link that points outside ")


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (b"{}", 2**63),
        (b"{}", 2**40),
        (b"[" * 100_000, None),
        (b'{"x":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}', None),
        (b'{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}', None),
        (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', None),
        (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000]}}', None),
        (b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', None),
        (b'{"x":{"dtype":"NO","shape":[1],"data_offsets":[0,4]}}', None),
        (b'{"x":7}', None),
        (b"", None),
    ],
)
def test_a_header_that_does_not_fit_its_file(
    header: bytes, length: int | None, tmp_path: Path
) -> None:
    path = copy_of(HUGGING_FACE / "single", tmp_path)
    length = len(header) if length is None else length
    (path / "model.safetensors").write_bytes(struct.pack("<Q", length) + header + b"\0" * 4)
    refused(path, r"model\.safetensors: cannot be read as safetensors: ")


def test_an_index_that_claims_more_than_its_data(tmp_path: Path) -> None:
    path = copy_of(GOOGLE / "single", tmp_path)
    for file in path.glob("model.ckpt*"):
        file.unlink()
    # One number of a matrix of 4 TB, as partitioned variables are stored.
    part = "1000000 1000000 0,1:0,1"
    name = "bert/embeddings/word_embeddings"
    tf.raw_ops.SaveV2(
        prefix=str(path / "model.ckpt-1"),
        tensor_names=[name],
        shape_and_slices=[part],
        tensors=[tf.zeros([1, 1])],
    )
    refused(path, f"model.ckpt-1: cannot be read as a checkpoint: {name} is stored in slices")


def test_weights_of_other_types_in_a_checkpoint(tmp_path: Path) -> None:
    path = copy_of(GOOGLE / "single", tmp_path)
    reader = tf.train.load_checkpoint(str(path / "model.ckpt-1"))
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    name = "bert/embeddings/word_embeddings"
    for values, kind in ((tensors[name].astype(np.int64), "int64"), (tensors[name] > 0, "bool")):
        tf.raw_ops.SaveV2(
            prefix=str(path / "model.ckpt-1"),
            tensor_names=[*tensors],
            shape_and_slices=[""] * len(tensors),
            tensors=[*(tensors | {name: values}).values()],
        )
        refused(path, f"model.ckpt-1: {name} is {kind}, not floating point")


def test_a_checkpoint_with_unknown_names_shows_one(tmp_path: Path) -> None:
    path = copy_of(GOOGLE / "single", tmp_path)
    reader = tf.train.load_checkpoint(str(path / "model.ckpt-1"))
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    tf.raw_ops.SaveV2(
        prefix=str(path / "model.ckpt-1"),
        tensor_names=[f"module/{name}" for name in tensors],
        shape_and_slices=[""] * len(tensors),
        tensors=[*tensors.values()],
    )
    refused(
        path,
        "no bert/embeddings/word_embeddings in it .* of the encoder are missing; a weight that it "
        "has is module/bert/embeddings/word_embeddings.; give a whole BERT checkpoint",
    )


def test_the_latest_checkpoint_is_not_read_from_a_device(tmp_path: Path) -> None:
    path = copy_of(GOOGLE / "single", tmp_path)
    shutil.copy(path / "model.ckpt-1.index", path / "model.ckpt-0.index")
    (path / "checkpoint").symlink_to("/dev/zero")
    refused(path, "checkpoint: a link that points outside ")


def handles(footer: bytes) -> list[tuple[int, int]]:
    """Where a table's metaindex and index are, and their sizes: numbers of 7 bits a byte."""
    numbers, number, shift = [], 0, 0
    for byte in footer:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    return [(numbers[0], numbers[1]), (numbers[2], numbers[3])]


@pytest.mark.parametrize("seed", range(8))
def test_an_index_with_any_bytes_and_right_checksums(seed: int, tmp_path: Path) -> None:
    """TensorFlow's own reader ends the process at the first of them."""
    path, rng = copy_of(GOOGLE / "single", tmp_path), np.random.default_rng(seed)
    index = path / "model.ckpt-1.index"
    good = index.read_bytes()
    meta, top = handles(good[-48:])
    blocks = [(0, meta[0] - 5), meta, top]
    outcomes = set()
    for _ in range(60):
        bad = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            begin, size = blocks[rng.choice(3, p=[0.8, 0.05, 0.15])]
            bad[begin + rng.integers(size)] = rng.choice([0, 0x7F, 0x80, 0xFF, rng.integers(256)])
        for begin, size in blocks:
            crc = google_crc32c.value(bytes(bad[begin : begin + size + 1]))
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            struct.pack_into("<I", bad, begin + size + 1, masked)
        index.write_bytes(bad)
        try:
            read_checkpoint(path)
            outcomes.add("imported")
        except InputError as error:
            outcomes.add(str(error).removeprefix(str(path))[:50])
    assert len(outcomes) > 4


def as_block(entries: list[bytes]) -> tuple[bytes, int]:
    """A block of a table with its trailer, and its size without it."""
    block = b"".join(entries) + struct.pack("<II", 0, 1)
    crc = google_crc32c.value(block + b"\0")
    return block + b"\0" + struct.pack(
        "<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    ), len(block)


def varints(*numbers: int) -> bytes:
    """Numbers of 7 bits a byte, lowest first."""
    written = b""
    for number in numbers:
        while number > 127:
            written += bytes([number & 127 | 128])
            number >>= 7
        written += bytes([number])
    return written


def as_table(entries: list[bytes], times: int) -> bytes:
    """A table that names one block several times."""
    block, size = as_block(entries)
    handle = varints(0, size)
    index, index_size = as_block([varints(0, 0, len(handle)) + handle] * times)
    footer = varints(0, 0, len(block), index_size).ljust(40, b"\0")
    return block + index + footer + struct.pack("<Q", 0xDB4775248B80FB57)


def long_names() -> bytes:
    first = varints(0, 100_000, 0) + b"n" * 100_000
    others = (varints(99_998, 2, 0) + struct.pack(">H", number) for number in range(20_000))
    return as_table([first, *others], times=1)


def one_block_again_and_again() -> bytes:
    entries = [varints(0, 4, 0) + struct.pack(">I", number) for number in range(20_000)]
    return as_table(entries, times=20_000)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (long_names, "its names are longer than its blocks"),  # 2 GB of names from 220 kB
        (one_block_again_and_again, "its blocks overlap"),  # 400 million entries from 280 kB
    ],
)
def test_an_index_that_expands_to_many_times_its_size(
    table: Callable[[], bytes], why: str, tmp_path: Path
) -> None:
    path = copy_of(GOOGLE / "single", tmp_path)
    (path / "model.ckpt-1.index").write_bytes(table())
    tracemalloc.start()
    refused(path, f"model.ckpt-1: cannot be read as a checkpoint: its index is malformed: {why}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


def test_a_weight_whose_bytes_are_damaged(tmp_path: Path) -> None:
    path = copy_of(GOOGLE / "single", tmp_path)
    data = path / "model.ckpt-1.data-00000-of-00001"
    data.write_bytes(bytes(byte ^ 1 for byte in data.read_bytes()))
    refused(path, r"model\.ckpt-1: cannot be read as a checkpoint: .* is damaged: its checksum")


def test_a_checkpoint_in_several_data_files(tmp_path: Path) -> None:
    """As `tf.train.Saver` writes with many devices, and merges."""
    path, wanted = copy_of(GOOGLE / "single", tmp_path), read_checkpoint(GOOGLE / "single")
    reader = tf.train.load_checkpoint(str(path / "model.ckpt-1"))
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    for file in path.glob("model.ckpt*"):
        file.unlink()
    parts = [str(path / f"part-{index}") for index in range(3)]
    for index, part in enumerate(parts):
        mine = [*tensors][index::3]
        tf.raw_ops.SaveV2(
            prefix=part,
            tensor_names=mine,
            shape_and_slices=[""] * len(mine),
            tensors=[tensors[name] for name in mine],
        )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(path / "model.ckpt-9")
    )
    assert len([*path.glob("*.data-*-of-00003")]) == 3
    found = read_checkpoint(path)
    for name, values in wanted.weights.items():
        np.testing.assert_array_equal(found.weights[name], values)


# Whatever the JSON files hold

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 5, 2**31, 2**63, 10**30, 10**400])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["[CLS]", "bert", "\n", "\ud800", "0", "BertTokenizer", "x" * 10_000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON value, with each of its keys."""
    if not isinstance(value, dict | list):
        return []
    keys = [*value] if isinstance(value, dict) else [*range(len(value))]
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def spoil(text: str, data: st.DataObject) -> str:
    """Change some values, or some characters, of a JSON text."""
    if data.draw(st.integers(0, 3)) == 0:
        start = data.draw(st.integers(0, len(text)))
        return text[:start] + data.draw(st.text(max_size=3)) + text[start + 1 :]
    value = json.loads(text)
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(places(value) or [({}, "x")]))
        if isinstance(container, dict) and data.draw(st.booleans()):
            key = data.draw(st.sampled_from([key, "id2label", "never_split", "bos_token", "x"]))
        container[key] = data.draw(VALUES)
    return json.dumps(value)


FULL = {
    "tokenizer_config.json": {
        "added_tokens_decoder": {"5": {"content": "[MASK]", "special": True}},
        "additional_special_tokens": ["[CLS]"],
        "never_split": ["[SEP]"],
        "do_basic_tokenize": True,
    },
    "special_tokens_map.json": {"cls_token": {"content": "[CLS]"}, "mask_token": "[MASK]"},
    "added_tokens.json": {"[MASK]": 5},
    "config.json": {"problem_type": "single_label_classification", "tokenizer_class": None},
}


@pytest.fixture(scope="module")
def spoilt(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory of each kind, with all the JSON files that it may have."""
    folder = tmp_path_factory.mktemp("spoilt")
    originals = {
        "single": HUGGING_FACE / "single",
        "pretraining": HUGGING_FACE / "pretraining",
        "google": GOOGLE / "single",
        "preset": preset,
    }
    paths = {kind: folder / kind for kind in originals}
    for kind, original in originals.items():
        shutil.copytree(original, paths[kind])
    for name, values in FULL.items():
        edit(paths["single"] / name, **values)
    return paths


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("single", "config.json"),
        ("single", "tokenizer_config.json"),
        ("single", "tokenizer.json"),
        ("single", "special_tokens_map.json"),
        ("single", "added_tokens.json"),
        ("pretraining", "model.safetensors.index.json"),
        ("google", "bert_config.json"),
        ("preset", "config.json"),
        ("preset", "tokenizer.json"),
    ],
)
@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(data=st.data())
def test_any_json_is_imported_or_refused(
    kind: str, name: str, spoilt: dict[str, Path], data: st.DataObject
) -> None:
    path = spoilt[kind]
    good = (path / name).read_text()
    bad = spoil(good, data)
    (path / name).write_text(bad, errors="surrogatepass")
    imported, said = None, ""
    try:
        imported = read_checkpoint(path)
    except InputError as error:
        said = str(error)
    finally:
        (path / name).write_text(good)
    assert "\n" not in said
    assert len(said) < 1000
    if imported is not None:
        assert len(Vocabulary.parse(imported.vocabulary, path)) == imported.config.vocab_size
        json.dumps(as_json(ImportResult(path, imported)), ensure_ascii=False).encode()
