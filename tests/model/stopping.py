"""Interrupt a training at a step."""

import os
import signal
from typing import Any

import pytest

from model.training.loop import Trainer


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Press Ctrl-C when this many updates are done."""
    train = Trainer.train

    def train_and_stop(trainer: Trainer, *arguments: Any) -> Any:
        sums = train(trainer, *arguments)
        if int(trainer.step) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return sums

    monkeypatch.setattr(Trainer, "train", train_and_stop)
