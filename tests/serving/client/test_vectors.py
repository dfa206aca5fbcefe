"""What the client makes of vectors and of scores of pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clozeline.show.answer import show
from pipeline.errors import InputError
from serving.client.answers import query
from serving.client.client import Client, Signature
from serving.configs import QueryConfig

TEXTS = {"text": "DT_STRING"}
PAIRS = {**TEXTS, "text_pair": "DT_STRING"}


class Answering(Client):
    """A client whose server answers with the lengths of the texts."""

    def __init__(self, **signatures: Signature) -> None:
        super().__init__()
        self.known = signatures
        self.requests: list[int] = []

    def signatures(self, model: str, version: Any = None) -> dict[str, Signature]:
        return self.known

    def _predict(self, model: str, version: Any, name: str, inputs: Any, signature: Any) -> Any:
        self.requests.append(len(inputs["text"]))
        lengths = np.array([len(text) for text in inputs.get("text_pair", inputs["text"])], float)
        if name == "classify":
            shares = np.stack([1 - lengths / 10, lengths / 10], axis=1)
            return {"labels": [["far", "near"]] * len(lengths), "probabilities": shares}
        if name == "rerank":
            scores = [len(text) for text in inputs["passages"][0]]
            return {"scores": np.array([[*scores, scores[0]]], float)}  # padded by the server
        if "dimension" in inputs:
            lengths += inputs["dimension"]
        return {"vector": lengths[:, np.newaxis], "score": lengths}


def signature(inputs: dict[str, str]) -> Signature:
    return Signature(inputs, {})


def test_vectors_are_asked_for_in_batches() -> None:
    client = Answering(
        embed=signature(TEXTS), embed_dimension=signature({**TEXTS, "dimension": "DT_INT32"})
    )
    texts = ["a", "bb", "ccc"]
    assert client.vectors("m", texts, batch_size=2).tolist() == [[1], [2], [3]]
    assert client.requests == [2, 1]
    assert client.vectors("m", texts, 10).tolist() == [[11], [12], [13]]
    with pytest.raises(InputError, match="texts: expected at least one"):
        client.vectors("m", [])


@pytest.mark.parametrize("name", ["rerank", "similarity", "score", "classify"])
def test_passages_are_ranked(name: str) -> None:
    inputs = {**TEXTS, "passages": "DT_STRING"} if name == "rerank" else PAIRS
    client = Answering(embed=signature(TEXTS), **{name: signature(inputs)})
    passages = ["aa", "bbbb", "c", "dd"]
    ranked = client.ranked("m", "query", passages, batch_size=3)
    assert [index for index, _ in ranked] == [1, 0, 3, 2]
    assert client.requests == ([1, 1] if name == "rerank" else [3, 1])
    assert client.ranked("m", "query", []) == []
    with pytest.raises(InputError, match="batch_size: expected at least 1, received 0"):
        client.ranked("m", "query", passages, batch_size=0)
    if name == "classify":
        assert client.ranked("m", "query", passages, label="far")[0][0] == 2
        with pytest.raises(InputError, match="model m: no class 'no'; it has far, near"):
            client.ranked("m", "query", passages, label="no")


def test_a_model_of_single_texts_cannot_rank() -> None:
    with pytest.raises(
        InputError, match="m: none of rerank, similarity, score, classify takes two"
    ):
        Answering(score=signature(TEXTS)).ranked("m", "query", ["a"])


def test_the_lines_of_a_file_are_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Answering(similarity=signature(PAIRS))
    monkeypatch.setattr("serving.client.answers.Client", lambda _: client)
    path = tmp_path / "passages.txt"
    path.write_text("aa\n\nbb\u2028b\n", encoding="utf-8")
    answer = query(QueryConfig(text=("q",), model="m", passages=path))
    assert answer.signature == "similarity"
    rows = [{"line": 3, "text": "bb\u2028b", "score": 4.0}, {"line": 1, "text": "aa", "score": 2.0}]
    assert answer.outputs == {"passages": rows}
    console = Console(width=60)
    with console.capture() as shown:
        console.print(show(("q",), answer))
    assert shown.get().index("bb") < shown.get().index("aa")
    path.write_text(" \n")
    with pytest.raises(InputError, match=r"`passages` .*passages.txt: contains no texts"):
        query(QueryConfig(text=("q",), model="m", passages=path))
    with pytest.raises(InputError, match=r"`passages` .*: cannot be read"):
        query(QueryConfig(text=("q",), model="m", passages=tmp_path / "none"))
    with pytest.raises(InputError, match="`passages`: takes one text, and no `signature`"):
        QueryConfig(text=("q", "r"), model="m", passages=path)
