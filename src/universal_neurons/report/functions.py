"""What universal neurons do, by their roles and families, beside all others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.report.words import count_seeds, number, out_of
from universal_neurons.score.fractions import LEAST_SEEDS, jackknife_half_width
from universal_neurons.store.columns.declare import ALL_LAYERS

# Tables that say what neurons do, and the column that does.
TABLES = {"roles": "role", "families": "family"}

# Roles that say by which way a neuron changes the loss: columns of `mediation`, and what is kept.
WAYS = {
    "entropy": ("through_norm", "the final norm keeps its scale"),
    "token frequency": (
        "through_frequency",
        "the logits keep their component along the tokens' frequencies",
    ),
}

KEYS = ["step", "seed", "layer", "neuron"]
# Of a 95 % interval.
Z = 1.959964


def function_counts(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Count neurons by what they do.

    Parameters
    ----------
    tables
        ``universality`` and those of `TABLES`.

    Returns
    -------
    DataFrame
        One row per step, seed, layer, table and name of a role or family that any neuron has, also
        where none has it: ``n`` neurons that have it, of which ``n_universal`` are universal, of
        ``total`` and ``total_universal``.
    """
    scores = tables["universality"][[*KEYS, "universal"]]
    cell = KEYS[:3]
    of_cell = scores.groupby(cell, observed=True)["universal"]
    totals = of_cell.agg(total="size", total_universal="sum")
    parts = []
    for table, column in TABLES.items():
        named = tables[table][[*KEYS, column]].rename(columns={column: "name"})
        both = scores.merge(named.dropna(subset="name"), on=KEYS)
        found = both.groupby([*cell, "name"], observed=True)["universal"]
        counts = found.agg(n="size", n_universal="sum").reset_index()
        names = pd.DataFrame({"name": np.unique(counts["name"].to_numpy(dtype=object))})
        every = totals.reset_index().merge(names, how="cross")
        counts = every.merge(counts, on=[*cell, "name"], how="left").assign(table=table)
        parts.append(counts.fillna({"n": 0, "n_universal": 0}))
    joined = pd.concat(parts, ignore_index=True)
    return joined.astype({"name": object, "n": "int64", "n_universal": "int64"})


