"""The settings of the cleaning rules."""

from dataclasses import dataclass

from pipeline.corpus.rules.quality import QualityFile


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Which rules apply to the documents of a corpus, with their thresholds; default: none.

    Attributes:
        quality: files of thresholds, applied in order.
    """

    quality: tuple[QualityFile, ...] = ()


NO_CLEANING = Cleaning()
