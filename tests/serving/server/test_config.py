"""TensorFlow Serving's configuration files: which models are served, under which labels."""

import errno
import os

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from pipeline.errors import InputError
from serving.server import models as repository_module
from serving.server.batching_options import BatchingOptions
from serving.server.config_files import (
    ModelConfig,
    VersionPolicy,
    batching_parameters_text,
    read_batching_parameters,
    read_models_config,
)
from serving.server.grpc_api import ModelService
from serving.server.limits import Limits
from serving.server.loading import Servable
from serving.server.models import Repository
from serving.server.status import ServingError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_batching_parameters(tmp_path):
    text = """
        # what the recorded server ran with
        max_batch_size { value: 8 }
        batch_timeout_micros { value: 100000 }
        max_enqueued_batches { value: 2 }
        num_batch_threads { value: 3 }
        thread_pool_name { value: "mine" }
        allowed_batch_sizes: 4
        allowed_batch_sizes: 5
        pad_variable_length_inputs: true
        max_execution_batch_size { value: 5 }
        enable_large_batch_splitting { value: true }
    """
    options = BatchingOptions(
        max_batch_size=8,
        batch_timeout_micros=100_000,
        max_enqueued_batches=2,
        num_batch_threads=3,
        thread_pool_name="mine",
        allowed_batch_sizes=(4, 5),
        pad_variable_length_inputs=True,
        max_execution_batch_size=5,
        enable_large_batch_splitting=True,
    )
    assert read_batching_parameters(write(tmp_path / "b", text)) == options
    written = write(tmp_path / "b", batching_parameters_text(options))
    assert read_batching_parameters(written) == options
    assert read_batching_parameters(write(tmp_path / "b", "")) == BatchingOptions()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 8", "not a BatchingParameters in text format: 1:1"),
        ("batch_size { value: 8 }", 'has no field named "batch_size"'),
        ("max_batch_size { value: 0 }", "b: max_batch_size: expected 1 or more, received 0"),
        ("\xff" * 2_000_000, "larger than 1048576 bytes"),
    ],
)
def test_wrong_batching_parameters(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_batching_parameters(write(tmp_path / "b", text))
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="none: cannot be read: No such file"):
        read_batching_parameters(tmp_path / "none")


LAB = """
model_config_list {
  config {
    name: "lab" base_path: "%(base)s/lab" model_platform: "tensorflow"
    model_version_policy { specific { versions: 3 versions: 5 } }
    version_labels { key: "stable" value: 3 }
    version_labels { key: "canary" value: 5 }
  }
  config { name: "mm" base_path: "%(base)s/mm" model_version_policy { latest { num_versions: 2 } } }
  config { name: "all" base_path: "%(base)s/mm" model_version_policy { all { } } }
  config { name: "one" base_path: "%(base)s/mm" }
}
"""


@pytest.fixture
def lab(tmp_path):
    for model, versions in (("lab", (2, 3, 5, 7)), ("mm", (4, 9, 10))):
        for version in versions:
            (tmp_path / model / str(version)).mkdir(parents=True)
    return write(tmp_path / "models.config", LAB % {"base": tmp_path})


def load(name, version, path):
    """Return a model that cannot be run, or fail as a marked directory wants it."""
    if (path / "broken").exists():
        raise ServingError(grpc.StatusCode.DATA_LOSS, "broken")
    return Servable(name, version, {}, {}, path)


def served(repository, name):
    return {one.version for one in repository.statuses(name) if one.state == "AVAILABLE"}


def test_models_config(lab, tmp_path):
    models = read_models_config(lab)
    assert models[0] == ModelConfig(
        "lab",
        tmp_path / "lab",
        VersionPolicy(latest=None, specific=frozenset({3, 5})),
        {"stable": 3, "canary": 5},
    )
    repository = Repository(lab, load)
    repository.load_all()
    assert {name: served(repository, name) for name in ("lab", "mm", "all", "one")} == {
        "lab": {3, 5}, "mm": {9, 10}, "all": {4, 9, 10}, "one": {10},
    }  # fmt: skip


