"""Quality rules: the same decisions and values as datatrove's filters, and their files."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.configs import CorpusConfig
from pipeline.corpus.rules import repetition
from pipeline.corpus.rules.build import cleaning_of
from pipeline.corpus.rules.measures import MEASURES
from pipeline.corpus.rules.quality import QualityRules, presets, read_quality
from pipeline.corpus.rules.rule import Rejection, TextDocument
from pipeline.corpus.rules.text_view import TextView
from pipeline.errors import InputError

GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "quality.json").read_text("utf-8"))

NAMES = {
    "dup_para_frac": "duplicate_paragraph_rate",
    "dup_para_char_frac": "duplicate_paragraph_character_rate",
    "dup_line_frac": "duplicate_line_rate",
    "dup_line_char_frac": "duplicate_line_character_rate",
    "gopher_short_doc": "word_count",
    "gopher_long_doc": "word_count",
    "gopher_below_avg_threshold": "mean_word_length",
    "gopher_above_avg_threshold": "mean_word_length",
    "gopher_too_many_hashes": "hash_rate",
    "gopher_too_many_ellipsis": "ellipsis_rate",
    "gopher_too_many_bullets": "bullet_line_rate",
    "gopher_too_many_end_ellipsis": "ellipsis_line_rate",
    "gopher_below_alpha_threshold": "alphabetic_word_rate",
    "gopher_enough_stop_words": "stop_word_count",
    "line_punct_ratio": "punctuated_line_rate",
    "short_line_ratio": "short_line_rate",
    "char_dup_ratio": "duplicate_character_rate",
    "list_ratio": "line_break_rate",
    "lorem_ipsum": "lorem_ipsum",
    "curly_bracket": "curly_brackets",
    **{f"top_{n}_gram": f"top_{n}_gram_rate" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"duplicate_{n}_gram_rate" for n in range(5, 11)},
}
"""Our rule by datatrove's reason."""


def outcome(name: str, text: str, language: str = "en") -> TextDocument | Rejection:
    return QualityRules((read_quality(name),))(TextDocument(text, language))


@pytest.mark.parametrize("name", ["gopher", "fineweb"])
def test_the_same_decisions_as_datatrove(name: str) -> None:
    seen = set()
    for row in GOLDEN["texts"]:
        reason = row["reasons"][name]
        found = outcome(name, row["text"])
        rule = found.rule if isinstance(found, Rejection) else None
        assert rule == (reason and f"{name}.{NAMES[reason]}"), row["text"]
        seen.add(rule)
    assert len(seen) >= {"gopher": 13, "fineweb": 4}[name]  # the texts reach most of the rules


def test_the_same_lines_as_datatrove(tmp_path: Path) -> None:
    """Except pages that are rejected because of a line which is removed before."""
    file = tmp_path / "c4.yaml"
    text = presets()["c4"].read_text()
    file.write_text(text.replace("sentence_count: {min: 5}", "sentence_count: off"))
    for row in GOLDEN["texts"]:
        found, reason = outcome(str(file), row["text"]), row["reasons"]["c4"]
        if row["without_lines"] == "":
            assert found == Rejection("c4.lines", 0, 1)
        elif reason is None:
            assert isinstance(found, TextDocument)
            assert found.text == row["without_lines"]
        else:
            assert found == Rejection(f"c4.{NAMES[reason]}", found.value, 0)  # type: ignore[union-attr]
    removed = sum(row["without_lines"] != row["text"] for row in GOLDEN["texts"])
    assert removed > 50


def test_the_same_measures_of_repetition_as_datatrove() -> None:
    for row in GOLDEN["texts"]:
        view = TextView(row["text"])
        top = [repetition.top_n_gram_rate(view, n) for n in (2, 3, 4)]
        duplicate = [repetition.duplicate_n_gram_rate(view, n) for n in range(5, 11)]
        lines = [
            repetition.duplicate_line_rate(view),
            repetition.duplicate_line_character_rate(view),
        ]
        assert (top, duplicate, lines) == (row["top"], row["duplicate"], row["lines"])


