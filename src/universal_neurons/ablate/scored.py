"""The effects of single neurons, which know no scores, beside the scores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from universal_neurons.store.columns.ablate import EFFECTS, SINGLE
from universal_neurons.store.tables import read_part, read_table


def with_scores(parts: Iterable[str | Path], universality: str | Path) -> pd.DataFrame:
    """The effects of all models with the neurons' excess correlations.

    Parameters
    ----------
    parts
        Tables of `effects.effects`; none where nothing is ablated.
    universality
        The run's table.

    Returns
    -------
    DataFrame
        `columns.ablate.EFFECTS`.
    """
    tables = [read_part(path, SINGLE) for path in parts]
    if not tables:
        return pd.DataFrame(columns=EFFECTS.names)
    keys = ["step", "seed", "layer", "neuron"]
    scores = read_table(universality, [*keys, "excess_corr"]).astype({"seed": str})
    effects = pd.concat(tables, ignore_index=True)
    effects = effects.drop(columns=["clean_loss", "clean_loss_later"])
    return effects.merge(scores, on=keys, how="left", validate="one_to_one")
