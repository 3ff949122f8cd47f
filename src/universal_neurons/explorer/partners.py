"""Partners of a seed's neurons in the other seeds, and their courses over training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.explorer.numbers import Run, of_seed
from universal_neurons.explorer.shards import short
from universal_neurons.store.tables import records

MATCHES = (
    *("other_seed", "best_layer", "best_neuron", "best_corr", "best_corr_se"),
    *("baseline_corr", "mutual"),
)


def partners(run: Run, seed: str, chosen: NDArray[np.int64]) -> Mapping[int, list[list[Any]]]:
    """By row, for every step its best matches: seed's place, row, correlations, whether mutual."""
    found: dict[int, list[list[Any]]] = {row: [[] for _ in run.steps] for row in chosen.tolist()}
    for i, step in enumerate(run.steps):
        matches = _matches(run, seed, step)
        for match in records(matches[matches["row"].isin(chosen)]):
            names = ("best_corr", "best_corr_se", "baseline_corr", "mutual")
            numbers = [short(match[name]) for name in names]
            found[match["row"]][i].append([match["place"], match["best"], *numbers])
    for of_steps in found.values():
        for each in of_steps:
            each.sort()
    return found


def courses(run: Run, seed: str, chosen: NDArray[np.int64]) -> Mapping[int, list[Any]]:
    """By row the label of its course and the step at which it is first universal."""
    found = _courses(run, seed)
    found = found.loc[found.index.intersection(chosen.tolist())]
    pairs = zip(found["label"], found["emergence_step"].tolist(), strict=True)
    return dict(zip(found.index.tolist(), map(list, pairs), strict=True))


def of_all(run: Run, seed: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Partners of all neurons of a seed at the last step, and their courses, for `write_shard`.

    They are for the pages of neurons without contexts. At all steps they would be as much again for
    each.

    Returns
    -------
    facts
        Labels of courses, and places of the other seeds.
    arrays
        Of courses shape (neurons,), of partners those in one other seed after another. Rows, codes
        of labels and steps are plus one, 0 where there is none.
    """
    n, matches, course = run.rows[seed].n, _matches(run, seed, run.last), _courses(run, seed)
    others = [place for place, other in enumerate(run.seeds) if other != seed]
    at = np.searchsorted(others, matches["place"]) * n + matches["row"]

    def spread(values: Any, dtype: type) -> NDArray[Any]:
        array: NDArray[Any] = np.zeros(len(others) * n, dtype)
        array[at] = values
        return array

    emergence = 1 + course["emergence_step"].reindex(range(n), fill_value=-1)
    labels = pd.Categorical(course["label"].reindex(range(n)))
    facts = {"others": others, "labels": labels.categories.tolist()}
    arrays = {
        "best": spread(matches["best"] + 1, np.uint32),
        "corr": spread(matches["best_corr"], np.float16),
        "baseline": spread(matches["baseline_corr"], np.float16),
        "mutual": spread(matches["mutual"], np.uint8),
        "label": (labels.codes + 1).astype(np.uint8),
        "emergence": emergence.to_numpy(np.uint32),
    }
    return facts, arrays


def _matches(run: Run, seed: str, step: int) -> pd.DataFrame:
    """Best matches of a seed's neurons: `row`, `place` of the other seed, row `best` there."""
    found = of_seed(run.sources.matches, MATCHES, seed, step=step)
    found = found[found["best_layer"] >= 0]
    found["row"], found["place"], found["best"] = run.rows[seed].of(found), 0, 0
    for place, other in enumerate(run.seeds):
        own = found["other_seed"].astype(str) == other
        found.loc[own, "place"] = place
        found.loc[own, "best"] = run.rows[other].of(found[own], "best_layer", "best_neuron")
    return found


def _courses(run: Run, seed: str) -> pd.DataFrame:
    """Label and emergence step of a seed's neurons, by row."""
    columns = ["label", "emergence_step"]
    found = of_seed(run.sources.trajectories, columns, seed, step=run.last)
    found.index = pd.Index(run.rows[seed].of(found))
    return found[columns].astype({"label": str, "emergence_step": int})
