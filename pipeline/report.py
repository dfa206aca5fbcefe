"""A dataset as a table for people."""

from collections.abc import Mapping

from rich.table import Table

from pipeline.console import table
from pipeline.manifest import Manifest


def dataset_table(path: str, manifest: Manifest, seconds: float | None = None) -> Table:
    """Return the totals of a dataset, a column a split; with the rate where the time is known."""
    splits = list(manifest.splits)
    totals = [manifest.statistics[split] for split in splits]

    def share(part: str, whole: str) -> list[str]:
        return [f"{total.get(part, 0) / total[whole]:.1%}" for total in totals]

    rows: list[list[object]] = [
        [name.replace("_", " "), *(total.get(name, 0) for total in totals)]
        for name in ("documents", "sentences", "pieces", "examples")
    ]
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
    made = table(f"Dataset {path}", ["", *splits], rows)
    made.caption_justify = "left"
    made.caption = f"documents dropped: {dropped_documents(manifest.dropped_documents)}"
    if seconds is not None:
        tokens = sum(total["real_positions"] for total in totals)
        made.caption += f"\n{seconds:.1f} s, {tokens / seconds:,.0f} tokens/s"
    return made


def dropped_documents(dropped: Mapping[str, int]) -> str:
    """Return numbers of documents by reason in words."""
    return ", ".join(f"{number:,} {reason}" for reason, number in dropped.items()) or "none"