def test_labels(lab):
    repository = Repository(lab, load)
    repository.load_all()
    assert repository.find("lab", label="stable").version == 3
    assert repository.find("lab", label="canary").version == 5
    assert repository.find("lab").version == 5
    assert repository.find("lab", 3).version == 3
    for name, label in (("lab", "none"), ("mm", "stable"), ("nope", "stable")):
        with pytest.raises(ServingError, match=f"Unrecognized servable version label: {label}"):
            repository.find(name, label=label)
    with pytest.raises(ServingError, match=r"Specific\(lab, 7\)"):
        repository.find("lab", 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"mm" base', '"lab" base'), "Illegal to list model lab multiple times in config list"),
        (
            ('base_path: "', 'base_path: "rel'),
            "Expected model lab to have an absolute path or URI; got base_path",
        ),
        (('base_path: "', 'base_path: "/\\000'), r"model lab: base_path: '/\\x00.*expected a path"),
        (('base_path: "', 'base_path: "ftp://b'), "model lab: base_path: .*unknown scheme ftp://"),
        (('base_path: "', f'base_path: "/{"a" * 300}'), "lab: base_path: File name too long"),
        (('base_path: "', 'base_path: "/proc/self/cwd/circle/'), "base_path: Too many levels of "),
        (('name: "one"', ""), "name: expected one for every model, without a slash; got ''"),
        (("versions: 3 versions: 5", ""), "specific { }: expected versions in it"),
        (("config_list", "list"), "not a ModelServerConfig in text format: 2:1"),
    ],
)
def test_wrong_models_config(lab, change, message, monkeypatch):
    monkeypatch.chdir(lab.parent)
    (lab.parent / "circle").symlink_to("circle")
    write(lab, lab.read_text().replace(*change))
    with pytest.raises(InputError, match=message) as caught:
        Repository(lab, load)
    assert str(caught.value).startswith(f"{lab}: ")


def test_a_config_that_is_not_utf8_says_where(lab):
    lab.write_bytes(lab.read_bytes() + b"# \xff")
    line = lab.read_bytes().count(b"\n") + 1
    message = f": cannot be read: line {line}: the byte 0xff is not UTF-8"
    with pytest.raises(InputError, match=message):
        Repository(lab, load)


def test_a_config_without_models(lab):
    with pytest.raises(InputError, match="Only ModelConfigList is currently supported"):
        Repository(write(lab, ""), load)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("value: 5", "value: 7"), r"label 'canary' names version 7, which is not served"),
        (("/lab", "/nowhere"), r"nowhere: no version of model lab to serve in it"),
        (("versions: 3 versions: 5", "versions: 8"), r"lab: no version of model lab to serve"),
    ],
)
def test_invalid_initial_weights(lab, change, message):
    write(lab, lab.read_text().replace(*change))
    with pytest.raises(InputError, match=message):
        Repository(lab, load).load_all()


def test_a_changed_config_is_applied_unless_it_is_invalid(lab, notes):
    repository = Repository(lab, load)
    repository.load_all()
    text = lab.read_text()
    write(lab, text.replace("versions: 3 ", "versions: 3 versions: 7 ").replace("e: 5", "e: 7"))
    repository.poll()
    assert served(repository, "lab") == {3, 5, 7}
    assert repository.find("lab", label="canary").version == 7
    write(lab, "nonsense")
    repository.poll()
    repository.poll()
    assert served(repository, "lab") == {3, 5, 7}
    assert notes.readouterr().err.count("the models stay as they were") == 1
    write(lab, text.split("  config { name", 1)[0] + "}")
    repository.poll()
    repository.poll()
    assert (served(repository, "lab"), served(repository, "mm")) == ({3, 5}, set())
    with pytest.raises(ServingError, match=r"Latest\(mm\)"):
        repository.find("mm")
    assert {one.state for one in repository.statuses("mm")} == {"END"}


def test_a_label_stays_where_it_was_until_its_new_version_is_served(lab, tmp_path):
    repository = Repository(lab, load)
    repository.load_all()
    (tmp_path / "lab" / "7" / "broken").touch()
    write(lab, lab.read_text().replace("versions: 3 ", "versions: 3 versions: 7 ")
          .replace('"canary" value: 5', '"canary" value: 7'))  # fmt: skip
    repository.poll()
    assert repository.find("lab", label="canary").version == 5
    (tmp_path / "lab" / "7" / "broken").unlink()
    repository.poll()
    assert repository.find("lab", label="canary").version == 7


def test_another_base_path_is_served_once_it_loads(lab, tmp_path):
    repository = Repository(lab, load)
    repository.load_all()
    (tmp_path / "mm2" / "10").mkdir(parents=True)
    (tmp_path / "mm2" / "10" / "broken").touch()
    write(lab, lab.read_text().replace('"one" base_path: "' + str(tmp_path / "mm"),
                                       '"one" base_path: "' + str(tmp_path / "mm2")))  # fmt: skip
    repository.poll()
    assert repository.find("one").root == tmp_path / "mm" / "10"
    (tmp_path / "mm2" / "10" / "broken").unlink()
    repository.poll()
    assert repository.find("one").root == tmp_path / "mm2" / "10"


class AbortedError(Exception):
    pass


class Context:
    def abort(self, code, message):
        raise AbortedError(f"{code.name}: {message}")


def reload(repository, *models, limits=Limits(allow_reload=True, max_models=2)):  # noqa: B008
    request = model_management_pb2.ReloadConfigRequest()
    for model in models:
        added = request.config.model_config_list.config.add()
        text_format.Parse(f'{model} model_platform: "tensorflow"', added)
    return ModelService(repository, limits).HandleReloadConfigRequest(request, Context())