def odds_ratios(counts: pd.DataFrame) -> pd.DataFrame:
    """How much likelier universal neurons are than others to have a role or family.

    Parameters
    ----------
    counts
        Of one step, see `function_counts`.

    Returns
    -------
    DataFrame
        One row per table, name and layer (−1 for all): n and n_universal, summed over seeds, and
        the odds ratio of being universal and having the function, with ``low`` and ``high`` (95 %):
        see `mantel_haenszel`. NaN where no universal neuron has it, or only universal ones have it.
        Seeds are strata, and layers too, where all are taken together: so a function that is of
        the layer with the most universal neurons is not for that over-represented among them.
    """
    rows = []
    whole = counts.assign(layer=ALL_LAYERS)
    for (table, name, layer), part in pd.concat([whole, counts]).groupby(
        ["table", "name", "layer"]
    ):
        with_it = part["n_universal"].to_numpy(), (part["n"] - part["n_universal"]).to_numpy()
        others = part["total_universal"] - part["n_universal"]
        without = others.to_numpy(), (part["total"] - part["n"] - others).to_numpy()
        ratio, low, high = mantel_haenszel(np.array([*with_it, *without], dtype=float))
        found = {"table": table, "name": name, "layer": layer, "n": part["n"].sum()}
        found |= {"n_universal": part["n_universal"].sum(), "odds_ratio": ratio}
        rows.append({**found, "low": low, "high": high})
    columns = ["table", "name", "layer", "n", "n_universal", "odds_ratio", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def mantel_haenszel(strata: NDArray[np.float64]) -> tuple[float, float, float]:
    """The odds ratio that strata have in common, with its 95 % interval.

    Mantel and Haenszel's estimate Σ ad/n / Σ bc/n, and Robins, Breslow and Greenland's variance of
    its logarithm (Biometrics 42, 1986), which holds for few large strata and many small ones.

    Parameters
    ----------
    strata
        Of every stratum the numbers a, b (with the feature, in the group and outside it), c, d
        (without it, likewise), shape (4, strata).

    Returns
    -------
    tuple
        Estimate, lower and upper end; NaN where a sum is 0.
    """
    a, b, c, d = strata
    n = np.maximum(strata.sum(0), 1)
    agree, differ = (a + d) / n, (b + c) / n
    r, s = a * d / n, b * c / n
    over, under = r.sum(), s.sum()
    if not (over and under):
        return np.nan, np.nan, np.nan
    variance = (agree * r).sum() / (2 * over**2)
    variance += (agree * s + differ * r).sum() / (2 * over * under)
    variance += (differ * s).sum() / (2 * under**2)
    ratio, factor = over / under, float(np.exp(Z * np.sqrt(variance)))
    return ratio, ratio / factor, ratio * factor


def function_shares(counts: pd.DataFrame) -> pd.DataFrame:
    """Share of the neurons with every role and family by step.

    Parameters
    ----------
    counts
        See `function_counts`.

    Returns
    -------
    DataFrame
        One row per table, name and step: ``share`` of universal neurons, pooled over seeds, with
        the ``lowest`` and ``highest`` of a seed, NaN where none is universal, and ``of_all``, that
        of all neurons.
    """
    keys = ["table", "name", "step"]
    sums = ["n", "n_universal", "total", "total_universal"]
    by_seed = counts.groupby([*keys, "seed"], observed=True)[sums].sum()
    own = _share(by_seed["n_universal"], by_seed["total_universal"]).groupby(keys)
    whole = by_seed.groupby(keys).sum()
    found = {
        "share": _share(whole["n_universal"], whole["total_universal"]),
        "lowest": own.min(),
        "highest": own.max(),
        "of_all": _share(whole["n"], whole["total"]),
    }
    return pd.DataFrame(found).reset_index()


def _share(part: pd.Series, of: pd.Series) -> pd.Series:
    return part / of.where(of > 0)


def on_functions(ratios: pd.DataFrame, last: pd.DataFrame) -> str:
    """What universal neurons do, in words.

    Parameters
    ----------
    ratios
        See `odds_ratios`.
    last
        ``step`` and ``universal`` of all neurons at the last step.
    """
    universal = int(last["universal"].sum())
    whole = ratios[ratios["layer"] == ALL_LAYERS]
    found = [_most_common(whole[whole["table"] == name], name, universal) for name in TABLES]
    if not any(found):
        return "No universal neuron has a role or a family at the last step."
    return f"At the last step ({last['step'].iloc[0]:,}) {' and '.join(filter(None, found))}."


def on_mediation(mediation: pd.DataFrame) -> str:
    """By which way neurons whose role says so change the loss, beside others; "" without any.

    Parameters
    ----------
    mediation
        The table of that name.
    """
    last = mediation[mediation["step"] == mediation["step"].max()]
    others = last[~last["role"].isin(list(WAYS))]
    sentences = []
    for role, (way, kept) in WAYS.items():
        own = last[last["role"] == role]
        if own.empty or own[way].isna().all():
            continue
        beside = ""
        if len(others):
            beside = f"; of {len(others):,} others of the same layers {_through(others, way)}"
        sentences.append(
            f"Replacing one of {len(own):,} {role} neurons by its mean changes the loss by "
            f"{number(1e3 * own['delta_loss'].abs().mean(), 3)} thousandths of a nat per token on "
            f"average; where {kept}, {_through(own, way)} of that is gone{beside}."
        )
    return " ".join(sentences)


def _through(rows: pd.DataFrame, way: str) -> str:
    """How much smaller changes of the loss are, in absolute terms, without a way."""
    changes = {"whole": rows["delta_loss"].abs(), "left": (rows["delta_loss"] - rows[way]).abs()}
    seeds = pd.DataFrame(changes).groupby(rows["seed"], observed=True).sum()
    total = seeds.sum()
    gone = 100 * (1 - total["left"] / total["whole"])
    said = f"{number(gone, 0)}\u00a0%"
    if len(seeds) < LEAST_SEEDS:
        return f"{said} (no interval)"
    without = total - seeds
    half = jackknife_half_width(100 * (1 - without["left"] / without["whole"]).to_numpy())
    ends = f"{number(gone - half, 0)} to {number(gone + half, 0)}"
    return f"{said} (95\u00a0% interval over {count_seeds(len(seeds))}: {ends})"


def _most_common(table: pd.DataFrame, name: str, universal: int) -> str:
    """The role or family that most universal neurons have, with its odds ratio."""
    some = table[table["n_universal"] > 0]
    if some.empty:
        return ""
    most = some.sort_values("n_universal").iloc[-1]
    text = (
        f"the most common {TABLES[name]} of universal neurons is {most['name']}: "
        f"{out_of(most['n_universal'], universal)} have it"
    )
    if np.isfinite(most["odds_ratio"]):
        ends = f"{number(most['low'], 2)} to {number(most['high'], 2)}"
        text += (
            f", with {number(most['odds_ratio'], 2)} times the odds of others (95\u00a0%, neurons "
            f"taken for independent: {ends})"
        )
    return text
