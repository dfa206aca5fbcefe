"""The files next to a model's versions are valid configurations of TensorFlow Serving."""

from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.export.server_configs import BATCHING, MODELS, MONITORING, write_configs
from serving.export.warmup_requests import BATCH_SIZES
from serving.server.config_files import read_batching_parameters


def labels(model: Path) -> dict[str, int]:
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((model / MODELS).read_text(), config)
    (only,) = config.model_config_list.config
    assert (only.name, only.base_path) == ("fox", str(model))
    assert sorted(only.model_version_policy.specific.versions) == sorted(
        set(only.version_labels.values())
    )
    return dict(only.version_labels)


def test_the_newest_version_is_the_canary_and_stable_is_set_by_hand(tmp_path: Path) -> None:
    model = tmp_path / "fox"
    (model / "1").mkdir(parents=True)
    write_configs(model)
    assert labels(model) == {"stable": 1, "canary": 1}
    for version in ("2", "3"):
        (model / version).mkdir()
        write_configs(model)
    assert labels(model) == {"stable": 1, "canary": 3}
    text = (model / MODELS).read_text()
    (model / MODELS).write_text(text.replace("value: 1", "value: 3"))
    (model / "10").mkdir()
    write_configs(model)
    assert labels(model) == {"stable": 3, "canary": 10}
    (model / "3").rmdir()
    write_configs(model)
    assert labels(model) == {"stable": 2, "canary": 10}


def test_a_config_that_a_person_broke_is_written_again(tmp_path: Path) -> None:
    model = tmp_path / "fox"
    (model / "1").mkdir(parents=True)
    for broken in (b"model_config_list {", "name: 'größe'".encode("latin-1")):
        model.joinpath(MODELS).write_bytes(broken)
        write_configs(model)
        assert labels(model) == {"stable": 1, "canary": 1}


def test_batches_are_of_sizes_that_were_warmed_up(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    write_configs(tmp_path)
    options = read_batching_parameters(tmp_path / BATCHING)
    assert options.max_batch_size == BATCH_SIZES[-1]
    assert options.allowed_batch_sizes == BATCH_SIZES
    assert options.pad_variable_length_inputs


def test_metrics_are_where_prometheus_asks(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    write_configs(tmp_path)
    text = (tmp_path / MONITORING).read_text()
    assert 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }' in text


def test_files_changed_by_the_user_stay(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    write_configs(tmp_path)
    (tmp_path / BATCHING).write_text("max_batch_size { value: 4 }\n")
    write_configs(tmp_path)
    assert (tmp_path / BATCHING).read_text() == "max_batch_size { value: 4 }\n"
