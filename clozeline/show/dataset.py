"""Show a dataset in the terminal: totals, lengths, decoded examples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from clozeline.show.terminal import table
from pipeline import schema
from pipeline.errors import escaped
from pipeline.inspect_rejections import RuleRejections
from pipeline.manifest import Manifest
from pipeline.schema import IS_NEXT, Pairing
from pipeline.text.tokenizer import Vocabulary

LENGTH_BINS = 8
LABELS: dict[Pairing, list[str]] = {
    "nsp": ["true next", "random next"],
    "sop": ["in order", "swapped"],
    "none": ["sentences"],
}
"""Descriptions of the values 0 and 1 of `next_sentence_labels`, by pairing."""


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

    pairs = "examples" if manifest.max_pairs == 1 else "pairs"
    counts = ("documents", "sentences", "pieces", *dict.fromkeys((pairs, "examples")))
    rows: list[list[object]] = [
        [name.replace("_", " "), *(total.get(name, 0) for total in totals)] for name in counts
    ]
    if "unknown_pieces" in totals[0]:  # datasets of earlier versions lack this statistic
        rows.append(["unknown pieces", *share("unknown_pieces", "pieces")])
        rows.append(["sentences of [UNK] alone", *share("unknown_sentences", "sentences")])
    rows.append(["real positions", *share("real_positions", "positions")])
    if manifest.masks == "static":
        rows.append(["predicted positions", *share("predictions", "real_positions")])
    if manifest.pairing == "nsp":
        rows.append(["random next sentence", *share("random_next", pairs)])
    elif manifest.pairing == "sop":
        rows.append(["swapped segments", *share("swapped", pairs)])
    rows += [
        ["pieces cut off", *(total.get("truncated_pieces", 0) for total in totals)],
        ["files", *(len(manifest.splits[split]) for split in splits)],
    ]
    result = table(f"Dataset {path}", ["", *splits], rows)
    result.caption_justify = "left"
    result.caption = f"documents dropped: {dropped_documents(manifest.dropped_documents)}"
    if manifest.changed_text:
        changed = ", ".join(
            f"{count:,} {kind.replace('_', ' ')}" for kind, count in manifest.changed_text.items()
        )
        result.caption += f"\ntext changed: {changed}"
    if seconds is not None:
        tokens = sum(total["real_positions"] for total in totals)
        result.caption += f"\n{seconds:.1f} s, {tokens / seconds:,.0f} tokens/s"
    return result


def length_table(lengths: Mapping[int, int], max_seq_length: int) -> Table:
    """Return a histogram of the number of real positions per example, as a table."""
    width = -(-max_seq_length // LENGTH_BINS)  # rounded up
    bins: Counter[int] = Counter()
    for length, count in lengths.items():
        bins[(length - 1) // width] += count
    most = max(bins.values())
    rows = [
        (f"{index * width + 1}-{min((index + 1) * width, max_seq_length)}", bins[index],
         "█" * round(24 * bins[index] / most))
        for index in range(LENGTH_BINS)
        if index * width < max_seq_length
    ]  # fmt: skip
    return table("Lengths", ["pieces", "examples", ""], rows, frozenset({0, 2}))


def rejection_table(rules: Mapping[str, RuleRejections]) -> Table:
    """Return a table of rejected documents: for each rule, a histogram of what it measured."""
    rows: list[list[object]] = []
    for name, rule in rules.items():
        limits = ", ".join(f"{limit:g}" for limit in sorted(rule.thresholds))
        rows.append([name, rule.documents, limits, "", ""])
        rows += [["", count, "", span, bar] for span, count, bar in _histogram(rule.values)]
    columns = ["rule", "documents", "threshold", "value", ""]
    return table("Rejected documents", columns, rows, frozenset({0, 3, 4}))


def _histogram(values: Sequence[float]) -> list[tuple[str, int, str]]:
    """Return (range of values, number of values in it, bar) for each bin; none for one value."""
    if not len(values) or min(values) == max(values):
        return []
    counts, edges = np.histogram(np.asarray(values), LENGTH_BINS)
    return [
        (f"{low:.4g} to {high:.4g}", int(count), "█" * round(24 * count / counts.max()))
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def rejected_document(document: Mapping[str, Any]) -> Text:
    """Return a rejected document as text: rule, value and threshold, id, beginning of its text."""
    value, limit = document["value"], document["threshold"]
    measured = "" if value is None else f" {_shown(value)}"
    measured += "" if limit is None else f" ({_shown(limit)})"
    text = Text(f"\n{document['rule']}{measured}: {escaped(document['id'])}\n", style="bold")
    return text.append(document["excerpt"], style="")


def _shown(value: float | str) -> str:
    """Return what a rule measured, a number or a text such as a language, as text."""
    return value if isinstance(value, str) else f"{value:g}"


def decoded(record: dict[str, np.ndarray], vocabulary: Vocabulary, pairing: Pairing) -> Text:
    """Return a record as colored text: segment A plain, B cyan, masked as `label→input piece`.

    Each pair of a packed record begins on a line of its own.
    """
    predictions = (record.get(name, ()) for name in schema.MASKED_LM_FEATURES)
    labels = {
        int(position): vocabulary.pieces[label]
        for position, label, weight in zip(*predictions, strict=True)
        if weight
    }
    headings = _headings(record, pairing)
    text = Text()
    for position in range(int(record[schema.INPUT_MASK].sum())):
        if position in headings:
            text.append(f"\n{headings[position]}:", style="bold")
        piece = vocabulary.pieces[record[schema.INPUT_IDS][position]]
        style = "cyan" if record[schema.SEGMENT_IDS][position] else ""
        if position in labels:
            text.append(f" {labels[position]}→{piece}", style="bold magenta")
        else:
            text.append(f" {piece}", style=style)
    return text


def _headings(record: Mapping[str, np.ndarray], pairing: Pairing) -> dict[int, str]:
    """Return what each pair of a record is, by the index of its [CLS]."""
    labels = record[schema.NEXT_SENTENCE_LABELS] if pairing != "none" else [IS_NEXT]
    starts = record.get(schema.NEXT_SENTENCE_POSITIONS, np.zeros(1, np.int64))
    used = record.get(schema.NEXT_SENTENCE_WEIGHTS, np.ones(1))
    return {
        int(start): LABELS[pairing][label]
        for start, label, weight in zip(starts, labels, used, strict=True)
        if weight
    }


def dropped_documents(dropped: Mapping[str, int]) -> str:
    """Return the number of dropped documents by reason, as text."""
    return ", ".join(f"{number:,} {reason}" for reason, number in dropped.items()) or "none"
