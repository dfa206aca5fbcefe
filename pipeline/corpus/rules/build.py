"""Make the rules that the settings ask for."""

from pipeline.corpus.rules.rule import Rule
from pipeline.corpus.rules.settings import Cleaning


def rules_of(_cleaning: Cleaning) -> tuple[Rule, ...]:
    """Return the rules in the order in which a document passes them.

    A worker calls this once, so a rule may load a model or a table here.
    """
    return ()
