"""The settings of the cleaning rules."""

from dataclasses import asdict, dataclass

from pipeline.configs import Redacted
from pipeline.corpus.rules.decontaminate import EvaluationFile
from pipeline.corpus.rules.quality import QualityFile
from pipeline.storage.strict_json import JsonObject, from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Which rules apply to the documents of a corpus, with their thresholds; default: none.

    Attributes:
        repair: whether text is repaired (`repair.py`).
        languages: ISO 639 codes of the languages to keep (`language.py`); empty = all.
        language_threshold: smallest probability of a document's language (0 to 1).
        evaluation: files that no document may share a run of words with (`decontaminate.py`).
        redact: kinds of private data that are replaced (`redact.py`).
        quality: files of thresholds, applied in order.
    """

    repair: bool = False
    languages: tuple[str, ...] = ()
    language_threshold: float = 0.5
    evaluation: tuple[EvaluationFile, ...] = ()
    redact: tuple[Redacted, ...] = ()
    quality: tuple[QualityFile, ...] = ()

    def described(self) -> JsonObject:
        """Return the settings for a manifest, which has no paths: files by their SHA-256.

        As JSON holds them: a manifest that was read equals the one that was written.
        """
        settings = asdict(self) | {"evaluation": sorted(file.sha256 for file in self.evaluation)}
        described: JsonObject = from_json(to_json(settings))
        return described


NO_CLEANING = Cleaning()
