"""What was dropped from a run to make room, and what of it a later seed needs once more.

Activations are all of what a run holds but a few per cent. Without them nothing is to be done again
as long as nothing changes. A seed added later is compared with all others, so it needs their
activations once more, but not what was already made of them: that is what `pruned.json` remembers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from universal_neurons.store.files import check_record, read_json, reading, write_json

# A seed, step and shard.
Cell = tuple[str, int, int]


def read_pruned(results: str | Path) -> list[Mapping[str, Any]]:
    """What was dropped from a run, earliest first: each the ``seeds``, ``steps`` and ``shards``.

    Raises
    ------
    UserError
        If the file that says so is damaged.
    """
    path = Path(results) / "pruned.json"
    if not path.exists():
        return []
    found = read_json(path)
    with reading(path):
        if not isinstance(found, list):
            raise ValueError("it is no list")
        for dropped in found:
            check_record(dropped, {"seeds": list, "steps": list, "shards": int})
    return found


def add_pruned(results: str | Path, grid: Mapping[str, Any]) -> None:
    """Remember that the activations of all ``seeds``, ``steps`` and ``shards`` were dropped."""
    write_json(Path(results) / "pruned.json", [*read_pruned(results), grid])


def to_restore(pruned: Sequence[Mapping[str, Any]], cell: Cell, other: Cell) -> bool:
    """Whether a cell's activations are made once more to be compared with those of another.

    They are if they were dropped before the other cell was there. If both were dropped together
    they had been compared before.

    Parameters
    ----------
    pruned
        As `read_pruned` returns it.
    cell, other
        Seed, step and shard of the activations, and of those they are compared with.
    """

    def within(dropped: Mapping[str, Any], cell: Cell) -> bool:
        seed, step, shard = cell
        return seed in dropped["seeds"] and step in dropped["steps"] and shard < dropped["shards"]

    return any(within(dropped, cell) and not within(dropped, other) for dropped in pruned)
