"""A fine-tuning task of each kind, and runs of them with random weights."""

from pathlib import Path
from typing import Any

from model.bert.network import build_model, weights_by_name
from model.run import Run, load_run, write_run
from model.run_config import RunConfig
from model.tasks.task_kind import Task, vector_task
from model.tasks.vectors import VectorSettings

TASKS = {
    "reviews": ("classify", Task("single", ("bad", "middling", "good"), takes_pairs=False)),
    "entailment": ("classify", Task("pair", ("follows", "does not"), takes_pairs=True)),
    "pairs": ("score", Task("regression", (), takes_pairs=True)),
    "names": ("tag", Task("tagging", ("O", "B-PER", "I-PER"), takes_pairs=False)),
    "questions": ("answer", Task("span", (), takes_pairs=True)),
    "vectors": ("embed", vector_task(VectorSettings(prompts=(("q", "the "),), default_prompt="q"))),
}
"""Signature and task by the name that the requests of the documents give to such a model."""


def run_of(task: Task, trained_run: Run, path: Path) -> tuple[Run, Any]:
    """Return a run with random weights and its model."""
    model = build_model(trained_run.config, task)
    config = RunConfig(trained_run.config, None, trained_run.dataset, task=task)
    vocabulary = (trained_run.path / "vocab.txt").read_bytes()
    write_run(path / "run", config, vocabulary, weights_by_name(model))
    return load_run(path / "run"), model
