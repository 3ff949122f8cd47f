"""Which neurons' contexts are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.store.tables import read_table

# Neurons of a seed whose ablation changes the loss most, and others as a contrast.
EFFECTS, OTHERS = 50, 50


@dataclass(frozen=True)
class Found:
    """What is known of a seed's neurons that they are chosen by.

    Attributes
    ----------
    universality, groups
        Parts of the tables of these names, of every step, ascending.
    effects
        Parts of `columns.ablate.SINGLE` of the seed at the last step: one, or none where nothing
        was ablated.
    """

    universality: Sequence[str | Path]
    groups: Sequence[str | Path]
    effects: Sequence[str | Path]


def choose(
    found: Found, seed: str, d_mlp: Sequence[int], which: str | int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Neurons of a seed whose contexts are shown.

    Parameters
    ----------
    found
        The tables.
    seed
        Whose neurons.
    d_mlp
        Number of neurons of every layer.
    which
        ``universal``: those universal at any step or members of a group at any, the `EFFECTS` with
        the largest effects (in absolute value, as estimated) and `OTHERS` others at random. A
        number: so many with the largest excess correlation at the last step, and the others.
        ``all``: all.
    rng
        Of the others.

    Returns
    -------
    list
        By layer the chosen neurons, ascending.
    """
    starts = np.cumsum([0, *d_mlp])

    def places(rows: pd.DataFrame) -> NDArray[np.int64]:
        return starts[rows["layer"].to_numpy()] + rows["neuron"].to_numpy()

    def own(path: str | Path, *columns: str) -> pd.DataFrame:
        return read_table(path, ["layer", "neuron", *columns], [("seed", "==", seed)])

    chosen = np.full(starts[-1], which == "all")
    if which == "universal":
        for path in found.universality:
            chosen[places(own(path, "universal").query("universal"))] = True
        for path in found.groups:
            chosen[places(own(path))] = True
        for path in found.effects:
            effects = own(path, "attributed_delta_loss")
            order = np.argsort(-effects["attributed_delta_loss"].abs(), kind="stable")
            chosen[places(effects.iloc[order[:EFFECTS]])] = True
    elif which != "all":
        scores = own(found.universality[-1], "excess_corr")
        order = np.argsort(-scores["excess_corr"], kind="stable")
        chosen[places(scores.iloc[order[: int(which)]])] = True
    rest = np.flatnonzero(~chosen)
    chosen[rng.choice(rest, min(OTHERS, len(rest)), replace=False)] = True
    return [np.flatnonzero(part) for part in np.split(chosen, starts[1:-1])]
