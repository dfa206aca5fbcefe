"""Which version is served when versions on disk appear, break, are repaired or are removed."""

import concurrent.futures
import errno
import gc
import json
import os
import re
import shutil
import socket
import struct
import threading
import time
import weakref
from pathlib import Path

import google_crc32c
import grpc
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from pipeline.errors import InputError, JobError
from pipeline.storage import cache as cache_module
from pipeline.storage.cache import CacheConfig
from pipeline.storage.local_copies import local_copy
from pipeline.storage.remote import RemoteFileSystem, path_from
from serving.server import models
from serving.server.config_files import ModelConfig
from serving.server.describe import status_json
from serving.server.folders import model_dirs
from serving.server.limits import Limits
from serving.server.loading import Servable, saved_model_loader
from serving.server.main import ModelServer
from serving.server.metrics import Metrics
from serving.server.models import Repository
from serving.server.runner import Runner
from serving.server.status import ServingError


class Times(tf.Module):
    """y = factor * x, so that an answer tells which version gave it."""

    def __init__(self, factor):
        super().__init__()
        self.factor = tf.Variable(factor)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def run(self, x):
        return {"y": self.factor * x}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Exported models to copy from, by the factor that they multiply with."""
    base = tmp_path_factory.mktemp("exports")
    for factor in (2, 3):
        module = Times(float(factor))
        signatures = {"serving_default": module.run}
        tf.saved_model.save(module, str(base / str(factor)), signatures=signatures)
    return base


def publish(exports, factor, destination):
    """Copy, then rename: a version appears whole or not at all."""
    partial = destination.with_name(f"{destination.name}.partial")
    shutil.copytree(exports / str(factor), partial)
    partial.rename(destination)


def loader(cache=None):
    return saved_model_loader(Runner(Limits()), caching=CacheConfig(cache=cache))


def states(repository, name="m"):
    return {status.version: status.state for status in repository.statuses(name)}


def test_the_newest_version_is_served(exports, tmp_path):
    publish(exports, 2, tmp_path / "m" / "9")
    publish(exports, 3, tmp_path / "m" / "10")
    repository = Repository(tmp_path, loader())
    (servable,) = repository.load_all()
    assert (servable.name, servable.version) == ("m", 10)
    assert states(repository) == {10: "AVAILABLE"}
    assert repository.find("m", 10) is servable
    with pytest.raises(ServingError, match=re.escape("Specific(m, 9)")):
        repository.find("m", 9)


def test_a_folder_may_have_the_characters_of_a_glob(exports, tmp_path):
    folder = tmp_path / "models [b]*"
    folder.mkdir()
    (folder / "m").mkdir()
    publish(exports, 3, folder / "m" / "1")
    repository = Repository(folder, loader())
    repository.load_all()
    assert states(repository) == {1: "AVAILABLE"}


def test_a_broken_version_leaves_the_old_one_until_it_is_repaired(exports, tmp_path):
    publish(exports, 2, tmp_path / "m" / "1")
    repository = Repository(tmp_path, loader())
    repository.load_all()
    publish(exports, 3, tmp_path / "m" / "4")
    index = tmp_path / "m" / "4" / "variables" / "variables.index"
    index.write_bytes(b"")
    repository.poll()
    broken, served = repository.statuses("m")
    assert (broken.version, broken.state, broken.code) == (4, "END", grpc.StatusCode.UNKNOWN)
    assert "sstable" in broken.message
    assert (served.version, served.state) == (1, "AVAILABLE")
    with pytest.raises(ServingError, match=re.escape("Specific(m, 4)")):
        repository.find("m", 4)
    shutil.copy(exports / "3" / "variables" / "variables.index", index)
    repository.poll()
    assert states(repository) == {4: "AVAILABLE", 1: "END"}


def test_a_broken_version_is_not_retried_while_it_is_unchanged(exports, tmp_path):
    publish(exports, 2, tmp_path / "m" / "1")
    tried = []
    load = loader()

    def counting(name, version, path):
        tried.append(version)
        return load(name, version, path)

    repository = Repository(tmp_path, counting)
    repository.load_all()
    (tmp_path / "m" / "2").mkdir()
    repository.poll()
    repository.poll()
    assert tried == [1, 2]
    assert states(repository) == {2: "END", 1: "AVAILABLE"}


def test_a_removed_version_is_still_served_and_an_older_one_can_return(exports, tmp_path):
    publish(exports, 2, tmp_path / "m" / "1")
    publish(exports, 3, tmp_path / "m" / "2")
    repository = Repository(tmp_path, loader())
    repository.load_all()
    shutil.rmtree(tmp_path / "m" / "2")
    repository.poll()
    assert states(repository) == {1: "AVAILABLE", 2: "END"}
    shutil.rmtree(tmp_path / "m")
    repository.poll()
    assert repository.find("m").version == 1


def test_a_new_model_is_found(exports, tmp_path):
    publish(exports, 2, tmp_path / "m" / "1")
    repository = Repository(tmp_path, loader())
    repository.load_all()
    publish(exports, 3, tmp_path / "later" / "5")
    repository.poll()
    assert states(repository, "later") == {5: "AVAILABLE"}


def test_an_old_version_lives_as_long_as_a_request_holds_it(tmp_path):
    for version in (1, 2):
        (tmp_path / "m" / str(version)).mkdir(parents=True)
    (tmp_path / "m" / "2").rename(tmp_path / "two")
    repository = Repository(
        tmp_path, lambda name, version, path: Servable(name, version, {}, {}, object())
    )
    repository.load_all()
    held = repository.find("m")
    alive = weakref.ref(held)
    (tmp_path / "two").rename(tmp_path / "m" / "2")
    repository.poll()
    assert repository.find("m").version == 2
    assert alive() is held
    del held
    gc.collect()
    assert alive() is None


def test_warm_up_requests_are_run_and_a_wrong_one_keeps_the_version_out(exports, tmp_path):
    publish(exports, 2, tmp_path / "m" / "1")
    extra = tmp_path / "m" / "1" / "assets.extra"
    extra.mkdir()
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.5]))
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
        if_wrong = prediction_log_pb2.PredictionLog.FromString(log.SerializeToString())
        if_wrong.predict_log.request.inputs["z"].CopyFrom(request.inputs["x"])
    Repository(tmp_path, loader()).load_all()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        writer.write(if_wrong.SerializeToString())
    with pytest.raises(InputError, match=r"m/1: cannot be loaded .*Sent extra: \{z\}"):
        Repository(tmp_path, loader()).load_all()


@pytest.mark.parametrize("size", [5, 1 << 31, 1 << 40])
def test_a_warm_up_record_with_a_wrong_length_keeps_the_version_out(exports, tmp_path, size):
    publish(exports, 2, tmp_path / "m" / "1")
    extra = tmp_path / "m" / "1" / "assets.extra"
    extra.mkdir()
    length = struct.pack("<Q", size)
    crc = google_crc32c.value(length)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    record = length + struct.pack("<I", masked) + b"tiny"
    (extra / "tf_serving_warmup_requests").write_bytes(record)
    with pytest.raises(InputError, match=r"m/1: cannot be loaded .*record 0 is corrupt or trunca"):
        Repository(tmp_path, loader()).load_all()


SPECIAL = {
    "FIFO": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.index", "assets/vocab.txt"]
)
def test_a_version_whose_files_never_end_keeps_no_other_version_out(
    exports, tmp_path, monkeypatch, make, name
):
    publish(exports, 2, tmp_path / "m" / "1")
    repository = Repository(tmp_path, loader())
    repository.load_all()
    publish(exports, 2, tmp_path / "m" / ".2")
    (tmp_path / "m" / ".2" / name).unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path / "m" / ".2")  # names of sockets are short
    make(Path(name))
    (tmp_path / "m" / ".2").rename(tmp_path / "m" / "2")
    polling = threading.Thread(target=repository.poll, daemon=True)
    polling.start()
    polling.join(300)
    assert not polling.is_alive()
    assert states(repository) == {1: "AVAILABLE", 2: "END"}
    (failed,) = repository.statuses("m", 2)
    assert failed.message == f"{tmp_path / 'm' / '2' / name}: not a regular file"
    publish(exports, 3, tmp_path / "m" / "3")
    repository.poll()
    assert repository.find("m").version == 3


def test_a_version_may_be_made_of_links(exports, tmp_path):
    """As a mounted ConfigMap or a store of blobs is."""
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    for path in (exports / "2").iterdir():
        (version / path.name).symlink_to(path)
    assert len(Repository(tmp_path, loader()).load_all()) == 1


def test_a_folder_that_cannot_be_read_keeps_no_other_model_back(
    exports, tmp_path, monkeypatch, notes
):
    for name in ("a", "b"):
        publish(exports, 2, tmp_path / name / "1")
    repository = Repository(tmp_path, loader())
    repository.load_all()
    publish(exports, 3, tmp_path / "b" / "2")
    see = models.versions_of

    def stale(model_dir):
        if model_dir.name == "a":
            raise OSError(errno.ESTALE, "Stale file handle", str(model_dir))
        return see(model_dir)

    monkeypatch.setattr(models, "versions_of", stale)
    repository.poll()
    repository.poll()
    assert repository.find("b").version == 2
    assert repository.find("a").version == 1
    assert [line for line in notes.readouterr().err.splitlines() if "Stale" in line] == [
        "looking for new versions: Stale file handle"
    ]
    with pytest.raises(JobError, match=rf"^{tmp_path}/a: cannot be read: Stale file handle$"):
        Repository(tmp_path, loader()).load_all()


def bad_start(tmp_path, make):
    base = tmp_path / "models"
    make(base)
    with pytest.raises(InputError) as caught:
        model_dirs(base)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(tmp_path), "")


def test_a_bucket_without_models_is_told_what_it_must_have(monkeypatch):
    monkeypatch.setattr(RemoteFileSystem, "isdir", lambda *_: False)
    expected = r"expected s3://bucket/NAME/VERSION/saved_model\.pb; clozeline export writes it"
    with pytest.raises(InputError, match=expected):
        model_dirs(path_from("s3://bucket"))


EXPECTED = "(expected /models/NAME/VERSION/saved_model.pb; clozeline export writes it)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda base: None, f"/models: no such directory {EXPECTED}"),
        (lambda base: base.write_text("x"), f"/models: no such directory {EXPECTED}"),
        (lambda base: base.mkdir(), f"/models: no model in it {EXPECTED}"),
        (
            lambda base: (base / "bert" / "final").mkdir(parents=True),
            f"/models: no model in it; /models/bert has no numeric version {EXPECTED}",
        ),
    ],
)
def test_bad_start(tmp_path, make, message):
    assert bad_start(tmp_path, make) == message


def test_a_model_given_for_the_directory_of_models(exports, tmp_path):
    message = bad_start(tmp_path, lambda base: publish(exports, 2, (base / "1")))
    assert message == "/models: this is one model; give the directory above, "


def test_a_model_that_cannot_be_loaded_at_the_start(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"no protocol buffer")
    with pytest.raises(InputError, match=r"m/1: cannot be loaded .*; export it again"):
        Repository(tmp_path, loader()).load_all()


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001"])
def test_a_version_without_all_its_files_is_told_in_one_line(exports, tmp_path, name):
    """As while it is copied; TensorFlow reads it by the number of an open folder."""
    publish(exports, 2, tmp_path / "m" / "1")
    missing = tmp_path / "m" / "1" / "variables" / name
    missing.unlink()
    with pytest.raises(InputError) as error:
        Repository(tmp_path, loader()).load_all()
    assert str(missing).removesuffix(".index") in str(error.value)
    for unwanted in ("/proc/self", "experimental_io_device", "\n"):
        assert unwanted not in str(error.value)


def test_a_model_whose_name_is_not_in_utf8_is_skipped_with_a_note(exports, tmp_path, notes):
    """No request can name it, and the list of models and the metrics could not be encoded."""
    publish(exports, 2, tmp_path / "m" / "1")
    publish(exports, 2, tmp_path / os.fsdecode(b"caf\xe9") / "1")
    repository = Repository(tmp_path, loader())
    repository.load_all()
    repository.poll()
    assert list(repository.served()) == ["m"]
    said = "skipped, it has a name that is not in UTF-8\n"
    assert notes.readouterr().err == f"{tmp_path}/caf\\xe9: {said}"


def test_a_folder_of_models_whose_path_is_not_in_utf8(exports, tmp_path):
    base = tmp_path / os.fsdecode(b"caf\xe9")
    publish(exports, 2, base / "m" / "1")
    metrics = Metrics()
    repository = Repository(base, saved_model_loader(Runner(Limits()), metrics))
    repository.load_all()
    (base / "m" / "2").mkdir()
    os.mkfifo(base / "m" / "2" / "saved_model.pb")
    repository.poll()
    shown = json.dumps(rf"{tmp_path}/caf\xe9/m/2/saved_model.pb: not a regular file")
    assert shown in status_json(repository.statuses("m", 2)).decode()
    assert rf"{tmp_path}/caf\\xe9/m/1".encode() in metrics.page()


def test_a_directory_without_versions_is_skipped_with_a_note(exports, tmp_path, notes):
    publish(exports, 2, tmp_path / "m" / "1")
    (tmp_path / "notes").mkdir()
    assert len(Repository(tmp_path, loader()).load_all()) == 1
    assert notes.readouterr().err == f"{tmp_path}/notes: skipped, it has no numeric version\n"


def test_versions_change_under_load_without_a_failed_request(exports, tmp_path):
    publish(exports, 2, tmp_path / "m" / "1")
    server = ModelServer(tmp_path, "127.0.0.1", 0, 0, Limits(poll_secs=0.05))
    server.start()
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/m"
    stop = threading.Event()

    def ask():
        seen = []
        with requests.Session() as session:
            while not stop.is_set():
                answer = session.post(url + ":predict", json={"instances": [5]}, timeout=30)
                seen.append((answer.status_code, answer.json()["predictions"][0]))
        return seen

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        before = requests.post(url + ":predict", json={"instances": [6]}, timeout=30).json()
        publish(exports, 3, tmp_path / "m" / "2")
        deadline = time.monotonic() + 60
        while "AVAILABLE" not in requests.get(url + "/versions/2", timeout=30).text:
            assert time.monotonic() < deadline, "version 2 never came up"
            time.sleep(0.02)
        after = requests.post(url + ":predict", json={"instances": [7]}, timeout=30).json()
        stop.set()
        seen = [answer for future in asking for answer in future.result()]
    server.stop()
    assert (before, after) == ({"predictions": [12.0]}, {"predictions": [21.0]})
    assert seen
    assert set(seen) <= {(200, 10.0), (200, 15.0)}


@pytest.fixture
def in_bucket(exports, store):
    """Upload a version to gs://bucket/models/m; a version without its last file may be asked."""

    def put(factor, version, *, whole=True):
        folder = exports / str(factor)
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and (whole or name != "saved_model.pb"):
                store.objects[f"bucket/models/m/{version}/{name}"] = path.read_bytes()

    return put


