"""Answers of Hugging Face's question-answering pipeline on the same weights."""

import dataclasses
import json
from pathlib import Path

import tensorflow as tf

from model.bert.network import weights_by_name
from model.configs import ImportConfig
from model.interchange.import_checkpoint import import_checkpoint
from model.run import load_run, write_run
from model.training.config import TuningConfig
from serving.export.signatures import TextModel

GOLDEN = Path(__file__).parents[2] / "golden" / "question_answering"


def test_answers_are_those_of_hugging_faces_pipeline(tmp_path: Path) -> None:
    """On passages of 1 to 20 windows, a third of them without an answer."""
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
    columns = [tf.constant([one[name] for one in questions]) for name in ("question", "context")]
    found = answer(text=columns[0], text_pair=columns[1])
    names = ("answer", "start_code_point", "end_code_point")
    rows = zip(*(found[name].numpy() for name in names), strict=True)
    served = [(text.decode(), int(start), int(end)) for text, start, end in rows]
    assert served == [(one["answer"], one["start"], one["end"]) for one in questions]
    assert sum(bool(text) for text, _, _ in served) == 40
