"""The report's first lines: how many neurons are universal, beyond what, and in a new seed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from universal_neurons.report.findings import Findings
from universal_neurons.report.words import (
    DIRECTIONS,
    NULLS,
    count_seeds,
    listed,
    number,
    percent,
    share_range,
)
from universal_neurons.score.kinds import BEYOND_RANDOM, GIVEN_TOKEN
from universal_neurons.score.nulls import LEADING
from universal_neurons.store.columns.declare import ALL_LAYERS

# Beside the column, what its ends' names start with.
KINDS = {
    "mean_fraction": ("", "are universal"),
    BEYOND_RANDOM: (f"{BEYOND_RANDOM}_", f"are beyond {NULLS[LEADING]}"),
    GIVEN_TOKEN: (f"{GIVEN_TOKEN}_", "are universal given the token"),
}


def opening(findings: Findings) -> str:
    """How many neurons are universal by every kind at the last step, since when, and for whom.

    Parameters
    ----------
    findings
        Of the tables fractions and universality.
    """
    table = findings.tables["fractions"]
    mean = table[(table["seed"] == "") & (table["layer"] == ALL_LAYERS)].sort_values("step")
    now, first = mean.iloc[-1], mean.iloc[0]
    known = [kind for kind in KINDS if pd.notna(now[kind])]
    shares = listed([_share(now, kind, findings) for kind in known])
    sentences = [f"Of the neurons at the last step ({now['step']:,}), {shares} (mean over seeds)."]
    if pd.notna(now[BEYOND_RANDOM]) and now["expected_beyond_random"] > 0:
        sentences.append(
            f"By all p-values together, about {number(now['expected_beyond_random'], 0)} of "
            f"{now['n_neurons']:,} do better than {DIRECTIONS}; of most of them it can't be said "
            "singly, and another choice of directions gives another number."
        )
    if first["step"] != now["step"]:
        moved = listed([f"{percent(first[k])} to {percent(now[k])}" for k in known])
        sentences.append(f"From step {first['step']:,} on these shares went from {moved}.")
    sentences.append(_in_a_new_seed(now, known, findings))
    return " ".join(filter(None, sentences))


def _share(now: pd.Series, kind: str, findings: Findings) -> str:
    prefix, what = KINDS[kind]
    low, high = now[f"{prefix}low"], now[f"{prefix}high"]
    if np.isnan(low):
        return f"{percent(now[kind])} {what} (no interval)"
    covers = findings.given_token_over if kind == GIVEN_TOKEN else "over tokens and seeds"
    covers += ", with the directions drawn" if kind == BEYOND_RANDOM else ""
    return f"{percent(now[kind])} {what} (95\u00a0% interval {covers}: {share_range(low, high)})"


def _in_a_new_seed(now: pd.Series, known: list[str], findings: Findings) -> str:
    parts = []
    for kind in known:
        prefix, what = KINDS[kind]
        if pd.notna(now[f"{prefix}new_seed"]):
            low, high = now[f"{prefix}new_seed_low"], now[f"{prefix}new_seed_high"]
            interval = "no interval" if np.isnan(low) else share_range(low, high)
            chance = percent(now[f"{prefix}new_seed"])
            parts.append(f"{chance} ({interval}) for those that {what}")
    if not parts:
        return ""
    n = findings.last_scores["seed"].nunique()
    return (
        "A neuron that is so in the other seeds has a match in one not yet seen with a probability "
        f"of {listed(parts)} (95\u00a0% intervals over {count_seeds(n)}, in all roles)."
    )
