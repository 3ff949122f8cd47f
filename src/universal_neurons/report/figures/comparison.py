"""The figure of two runs side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from universal_neurons.report.comparison import Comparison
from universal_neurons.report.figures.style import (
    BLUE,
    GREY,
    OKABE_ITO,
    VERMILLION,
    dot_size,
    figure_key,
    step_axis,
)
from universal_neurons.store.columns.declare import ALL_LAYERS

# Measures of agreement, all 1 where the runs are the same, with their names and colours.
MEASURES = {
    "corr": ("correlation of excess", OKABE_ITO[0]),
    "jaccard": ("universal: Jaccard index", OKABE_ITO[4]),
    "same_partner": ("same best match", OKABE_ITO[2]),
}

# Neurons of the scatter: enough to see its shape.
MOST_DOTS = 20_000


def comparison(found: Comparison) -> Figure:
    """Excess in one run against the other, and their agreement by layer and by step.

    The scatter and the agreement by layer are of the last step.
    """
    table, last = found.table, found.table["step"].max()
    whole = table[table["layer"] == ALL_LAYERS]
    figure = Figure(figsize=(10.4, 3.6), layout="constrained")
    scatter, by_layer, by_step = figure.subplots(1, 3)
    _scatter(scatter, found.last)
    scatter.set_title(f"Excess correlation, step {last:,}")
    layers = table[(table["step"] == last) & (table["layer"] != ALL_LAYERS)]
    _measures(by_layer, layers, "layer")
    by_layer.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_layer.set(title=f"Agreement by layer, step {last:,}", xlabel="layer")
    _measures(by_step, whole, "step")
    by_step.set_title("Agreement by step, all layers")
    step_axis(by_step, list(whole["step"]))
    figure_key(figure, {name: (color, "-") for name, color in MEASURES.values()})
    return figure


def _scatter(ax: Axes, neurons: pd.DataFrame) -> None:
    in_a, in_b = neurons["universal_a"].astype(bool), neurons["universal_b"].astype(bool)
    share = min(1.0, MOST_DOTS / len(neurons))
    sets = {
        "in neither": (~in_a & ~in_b, GREY),
        "universal in both": (in_a & in_b, VERMILLION),
        "in a only": (in_a & ~in_b, BLUE),
        "in b only": (in_b & ~in_a, OKABE_ITO[1]),
    }
    for name, (mine, color) in sets.items():
        dots = neurons[mine].sample(frac=share, random_state=0)
        ax.plot(
            *(dots["excess_corr_a"], dots["excess_corr_b"]),
            ls="", marker=".", ms=3, mew=0, color=color, alpha=0.5, rasterized=True,
            label=f"{name} ({int(mine.sum()):,})",
        )  # fmt: skip
    ax.axline((0, 0), slope=1, color=GREY, lw=0.8, zorder=0)
    ax.set(xlabel="a", ylabel="b")
    ax.legend(loc="upper left", markerscale=3, handletextpad=0.2, frameon=True)


def _measures(ax: Axes, rows: pd.DataFrame, along: str) -> None:
    for measure, (_, color) in MEASURES.items():
        ax.plot(rows[along], rows[measure], color=color, marker="o", ms=dot_size(len(rows)))
    # Correlations may be negative; measures are NaN where they are of nothing.
    ax.set_ylim(np.nanmin([0.0, *rows[list(MEASURES)].min()]), 1.03)
