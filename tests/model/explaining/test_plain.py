"""Numbers of the JSON result."""

import json

import numpy as np

from model.explaining.attribution import Attribution
from model.explaining.explanation import Prediction
from model.explaining.plain import numbers, prediction_as_plain


def test_float32_numbers_have_the_fewest_digits_that_identify_them() -> None:
    values = np.array([[0.1, -2.5], [1 / 3, 1e-9]], np.float32)
    assert json.dumps(numbers(values)) == "[[0.1, -2.5], [0.33333334, 1e-09]]"
    assert np.array_equal(np.array(numbers(values), np.float32), values)


def test_a_prediction_says_whether_its_attribution_is_complete() -> None:
    attribution = Attribution(1, np.array([0.1, 0.2], np.float32), 0.5, 0.2, 0.002, 32)
    prediction = Prediction("single", "Which class?", "f", "s", 3, (("yes", 0.5),), attribution)
    plain = json.loads(json.dumps(prediction_as_plain(prediction)))
    assert plain["answers"] == [["yes", 0.5]]
    assert plain["attribution"] == {
        "answer": 1, "by_piece": [0.1, 0.2], "value": 0.5, "baseline_value": 0.2,
        "error": 0.002, "points": 32, "is_complete": True,
    }  # fmt: skip