def test_models_of_a_bucket_are_served_and_polled(in_bucket, store, tmp_path):
    in_bucket(2, 1)
    repository = Repository(path_from("gs://bucket/models"), loader(tmp_path))
    repository.load_all()
    assert repository.served() == {"m": [1]}
    in_bucket(3, 2, whole=False)  # an upload in progress
    repository.poll()
    assert repository.served() == {"m": [1]}
    in_bucket(3, 2)
    repository.poll()
    assert repository.served() == {"m": [2]}

    def fail(method, key):
        raise ConnectionResetError("cut")

    store.fail = fail
    repository.poll()  # the store is away: what is served stays
    assert repository.served() == {"m": [2]}


def test_models_config_names_folders_of_a_bucket(in_bucket, store, tmp_path):
    in_bucket(2, 5)
    store.objects["bucket/models.config"] = (
        b'model_config_list { config { name: "n" base_path: "gs://bucket/models/m" '
        b'model_platform: "tensorflow" } }'
    )
    source = path_from("gs://bucket/models.config")
    repository = Repository(source, loader(tmp_path))
    repository.load_all()
    assert repository.served() == {"n": [5]}


def test_two_servers_of_a_bucket_share_one_download(in_bucket, store, tmp_path):
    in_bucket(2, 1)
    for _ in range(2):
        Repository(path_from("gs://bucket/models"), loader(tmp_path)).load_all()
    read = [key for method, key in store.requests if method == "get"]
    assert len(read) == len({*read}) == len([*tmp_path.glob("*-*-*")])


