"""BERT's hyperparameters under Hugging Face's field names, and the standard sizes by name."""

import dataclasses
import difflib
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError, failure, reason
from pipeline.storage.encodings import decoded
from pipeline.storage.files import read_bounded
from pipeline.storage.remote import path_from
from pipeline.storage.strict_json import JsonObject, from_json, to_json

MAX_SETTINGS_BYTES = 16 * 2**20
"""Size limit of a `config.json`; the labels of 100,000 classes take 8 MB."""

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
"""Values of `hidden_act`, Hugging Face's names: `gelu` is the exact GELU of the paper's erf form
(https://arxiv.org/abs/1606.08415), `gelu_new` and `gelu_pytorch_tanh` its tanh approximation, which
google-research/bert computes."""

_POSITIVE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_MOST = 1e38
"""Upper limit of float settings: the largest power of ten that float32 holds."""
_MOST_LAYERS = 1000
_MOST_PARAMETERS = 10**11
"""Far above every BERT, and far below what a mistyped size asks for."""
_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class BertConfig:
    """Everything that determines the network's shape and computation.

    Attributes:
        vocab_size: V, number of pieces.
        hidden_size: H, width of every position's vector.
        num_hidden_layers: number of Transformer layers.
        num_attention_heads: N, heads of each layer; divides `hidden_size`.
        intermediate_size: width inside each feed-forward block.
        hidden_act: activation of the feed-forward blocks and the masked-LM head; one of
            `ACTIVATIONS`.
        hidden_dropout_prob: dropout rate of embeddings' and blocks' outputs, 0 to below 1.
        attention_probs_dropout_prob: dropout rate of attention weights, 0 to below 1.
        max_position_embeddings: largest sequence length, in pieces.
        type_vocab_size: number of segment types, S: `segment_ids` are below it.
        initializer_range: standard deviation of the truncated normal that initializes weights.
        layer_norm_eps: epsilon added to the variance in every layer normalization.
    """

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: a field is out of range, or two fields contradict each other.
        """
        for name in _POSITIVE:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"{name} must be a whole number of at least 1, received {reprlib.repr(value)}"
                )
        for name in _RATES:
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < 1:
                raise ValueError(
                    f"{name} must be at least 0 and below 1, received {reprlib.repr(value)}"
                )
        for name in ("initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value < _MOST:  # written so that NaN fails too
                raise ValueError(f"{name} must be above 0, received {reprlib.repr(value)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads must divide hidden_size, received {self.num_attention_heads} "
                f"heads for hidden_size {self.hidden_size}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act must be one of {', '.join(ACTIVATIONS)}, "
                f"received {reprlib.repr(self.hidden_act)}"
            )
        if self.num_hidden_layers > _MOST_LAYERS:
            raise ValueError(
                f"num_hidden_layers must be at most {_MOST_LAYERS}, "
                f"received {reprlib.repr(self.num_hidden_layers)}"
            )
        if self.parameter_count > _MOST_PARAMETERS:
            sizes = ", ".join(f"{name} {reprlib.repr(getattr(self, name))}" for name in _POSITIVE)
            raise ValueError(
                f"a model must have at most {_MOST_PARAMETERS:,} parameters; "
                f"these sizes give more: {sizes}"
            )

    @property
    def parameter_count(self) -> int:
        """Return the number of weights, with those of both pretraining heads."""
        width, inner = self.hidden_size, self.intermediate_size
        square = width * width + width  # a dense layer that keeps the width
        norm = 2 * width
        rows = self.vocab_size + self.max_position_embeddings + self.type_vocab_size
        layer = 4 * square + norm + 2 * width * inner + inner + width + norm
        masked_lm = square + norm + self.vocab_size
        next_sentence = square + 2 * width + 2  # with the pooler
        layers = self.num_hidden_layers * layer
        return rows * width + norm + layers + masked_lm + next_sentence

    def with_dropout(self, rate: float | None) -> "BertConfig":
        """Return the config with one rate for all dropout; None = the config itself.

        Raises:
            ValueError: the rate is out of range.
        """
        if rate is None:
            return self
        return dataclasses.replace(
            self, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate
        )

    def to_dict(self) -> JsonObject:
        """Return the fields by name."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return the fields as a JSON object."""
        return to_json(self.to_dict(), indent=1) + "\n"

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "BertConfig":
        """Return the config with the given fields; the others have their defaults.

        Raises:
            ValueError: a key is unknown, `vocab_size` is missing, or a value is out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in settings:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"unknown key {reprlib.repr(key)} in a model's config{hint}")
        if "vocab_size" not in settings:
            raise ValueError("vocab_size is missing from a model's config")
        return cls(**settings)

    @classmethod
    def from_json(cls, text: str) -> "BertConfig":
        """Parse a config that `to_json` wrote.

        Raises:
            ValueError: the text is not a JSON object, or not a valid config.
        """
        settings = from_json(text)
        if not isinstance(settings, dict):
            raise ValueError(
                f"a model's config must be a JSON object, received {reprlib.repr(settings)}"
            )
        return cls.from_dict(settings)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Size:
    """The three hyperparameters of a standard size; the feed-forward width is 4 × `hidden_size`.

    Attributes:
        num_hidden_layers: number of Transformer layers.
        hidden_size: width of every position's vector.
        num_attention_heads: heads of each layer.
    """

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int

    def config(self, vocab_size: int) -> BertConfig:
        """Return the config of this size for a vocabulary."""
        return BertConfig(
            vocab_size=vocab_size,
            intermediate_size=4 * self.hidden_size,
            **dataclasses.asdict(self),
        )


SIZES = {
    "tiny": Size(2, 128, 2),
    "mini": Size(4, 256, 4),
    "small": Size(4, 512, 8),
    "medium": Size(8, 512, 8),
    "base": Size(12, 768, 12),
    "large": Size(24, 1024, 16),
}
"""base and large are Devlin et al. 2018 (https://arxiv.org/abs/1810.04805), the smaller ones
Turc et al. 2019 (https://arxiv.org/abs/1908.08962)."""


def config_named(model: str, vocab_size: int) -> BertConfig:
    """Return the config of a size, or of a JSON file.

    Args:
        model: name of the size, or path of the file.
        vocab_size: number of pieces; a file has its own.

    Raises:
        InputError: there is no such size or file, or the file is not a config.
        JobError: the machine fails to read the file.
    """
    if model in SIZES:
        return SIZES[model].config(vocab_size)
    if not model.endswith(".json"):
        raise InputError(f"`model` {model}: expected {', '.join(SIZES)}, or a .json file")
    try:
        data = read_bounded(path_from(model), MAX_SETTINGS_BYTES)
        return BertConfig.from_json(decoded(data, f"`model` {model}"))
    except OSError as error:
        raise failure(f"`model` {model}: cannot be used", error) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"`model` {model}: cannot be used: {reason(error)}") from error
