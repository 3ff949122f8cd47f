"""Neuron or subspace: what of a neuron without a match is still there in other seeds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd

from universal_neurons.report.findings import Findings
from universal_neurons.report.words import count_seeds, number, out_of, percent
from universal_neurons.score.fractions import LEAST_SEEDS, jackknife_half_width
from universal_neurons.score.similarity import of_like_depth

# Measures of layers as they are named: of the space, then of its neurons.
MEASURES = {
    "cka": "linear CKA",
    "pwcca": "PWCCA",
    "procrustes": "Procrustes",
    "soft_matching": "soft matching",
}

# Share of a neuron's variance that counts as explaining it.
EXPLAINED = 0.5


def unmatched_counts(universality: pd.DataFrame) -> pd.DataFrame:
    """How many neurons have no match, and of how many of them a whole layer explains enough.

    Parameters
    ----------
    universality
        Columns ``step, max_corr, regression_r2``.

    Returns
    -------
    DataFrame
        By step: ``n_neurons`` with a known `regression_r2`; ``unmatched``, those of which a single
        neuron (its squared correlation) explains less than `EXPLAINED`; ``explained``, those of
        the unmatched of which a layer's neurons together explain as much or more. No rows where
        nothing is known.
    """
    known = universality.dropna(subset=["regression_r2"])
    # A correlation below 0 is no match, whatever its square.
    unmatched = known["max_corr"].clip(lower=0) ** 2 < EXPLAINED
    found = pd.DataFrame(
        {
            "step": known["step"],
            "n_neurons": True,
            "unmatched": unmatched,
            "explained": unmatched & (known["regression_r2"] >= EXPLAINED),
        }
    )
    return found.groupby("step").sum()


def over_seeds(similarity: pd.DataFrame) -> pd.DataFrame:
    """How alike layers of like depth are, with intervals for the choice of seeds.

    Every seed is compared with all others, so that pairs are not independent: the jackknife leaves
    out one seed after the other with all of its pairs.

    Parameters
    ----------
    similarity
        The table of that name.

    Returns
    -------
    DataFrame
        By step and measure: ``mean`` over pairs and layers of like depth, and its 95 % interval
        ``low, high``, NaN with fewer than `LEAST_SEEDS` seeds.
    """
    frames = []
    for step, own in of_like_depth(similarity).groupby("step"):
        one, other = (own[name].astype(str).to_numpy() for name in ("seed", "other_seed"))
        seeds = np.union1d(one, other)
        values = own[list(MEASURES)]
        mean, half = values.mean(), np.full(len(MEASURES), np.nan)
        if len(seeds) >= LEAST_SEEDS:
            without = [values[(one != seed) & (other != seed)].mean() for seed in seeds]
            half = jackknife_half_width(np.array(without))
        high = (mean + half).clip(upper=1)
        found = {"step": step, "mean": mean, "low": mean - half, "high": high}
        frames.append(pd.DataFrame(found).rename_axis("measure"))
    return pd.concat(frames).set_index("step", append=True).swaplevel()


def on_similarity(findings: Findings) -> str:
    """Whether what has no match among neurons is there in the space of a layer."""
    counts = unmatched_counts(findings.tables["universality"])
    if counts.empty:
        return (
            "Whole layers were not compared: that takes correlations of all pairs "
            "(correlate.mode: exact) and correlate.similarity."
        )
    last, first = counts.index[-1], counts.index[0]
    now, then = counts.loc[last], counts.loc[first]
    half = f"{100 * EXPLAINED:g}\u00a0%"
    text = (
        f"At the last step ({last:,}), no single neuron of another seed explains {half} of the "
        f"variance of {out_of(now['unmatched'], now['n_neurons'])} neurons"
    )
    if now["explained"]:
        share = percent(now["explained"] / now["unmatched"])
        text += (
            f". All neurons of a layer together explain as much of {now['explained']:,} of these "
            f"({share})"
        )
        if first != last and then["unmatched"]:
            before = percent(then["explained"] / then["unmatched"])
            text += f"; at the first step ({first:,}) the share was {before}"
        text += (
            ". As many neurons that read random directions of the same inputs may explain as much, "
            "by a linear map that no seed need use (in the demo they do; they are not compared "
            "here): it is not shown that these neurons are split rather than absent, nor that "
            "seeds compute the same"
        )
    elif now["unmatched"]:
        text += ", and all neurons of a layer together explain as much of none of these"
    return f"{text}. {_of_layers(findings.tables['similarity'], last)}"


def _of_layers(similarity: pd.DataFrame, step: int) -> str:
    """Mean similarity of layers of like depth at a step, with intervals over seeds."""
    now = similarity[similarity["step"] == step]
    found = over_seeds(now).droplevel("step").to_dict("index")
    matched, rotated, cka = (_said(found[x]) for x in ("soft_matching", "procrustes", "cka"))
    n = count_seeds(len({*now["seed"].astype(str), *now["other_seed"].astype(str)}))
    none = np.isnan(found["cka"]["low"])
    covers = f"{n}: no intervals" if none else f"95\u00a0% intervals for the choice of {n}"
    return (
        f"Layers of like depth in two seeds have a correlation of {matched} if their neurons are "
        f"matched one to one, of {rotated} in the best rotation, and a linear CKA of {cka} (mean "
        f"over pairs and layers; {covers})."
    )


def _said(row: Mapping[Hashable, float]) -> str:
    """A mean and its interval."""
    if np.isnan(row["low"]):
        return number(row["mean"], 2)
    return f"{number(row['mean'], 2)} ({number(row['low'], 2)} to {number(row['high'], 2)})"