def test_copies_stay_in_the_cache_while_their_version_is_served(store, tmp_path, monkeypatch):
    """A graph may read its assets at any time."""
    (tmp_path / "words.txt").write_text("boat")

    class Reading(tf.Module):
        def __init__(self):
            super().__init__()
            self.asset = tf.saved_model.Asset(str(tmp_path / "words.txt"))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def run(self, x):
            return {"y": tf.repeat(tf.io.read_file(self.asset.asset_path), tf.size(x))}

    module = Reading()
    folder = tmp_path / "exported"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.run})
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            store.objects[f"bucket/models/m/1/{name}"] = path.read_bytes()
    version, cache = path_from("gs://bucket/models/m/1"), tmp_path / "cache"
    servable = loader(cache)("m", 1, version)
    monkeypatch.setattr(cache_module, "WAIT_SECS", 0.0)
    config = CacheConfig(cache=cache, cache_gb=0.001)
    store.objects["bucket/other"] = bytes(999_999)
    other = path_from("gs://bucket/other")
    full = "full of files that running processes read"
    with pytest.raises(JobError, match=full), local_copy(other, config):
        pass
    assert servable.root.signatures["serving_default"](x=tf.zeros(1))["y"].numpy() == [b"boat"]
    freed = weakref.ref(servable.files)
    del servable
    gc.collect()
    assert freed() is None
    with local_copy(other, config):
        assert [*cache.glob("*-words.txt")] == []


