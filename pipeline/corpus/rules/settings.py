"""The settings of the cleaning rules."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Which rules apply to the documents of a corpus, with their thresholds; default: none."""


NO_CLEANING = Cleaning()
