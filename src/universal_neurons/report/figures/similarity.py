"""Figure of how alike layers are, and neurons to whole layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from universal_neurons.report.figures.style import (
    BLACK,
    GREY,
    OKABE_ITO,
    dot_size,
    heat_map,
    message,
    named_lines,
    percent_bar,
    say,
    step_axis,
)
from universal_neurons.report.findings import Findings
from universal_neurons.report.similarity import (
    EXPLAINED,
    MEASURES,
    over_seeds,
    unmatched_counts,
)


def similarity(findings: Findings) -> Figure:
    """Similarity of layers of like depth by step, of all layers, and of neurons to layers."""
    table = findings.tables["similarity"]
    if table.empty:
        return message("layers were not compared: screened mode, or correlate.similarity: false")
    figure = Figure(figsize=(11.4, 3.4), layout="constrained")
    by_step, by_layer, neurons = figure.subplots(1, 3)
    _by_step(by_step, table)
    last = table["step"].max()
    share = _mean_by_layers(table[table["step"] == last], "cka")
    n = len(share)
    image = heat_map(by_layer, share, range(n), range(n), annotate=n <= 6)
    by_layer.set(
        xlabel="layer", ylabel="layer of the other seed", title=f"Linear CKA, step {last:,}"
    )
    percent_bar(figure, image, by_layer, "mean over pairs")
    _neurons(figure, neurons, findings.last_scores)
    return figure


def _by_step(ax: Axes, table: pd.DataFrame) -> None:
    found = over_seeds(table)
    steps = list(found.index.unique("step"))
    for name, color in zip(MEASURES, OKABE_ITO, strict=False):
        own = found.xs(name, level="measure")
        ax.plot(steps, own["mean"], color=color, marker="o", ms=dot_size(len(steps)), lw=1.6)
        ax.fill_between(steps, own["low"], own["high"], color=color, alpha=0.2, lw=0)
    step_axis(ax, steps)
    least = min(0, found[["mean", "low"]].min().min())
    ax.set(ylim=(least, 1.02), ylabel="similarity", title="Layers of like depth")
    lines = dict(zip(MEASURES.values(), [(color, 1.6) for color in OKABE_ITO], strict=False))
    named_lines(ax, lines, title="measure")


def _mean_by_layers(table: pd.DataFrame, measure: str) -> np.ndarray:
    """Mean over pairs of seeds, both ways, of a measure: rows are layers of the other seed."""
    back = table.rename(columns={"layer": "other_layer", "other_layer": "layer"})
    both = pd.concat([table, back])
    mean = both.groupby(["other_layer", "layer"])[measure].mean().unstack()
    return mean.reindex(index=mean.columns, columns=mean.columns).to_numpy()


def _neurons(figure: Figure, ax: Axes, scores: pd.DataFrame) -> None:
    """All neurons at the last step by what a single neuron and what a layer explains."""
    known = scores.dropna(subset=["regression_r2"])
    single = known["max_corr"].clip(lower=0) ** 2
    edges = np.linspace(0, 1, 41)
    # Adjusted shares of noise lie around 0, below it as well.
    counts, _, _ = np.histogram2d(single, known["regression_r2"].clip(0, 1), (edges, edges))
    ax.set(xlabel="by the best single neuron", ylabel="by all neurons of a layer")
    ax.set_title("Explained variance of neurons")
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    ax.axvline(EXPLAINED, color=BLACK, lw=0.8, ls=":")
    ax.axhline(EXPLAINED, color=BLACK, lw=0.8, ls=":")
    if not len(known):
        return say(ax, "every neuron is dead")
    shown = np.ma.masked_equal(counts.T, 0)
    norm = LogNorm(1, max(2, counts.max()))
    image = ax.pcolormesh(edges, edges, shown, cmap="viridis", norm=norm, rasterized=True)
    bar = figure.colorbar(image, ax=ax, pad=0.02, label="neurons")
    bar.outline.set_visible(False)
    bar.ax.grid(False)
    found = unmatched_counts(known).iloc[-1]
    split, unmatched = int(found["explained"]), int(found["unmatched"])
    for y, text in ((0.97, f"split: {split:,}"), (0.03, f"not found: {unmatched - split:,}")):
        va = "top" if y > 0.5 else "bottom"
        ax.text(EXPLAINED - 0.02, y, text, ha="right", va=va, fontsize=8, color=BLACK)
    return None
