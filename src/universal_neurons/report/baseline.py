"""What the rotated baseline is made of, and how much the choice of it matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from universal_neurons.report.words import ShortTable, number
from universal_neurons.store.columns.declare import ALL_LAYERS


def baseline_by_layer(scores: pd.DataFrame, neurons: pd.DataFrame) -> pd.DataFrame:
    """Neurons that rotated ones are made of in effect, and universal ones by either choice.

    Parameters
    ----------
    scores
        One step's ``layer, threshold, first_rotation_excess, other_choice_excess``.
    neurons
        Those of the step: ``seed, layer, std``.

    Returns
    -------
    DataFrame
        One row per ``layer``, that of all layers first: ``width``, neurons of the layer;
        ``effective``, ``least`` and ``most``, mean and range over seeds of (Σσ²)² / Σσ⁴ (NaN
        without a live neuron, and over all layers); ``universal`` and ``other``, neurons of all
        seeds whose excess with the first rotation is above their threshold by the run's choice of
        ``baseline.standardise`` and by the other; ``jaccard`` of the two, NaN where both are empty
        or the other choice was not computed (``other`` is NaN, too).
    """
    variance = neurons["std"] ** 2
    keys = [neurons["seed"], neurons["layer"]]
    sums = pd.DataFrame({"one": variance, "two": variance**2}).groupby(keys, observed=True).sum()
    by_seed = (sums["one"] ** 2 / sums["two"].where(sums["two"] > 0)).groupby("layer")
    widths = variance.groupby(keys, observed=True).size().groupby("layer").max()
    known = scores["other_choice_excess"].notna()
    one, other = (
        scores[column] > scores["threshold"]
        for column in ("first_rotation_excess", "other_choice_excess")
    )
    counts = pd.DataFrame(
        {"universal": one, "other": other, "both": one & other, "either": one | other}
    )
    layers = counts.groupby(scores["layer"]).sum()
    layers.loc[ALL_LAYERS] = layers.sum()
    table = layers.sort_index().astype(float).rename_axis("layer")
    table["jaccard"] = table["both"] / table["either"].where(table["either"] > 0)
    if not known.all():
        table[["other", "jaccard"]] = np.nan
    about = {"effective": by_seed.mean(), "least": by_seed.min(), "most": by_seed.max()}
    table = table.assign(width=widths, **about)
    return table.drop(columns=["both", "either"]).reset_index()


def baseline_table(found: pd.DataFrame) -> ShortTable:
    """The report's, of what `baseline_by_layer` returns."""
    rows = [
        {
            "layer": "all layers" if row["layer"] == ALL_LAYERS else f"{int(row['layer'])}",
            "neurons": number(row["width"], 0),
            "effective number": number(row["effective"], 1),
            "in single seeds": "–"
            if np.isnan(row["effective"])
            else f"{number(row['least'], 1)} to {number(row['most'], 1)}",
            "universal": number(row["universal"], 0),
            "by the other choice": number(row["other"], 0),
            "Jaccard index": number(row["jaccard"], 2),
        }
        for row in found.to_dict("records")
    ]
    return ShortTable(
        "What the rotated baseline is made of",
        "At the last step. Effective number: of neurons that make up a rotated one if none is "
        "standardised, (Σσ²)² / Σσ⁴ with σ the standard deviations in the layer, mean over seeds. "
        "Universal: neurons of all seeds above their threshold with the first rotation alone, by "
        "this run's baseline.standardise and by the other choice, and the Jaccard index of the two "
        "sets; – in the screened mode, which does not compute the other.",
        rows,
        frozenset({"layer"}),
    )


def baseline_remark(found: pd.DataFrame, config: Mapping[str, Any]) -> str:
    """How much the choice of baseline matters, of what `baseline_by_layer` returns.

    `config` has ``baseline.standardise``, false where it isn't given.
    """
    standardised = config.get("baseline", {}).get("standardise", False)
    layers, whole = found[found["layer"] != ALL_LAYERS], found.iloc[0]
    made = (
        f"{number(layers['least'].min(), 1)} to {number(layers['most'].max(), 1)} of "
        f"{number(layers['width'].max(), 0)} neurons of a layer"
    )
    text = (
        "Neurons are divided by their standard deviation before they are rotated "
        f"(baseline.standardise: true); without that, in effect {made} would make up the baseline."
        if standardised
        else "The baseline is made of the neurons that vary most: a rotated neuron is in effect a "
        f"mixture of {made}. baseline.standardise: true lets all weigh alike."
    )
    if np.isnan(whole["other"]):
        return f"{text} The screened mode does not compute how much that choice matters."
    text += (
        f" With the first rotation alone {number(whole['universal'], 0)} neurons of all seeds are "
        f"universal by this choice, {number(whole['other'], 0)} by the other"
    )
    if np.isnan(whole["jaccard"]):
        return f"{text}."
    return f"{text}; the Jaccard index of the two sets is {number(whole['jaccard'], 2)}."
