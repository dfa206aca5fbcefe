"""Export a run to a directory that `transformers` loads: config, safetensors, tokenizer files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from model.bert.config import BertConfig
from model.bert.network import weights_by_name
from model.configs import HuggingFaceExportConfig
from model.interchange.hugging_face import (
    CONFIG,
    PRETRAINING,
    TAKES_PAIRS,
    WEIGHTS,
)
from model.interchange.names import (
    ENCODER_PREFIX,
    POOLER,
    encoder_weights,
    head_weights,
    task_weights,
)
from model.interchange.sentence_transformers import sentence_transformer_files
from model.interchange.write_tokenizer import tokenizer_files
from model.run import Run, load_run
from model.tasks.kinds import Head
from model.tasks.task_kind import Task
from model.training.config import DOC_STRIDE
from pipeline.errors import InputError
from pipeline.manifest import VOCABULARY
from pipeline.storage.files import hidden_prefix, publish, share, writing
from pipeline.storage.locks import only_writer_of_outputs, staging
from pipeline.storage.strict_json import Json, JsonObject, to_json

_WITHOUT_POOLER = "BertForMaskedLM"
"""Pretraining model of `transformers` without a pooler: it would warn about unused weights."""


@dataclass(frozen=True)
class HuggingFaceExport:
    """A run in Hugging Face's format.

    Attributes:
        output: its directory.
        run: directory of the run.
        architecture: class of the model in `transformers`.
        parameters: how many numbers its weights have.
        left_out: our names of the weights that it has no place for.
        left_out_settings: settings of the run that change its answers and that it has no place for,
            such as "long mean-of-windows".
    """

    output: Path
    run: Path
    architecture: str
    parameters: int
    left_out: tuple[str, ...]
    left_out_settings: tuple[str, ...]


def export_hugging_face(config: HuggingFaceExportConfig) -> HuggingFaceExport:
    """Export a run's checkpoint.

    Raises:
        InputError: the run has no such checkpoint, or the output exists, is being written by
            another process or cannot be written.
        JobError: the disk is full or failed.
    """
    with only_writer_of_outputs(config.outputs):
        return _export(config)


def _export(config: HuggingFaceExportConfig) -> HuggingFaceExport:
    run, output = load_run(config.run_dir, config.caching), config.output
    heads, task = ((), None) if config.encoder_only else (run.heads, run.task)
    vectors = task.vectors if task else None
    if vectors:
        heads, task = (), None  # its head has no weights
    model = _architecture(run, task) if task else PRETRAINING[heads]
    ours = {
        path: value.numpy()
        for path, value in weights_by_name(run.load_model(config.checkpoint)).items()
    }
    tensors, left_out = _tensors(ours, run.config, model, heads, task)
    files = {CONFIG: _config(run, model, task)} | tokenizer_files(
        run.vocabulary, lower_case=run.dataset.lower_case, max_length=run.dataset.max_seq_length
    )
    if vectors:
        files |= sentence_transformer_files(vectors, run.config.hidden_size, run.dataset)
    _write(output, files, tensors, (run.path / VOCABULARY).read_bytes())
    size = sum(values.size for values in tensors.values())
    settings = tuple(_settings_left_out(run, encoder_only=config.encoder_only))
    return HuggingFaceExport(output, run.path, model, size, tuple(left_out), settings)


def _settings_left_out(run: Run, *, encoder_only: bool) -> Iterator[str]:
    """Yield the settings of a run that change its answers and that the format has no place for."""
    task = run.task
    if task is None:
        return
    vectors = task.vectors
    if vectors and encoder_only:
        yield f"pooling {vectors.pooling}"
        if vectors.normalize:
            yield "normalize"
        if vectors.prompts:
            yield f"prompts {', '.join(name for name, _ in vectors.prompts)}"
    if vectors and vectors.dimensions:
        yield f"dimensions {' '.join(map(str, vectors.dimensions))}"
    if run.long != "first":
        yield f"long {run.long}"
    # The default is that of the pipeline for question answering in transformers, too.
    if task.definition.uses_windows and run.doc_stride != DOC_STRIDE:
        yield f"doc_stride {run.doc_stride}"


def _architecture(run: Run, task: Task) -> str:
    """Return the class of a task's model in `transformers`."""
    head = task.definition.foreign_head
    if head is None:
        raise InputError(
            f"`run_dir` {run.path}: transformers has no model for a {task.kind} task; give "
            "`encoder_only`"
        )
    return head.architecture


def _tensors(
    ours: dict[str, np.ndarray],
    config: BertConfig,
    model: str,
    heads: tuple[Head, ...],
    task: Task | None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the weights that class `model` has, by their names, and the paths of the others."""
    # `BertModel` itself has no prefix: as a part of a model with a head, it is the attribute
    # `bert`.
    prefix = ENCODER_PREFIX if heads or task else ""
    encoder = encoder_weights(config)
    # `BertForTokenClassification` and the like are built with `add_pooling_layer=False`.
    if model == _WITHOUT_POOLER or (task and task.is_per_position):
        encoder = [weight for weight in encoder if not weight.path.startswith(f"{POOLER}/")]
    top = task_weights(config, task) if task else []
    for head in heads:
        top += head_weights(config, head)
    tensors = {}
    for weights, before in ((encoder, prefix), (top, "")):
        for weight in weights:
            name = before + weight.stored["hugging_face"].name
            tensors[name] = weight.to_theirs(ours[weight.path], "hugging_face")
    taken = {weight.path for weight in (*encoder, *top)}
    return tensors, [path for path in ours if path not in taken]


def _config(run: Run, model: str, task: Task | None) -> JsonObject:
    """Return the contents of Hugging Face's `config.json`."""
    settings = {
        "architectures": [model],
        "model_type": "bert",
        **run.config.to_dict(),
        "position_embedding_type": "absolute",
        "pad_token_id": run.vocabulary.pad_id,
    }
    if task is None:
        return settings
    settings |= task.definition.hugging_face_settings(task)
    # transformers has no such setting, but keeps unknown ones.
    return settings | ({TAKES_PAIRS: True} if task.takes_pairs else {})


def _write(
    output: Path,
    files: Mapping[str, Json],
    tensors: dict[str, np.ndarray],
    vocabulary: bytes,
) -> None:
    """Write a directory under a temporary name, then rename it."""
    with (
        writing(f"`output` {output}", SafetensorError),
        staging(output.parent, hidden_prefix(output)) as staged,
    ):
        for name, contents in files.items():
            text = to_json(contents, indent=2) + "\n"
            (staged / name).parent.mkdir(exist_ok=True)
            (staged / name).write_text(text, encoding="utf-8")
        # The run's own bytes, which its checksum covers.
        (staged / VOCABULARY).write_bytes(vocabulary)
        # transformers refuses a file without this metadata.
        save_file(tensors, staged / WEIGHTS, metadata={"format": "pt"})
        # safetensors creates files that only their owner can read.
        share(staged / WEIGHTS)
        publish(staged, output, "config.json")