def test_error_of_a_version_in_a_bucket_names_it_and_not_its_copy(in_bucket, store, tmp_path):
    in_bucket(2, 1)
    store.objects["bucket/models/m/1/variables/variables.index"] = b""
    repository = Repository(path_from("gs://bucket/models"), loader(tmp_path))
    with pytest.raises(InputError, match="gs://bucket/models/m/1: cannot be loaded") as error:
        repository.load_all()
    assert "clozeline-" not in str(error.value)


def test_version_of_a_bucket_is_tried_again_when_it_is_written_again(
    in_bucket, exports, store, tmp_path
):
    """Though its files have the same sizes."""
    in_bucket(2, 1)
    index = "bucket/models/m/2/variables/variables.index"
    in_bucket(3, 2)
    good = store.objects[index]
    store.objects[index] = bytes(len(good))
    repository = Repository(path_from("gs://bucket/models"), loader(tmp_path))
    with pytest.raises(InputError, match="models/m/2: cannot be loaded"):
        repository.load_all()
    model = models._Model(ModelConfig("m", path_from("gs://bucket/models/m")), loader(tmp_path))
    assert [failed.version for failed in model.update()] == [2]
    assert model.update() == []
    store.objects[index] = good
    assert model.update() == []
    assert [*model.serving] == [2]


def test_bucket_without_models_is_told_in_one_line(store):
    with pytest.raises(InputError, match="gs://bucket/models: no such directory"):
        Repository(path_from("gs://bucket/models"), loader())
