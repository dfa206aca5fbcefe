"""Summarize a dataset as a table, and warn of datasets that a model cannot learn from."""

from collections import Counter
from collections.abc import Iterator, Mapping

from rich.table import Table

from pipeline.console import table
from pipeline.manifest import Manifest

MAX_UNKNOWN_RATE = 0.02
"""Share of [UNK] among the pieces, or of all-[UNK] sentences, above which a warning is given."""

MAX_RANDOM_NEXT_RATE = 0.75
"""Share of random next sentences above which a warning is given; BERT expects 0.5."""


def dataset_table(path: str, manifest: Manifest, seconds: float | None = None) -> Table:
    """Return a table of a dataset's totals, one column per split.

    Args:
        path: the dataset folder, for the title.
        manifest: the dataset's manifest.
        seconds: duration of the job, to show the throughput; None = omit it.
    """
    splits = list(manifest.splits)
    totals = [manifest.statistics[split] for split in splits]

    def share(part: str, whole: str) -> list[str]:
        return [f"{total.get(part, 0) / total[whole]:.1%}" for total in totals]

    rows: list[list[object]] = [
        [name.replace("_", " "), *(total.get(name, 0) for total in totals)]
        for name in ("documents", "sentences", "pieces", "examples")
    ]
    if "unknown_pieces" in totals[0]:  # datasets of earlier versions lack this statistic
        rows.append(["unknown pieces", *share("unknown_pieces", "pieces")])
        rows.append(["sentences of [UNK] alone", *share("unknown_sentences", "sentences")])
    rows.append(["real positions", *share("real_positions", "positions")])
    if manifest.masks == "static":
        rows.append(["predicted positions", *share("predictions", "real_positions")])
    if manifest.pairing == "nsp":
        rows.append(["random next sentence", *share("random_next", "examples")])
    elif manifest.pairing == "sop":
        rows.append(["swapped segments", *share("swapped", "examples")])
    rows += [
        ["pieces cut off", *(total.get("truncated_pieces", 0) for total in totals)],
        ["files", *(len(manifest.splits[split]) for split in splits)],
    ]
    result = table(f"Dataset {path}", ["", *splits], rows)
    result.caption_justify = "left"
    result.caption = f"documents dropped: {dropped_documents(manifest.dropped_documents)}"
    if seconds is not None:
        tokens = sum(total["real_positions"] for total in totals)
        result.caption += f"\n{seconds:.1f} s, {tokens / seconds:,.0f} tokens/s"
    return result


def dataset_warnings(manifest: Manifest) -> list[str]:
    """Return one-line warnings about what a model cannot learn from a dataset, and why."""
    total: Counter[str] = Counter()
    for statistics in manifest.statistics.values():
        total.update(statistics)
    return [*_unknown(total), *_random_next(total, manifest)]


def _unknown(total: Counter[str]) -> Iterator[str]:
    """Yield a warning if too much of the text is [UNK]."""
    pieces = total["unknown_pieces"] / total["pieces"]
    sentences = total["unknown_sentences"] / total["sentences"]
    if max(pieces, sentences) > MAX_UNKNOWN_RATE:
        yield (
            f"{pieces:.1%} of the pieces are [UNK], and {sentences:.1%} of the sentences are "
            "nothing else: the vocabulary does not fit the text, or its words are too long; learn "
            "one from this text with clozeline vocab, and put spaces between the words of a script "
            "that has none"
        )


def _random_next(total: Counter[str], manifest: Manifest) -> Iterator[str]:
    """Yield a warning if far more than half of the next sentences are random."""
    share = total["random_next"] / total["examples"]
    average = total["sentences"] / total["documents"]
    if manifest.pairing != "nsp" or (share <= MAX_RANDOM_NEXT_RATE and average > 1):
        return
    documents = f"documents have {average:.1f} sentences on average"
    if average == 1:
        documents = "every document has one sentence"
    remedy = "give longer documents"
    if manifest.settings["input_format"] == "lines":
        remedy = "put blank lines between documents only, not between sentences"
    yield (
        f"{documents}, so {share:.1%} of the next sentences are random and next-sentence "
        f"prediction cannot be learned; {remedy}, or add --pairing none"
    )


def dropped_documents(dropped: Mapping[str, int]) -> str:
    """Return the number of dropped documents by reason, as text."""
    return ", ".join(f"{number:,} {reason}" for reason, number in dropped.items()) or "none"