def test_repetition_takes_work_that_grows_with_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a text of one word and of one of few: each n-gram is looked at once."""
    looked_at: list[int] = []
    original = repetition._repeated

    def counted(positions: Any, *others: Any) -> int:
        looked_at.append(len(positions))
        return original(positions, *others)

    monkeypatch.setattr(repetition, "_repeated", counted)
    for words in ([""] * 5000, Random(1).choices("ab", k=5000)):
        view = TextView("x ".join(["", *words]))
        for n in range(5, 11):
            repetition.duplicate_n_gram_rate(view, n)
    assert looked_at
    assert max(looked_at) <= 5000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The owl's tree.", ["The", "owl's", "tree."]),
        ("春天来了。 Spring", ["春", "天", "来", "了", "。", "Spring"]),
        ("日本はBERTが好き", ["日", "本", "は", "BERT", "が", "好", "き"]),
        ("ที่นี่ abc", ["ที่", "นี่", "abc"]),  # vowels and tones belong to their consonants
        ("မြို့။", ["မြို့", "။"]),
        (" \n", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert TextView(text).words == words


@pytest.mark.parametrize("text", ["", "\n", " ", "#", "…", "a", "\u200b", "\x00"])
def test_every_measure_of_almost_nothing(text: str) -> None:
    parameters = {"words": ("a",), "ends": (".",), "bullets": ("-",), "characters": 3}
    for name, measure in MEASURES.items():
        fitting = {key: value for key, value in parameters.items() if key in _keywords(measure)}
        fitting |= {"phrases": ("a",)} if name == "phrase_count" else {}
        if text:  # no empty document comes to the rules
            assert 0 <= measure(TextView(text), **fitting) <= 3


def _keywords(measure: Any) -> tuple[str, ...]:
    code = getattr(measure, "__code__", None)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else ()


GERMAN = "Der Sturm kam in den Hafen und die Schiffe lagen von der Nacht an zu Tal. " * 2 + (
    "Niemand sah, wie das Licht ausging, denn alle schliefen schon lange unter ihren Decken. "
    "Am Morgen fanden sie drei Boote auf dem Strand, halb voll Sand, ohne Ruder, ohne Segel. "
    "Ein Fischer hob eine Lampe auf, die noch warm war, und trug sie wortlos nach Hause."
)
CHINESE = (
    "春天来了，山上的花开了。小河里的水慢慢流过村子，孩子们在桥边放风筝，"
    "老人坐在门口晒太阳，谈着去年的收成。傍晚大家一起回家吃饭。"
)


def test_stop_words_are_those_of_the_language() -> None:
    german = GERMAN[75:]
    assert outcome("gopher", german) == Rejection("gopher.stop_word_count", 0, 2)
    assert isinstance(outcome("gopher", german, "de"), TextDocument)


def test_words_without_spaces() -> None:
    assert outcome("gopher", CHINESE) == Rejection("gopher.mean_word_length", 1.0, 3)
    assert isinstance(outcome("gopher", CHINESE, "zh"), TextDocument)
    assert isinstance(outcome("c4", CHINESE, "zh"), Rejection)  # three sentences
    assert isinstance(outcome("c4", CHINESE * 3, "zh"), TextDocument)


# The beginnings of the articles on each country in its own Wikipedia.
UNSPACED = {
    "th": "ประเทศไทยเป็นประเทศที่ตั้งอยู่ในภูมิภาคเอเชียตะวันออกเฉียงใต้ มีพรมแดนทางทิศตะวันออกติดกับประเทศลาว"
    "และกัมพูชา ทิศใต้เป็นแดนต่อแดนประเทศมาเลเซียและอ่าวไทย ทิศตะวันตกติดกับทะเลอันดามันและประเทศพม่า",
    "my": "မြန်မာနိုင်ငံသည် အရှေ့တောင်အာရှတွင် တည်ရှိသော နိုင်ငံတစ်နိုင်ငံဖြစ်သည်။ ကုန်းမြေအားဖြင့် "
    "ဒုတိယအကျယ်ဆုံးသော နိုင်ငံဖြစ်သည်။ နေပြည်တော်သည် မြို့တော်ဖြစ်သည်။",
    "km": "ប្រទេសកម្ពុជា ជាប្រទេសមួយដែលស្ថិតនៅក្នុងតំបន់អាស៊ីអាគ្នេយ៍។ ភ្នំពេញគឺជារាជធានីនិងជាទីក្រុងធំជាងគេ។",
    "lo": "ປະເທດລາວ ຕັ້ງຢູ່ໃຈກາງຂອງແຫຼມອິນດູຈີນ ເປັນປະເທດທີ່ບໍ່ມີທາງອອກສູ່ທະເລ ທິດເໜືອຕິດກັບປະເທດຈີນ "
    "ທິດໃຕ້ຕິດກັບປະເທດກຳປູເຈຍ",
}


@pytest.mark.parametrize("language", UNSPACED)
def test_vowels_and_tones_are_no_words(language: str) -> None:
    """Unicode counts them as marks, not as letters: they would be words without a letter."""
    text = UNSPACED[language]
    assert MEASURES["alphabetic_word_rate"](TextView(text)) > 0.9
    assert not {"mean_word_length", "stop_word_count"} & {
        *read_quality("gopher").of_language(language)
    }
    assert isinstance(outcome("fineweb", text, language), TextDocument)


def test_sentences_end_with_the_marks_of_their_language() -> None:
    hindi = "भारत एक बड़ा देश है। दिल्ली भारत की राजधानी है। यह बहुत पुराना शहर है।"
    assert isinstance(outcome("c4", "\n".join([hindi, hindi]), "hi"), TextDocument)
    assert isinstance(outcome("c4", UNSPACED["th"], "th"), TextDocument)
    assert isinstance(outcome("c4", UNSPACED["km"], "km"), TextDocument)


def test_languages_without_stop_words_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")  # commands that ran in this process leave it higher
    cleaning_of(CorpusConfig(input=("a",), languages=("en", "de", "tr", "zh"), quality=("gopher",)))
    assert [record.getMessage() for record in caplog.records] == [
        "`quality` gopher has no stop words of tr, so it rejects documents in them; switch "
        "stop_word_count off for them in a file of your own, or give it theirs"
    ]
    caplog.clear()
    cleaning_of(CorpusConfig(input=("a",), language="tr", quality=("c4", "fineweb")))
    cleaning_of(CorpusConfig(input=("a",), quality=("gopher",)))
    assert not caplog.records


def test_rules_of_a_language_nobody_knows_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    file = tmp_path / "own.yaml"
    file.write_text(
        "rules: {word_count: {min: 3}}\n"
        "languages: {de: {word_count: off}, qq: {word_count: off}, yue: {word_count: off}}"
    )
    cleaning_of(
        CorpusConfig(
            input=("a",), languages=("en",), quality=(str(file), "gopher", "c4", "fineweb")
        )
    )
    assert [record.getMessage() for record in caplog.records] == [
        "`quality` own has rules for qq, which no document is identified as; expected ISO 639 "
        "codes such as en, de, zh"
    ]


def test_phrases_are_found_in_any_case(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text('rules: {lines: {phrases: ["Cookie Policy"]}}')
    for line in ("Our cookie policy.", "Our COOKIE POLICY.", "Our Cookie Policy."):
        found = outcome(str(file), f"{line}\nText.")
        assert isinstance(found, TextDocument)
        assert found.text == "Text."


def test_removed_lines_and_citations_are_counted() -> None:
    prose = (
        "The owl sat in the oak.[3] It was old.\n\n"
        "Menu\nThe fox ran to the sea. It swam. It came back."
    )
    found = outcome("c4", prose)
    assert found == TextDocument(
        "The owl sat in the oak. It was old.\n\nThe fox ran to the sea. It swam. It came back.",
        "en",
        {"removed_lines": 1, "removed_citations": 1},  # type: ignore[arg-type]
    )


def test_a_value_equal_to_its_threshold_passes(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("rules: {word_count: {min: 3, max: 3}}")
    assert isinstance(outcome(str(file), "one two three"), TextDocument)
    assert outcome(str(file), "one two") == Rejection("own.word_count", 2, 3)
    assert outcome(str(file), "one two three four") == Rejection("own.word_count", 4, 3)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("rules: {word_cout: {min: 3}}", "unknown rule 'word_cout'; did you mean word_count?"),
        ("rules: {mine: {measure: words, min: 3}}", "unknown rule 'words'"),
        ("rules: {word_count: {mim: 3}}", "rule word_count: unknown key 'mim'"),
        ("rules: {word_count: {min: many}}", "rule word_count: min 'many': wrong type or value"),
        ("rules: {word_count: {min: .nan}}", "min nan: wrong type or value"),
        ("rules: {word_count: {min: yes}}", "min True: wrong type"),
        ("rules: {word_count: {min: 5, max: 4}}", "min 5 is above max 4"),
        ("rules: {word_count: {}}", "rule word_count: has neither min nor max"),
        ("rules: {word_count: 5}", "rule word_count: expected min, max or parameters, or off"),
        ("rules: {stop_word_count: {min: 2}}", "rule stop_word_count: words is missing"),
        ("rules: {stop_word_count: {min: 2, words: the}}", "words 'the': wrong type"),
        ("rules: {lines: {min_word: 3}}", "rule lines: unknown key 'min_word'"),
        ("rules: {lines: {min_words: -1}}", "rule lines: min_words -1"),
        ("rules: {word_count: {min: 3}}\nlanguages: {no: {}}", "False: expected an ISO 639 code"),
        ("rules: {word_count: {min: 3}}\nlanguages: {DE: {}}", "'DE': expected an ISO 639 code"),
        ("rules: {word_count: {min: 3}}\nlanguages: [de]", "languages: expected a mapping"),
        ("rules: {word_count: {min: 3}}\nlanguage: {}", "unknown key 'language'"),
        ("word_count: {min: 3}", "expected a mapping with the key rules"),
        ("rules: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_file_is_one_line(contents: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(contents)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read_quality(str(file))
    assert str(error.value).startswith(f"`quality` {file}: ")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`quality` gofer: expected c4, fineweb, gopher or a "):
        read_quality("gofer")
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        read_quality(str(tmp_path / "none.yaml"))


@given(
    st.text(
        st.sampled_from("ab1 .ß٣…\n\u4e2d\ud800\U0001d7d8Ⅷ²\u0301") | st.characters(), max_size=40
    )
)
def test_words_with_letters_and_digits(text: str) -> None:
    view = TextView(text)
    with_either = [word for word in view.words if any(map(str.isalnum, word))]
    with_letter = [word for word in view.words if any(map(str.isalpha, word))]
    assert MEASURES["word_count"](view) == len(with_either)
    lengths = sum(map(len, with_either))
    assert MEASURES["mean_word_length"](view) == lengths / max(len(with_either), 1)
    rate = len(with_letter) / max(len(view.words), 1)
    assert MEASURES["alphabetic_word_rate"](view) == rate
