"""Read and write what sentence-transformers adds to a Hugging Face directory.

`modules.json` lists the modules that follow each other: the encoder, its pooling, and maybe a
normalization. Each module has a folder with its `config.json`.
"""

from dataclasses import replace
from pathlib import Path
from typing import get_args

from model.interchange.files import CheckpointSettings, read_json, read_json_value, shown
from model.interchange.foreign_checkpoint import Imported
from model.interchange.hugging_face import read_hugging_face
from model.interchange.names import encoder_weights
from model.run_config import TextFacts
from model.tasks.task_kind import vector_task
from model.tasks.vectors import Pooling, VectorSettings
from pipeline.errors import InputError
from pipeline.storage.strict_json import JsonObject

MODULES = "modules.json"
_SETTINGS = "config_sentence_transformers.json"
_ENCODER_SETTINGS = "sentence_bert_config.json"
_CONFIG = "config.json"
_SIMILARITY, _COSINE = "similarity_fn_name", "cosine"

_ORDER = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
"""Modules that our models have, in this order."""

_TYPES = {name: f"sentence_transformers.models.{name}" for name in _ORDER[1]}
"""Classes of the modules; all releases of sentence-transformers know these names."""

_MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
"""Poolings by the names that releases before 6 give them in the pooling's `config.json`."""


def is_sentence_transformer(path: Path) -> bool:
    """Return whether a directory lists modules of sentence-transformers."""
    return (path / MODULES).is_file()


def read_sentence_transformer(path: Path) -> Imported:
    """Read an encoder with its pooling, its normalization and its prompts.

    Raises:
        InputError: the model has a module or a setting that ours lack, or a file cannot be read.
    """
    folders = _modules(path)
    imported = read_hugging_face(path / folders["Transformer"])
    size = imported.config.hidden_size
    prompts, default = _prompts(path)
    _check_similarity(path, is_normalized="Normalize" in folders)
    settings = VectorSettings(
        pooling=_pooling(path / folders["Pooling"], size, has_prompts=any(prompts.values())),
        normalize="Normalize" in folders,
        prompts=tuple(sorted(prompts.items())),
        default_prompt=default,
    )
    # Heads of the pretraining are often left in the file; a model of vectors has none.
    own = {weight.path for weight in encoder_weights(imported.config)}
    return replace(
        imported,
        path=path,
        max_seq_length=_max_seq_length(path / folders["Transformer"], imported),
        heads=(),
        task=vector_task(settings),
        weights={name: values for name, values in imported.weights.items() if name in own},
        missing=tuple(name for name in imported.missing if name in own),
    )


def _modules(path: Path) -> dict[str, str]:
    """Return the folder of each module by the name of its class.

    Raises:
        InputError: there are other modules than ours, or a folder is elsewhere.
    """
    file, modules = path / MODULES, read_json_value(path, MODULES)
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        raise InputError(f"{file}: expected a list of modules")
    # Releases moved the classes between modules; the last part of the name stayed.
    names = [str(each.get("type", "")).rpartition(".")[2] for each in modules]
    for name in names:
        if name not in _TYPES:
            raise InputError(
                f"{file}: the module {shown(name)} is not supported; only {', '.join(_TYPES)} are"
            )
    if names not in _ORDER:
        raise InputError(f"{file}: has {', '.join(names)}; expected {', '.join(_ORDER[1])}")
    folders = {name: each.get("path", "") for name, each in zip(names, modules, strict=True)}
    for folder in folders.values():
        # The list is untrusted: `../other` would read another directory. "" is the directory
        # itself.
        if not isinstance(folder, str) or folder in (".", "..") or Path(folder).name != folder:
            raise InputError(f"{file}: names the folder {shown(folder)}, which is not in {path}")
    return folders


