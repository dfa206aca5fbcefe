"""The configuration of an explanation, as plain data."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config_types import check_types
from pipeline.errors import InputError
from pipeline.storage.cache import CacheConfig
from pipeline.storage.encodings import check_unicode


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Settings of an explanation.

    Attributes:
        run_dir: the run whose model is explained.
        text: one text, or two that the model reads together. [MASK] stands for a word to predict.
        layer: layer of the worked steps, from 1.
        head: attention head of the worked steps, from 1.
        position: position of the piece that the masked-LM head predicts if the text has no [MASK];
            None = the last piece.
        caching: local copies of remote files.
    """

    run_dir: Path
    text: tuple[str, ...]
    layer: int = 1
    head: int = 1
    position: int | None = None
    caching: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: no text, more than two, or one that is not UTF-8.
        """
        check_types(self)
        if not 1 <= len(self.text) <= 2:
            raise InputError(f"`text`: expected one or two texts, got {len(self.text)}")
        check_unicode("text", self.text)
