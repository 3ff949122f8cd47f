"""The report's five numbers, each with what it is held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from universal_neurons.report.findings import Findings
from universal_neurons.report.lasting import consecutive
from universal_neurons.report.words import DIRECTIONS, number, percent, share_range
from universal_neurons.score.kinds import BEYOND_RANDOM, GIVEN_TOKEN
from universal_neurons.store.columns.declare import ALL_LAYERS

UNKNOWN = "–"


@dataclass(frozen=True)
class Tile:
    """A number at the top of the report.

    Attributes
    ----------
    label
        What it is.
    value
        The number, or `UNKNOWN`.
    note
        Its interval and what that covers, or why it is not known.
    anchor
        Of the section that has more.
    """

    label: str
    value: str
    note: str
    anchor: str


def tiles(findings: Findings) -> list[Tile]:
    """Shares of the three kinds, persistence beside its ceiling, and loss at equal energy.

    Parameters
    ----------
    findings
        Of the tables fractions, persistence and doses.
    """
    table = findings.tables["fractions"]
    mean = table[(table["seed"] == "") & (table["layer"] == ALL_LAYERS)]
    now = mean.sort_values("step").iloc[-1]
    return [
        _share("universal", now, "mean_fraction", "", "of neurons, over tokens and seeds"),
        _share(
            f"beyond {DIRECTIONS}",
            *(now, BEYOND_RANDOM, f"{BEYOND_RANDOM}_"),
            "of neurons, over tokens and seeds, with the directions drawn",
        ),
        _share(
            "universal given the token",
            *(now, GIVEN_TOKEN, f"{GIVEN_TOKEN}_"),
            f"of neurons, {findings.given_token_over}",
        ),
        _persistence(findings),
        _equal_energy(findings),
    ]


def _share(label: str, now: pd.Series, column: str, prefix: str, covers: str) -> Tile:
    if pd.isna(now[column]):
        return Tile(label, UNKNOWN, "not measured in this run", "universal")
    low, high = now[f"{prefix}low"], now[f"{prefix}high"]
    interval = "no interval" if np.isnan(low) else f"95\u00a0% interval {share_range(low, high)}"
    return Tile(label, percent(now[column]), f"{interval}, {covers}", "universal")


def _persistence(findings: Findings) -> Tile:
    label, anchor = "persist to the last step", "lasting"
    if findings.tables["persistence"].empty:
        return Tile(label, UNKNOWN, "this run has one step", anchor)
    known = consecutive(findings.overlaps)
    known = known[known["n_from"] > 0]
    if known.empty:
        return Tile(label, UNKNOWN, "no neuron is universal before the last step", anchor)
    last = known.iloc[-1]
    ceiling = percent(last["pooled_ceiling"])
    step = f"step {last['from_step']:,}"
    note = f"of those universal at {step}; measured anew there, with other tokens: {ceiling}"
    return Tile(label, percent(last["pooled"]), note, anchor)


def _equal_energy(findings: Findings) -> Tile:
    label, anchor = "loss when ablated, of others at equal energy", "needed"
    table = findings.equal_energy
    own = table[table["neuron_set"] == "universal"]
    if own.empty or pd.isna(own.iloc[0]["ratio"]):
        return Tile(label, UNKNOWN, "no sets to compare in this run", anchor)
    row = own.iloc[0]
    if np.isnan(row["low"]):
        return Tile(label, f"{number(row['ratio'], 2)} ×", "no interval with so few seeds", anchor)
    interval = f"{number(row['low'], 2)} to {number(row['high'], 2)}"
    note = f"95\u00a0% interval {interval}, over seeds and held-out text"
    return Tile(label, f"{number(row['ratio'], 2)} ×", note, anchor)
