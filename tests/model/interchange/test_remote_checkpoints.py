"""Checkpoints in a bucket, read through the local cache."""

from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest

from model.interchange import read_checkpoint
from model.interchange.files import regular_file
from pipeline.errors import InputError
from pipeline.storage.cache import CacheConfig
from pipeline.storage.files import write_atomically
from pipeline.storage.local_copies import local_copy
from pipeline.storage.remote import path_from

GOLDEN = Path(__file__).parents[2] / "golden"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##es"]


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preset")
    (folder / "pieces.txt").write_text("\n".join(PIECES) + "\n")
    hub = keras_hub.models
    backbone = hub.BertBackbone(
        vocabulary_size=len(PIECES), num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=8,
    )  # fmt: skip
    tokenizer = hub.BertTokenizer(str(folder / "pieces.txt"), lowercase=True)
    preprocessor = hub.BertMaskedLMPreprocessor(tokenizer, sequence_length=8)
    hub.BertMaskedLM(backbone, preprocessor=preprocessor).save_to_preset(str(folder / "saved"))
    keras.backend.clear_session()
    return folder / "saved"


@pytest.mark.parametrize("kind", ["hugging_face/pretraining", "google/single", "KerasHub"])
def test_checkpoint_in_a_bucket_is_that_of_the_disk(store, tmp_path, request, kind):
    local = request.getfixturevalue("preset") if kind == "KerasHub" else GOLDEN / kind
    remote = path_from("gs://bucket/checkpoint")
    for file in filter(Path.is_file, local.rglob("*")):
        write_atomically(remote / file.relative_to(local).as_posix(), file.read_bytes())
    found = read_checkpoint(remote, CacheConfig(cache=tmp_path))
    expected = read_checkpoint(local)
    assert found.path == remote
    assert found.config == expected.config
    assert found.vocabulary == expected.vocabulary
    assert len(expected.weights) > 10
    assert found.weights.keys() == expected.weights.keys()
    for name, values in expected.weights.items():
        np.testing.assert_array_equal(found.weights[name], values, err_msg=name)


def test_errors_of_a_checkpoint_in_a_bucket_name_the_bucket(store, tmp_path):
    remote = path_from("gs://bucket/checkpoint")
    write_atomically(remote / "config.json", b"{")
    with pytest.raises(InputError, match=r"^gs://bucket/checkpoint/config\.json: "):
        read_checkpoint(remote, CacheConfig(cache=tmp_path))


def test_files_outside_the_copy_of_a_checkpoint_are_refused(store, tmp_path):
    remote = path_from("gs://bucket/checkpoint")
    write_atomically(remote / "sub/config.json", b"{}")
    (tmp_path / "private").write_bytes(b"hunter2")
    with local_copy(remote, CacheConfig(cache=tmp_path / "cache")) as copy:
        assert regular_file(copy, "sub/config.json")
        assert regular_file(copy / "sub", "config.json")
        up = "../" * len(copy.parts)
        for outside in (tmp_path / "private", f"{up}{tmp_path}/private"):
            with pytest.raises(InputError, match="a link that points outside"):
                regular_file(copy, str(outside))
