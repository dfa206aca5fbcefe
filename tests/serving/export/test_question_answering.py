"""Answers of Hugging Face's question-answering pipeline on the same weights."""

import dataclasses
import json
from pathlib import Path

import pytest
import tensorflow as tf

from model.bert.network import weights_by_name
from model.configs import EvaluateConfig, ImportConfig
from model.evaluate import evaluate_run
from model.interchange.import_checkpoint import import_checkpoint
from model.run import load_run, write_run
from model.training.config import TuningConfig
from serving.export.signatures import TextModel

GOLDEN = Path(__file__).parents[2] / "golden" / "question_answering"


def test_answers_are_those_of_hugging_faces_pipeline(tmp_path: Path) -> None:
    """On passages of 1 to 20 windows, a third of them without an answer.

    The pipeline compares probabilities of positions of a window, hence answers of different windows
    by other numbers than google-research/bert and we do; the model is sure enough that both agree.
    """
    golden = json.loads((GOLDEN / "answers.json").read_text(encoding="utf-8"))
    questions = golden["questions"]
    import_checkpoint(ImportConfig(from_dir=GOLDEN, run_dir=tmp_path / "imported"))
    imported = load_run(tmp_path / "imported")
    facts = dataclasses.replace(imported.dataset, max_seq_length=golden["max_seq_length"])
    tuning = TuningConfig("", "", doc_stride=golden["doc_stride"])
    saved = dataclasses.replace(imported.saved, dataset=facts, tuning=tuning)
    vocabulary = (imported.path / "vocab.txt").read_bytes()
    write_run(tmp_path / "run", saved, vocabulary, weights_by_name(imported.load_model()))
    run = load_run(tmp_path / "run")

    answer = TextModel(run, run.load_model()).signatures()["answer"]
    columns = [[one[name] for one in questions] for name in ("question", "context")]
    found = answer(text=tf.constant(columns[0]), text_pair=tf.constant(columns[1]))
    names = ("answer", "start_code_point", "end_code_point")
    rows = zip(*(found[name].numpy() for name in names), strict=True)
    served = [(text.decode(), int(start), int(end)) for text, start, end in rows]
    expected = [(one["answer"], one["start"], one["end"]) for one in questions]
    assert served == expected
    assert 15 < sum(bool(text) for text, _, _ in served) < len(served) - 15

    paragraphs = [
        {"context": one["context"], "qas": [{"id": one["id"], "question": one["question"]}]}
        for one in questions
    ]
    (tmp_path / "dev.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    data, predictions = tmp_path / "dev.json", tmp_path / "answers.jsonl"
    evaluate_run(EvaluateConfig(run_dir=run.path, data=data, predictions=predictions))
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [line["answer"] for line in lines] == [text for text, _, _ in expected]
    assert [line["score"] for line in lines] == pytest.approx(found["score"].numpy(), abs=1e-4)
