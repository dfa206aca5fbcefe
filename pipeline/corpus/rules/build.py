"""Make the rules that the settings ask for."""

import logging
from dataclasses import fields
from typing import Any

from pipeline.configs import CorpusConfig
from pipeline.corpus.rules.decontaminate import Decontaminate, evaluation_files
from pipeline.corpus.rules.language import Languages, check_languages, unidentified
from pipeline.corpus.rules.quality import QualityRules, read_quality, without_stop_words
from pipeline.corpus.rules.redact import Redact
from pipeline.corpus.rules.rule import Rule
from pipeline.corpus.rules.settings import Cleaning

_log = logging.getLogger(__name__)


def cleaning_of(config: CorpusConfig) -> Cleaning:
    """Return the settings of the rules: what a config names, read and checked.

    Raises:
        InputError: a file is missing or invalid.
    """
    # Here, in the submitting process: a worker's error would come after the job has begun.
    check_languages(config.languages)
    quality = tuple(map(read_quality, config.quality))
    for file in quality:
        if missing := without_stop_words(file, config.languages or (config.language,)):
            _log.warning(
                "`quality` %s has no stop words of %s, so it rejects documents in them; switch "
                "stop_word_count off for them in a file of your own, or give it theirs",
                file.name,
                ", ".join(missing),
            )
        # Without `languages`, all documents have one, and other rules may be for other jobs.
        if config.languages and (unknown := unidentified(file.languages)):
            _log.warning(
                "`quality` %s has rules for %s, which no document is identified as; expected ISO "
                "639 codes such as en, de, zh",
                file.name,
                ", ".join(unknown),
            )
    files: dict[str, Any] = {
        "quality": quality,
        "evaluation": evaluation_files(config.decontaminate),
    }
    names = {each.name for each in fields(Cleaning)} - files.keys()
    return Cleaning(**{name: getattr(config, name) for name in names}, **files)


def rules_of(cleaning: Cleaning) -> tuple[Rule, ...]:
    """Return the rules in the order in which a document passes them.

    A worker calls this once, so a rule may load a model or a table here.
    """
    rules: list[Rule] = []
    # First: the other rules should see the text as it will be used.
    if cleaning.repair:
        from pipeline.corpus.rules.repair import repair

        rules.append(repair)
    # Before the quality rules, whose thresholds may differ by language.
    if cleaning.languages:
        rules.append(Languages(cleaning.languages, cleaning.language_threshold))
    if cleaning.quality:
        rules.append(QualityRules(cleaning.quality))
    # Before private data are replaced: a shared run of words must be found as it is written.
    if cleaning.evaluation:
        rules.append(Decontaminate(cleaning.evaluation))
    if cleaning.redact:
        rules.append(Redact(cleaning.redact))
    return tuple(rules)