def test_reload(lab, tmp_path):
    repository = Repository(lab, load)
    repository.load_all()
    mm = f'base_path: "{tmp_path / "mm"}"'
    answer = reload(repository, f'name: "mm" {mm}', f'name: "m2" {mm}')
    assert answer.HasField("status")
    assert answer.status.error_code == 0
    assert (served(repository, "mm"), served(repository, "m2")) == ({10}, {10})
    assert served(repository, "lab") == set()
    reload(repository, f'name: "mm" {mm}')
    assert {one.state for one in repository.statuses("m2")} == {"END"}
    repository.poll()  # the file does not come back by itself
    assert (served(repository, "mm"), served(repository, "lab")) == ({10}, set())


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            ['name: "mm" base_path: "%s/mm"'] * 2,
            "INVALID_ARGUMENT: Illegal to list model mm multiple times in config list",
        ),
        (
            ['name: "r" base_path: "rel/path"'],
            "INVALID_ARGUMENT: Expected model r to have an absolute path or URI; "
            "got base_path()=rel/path",
        ),
        (
            ['name: "mm" base_path: "%s/mm"', 'name: "zz" base_path: "%s/nowhere"'],
            "NOT_FOUND: No versions of servable zz found under base path %s/nowhere",
        ),
        (
            ['name: "mm" base_path: "%s/mm"', 'name: "bad" base_path: "%s/bad"'],
            "DATA_LOSS: broken",
        ),
        (
            [f'name: "mm{number}" base_path: "%s/mm"' for number in range(3)],
            "INVALID_ARGUMENT: model_config_list: expected at most 2 models, got 3",
        ),
        (
            ['name: "mm" base_path: "/etc"'],
            "PERMISSION_DENIED: /etc: not in {HOME}",
        ),
        (
            ['name: "mm" base_path: "%s/link"'],
            "PERMISSION_DENIED: %s/link: not in {HOME}",
        ),
        (
            ['name: "mm" base_path: "%s/mm/../../.."'],
            "PERMISSION_DENIED: %s/mm/../../..: not in {HOME}",
        ),
        (
            ['name: "mm" base_path: "%s/mm"', 'name: "x" base_path: "%s/stale"'],
            "UNAVAILABLE: %s/stale: cannot be read: Stale file handle",
        ),
    ],
)
def test_a_failed_reload_changes_nothing(lab, tmp_path, monkeypatch, models, message):
    versions_of = repository_module.versions_of

    def or_stale(path):
        if path.name == "stale":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return versions_of(path)

    monkeypatch.setattr(repository_module, "versions_of", or_stale)
    repository = Repository(lab, load)
    repository.load_all()
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "bad" / "1" / "broken").touch()
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(AbortedError) as caught:
        reload(repository, *(model.replace("%s", str(tmp_path)) for model in models))
    assert not repository.is_known("x")
    home = "a folder of the models that the server started with"
    assert str(caught.value) == message.replace("%s", str(tmp_path)).replace("{HOME}", home)
    with pytest.raises(AbortedError):
        reload(repository, *(model.replace("%s", str(tmp_path)) for model in models))
    for _ in range(2):
        assert [served(repository, name) for name in ("lab", "mm")] == [{3, 5}, {9, 10}]
        assert repository.find("lab", label="stable").version == 3
        repository.poll()


def test_reload_without_a_list(lab):
    with pytest.raises(
        AbortedError, match="INVALID_ARGUMENT: ServerModelConfig type not supported by H"
    ):
        ModelService(Repository(lab, load), Limits(allow_reload=True)).HandleReloadConfigRequest(
            model_management_pb2.ReloadConfigRequest(), Context()
        )


@pytest.mark.parametrize("models", [[], ['name: "mm" base_path: "%s/mm"']])
def test_reload_is_off_unless_it_is_allowed(lab, tmp_path, models):
    repository = Repository(lab, load)
    repository.load_all()
    models = [model.replace("%s", str(tmp_path)) for model in models]
    with pytest.raises(AbortedError) as caught:
        reload(repository, *models, limits=Limits())
    assert str(caught.value) == (
        "PERMISSION_DENIED: Reloading is off: start the server with --allow-reload to allow it"
    )
    assert [served(repository, name) for name in ("lab", "mm")] == [{3, 5}, {9, 10}]


def test_a_folder_under_several_names_is_loaded_once(lab):
    loads = []

    def counted(name, version, path):
        loads.append(path)
        return Servable(name, version, {}, {}, root=object())

    repository = Repository(lab, counted)
    repository.load_all()
    mm, everything, one = (repository.find(name, 10) for name in ("mm", "all", "one"))
    assert (mm.name, everything.name, one.name) == ("mm", "all", "one")
    assert mm.root is everything.root is one.root
    assert len(loads) == len(set(loads)) == 5


def test_a_hundred_thousand_models_are_refused_at_once(lab):
    config = 'name: "m" base_path: "/m"'
    with pytest.raises(AbortedError, match="expected at most 2 models, got 100000"):
        reload(Repository(lab, load), *[config] * 100_000)
