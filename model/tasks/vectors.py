"""Settings of models that turn a text into a vector: pooling, dimensions, prompts, loss."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from pipeline.config_types import check_types
from pipeline.errors import InputError, check_range

Pooling = Literal["mean", "cls", "max"]
"""How the vectors of a text's positions become one: their mean, that of [CLS], or the maximum of
each component. Padding does not count."""

VectorLoss = Literal["in-batch", "triplet", "cosent", "cosine"]
"""Loss of a training; `model.tasks.vector_losses` has the formulas and their sources."""

SCALE = 20.0
"""Default factor on cosines before the softmax; sentence-transformers has the same."""

MARGIN = 0.5


@dataclass(frozen=True)
class VectorSettings:
    """How a model computes the vector of a text, and how it was trained.

    Attributes:
        pooling: how the vectors of the positions become one.
        normalize: whether a vector is divided by its length.
        dimensions: sizes that vectors can be shortened to (Matryoshka), in descending order; empty
            = only the full size was trained.
        loss: loss of the training.
        scale: factor on the cosines, for the losses `in-batch` and `cosent`.
        margin: minimum difference of the cosine distances to the negative and to the positive, for
            the loss `triplet`.
        both_directions: whether the loss `in-batch` also finds the anchor of each positive.
        score_range: the score that the loss `cosine` takes for a cosine of 1.
        prompts: texts that precede a text, by name, as pairs.
        default_prompt: name of the prompt that precedes every text; "" = none.
    """

    pooling: Pooling = "mean"
    normalize: bool = True
    dimensions: tuple[int, ...] = ()
    loss: VectorLoss = "in-batch"
    scale: float = SCALE
    margin: float = MARGIN
    both_directions: bool = False
    score_range: float = 1.0
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str = ""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: a field has an unknown value, or the default prompt is not a prompt.
        """
        for name, kind in (("pooling", Pooling), ("loss", VectorLoss)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(kind))}, "
                    f"received {getattr(self, name)!r}"
                )
        if self.default_prompt and self.default_prompt not in dict(self.prompts):
            raise ValueError(f"default_prompt {self.default_prompt!r} is not one of the prompts")

    @property
    def prompt(self) -> str:
        """The text that precedes every text; "" = none."""
        return dict(self.prompts).get(self.default_prompt, "")

    def prompt_named(self, *names: str) -> str:
        """Return the first prompt that has one of these names; without one, the default prompt."""
        prompts = dict(self.prompts)
        return next((prompts[name] for name in names if name in prompts), self.prompt)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "VectorSettings":
        """Return the settings from their JSON fields.

        Raises:
            TypeError: there are unknown fields.
            ValueError: a value is not possible.
        """
        parts = dict(settings)
        # JSON has lists; settings are compared with those of a config, which are tuples.
        parts["dimensions"] = tuple(parts.get("dimensions", ()))
        parts["prompts"] = tuple((name, text) for name, text in parts.get("prompts", ()))
        return cls(**parts)


@dataclass(frozen=True, kw_only=True)
class VectorConfig:
    """Settings of the vectors, as the user set them; None = the initial model's, or the default.

    Attributes:
        pooling: see `VectorSettings`.
        normalize: see `VectorSettings`.
        dimensions: sizes to train, in descending order; empty = only the full size.
        loss: auto = the loss that fits the training file.
        scale: see `VectorSettings`.
        margin: see `VectorSettings`.
        both_directions: see `VectorSettings`.
    """

    pooling: Pooling | None = None
    normalize: bool | None = None
    dimensions: tuple[int, ...] = ()
    loss: Literal["auto", VectorLoss] = "auto"
    scale: float = SCALE
    margin: float = MARGIN
    both_directions: bool = False

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field is out of range.
        """
        check_types(self)
        for name in ("scale", "margin"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"`{name}` {getattr(self, name)}: must be above 0")
        for size in self.dimensions:
            check_range("dimensions", size, 1)
        if len(set(self.dimensions)) < len(self.dimensions):
            raise InputError(f"`dimensions` {' '.join(map(str, self.dimensions))}: must differ")

    @property
    def given(self) -> list[str]:
        """Names of the fields that differ from their defaults."""
        return [each.name for each in fields(self) if getattr(self, each.name) != each.default]
