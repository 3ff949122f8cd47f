"""The figure of loss change against energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t

from universal_neurons.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    VERMILLION,
    message,
)
from universal_neurons.report.findings import Findings
from universal_neurons.report.response import NAMED, Response
from universal_neurons.report.words import NOT_ABLATED

# Energies at which curves are drawn.
POINTS = 60


def energy_response(findings: Findings) -> Figure:
    """Loss change at the last step by the energy of what is changed: others, top, named sets."""
    doses = findings.last_doses
    doses = doses[doses["delta_loss"].notna() & (doses["energy"] > 0)]
    if doses.empty:
        return message(NOT_ABLATED)
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    ax = figure.subplots()
    for name, label, color in (
        ("others", "others", BLUE),
        ("top", "top by excess", VERMILLION),
    ):
        rows = doses[doses["neuron_set"] == name]
        _points(ax, rows, label, marker="o", ms=3, color=color, alpha=0.5)
        by_seed = [Response(own) for _, own in rows.groupby("seed", observed=True)]
        _curve(ax, by_seed, color)
    for (name, label), color in zip(NAMED.items(), (VERMILLION, GREEN), strict=True):
        own = doses[doses["neuron_set"] == name]
        _points(ax, own, label, marker="D", ms=5, color=color, mec=BLACK, mew=0.8)
    # Losses over several orders of magnitude are told apart by their logarithms only.
    if (doses["delta_loss"] > 0).all():
        ax.set_yscale("log")
    else:
        ax.axhline(0, color=BLACK, lw=0.8)
    ax.set_xscale("log")
    ax.set(xlabel="energy of what is changed (E‖Δ‖²)", ylabel="loss change (nats per token)")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _points(ax: Axes, rows: pd.DataFrame, label: str, **style: Any) -> None:
    if len(rows):
        ax.plot(rows["energy"], rows["delta_loss"], ls="", label=label, zorder=5, **style)


def _curve(ax: Axes, by_seed: Sequence[Response], color: str) -> None:
    """Mean over seeds and its 95 % interval, between energies that all seeds have."""
    if not by_seed:
        return
    low = max(curve.energy[0] for curve in by_seed)
    high = min(curve.energy[-1] for curve in by_seed)
    if low >= high:
        return
    # The ends are those of some seed, to the last bit.
    energy = np.clip(np.geomspace(low, high, POINTS), low, high)
    values: NDArray[np.float64] = np.stack([curve(energy) for curve in by_seed])
    mean, n = values.mean(0), len(values)
    ax.plot(energy, mean, color=color, lw=1.5, zorder=4)
    if n > 1:
        half = t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
        ax.fill_between(energy, mean - half, mean + half, color=color, alpha=0.2, lw=0)
