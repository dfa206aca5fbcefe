"""Warn of datasets that a model cannot learn from."""

from collections import Counter
from collections.abc import Iterator

from pipeline.manifest import Manifest
from pipeline.schema import NO_OTHER_DOCUMENT

MAX_UNKNOWN_RATE = 0.02
"""Share of [UNK] among the pieces, or of all-[UNK] sentences, above which a warning is given."""

MAX_RANDOM_NEXT_RATE = 0.75
"""Share of random next sentences above which a warning is given; BERT expects 0.5."""


def dataset_warnings(manifest: Manifest) -> list[str]:
    """Return one-line warnings about what a model cannot learn from a dataset, and why."""
    total: Counter[str] = Counter()
    for statistics in manifest.statistics.values():
        total.update(statistics)
    return [
        *_unknown(total),
        *_random_next(total, manifest),
        *_shared_ids(total),
        *_alone(total, manifest),
    ]


def _unknown(total: Counter[str]) -> Iterator[str]:
    """Yield a warning if too much of the text is [UNK]."""
    # Both: one long [UNK] may stand for a whole sentence of a script without spaces.
    pieces = total["unknown_pieces"] / total["pieces"]
    sentences = total["unknown_sentences"] / total["sentences"]
    if max(pieces, sentences) > MAX_UNKNOWN_RATE:
        yield (
            f"{pieces:.1%} of the pieces are [UNK], and {sentences:.1%} of the sentences are "
            "nothing else: the vocabulary does not fit the text, or its words are too long; learn "
            "one from this text with clozeline vocab, and put spaces between the words of a script "
            "that has none"
        )


def _shared_ids(total: Counter[str]) -> Iterator[str]:
    """Yield a warning if ids do not tell documents apart."""
    if total["shared_ids"]:
        yield (
            f"documents with the id of another one (`id_column`): {total['shared_ids']:,}; name a "
            "column of unique ids, or keep one document of each id with `deduplicate`"
        )


def _alone(total: Counter[str], manifest: Manifest) -> Iterator[str]:
    """Yield a warning if documents were left out because nothing else is in their shard."""
    alone = manifest.dropped_documents.get(NO_OTHER_DOCUMENT, 0)
    if alone:
        # A single shard has several documents, so the one that is alone is in the eval split.
        remedy = "fewer `shards`" if manifest.settings["shards"] > 1 else "a larger `eval_rate`"
        are = "is alone in its" if alone == 1 else "are alone in their"
        yield (
            f"{alone:,} of {alone + total['documents']:,} documents {are} shard and left out "
            f"({NO_OTHER_DOCUMENT}): random next sentences come from the shard's other documents; "
            f"use {remedy}, or give more documents"
        )


def _random_next(total: Counter[str], manifest: Manifest) -> Iterator[str]:
    """Yield a warning if far more than half of the next sentences are random."""
    share = total["random_next"] / (total["pairs"] or total["examples"])
    average = total["sentences"] / total["documents"]
    # A document of one sentence has no next one; the job then draws a random one.
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
        f"prediction cannot be learned; {remedy}, or add `pairing` none"
    )
