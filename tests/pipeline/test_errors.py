"""Messages of other libraries' errors become a part of ours."""

import errno

import pytest
import tensorflow as tf

from pipeline.errors import InputError, JobError, escaped, reason


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ELOOP, "Too many levels", "/a/b"), "Too many levels"),
        (OSError(errno.EXDEV, "Other disk", "a", None, "b"), "Other disk"),
        (OSError("no file of HDF5\n at all"), "no file of HDF5 at all"),
        (ValueError("{{node a/b}} bad\tvalue"), "bad value"),
        (
            tf.errors.ResourceExhaustedError(None, None, "/a; b/c.tempstate7; Full [Op:SaveV2]"),
            "Full",
        ),
        (JobError("/a/b: cannot be read; try again"), "/a/b: cannot be read; try again"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 600), "x" * 500),
    ],
)
def test_a_reason_is_one_line_without_number_and_path(error: Exception, message: str) -> None:
    assert reason(error) == message


@pytest.mark.parametrize("kind", [InputError, JobError])
def test_a_message_is_one_line_that_no_terminal_obeys(kind: type[Exception]) -> None:
    name = "a\nb\x1b[2J\x07\x7f\x9b31m\u2028[c]\\d ä🦄"
    shown = r"a\nb\x1b[2J\x07\x7f\x9b31m\u2028[c]\d ä🦄"
    assert str(kind(name)) == escaped(name) == shown
    assert escaped("a\tb\rc\n", keep="\n\t") == "a\tb\\rc\n"
