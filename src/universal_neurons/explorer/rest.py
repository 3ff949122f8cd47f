"""What the pages of neurons without contexts show beyond the list, in one shard per layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.explorer.known import Seed
from universal_neurons.explorer.numbers import COLUMNS, Run, float16

# Numbers of weights, which the list does not have.
WEIGHTS = [name for name in COLUMNS["roles"] if name != "role"]

Arrays = dict[str, NDArray[Any]]


def rest(run: Run, seed: Seed) -> Iterator[tuple[dict[str, Any], Arrays]]:
    """Yield facts and arrays of every layer of a seed for `shards.write_shard`.

    All but groups are of the last step: at every step they would be as much again for each.

    Yields
    ------
    facts
        Places of the other seeds, labels of courses, names of numbers, and groups by neuron.
    arrays
        Of numbers and courses shape (neurons,), of partners those in one other seed after another,
        of tokens those of one neuron after another. Rows, codes of labels and steps are plus one, 0
        where there is none.
    """
    others = [place for place, name in enumerate(run.seeds) if name != seed.name]
    arrays: Arrays = {name: ids for name, (ids, _) in seed.tokens.items()}
    arrays |= {name: float16(seed.numbers[run.last][name])[None] for name in WEIGHTS}
    labels, courses = _courses(seed, run.rows[seed.name].n)
    arrays |= courses | _partners(run, seed, others)
    bare = set(seed.groups) - set(seed.chosen.tolist())
    stop = 0
    for width in run.rows[seed.name].widths:
        start, stop = stop, stop + width
        groups = {row - start: seed.groups[row] for row in sorted(bare) if start <= row < stop}
        of_layer = {
            name: (values[start:stop] if name in seed.tokens else values[:, start:stop]).ravel()
            for name, values in arrays.items()
        }
        facts = {"others": others, "labels": labels, "weights": WEIGHTS, "groups": groups}
        yield facts, of_layer


def _courses(seed: Seed, n: int) -> tuple[list[str], Arrays]:
    """Labels, and their codes and steps, shape (1, neurons)."""
    found = seed.courses.reindex(range(n))
    label = pd.Categorical(found["label"])
    emergence = (1 + found["emergence_step"].fillna(-1)).to_numpy(np.uint32)
    arrays = {"label": (label.codes + 1).astype(np.uint8)[None], "emergence": emergence[None]}
    return label.categories.tolist(), arrays


def _partners(run: Run, seed: Seed, others: list[int]) -> Arrays:
    """Best matches at the last step, shape (other seeds, neurons)."""
    found = seed.matches[seed.matches["step"] == run.last]
    at = np.searchsorted(others, found["place"]), found["row"].to_numpy()

    def spread(values: Any, dtype: type) -> NDArray[Any]:
        array: NDArray[Any] = np.zeros((len(others), run.rows[seed.name].n), dtype)
        array[at] = values
        return array

    return {
        "best": spread(found["best"] + 1, np.uint32),
        "corr": spread(found["best_corr"], np.float16),
        "baseline": spread(found["baseline_corr"], np.float16),
        "mutual": spread(found["mutual"], np.uint8),
    }
