"""Make the rules that the settings ask for."""

from pipeline.configs import CorpusConfig
from pipeline.corpus.rules.quality import QualityRules, read_quality
from pipeline.corpus.rules.rule import Rule
from pipeline.corpus.rules.settings import Cleaning


def cleaning_of(config: CorpusConfig) -> Cleaning:
    """Return the settings of the rules: what a config names, read and checked.

    Raises:
        InputError: a file is missing or invalid.
    """
    return Cleaning(quality=tuple(map(read_quality, config.quality)))


def rules_of(cleaning: Cleaning) -> tuple[Rule, ...]:
    """Return the rules in the order in which a document passes them.

    A worker calls this once, so a rule may load a model or a table here.
    """
    rules: list[Rule] = []
    if cleaning.quality:
        rules.append(QualityRules(cleaning.quality))
    return tuple(rules)
