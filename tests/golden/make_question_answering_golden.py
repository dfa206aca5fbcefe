# /// script
# requires-python = "==3.11.*"
# dependencies = ["numpy==2.4.6", "torch==2.15.0", "transformers==4.57.6"]
# ///
"""Write `question_answering/`: what Hugging Face's question-answering pipeline answers.

A small BERT learns to find a person, a place, a date or nothing in a passage. Then the pipeline
answers questions about passages of 1 to 20 windows. Version 5 of `transformers` has no such
pipeline. The pipeline compares probabilities of different windows, where google-research/bert and
we compare scores; the model is sure enough that both agree.
The project's tests need only the files:

    uv run tests/golden/make_question_answering_golden.py
"""

import json
import shutil
import unicodedata
from importlib.metadata import version
from pathlib import Path
from random import Random

import torch
import transformers as t

FOLDER = Path(__file__).parent / "question_answering"
KINDS = {
    "who": ["ada", "mary ann", "grace", "alan turing", "édouard"],
    "where": ["london", "new york", "rome", "ulan bator", "são paulo"],
    "when": ["1815", "may 1906", "1912", "spring", "1843"],
}
FILLERS = [
    "the",
    "of",
    "a",
    "engine",
    "and",
    "was",
    "which",
    "many",
    "then",
    "some",
    "sea",
    "very",
    ",",
    ".",
    "wheel",
    "letters",
    "😀",
    "note",
]
WORDS = sorted(
    {
        unicodedata.normalize("NFD", word)
        .encode("ascii", "ignore")
        .decode()  # as the tokenizer does
        for phrases in KINDS.values()
        for phrase in phrases
        for word in phrase.split()
    }
)
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *KINDS, *FILLERS, *WORDS, "?", "##s"]
LENGTH, STRIDE = 48, 20
STEPS = 1000
ROOM = LENGTH - 3 - 2  # a question has two pieces


def passage(rng: Random, words: int, answer: str | None) -> str:
    """Return a passage of so many words that says nothing, but for the answer."""
    parts = [rng.choice(FILLERS) for _ in range(words)]
    parts = [part + "s" if part.isalpha() and rng.random() < 0.1 else part for part in parts]
    if answer:
        parts.insert(rng.randrange(words + 1), answer)
    return " ".join(parts)


def batch(rng: Random, tokenizer: t.BertTokenizerFast) -> dict[str, torch.Tensor]:
    """Return 32 questions with the positions of their answers in short passages."""
    rows = []
    for _ in range(32):
        kind = rng.choice(list(KINDS))
        other = rng.choice([name for name in KINDS if name != kind])
        answer = rng.choice(KINDS[kind]) if rng.random() < 0.6 else None
        text = passage(rng, rng.randrange(3, 38), rng.choice(KINDS[other]))
        parts = text.split()
        if answer:
            parts.insert(rng.randrange(len(parts) + 1), answer)
        rows.append((f"{kind} ?", " ".join(parts), answer))
    coded = tokenizer(
        [row[0] for row in rows], [row[1] for row in rows], padding=True, return_tensors="pt",
        truncation="only_second", max_length=LENGTH, return_offsets_mapping=True,
    )  # fmt: skip
    starts, ends = [], []
    for row, (_, text, answer) in enumerate(rows):
        first = text.find(answer) if answer else -1
        begin = coded.char_to_token(row, first, 1) if first >= 0 else None
        end = coded.char_to_token(row, first + len(answer) - 1, 1) if first >= 0 else None
        found = begin is not None and end is not None
        starts.append(begin if found else 0)
        ends.append(end if found else 0)
    del coded["offset_mapping"]
    return dict(coded) | {
        "start_positions": torch.tensor(starts),
        "end_positions": torch.tensor(ends),
    }


def learned(tokenizer: t.BertTokenizerFast) -> t.BertForQuestionAnswering:
    """Return a small model that answers such questions."""
    torch.manual_seed(1)
    config = t.BertConfig(
        vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=LENGTH,
    )  # fmt: skip
    model = t.BertForQuestionAnswering(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = Random(1)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (STEPS - step) / (0.7 * STEPS), (step + 1) / 50)
        loss = model(**batch(rng, tokenizer)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(step, loss.item())
    return model.eval()


def questions() -> list[dict[str, str]]:
    """Return questions about passages of 1 to 20 windows, a third of them without an answer."""
    rng = Random(2)
    asked = []
    for number in range(60):
        windows = 1 + number % 20
        kind = list(KINDS)[rng.randrange(3)]
        other = rng.choice([name for name in KINDS if name != kind])
        words = int(0.85 * (ROOM + STRIDE * (windows - 1)))
        text = passage(rng, words, rng.choice(KINDS[other]))
        parts = text.split()
        if number % 3:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(KINDS[kind]))
        asked.append({"id": str(number), "question": f"{kind} ?", "context": " ".join(parts)})
    return asked


def main() -> None:
    """Write the files."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    (FOLDER / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    tokenizer = t.BertTokenizerFast(str(FOLDER / "vocab.txt"), model_max_length=LENGTH)
    model = learned(tokenizer)
    model.save_pretrained(FOLDER)
    answer = t.pipeline("question-answering", model=model, tokenizer=tokenizer)
    asked = questions()
    for one in asked:
        found = answer(
            question=one["question"], context=one["context"], max_seq_len=LENGTH,
            # The pipeline's stride is the overlap of two windows.
            doc_stride=ROOM - STRIDE, max_answer_len=15, handle_impossible_answer=True,
        )  # fmt: skip
        one |= {name: found[name] for name in ("answer", "start", "end")}
    versions = {name: version(name) for name in ("torch", "transformers")}
    golden = {
        "made_with": versions,
        "max_seq_length": LENGTH,
        "doc_stride": STRIDE,
        "questions": asked,
    }
    (FOLDER / "answers.json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(sum(bool(one["answer"]) for one in asked), "answered of", len(asked))


if __name__ == "__main__":
    main()
