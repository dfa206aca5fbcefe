"""A remote dataset as a local directory."""

import dataclasses
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.manifest import Manifest, Shard
from pipeline.storage.cache import CacheConfig
from pipeline.storage.files import write_atomically
from pipeline.storage.remote import path_from
from pipeline.storage.remote_dataset import local_dataset

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
