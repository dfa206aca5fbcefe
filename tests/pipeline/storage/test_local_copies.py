"""Remote files as local ones: links to copies in the cache."""

import dataclasses
from pathlib import Path
from unittest import mock

import pytest

from pipeline.errors import InputError
from pipeline.manifest import Manifest, Shard
from pipeline.storage.cache import CacheConfig
from pipeline.storage.files import write_atomically
from pipeline.storage.local_copies import is_copy, local_copy, local_dataset
from pipeline.storage.remote import path_from

FILES = {"train-0": ("00000000", b""), "train-1": ("8a9136aa", bytes(32))}  # CRCs of RFC 3720


@pytest.fixture
def dataset(store) -> tuple[Path, Manifest]:
    path = path_from("gs://bucket/dataset")
    shards = []
    for name, (checksum, data) in FILES.items():
        write_atomically(path / name, data)
        shards.append(Shard(name, 1, 1, len(data), checksum))
    write_atomically(path / "vocab.txt", b"[PAD]\n")
    manifest = Manifest({}, "", 1, True, 8, 2, {"train": tuple(shards)}, {}, {}, {})
    return path, manifest


def test_files_are_links_to_checked_copies(dataset, tmp_path):
    path, manifest = dataset
    with local_dataset(path, manifest, CacheConfig(cache=tmp_path / "cache")) as local:
        assert {file.name: file.read_bytes() for file in local.iterdir()} == {
            "train-0": b"", "train-1": bytes(32), "vocab.txt": b"[PAD]\n",
        }  # fmt: skip
    assert not local.exists()
    assert len([*(tmp_path / "cache").glob("*-train-*")]) == 2


def test_local_dataset_is_read_in_place(tmp_path, dataset):
    with local_dataset(tmp_path, dataset[1], CacheConfig(cache=tmp_path / "cache")) as local:
        assert local == tmp_path
    assert not (tmp_path / "cache").exists()


def test_errors_name_the_dataset(dataset, tmp_path, store):
    path, manifest = dataset
    config = CacheConfig(cache=tmp_path)
    with (
        pytest.raises(InputError, match=r"^gs://bucket/dataset/train-1: record 3 is corrupt$"),
        local_dataset(path, manifest, config) as local,
    ):
        raise InputError(f"{local / 'train-1'}: record 3 is corrupt")
    small = dataclasses.replace(config, cache_gb=0.001)
    big = tuple(dataclasses.replace(s, size_bytes=2_000_000) for s in manifest.splits["train"])
    with (
        pytest.raises(InputError, match=r"`cache_gb` 0.001: too small for gs://bucket/dataset"),
        local_dataset(path, dataclasses.replace(manifest, splits={"train": big}), small),
    ):
        pass
    store.objects["bucket/dataset/train-1"] = b"x" * 32
    with (
        pytest.raises(InputError, match="gs://bucket/dataset/train-1: corrupt or changed"),
        local_dataset(path, manifest, CacheConfig(cache=tmp_path / "other")),
    ):
        pass


def test_local_copy_has_the_names_of_the_original_and_is_fetched_once(store, tmp_path):
    folder = path_from("gs://bucket/models/m/1")
    write_atomically(folder / "saved_model.pb", b"graph")
    write_atomically(folder / "variables/variables.index", b"index")
    config = CacheConfig(cache=tmp_path / "cache")
    for _ in range(2):
        with local_copy(folder, config) as local:
            assert local.name == "1"
            assert (local / "saved_model.pb").read_bytes() == b"graph"
            assert (local / "variables/variables.index").read_bytes() == b"index"
        with local_copy(folder / "saved_model.pb", config) as file:
            assert (file.name, file.read_bytes()) == ("saved_model.pb", b"graph")
        assert not local.exists()
    assert sorted(key for method, key in store.requests if method == "get") == [
        "bucket/models/m/1/saved_model.pb", "bucket/models/m/1/variables/variables.index",
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError), local_copy(folder / "none", config):
        pass


def test_local_copy_larger_than_the_cache_is_refused_before_it_is_fetched(store, tmp_path):
    folder = path_from("gs://bucket/m")
    for name in ("a", "b"):
        write_atomically(folder / name, bytes(600_000))
    with (
        pytest.raises(
            InputError, match=r"`cache_gb` 0.001: too small for gs://bucket/m, which has 0.0012 GB"
        ),
        local_copy(folder, CacheConfig(cache=tmp_path, cache_gb=0.001)),
    ):
        pass
    assert "get" not in {method for method, _ in store.requests}


def test_copy_of_a_directory_is_known_as_long_as_it_exists(store, tmp_path):
    path = path_from("gs://bucket/model")
    write_atomically(path / "sub/x", b"1")
    with local_copy(path, CacheConfig(cache=tmp_path)) as copy:
        assert is_copy(copy / "sub/x")
        assert not is_copy(copy.parent.parent / "x")
    assert not is_copy(copy / "sub/x")
    assert not is_copy(tmp_path / "x")


def test_shard_outside_the_dataset_is_refused(dataset, tmp_path):
    path, manifest = dataset
    write_atomically(path.parent / "escaped", b"")
    shard = dataclasses.replace(manifest.splits["train"][0], name="../escaped")
    outside = dataclasses.replace(manifest, splits={"train": (shard,)})
    with (
        mock.patch("tempfile.tempdir", str(tmp_path)),
        pytest.raises(InputError, match=r"gs://bucket/dataset: object \.\./escaped: not a path"),
        local_dataset(path, outside, CacheConfig(cache=tmp_path / "cache")),
    ):
        pass
    assert not [*tmp_path.rglob("escaped")]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../escaped", "../../escaped"),
        ("sub/../../../escaped", "sub/../../../escaped"),
        ("a/./b", "a/./b"),
        ("a\0b", r"a\x00b'"),
        ("x" * 300, "x" * 300 + ": File name too long"),
    ],
)
def test_object_that_no_local_file_can_be_is_named(store, tmp_path, name, shown):
    path = path_from("gs://bucket/model")
    write_atomically(path / "config.json", b"{}")
    store.objects[f"bucket/model/{name}"] = b"1"
    parent = tmp_path / "tmp"
    parent.mkdir()
    with (
        mock.patch("tempfile.tempdir", str(parent)),
        pytest.raises(InputError, match="gs://bucket/model: object ") as caught,
        local_copy(path, CacheConfig(cache=tmp_path / "cache")),
    ):
        pass
    assert shown in str(caught.value)
    assert str(caught.value).endswith("; rename or remove it")
    assert not [*parent.iterdir()]
    assert not [*tmp_path.rglob("escaped")]


def test_a_whole_bucket_has_a_local_copy(store, tmp_path):
    bucket, config = path_from("gs://bucket"), CacheConfig(cache=tmp_path)
    write_atomically(bucket / "sub/x", b"1")
    with local_copy(bucket, config) as copy:
        assert (copy / "sub/x").read_bytes() == b"1"
        assert is_copy(copy / "sub/x")
    with (
        pytest.raises(InputError, match=r"^gs://bucket/sub/x: wrong$"),
        local_copy(bucket, config) as copy,
    ):
        raise InputError(f"{copy}/sub/x: wrong")
