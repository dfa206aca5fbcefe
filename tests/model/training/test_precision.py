"""The precision that `--precision auto` selects."""

import pytest
import tensorflow as tf

from model.training import precision


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["avx512f", "amx_bf16"], "bfloat16"),
        (["avx512_bf16"], "bfloat16"),
        (["avx512f", "avx512_vnni"], "float32"),
        ([], "float32"),
    ],
)
def test_a_cpu_with_bfloat16_support_uses_it(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], expected: str
) -> None:
    monkeypatch.setattr(precision, "_cpu_flags", lambda: flags)
    assert precision.fastest(tf.distribute.get_strategy()) == expected
