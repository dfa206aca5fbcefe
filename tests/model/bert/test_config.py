"""The model's config: sizes, checks, JSON."""

import json
from typing import Any

import pytest

from model.bert.config import SIZES, BertConfig


def test_sizes() -> None:
    table = {
        name: (c.num_hidden_layers, c.hidden_size, c.num_attention_heads, c.intermediate_size)
        for name, c in ((name, size.config(77)) for name, size in SIZES.items())
    }
    assert table == {
        "tiny": (2, 128, 2, 512),
        "mini": (4, 256, 4, 1024),
        "small": (4, 512, 8, 2048),
        "medium": (8, 512, 8, 2048),
        "base": (12, 768, 12, 3072),
        "large": (24, 1024, 16, 4096),
    }
    assert SIZES["base"].config(77) == BertConfig(vocab_size=77)
    assert SIZES["tiny"].config(77).layer_norm_eps == 1e-12


def test_json_round_trip(small_config: BertConfig) -> None:
    assert BertConfig.from_json(small_config.to_json()) == small_config
    assert json.loads(small_config.to_json())["attention_probs_dropout_prob"] == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be a whole number of at least 1, received 0"),
        ({"num_hidden_layers": 1001}, "num_hidden_layers must be at most 1000, received 1001"),
        (
            {"vocab_size": 10**9},
            "at most 100,000,000,000 parameters; .*: vocab_size 1000000000, hid",
        ),
        (
            {"max_position_embeddings": 10**400},
            "these sizes give more: .*max_position_embeddings 10+",
        ),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers must be a whole number of at least 1"),
        ({"type_vocab_size": True}, "type_vocab_size must be a whole number .* received True"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must be at least 0 and below 1"),
        ({"attention_probs_dropout_prob": "0.1"}, "attention_probs_dropout_prob .*received '0.1'"),
        ({"initializer_range": 0.0}, "initializer_range must be above 0, received 0.0"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps must be above 0, received -1e-12"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be above 0, received nan"),
        ({"initializer_range": float("inf")}, "initializer_range must be above 0, received inf"),
        ({"hidden_act": "x" * 10**6}, "received 'xxxx.{1,40}$"),
        ({"num_attention_heads": 5}, "must divide hidden_size, received 5 heads for .* 768"),
        ({"hidden_act": "swish"}, "hidden_act must be one of gelu, .* received 'swish'"),
        ({"hiden_size": 8}, "unknown key 'hiden_size' .*; did you mean hidden_size?"),
        ({"zebra": 8}, "unknown key 'zebra' in a model's config$"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BertConfig.from_dict({"vocab_size": 50, **settings})


def test_vocab_size_is_needed() -> None:
    with pytest.raises(ValueError, match="vocab_size is missing"):
        BertConfig.from_dict({"hidden_size": 8, "num_attention_heads": 2})


def test_json_must_be_an_object() -> None:
    with pytest.raises(ValueError, match=r"must be a JSON object, received \[1\]"):
        BertConfig.from_json("[1]")
