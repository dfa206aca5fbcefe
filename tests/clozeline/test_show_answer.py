"""How `query` prints a response."""

from rich.console import Console

from clozeline.show.answer import show
from serving.client.answers import Answer


def shown(texts, answer):
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        signature = answer.pop("signature")
        console.print(show(texts, Answer(signature, answer)))
    words = [line.replace("│", " ").split() for line in captured.get().splitlines()]
    return [line for line in words if line and not set("".join(line)) & set("─━")]


def test_fillings_of_masks_in_both_texts():
    lines = shown(["A [MASK].", "[MASK] b."], {
        "signature": "fill_mask_pair", "tokens": [["x", "y"], ["", ""], ["z", "w"]],
        "probabilities": [[0.5, 0.25], [0.0, 0.0], [0.75, 0.125]], "positions": [2, -1, 5],
        "truncated": True,
    })  # fmt: skip
    assert lines[0] == ["A", "[MASK].", "[MASK]", "b."]
    assert ["1", "x", "0.500", "z", "0.750"] in lines
    assert ["2", "y", "0.250", "w", "0.125"] in lines
    assert " ".join(lines[-1]).startswith("The text is longer than the model's maximum")


def test_classes_are_in_descending_order_of_probability():
    lines = shown(["t"], {
        "signature": "classify", "labels": ["bad", "good", "so-so"],
        "probabilities": [0.125, 0.625, 0.25], "label": "good", "truncated": False,
    })  # fmt: skip
    assert lines[-3:] == [["good", "0.625"], ["so-so", "0.250"], ["bad", "0.125"]]


def test_score():
    assert shown(["t"], {"signature": "score", "score": 2.5, "truncated": False}) == [["2.500"]]
    assert shown(["t"], {"signature": "score", "score": -1e-5, "truncated": False}) == [["0.000"]]


def test_attention_names_the_piece_with_the_largest_weight():
    heads = [
        [[0.1, 0.9, 0.0], [0.8, 0.2, 0.0], [0, 0, 0]],
        [[0.3, 0.7, 0.0], [0.6, 0.4, 0.0], [0, 0, 0]],
    ]
    lines = shown(["t"], {
        "signature": "attention", "tokens": ["[CLS]", "fox", ""], "scores": [heads],
        "truncated": False,
    })  # fmt: skip
    assert lines[-2:] == [["[CLS]", "fox", "0.80"], ["fox", "[CLS]", "0.70"]]


def test_outputs_without_a_view_are_listed_by_name():
    lines = shown(["t"], {
        "signature": "tokenize", "tokens": ["[CLS]", "fox"], "input_ids": list(range(40)),
        "truncated": False,
    })  # fmt: skip
    assert ["tokens", "[CLS],", "fox"] in lines
    assert any("…" in line for line in lines)


def test_an_answer_is_shown_in_its_part_of_the_passage():
    passage = "😀 " * 50 + "Ada left." + " x" * 99
    lines = shown(["who", passage], {
        "signature": "answer", "answer": "Ada", "score": 1.5, "truncated": False,
        "start_code_point": 100, "end_code_point": 103,
    })  # fmt: skip
    assert lines[0] == ["Ada"]
    part = " ".join(word for line in lines[1:-1] for word in line)
    assert part.startswith("…😀")
    assert "😀 Ada left. x" in part
    assert part.endswith("…")
    assert lines[-1] == ["score", "1.500"]


def test_a_passage_without_an_answer():
    lines = shown(["who", "x"], {
        "signature": "answer", "answer": "", "score": -2.0, "truncated": False,
        "start_code_point": 0, "end_code_point": 0,
    })  # fmt: skip
    assert lines == [["no", "answer", "(score", "-2.000)"]]


def test_the_n_best_answers_without_padding():
    lines = shown(["who", "x"], {
        "signature": "answers", "answers": ["Ada", "she", ""], "scores": [2.0, -1.0, 0.0],
        "truncated": False,
    })  # fmt: skip
    assert lines[-2:] == [["1", "Ada", "2.000"], ["2", "she", "-1.000"]]
