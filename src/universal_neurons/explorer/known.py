"""What the pages of a seed's neurons share: its rows of the tables, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.explorer.numbers import Rows, Run, Sources, numbers, of_seed
from universal_neurons.explorer.shards import short
from universal_neurons.store.tables import read_table, records

MATCHES = (
    *("step", "other_seed", "best_layer", "best_neuron", "best_corr", "best_corr_se"),
    *("baseline_corr", "mutual"),
)

ByRow = Mapping[int, Any]


@dataclass(frozen=True)
class Seed:
    """What is known of the neurons of a seed, which are rows.

    Attributes
    ----------
    name
        Of the seed.
    chosen
        Those that have contexts, ascending.
    numbers
        By step, see `numbers.numbers`.
    matches
        `MATCHES`, and `row`, the `place` of the other seed, and the row `best` there.
    courses
        By row their label and emergence step.
    tokens
        Of "promoted" and "suppressed" the ids and cosines at the last step, shape (neurons, tokens)
        each, the largest cosine first. No tokens where the model has no head.
    groups
        By row for every step the group that it is a member of: its correlations and members.
    """

    name: str
    chosen: NDArray[np.int64]
    numbers: Mapping[int, pd.DataFrame]
    matches: pd.DataFrame
    courses: pd.DataFrame
    tokens: Mapping[str, tuple[NDArray[np.uint32], NDArray[np.float32]]]
    groups: ByRow


def read_seed(run: Run, name: str, groups: ByRow) -> Seed:
    """Read what is known of a seed but its contexts; `groups` as in `Seed`."""
    sources, rows = run.sources, run.rows[name]
    return Seed(
        name,
        chosen_rows(run, name),
        numbers(sources, rows, name, run.steps),
        _matches(run, name),
        _courses(sources, rows, name, run.last),
        _tokens(sources, rows, name, run.last),
        groups,
    )


def chosen_rows(run: Run, seed: str) -> NDArray[np.int64]:
    """Which neurons of a seed have contexts, ascending."""
    return np.unique(run.rows[seed].of(of_seed(run.sources.examples, [], seed)))


def groups(run: Run) -> Mapping[str, ByRow]:
    """By seed and row, for every step the group of a neuron: its correlations and members."""
    columns = ["step", "group", "seed", "layer", "neuron", "group_mean_corr", "group_min_corr"]
    found: dict[str, dict[int, list[Any]]] = {seed: {} for seed in run.seeds}
    for (step, _), members in read_table(run.sources.groups, columns).groupby(["step", "group"]):
        listed = []
        for member in records(members):
            place = run.seeds.index(str(member["seed"]))
            starts = run.rows[run.seeds[place]].widths[: member["layer"]]
            listed.append([place, int(sum(starts) + member["neuron"])])
        first = members.iloc[0]
        corr = [short(first["group_mean_corr"]), short(first["group_min_corr"])]
        group = {"corr": corr, "members": sorted(listed)}
        for place, row in listed:
            of_steps = found[run.seeds[place]].setdefault(row, [None] * len(run.steps))
            of_steps[run.steps.index(step)] = group
    return found


def _matches(run: Run, seed: str) -> pd.DataFrame:
    found = of_seed(run.sources.matches, MATCHES, seed)
    found = found[found["best_layer"] >= 0]
    found["row"], found["place"], found["best"] = run.rows[seed].of(found), 0, 0
    for place, other in enumerate(run.seeds):
        own = found["other_seed"].astype(str) == other
        found.loc[own, "place"] = place
        found.loc[own, "best"] = run.rows[other].of(found[own], "best_layer", "best_neuron")
    return found


def _courses(sources: Sources, rows: Rows, seed: str, step: int) -> pd.DataFrame:
    columns = ["label", "emergence_step"]
    found = of_seed(sources.trajectories, columns, seed, step=step)
    found.index = pd.Index(rows.of(found))
    return found[columns].astype({"label": str, "emergence_step": int})


def _tokens(
    sources: Sources, rows: Rows, seed: str, step: int
) -> dict[str, tuple[NDArray[np.uint32], NDArray[np.float32]]]:
    """Tokens that each output promotes and suppresses most.

    They are those with the largest logits, which go by the length of the unembedding, too; here
    they are in the order of their cosines.
    """
    columns = ["promoted_ids", "promoted_cos", "suppressed_ids", "suppressed_cos"]
    found = of_seed(sources.roles, columns, seed, step=step)
    found = found.iloc[np.argsort(rows.of(found))]
    tokens = {}
    for name in ("promoted", "suppressed"):
        ids, cosines = (np.stack(found[f"{name}_{of}"].tolist()) for of in ("ids", "cos"))
        order = np.argsort(-np.abs(cosines), axis=1, kind="stable")
        tokens[name] = (
            np.take_along_axis(ids, order, 1).astype(np.uint32),
            np.take_along_axis(cosines, order, 1).astype(np.float32),
        )
    return tokens
