"""Convert an explanation to plain lists and numbers."""

from dataclasses import asdict

import numpy as np

from model.explaining.explanation import Explanation, Prediction
from pipeline import schema
from pipeline.storage.strict_json import Json, JsonObject


def as_plain(explanation: Explanation) -> JsonObject:
    """Return an explanation by its field names; layer and head are numbered from 1."""
    example = explanation.example
    return {
        "run": explanation.run,
        "notes": list(explanation.notes),
        "pieces": list(example.pieces),
        "written": list(example.written),
        schema.INPUT_IDS: example.input_ids.tolist(),
        schema.SEGMENT_IDS: example.segment_ids.tolist(),
        "words": example.words,
        "cut_pieces": example.cut_pieces,
        "layer": explanation.layer + 1,
        "head": explanation.head + 1,
        "steps": [asdict(step) | {"values": numbers(step.values)} for step in explanation.steps],
        "predictions": [prediction_as_plain(each) for each in explanation.predictions],
        "attention": numbers(explanation.attention),
        "rollout": numbers(explanation.rollout),
    }


def prediction_as_plain(prediction: Prediction) -> JsonObject:
    """Return one prediction with its attribution."""
    plain = asdict(prediction)
    attribution = prediction.attribution
    if attribution is not None:
        plain["attribution"] |= {
            "by_piece": numbers(attribution.by_piece),
            "is_complete": attribution.is_complete,
        }
    return plain


def numbers(values: np.ndarray) -> list[Json]:
    """Return float32 numbers as nested lists, with the shortest digits that identify each."""
    if values.ndim > 1:
        return [numbers(row) for row in values]
    # `str` gives the shortest digits: 0.1, not 0.10000000149011612, half the size of the JSON.
    return [float(str(value)) for value in values.astype(np.float32)]
