"""Quality rules: thresholds from YAML files on what `measures.py` measures.

A file has a mapping `rules` and optionally `languages`, which changes rules for some languages. The
name of a rule is that of its measure, or `measure` names it; `min` and `max` are the limits; other
keys are parameters of the measure. A rule that is `off` does not apply. The rule `lines` removes
lines instead (`lines.py`).
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.configs import is_language_code
from pipeline.corpus.rules.lines import LineRules
from pipeline.corpus.rules.measures import MEASURES, stop_word_count
from pipeline.corpus.rules.rule import Rejection, TextDocument
from pipeline.corpus.rules.text_view import TextView
from pipeline.errors import InputError, did_you_mean
from pipeline.storage.remote import path_from
from pipeline.storage.yaml_files import read_yaml

PRESETS = Path(__file__).parent / "quality_files"
LINES = "lines"

_DIGITS = 6  # a value is rounded to so many decimals, for the record of rejections

Rule = dict[str, Any]
"""Keys and values of a rule, as YAML holds them: numbers, texts, lists of texts."""

Rules = dict[str, Rule]


@dataclass(frozen=True)
class QualityFile:
    """The contents of a file of thresholds.

    Attributes:
        name: name of the file without extension; the names of its rules begin with it.
        rules: keys and values of each rule, by its name.
        languages: rules that replace or switch off (None) others, by ISO 639 code.
    """

    name: str
    rules: Rules
    languages: dict[str, dict[str, Rule | None]]

    def of_language(self, language: str) -> Rules:
        """Return the rules for a language, in the order of the file."""
        merged = self.rules | self.languages.get(language, {})
        return {name: rule for name, rule in merged.items() if rule is not None}


def presets() -> dict[str, Path]:
    """Return the files that come with the package, by name."""
    return {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}


def read_quality(name: str) -> QualityFile:
    """Read a file of thresholds.

    Args:
        name: name of a file that comes with the package, or the path of another one.

    Raises:
        InputError: there is no such file, or it has an unknown rule, key or value.
    """
    path = presets().get(name)
    if path is None:
        path = path_from(name)
        if not name.endswith((".yaml", ".yml")):
            raise InputError(
                f"`quality` {name}: expected {', '.join(presets())} or a .yaml file"
                f"{did_you_mean(name, presets())}"
            )
    where = f"`quality` {path}"
    contents = read_yaml(path, where)
    if not isinstance(contents, dict) or not isinstance(contents.get("rules"), dict):
        raise InputError(f"{where}: expected a mapping with the key rules")
    languages = contents.pop("languages", None) or {}
    if unknown := [key for key in contents if key != "rules"]:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; expected rules and languages")
    try:
        rules = {name: _checked(name, rule) for name, rule in contents["rules"].items()}
        return QualityFile(path.stem, _applying(rules), _by_language(languages))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def without_stop_words(file: QualityFile, languages: Iterable[str]) -> list[str]:
    """Return the languages to which a file applies the stop words of its first language, English.

    Documents in these languages have none of them, and are all rejected.
    """
    measures = {name: rule.get("measure", name) for name, rule in file.rules.items()}
    names = {name for name, measure in measures.items() if measure == stop_word_count.__name__}
    return [
        language
        for language in languages
        if language != "en" and names - {*file.languages.get(language, {})}
    ]


def _by_language(languages: Any) -> dict[str, dict[str, Rule | None]]:
    if not isinstance(languages, dict):
        raise ValueError("languages: expected a mapping of ISO 639 codes to rules")
    for code, rules in languages.items():
        if not isinstance(code, str) or not isinstance(rules, dict) or not is_language_code(code):
            # `no`, Norwegian, is a boolean to YAML.
            raise ValueError(f"languages: {code!r}: expected an ISO 639 code in quotes with rules")
    return {
        code: {name: _checked(name, rule) for name, rule in rules.items()}
        for code, rules in languages.items()
    }


def _applying(rules: Mapping[str, Rule | None]) -> Rules:
    return {name: rule for name, rule in rules.items() if rule is not None}


def _checked(name: Any, rule: Any) -> Rule | None:
    """Return the keys and values of a rule; None if it is off.

    Raises:
        ValueError: the rule, a key or a value is unknown or of the wrong type.
    """
    if rule is False:  # `off` to YAML
        return None
    if not isinstance(rule, dict):
        raise ValueError(f"rule {name}: expected min, max or parameters, or off")
    known = _line_keys() if name == LINES else _keys(name, rule)
    for key, value in rule.items():
        if key not in known:
            raise ValueError(f"rule {name}: unknown key {key!r}{did_you_mean(str(key), known)}")
        if not known[key](value):
            raise ValueError(f"rule {name}: {key} {value!r}: wrong type or value")
    if name != LINES:
        _check_limits(name, rule, known)
    return rule


def _keys(name: Any, rule: Rule) -> dict[str, Callable[[Any], bool]]:
    """Return the keys that a rule may have, each with a check of its value."""
    measure = rule.get("measure", name)
    if measure not in MEASURES:
        raise ValueError(f"unknown rule {measure!r}{did_you_mean(str(measure), MEASURES)}")
    return {
        "measure": lambda value: value in MEASURES,
        "min": _is_number,
        "max": _is_number,
        **{
            parameter: _is_count if parameter == "characters" else _are_texts
            for parameter in _parameters(MEASURES[measure])
        },
    }


def _check_limits(name: str, rule: Rule, known: Mapping[str, Any]) -> None:
    if not {"min", "max"} & {*rule}:
        raise ValueError(f"rule {name}: has neither min nor max")
    if rule.get("min", -float("inf")) > rule.get("max", float("inf")):
        raise ValueError(f"rule {name}: min {rule['min']} is above max {rule['max']}")
    for key in known:
        if key not in ("measure", "min", "max") and key not in rule:
            raise ValueError(f"rule {name}: {key} is missing")


def _parameters(measure: Callable[..., float]) -> list[str]:
    if isinstance(measure, partial):
        return []
    given = inspect.signature(measure).parameters.values()
    return [each.name for each in given if each.kind is each.KEYWORD_ONLY]


def _line_keys() -> dict[str, Callable[[Any], bool]]:
    checks: dict[str, Callable[[Any], bool]] = {
        "ends": _are_texts,
        "phrases": _are_texts,
        "remove_citations": lambda value: isinstance(value, bool),
    }
    return {each.name: checks.get(each.name, _is_count) for each in fields(LineRules)}


def _is_number(value: Any) -> bool:
    # NaN, which YAML can hold, is not equal to itself.
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(text, str) and text for text in value)
    )


Step = Callable[[TextView], TextView | Rejection]
"""A rule of a file: it lets a text pass, removes lines of it, or rejects it."""


@dataclass(frozen=True)
class _BoundedMeasure:
    """A measure with its limits, both allowed."""

    name: str
    measure: Callable[[TextView], float]
    low: float | None
    high: float | None

    def __call__(self, view: TextView) -> TextView | Rejection:
        # Before the comparison: the record of rejections shows what was compared.
        value = round(self.measure(view), _DIGITS)
        if self.low is not None and value < self.low:
            return Rejection(self.name, value, self.low)
        if self.high is not None and value > self.high:
            return Rejection(self.name, value, self.high)
        return view


@dataclass(frozen=True)
class _Lines:
    """Rules that remove lines; a text without lines is rejected."""

    name: str
    rules: LineRules

    def __call__(self, view: TextView) -> TextView | Rejection:
        text, changes = self.rules(view.text)
        if not text:
            return Rejection(self.name, 0, 1)  # 0 lines are left; it needs 1
        return view.changed(text, changes) if text != view.text else view


class QualityRules:
    """A rule that applies files of thresholds one after another, for the document's language."""

    def __init__(self, files: tuple[QualityFile, ...]) -> None:
        self._files = files
        self._of_language: dict[str, list[Step]] = {}

    def __call__(self, document: TextDocument) -> TextDocument | Rejection:
        """Return the document without the lines that are removed, or a rejection."""
        view = TextView(document.text, document.language)
        for step in self._steps(document.language):
            outcome = step(view)
            if isinstance(outcome, Rejection):
                return outcome
            view = outcome
        return document.changed(view.text, **view.changes)

    def _steps(self, language: str) -> list[Step]:
        if language not in self._of_language:
            self._of_language[language] = [
                _step(name, f"{file.name}.{name}", rule)
                for file in self._files
                for name, rule in file.of_language(language).items()
            ]
        return self._of_language[language]


def _step(name: str, full_name: str, rule: Rule) -> Step:
    values: Rule = {
        key: tuple(value) if isinstance(value, list) else value for key, value in rule.items()
    }
    if name == LINES:
        return _Lines(full_name, LineRules(**values))
    low, high = values.pop("min", None), values.pop("max", None)
    measure = MEASURES[values.pop("measure", name)]
    return _BoundedMeasure(full_name, partial(measure, **values) if values else measure, low, high)