def _pooling(folder: Path, size: int, *, has_prompts: bool) -> Pooling:
    """Return the pooling that a module's `config.json` describes.

    Args:
        folder: folder of the module.
        size: H, size of the encoder's vectors.
        has_prompts: whether there is a prompt that is not empty.

    Raises:
        InputError: the pooling is another one than ours.
    """
    settings = read_json(folder, _CONFIG)
    if settings is None:
        raise InputError(f"{folder / _CONFIG}: does not exist; it says how positions are pooled")
    for name in ("embedding_dimension", "word_embedding_dimension"):
        if settings.get(name, int) not in (None, size):
            raise settings.error(name, f"{settings.values[name]}: the encoder has {size}")
    # Such a pooling leaves out the prompt's positions, as INSTRUCTOR does; ours takes all.
    if has_prompts and settings.get("include_prompt", bool) is False:
        raise settings.error("include_prompt", "false: leaving out the prompt is not supported")
    # Releases from 6 on write the name; earlier ones a flag for each mode, and several may be set.
    mode = settings.values.get("pooling_mode")
    if mode is None:
        flags = [name for name in settings.values if name.startswith("pooling_mode_")]
        used = [name for name in flags if settings.get(name, bool)]
        modes = [_MODES.get(name, name.removeprefix("pooling_mode_")) for name in used]
        mode = "+".join(modes)
    for pooling in get_args(Pooling):
        if mode == pooling:
            return pooling
    known = ", ".join(get_args(Pooling))
    raise settings.error("pooling_mode", f"{shown(mode)} is not supported; only {known} are")


def _prompts(path: Path) -> tuple[dict[str, str], str]:
    """Return the prompts by name, and the name of the one that precedes every text ("" = none).

    Raises:
        InputError: the file is malformed, or has a setting that ours lack.
    """
    settings = read_json(path, _SETTINGS) or CheckpointSettings(path / _SETTINGS, {})
    prompts = settings.get("prompts", dict) or {}
    if not all(isinstance(text, str) for text in prompts.values()):
        raise settings.error("prompts", "must be strings by name")
    default = settings.get("default_prompt_name", str) or ""
    if default and default not in prompts:
        raise settings.error("default_prompt_name", f"{shown(default)}: no such prompt")
    # Served vectors would be longer than those that the model's users have indexed.
    if settings.values.get("truncate_dim") is not None:
        raise settings.error("truncate_dim", "is not supported; vectors have the full size")
    return prompts, default


def _check_similarity(path: Path, *, is_normalized: bool) -> None:
    """Refuse a model whose vectors are compared by something else than their cosine.

    sentence-transformers takes the cosine for null and for no setting. The dot product of vectors
    of length 1 is their cosine.

    Raises:
        InputError: the setting is another one.
    """
    settings = read_json(path, _SETTINGS) or CheckpointSettings(path / _SETTINGS, {})
    name = settings.get(_SIMILARITY, str) or _COSINE
    if name == _COSINE or (name == "dot" and is_normalized):
        return
    raise settings.error(
        _SIMILARITY,
        f"{shown(name)} is not supported; vectors are compared by their cosine (set it to "
        f"{_COSINE} to import the model all the same)",
    )


def _max_seq_length(folder: Path, imported: Imported) -> int:
    """Return the largest sequence length, in pieces.

    Raises:
        InputError: the file asks for lower-casing that the tokenizer does not do.
    """
    settings = read_json(folder, _ENCODER_SETTINGS)
    if settings is None:
        return imported.max_seq_length
    # sentence-transformers lower-cases before the tokenizer; ours would not.
    if settings.get("do_lower_case", bool) and not imported.lower_case:
        raise settings.error("do_lower_case", "true: not supported with a cased tokenizer")
    length = settings.get("max_seq_length", int)
    return min(length or imported.max_seq_length, imported.config.max_position_embeddings)


def sentence_transformer_files(vectors: VectorSettings, size: int, texts: TextFacts) -> JsonObject:
    """Return the contents, by name, of the files besides those of the encoder.

    Args:
        vectors: how the vector of a text is computed.
        size: H, size of the vectors.
        texts: settings of the input texts.
    """
    names = _ORDER[vectors.normalize]
    # The encoder is in the top directory, so that plain `transformers` loads it, too.
    folders = {name: f"{index}_{name}" if index else "" for index, name in enumerate(names)}
    modules: list[JsonObject] = [
        {"idx": index, "name": str(index), "path": folders[name], "type": _TYPES[name]}
        for index, name in enumerate(names)
    ]
    # Releases before 6 read only these flags, and later ones read them, too.
    modes: JsonObject = {name: mode == vectors.pooling for name, mode in _MODES.items()}
    files: JsonObject = {
        MODULES: modules,
        _ENCODER_SETTINGS: {"max_seq_length": texts.max_seq_length, "do_lower_case": False},
        _SETTINGS: {
            "prompts": dict(vectors.prompts),
            "default_prompt_name": vectors.default_prompt or None,
            _SIMILARITY: _COSINE,
        },
        f"{folders['Pooling']}/{_CONFIG}": {"word_embedding_dimension": size, **modes},
    }
    if vectors.normalize:
        files[f"{folders['Normalize']}/{_CONFIG}"] = {}
    return files
