"""Repeated units of documents that may become too short (`pipeline.records.deduplication`)."""

from collections import Counter
from random import Random

import numpy as np
import pytest

from pipeline.records.deduplication import (
    ROW,
    Fewest,
    first_rows,
    lost_rows,
    repeated_in_order,
    set_aside,
    settled,
)

Documents = dict[int, list[int]]
"""Units of each document, by the document's number: the number of pieces of a unit is the unit."""

SHARDS = 3


def rows_of_shard(documents: Documents, shard: int) -> np.ndarray:
    rows = [
        (unit, False, number.to_bytes(16, "big"), index, unit, 1)
        for number, units in documents.items()
        if number % SHARDS == shard
        for index, unit in enumerate(units)
    ]
    return np.array(rows, ROW)


def key_number(row: np.void) -> int:
    return int.from_bytes(row["key"].ljust(16, b"\0"), "big")


def lost_by_shard(shards: list[np.ndarray]) -> list[np.ndarray]:
    lost = lost_rows(np.concatenate([first_rows(rows) for rows in shards]))
    numbers = np.array([key_number(row) for row in lost], int)
    return [lost[numbers % SHARDS == shard] for shard in range(SHARDS)]


def has_enough(units: list[int] | set[int], fewest: Fewest) -> bool:
    return sum(units) >= fewest.pieces and len(units) >= fewest.sentences


def of_used_shards(documents: Documents, fewest: Fewest) -> Documents:
    """The documents with enough text, of shards that have enough of these."""
    enough = {number: units for number, units in documents.items() if has_enough(units, fewest)}
    counts = Counter(number % SHARDS for number in enough)
    return {
        number: units
        for number, units in enough.items()
        if counts[number % SHARDS] >= fewest.documents
    }


def remaining(documents: Documents, fewest: Fewest) -> Documents:
    """The units that stay, by the same steps as the job's."""
    shards = [rows_of_shard(documents, shard) for shard in range(SHARDS)]
    shards = [
        set_aside(rows, lost, fewest)
        for rows, lost in zip(shards, lost_by_shard(shards), strict=True)
    ]
    outcomes = [
        settled(rows, lost, fewest)
        for rows, lost in zip(shards, lost_by_shard(shards), strict=True)
    ]
    repeated, rest, others = zip(*outcomes, strict=True)
    others = [rows for rows in others if len(rows)]
    removed = [*repeated, repeated_in_order(np.concatenate(rest), others, fewest)]
    gone = {(key_number(row), int(row["number"])) for rows in removed for row in rows}
    left = {
        number: [unit for index, unit in enumerate(units) if (number, index) not in gone]
        for number, units in documents.items()
    }
    return of_used_shards(left, fewest)


def usable(documents: Documents, kept: set[int], fewest: Fewest) -> Documents:
    """What documents of one shard keep, the first ones first, if `kept` is kept elsewhere."""
    taken = set(kept)
    used: Documents = {}
    for number, units in sorted(documents.items()):
        own = {*units} - taken
        if has_enough(own, fewest):
            used[number] = [*own]
            taken |= own
    return used if len(used) >= fewest.documents else {}


@pytest.mark.parametrize(
    "fewest",
    [Fewest(1, 1, 1), Fewest(40, 1, 1), Fewest(30, 2, 1), Fewest(1, 1, 2), Fewest(30, 1, 2)],
)
@pytest.mark.parametrize("units", [15, 60])
@pytest.mark.parametrize("count", [6, 12, 30])
def test_no_text_is_lost_and_none_is_used_twice(fewest: Fewest, units: int, count: int) -> None:
    rng = Random(units)
    for _ in range(60):
        documents = {
            number: [rng.randint(1, units) for _ in range(rng.randint(2, 6))]
            for number in rng.sample(range(1000), count)
        }
        documents = {n: each for n, each in documents.items() if has_enough(each, fewest)}
        used = remaining(documents, fewest)
        kept = [unit for rest in used.values() for unit in rest]
        assert len(kept) == len({*kept})
        assert {*kept} == {unit for number in used for unit in documents[number]}
        for shard in range(SHARDS):
            unused = {
                number: units
                for number, units in documents.items()
                if number % SHARDS == shard and number not in used
            }
            if any(number % SHARDS == shard for number in used):
                # With all the text that nobody else keeps, each is too short.
                assert not any(has_enough({*each} - {*kept}, fewest) for each in unused.values())
            else:
                assert not usable(unused, {*kept}, fewest)


def test_the_first_document_with_enough_text_keeps_a_unit() -> None:
    documents = {0: [50, 20], 1: [20, 10], 2: [10, 60]}
    assert remaining(documents, Fewest(30, 1, 1)) == {0: [50, 20], 2: [10, 60]}


def test_a_document_whose_text_only_others_set_aside_have_is_used() -> None:
    documents = {0: [50, 20], 1: [20, 25], 2: [20, 25, 9], 3: [20, 25, 8]}
    assert remaining(documents, Fewest(30, 1, 1)) == {0: [50, 20], 2: [25, 9]}


def test_a_document_alone_in_its_shard_keeps_nothing_for_others() -> None:
    """It is left out, because no random next sentence can be drawn there."""
    documents = {2: [50, 20], 3: [20, 70], 6: [71], 4: [80], 7: [81]}
    assert remaining(documents, Fewest(1, 1, 2))[3] == [20, 70]
    assert remaining({**documents, 5: [90]}, Fewest(1, 1, 2))[3] == [70]
