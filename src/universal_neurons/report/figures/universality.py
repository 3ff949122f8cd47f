"""Figures of how many neurons are universal, and how sure that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullLocator

from universal_neurons.report.figures.style import (
    BLACK,
    GREY,
    MAX_NAMED,
    OKABE_ITO,
    StepLocator,
    color_key,
    dot_size,
    heat_map,
    layer_colors,
    log_percent_axis,
    message,
    named_lines,
    percent_axis,
    percent_bar,
    say,
    spread_out,
    step_axis,
    step_colors,
)
from universal_neurons.report.findings import Findings
from universal_neurons.report.words import criterion_met
from universal_neurons.score.kinds import BEYOND_RANDOM, GIVEN_TOKEN
from universal_neurons.score.nulls import BIN_WIDTH, LEADING
from universal_neurons.score.token_budget import ENOUGH
from universal_neurons.store.columns.declare import ALL_LAYERS

# How the curves of chance are drawn.
_NULL_STYLES = {LEADING: "-", "rotated": ":", "permuted": "-.", "untrained": "--"}


# Kinds of universal neurons: column of `fractions`, prefix of its ends, name.
_KINDS = (
    ("mean_fraction", "", "universal"),
    (BEYOND_RANDOM, f"{BEYOND_RANDOM}_", "beyond random directions"),
    (GIVEN_TOKEN, f"{GIVEN_TOKEN}_", "universal given the token"),
)


def emergence(findings: Findings) -> Figure:
    """Universal fraction by step: overall (every seed, their mean) and per layer.

    Bands are the intervals of the mean over seeds.
    """
    counts, fractions = findings.counts, findings.tables["fractions"]
    layers = sorted(set(counts["layer"]) - {ALL_LAYERS})
    steps = sorted(set(counts["step"]))
    several = len(layers) > 1
    figure = Figure(figsize=(7.4 if several else 4.6, 3.1), layout="constrained")
    axes = figure.subplots(1, 2 if several else 1, sharey=True, squeeze=False)[0]
    overall = counts[counts["layer"] == ALL_LAYERS].pivot(
        index="step", columns="seed", values="fraction"
    )
    dot = dot_size(len(steps))
    axes[0].plot(overall.index, overall, color=GREY, lw=0.8, marker=".", ms=dot)
    mean = overall.mean(axis=1)
    axes[0].plot(mean.index, mean, color=BLACK, lw=2.2, marker="o", ms=dot + 1)
    intervals = fractions[fractions["seed"] == ""].sort_values("step")

    def band(ax: Axes, layer: int, color: Any) -> None:
        known = intervals[intervals["layer"] == layer]
        ax.fill_between(known["step"], known["low"], known["high"], color=color, alpha=0.15, lw=0)

    band(axes[0], ALL_LAYERS, BLACK)
    named_lines(axes[0], {"one seed": (GREY, 0.8), "mean over seeds": (BLACK, 2.2)})
    axes[0].set(ylabel="universal neurons", title="All layers")
    if several:
        for layer, color in zip(layers, layer_colors(len(layers)), strict=True):
            line = intervals[intervals["layer"] == layer]
            shares = line["mean_fraction"]
            axes[1].plot(line["step"], shares, color=color, lw=1.6, marker="o", ms=dot)
            if len(layers) <= MAX_NAMED:
                band(axes[1], layer, color)
        axes[1].set(title="By layer")
        color_key(axes[1], "layer", layers, layer_colors(len(layers)))
    percent_axis(axes)
    for ax in axes:
        step_axis(ax, steps)
        if not counts["n_universal"].any():
            say(ax, f"no neuron\n{criterion_met(findings.criterion)}\nat any step")
    return figure


def emergence_kinds(findings: Findings) -> Figure:
    """Shares universal, beyond random directions and given the token, by step and by layer.

    Bands are the intervals of the means over seeds. On the right the last step's layers.
    """
    table = findings.tables["fractions"]
    mean = table[table["seed"] == ""].sort_values(["step", "layer"])
    overall = mean[mean["layer"] == ALL_LAYERS]
    last = mean[(mean["step"] == mean["step"].max()) & (mean["layer"] != ALL_LAYERS)]
    figure = Figure(figsize=(7.4, 3.1), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    dot = dot_size(len(overall))
    for (column, prefix, name), color in zip(_KINDS, OKABE_ITO, strict=False):
        if overall[column].isna().all():
            continue
        for ax, rows, x in ((axes[0], overall, "step"), (axes[1], last, "layer")):
            low, high = rows[f"{prefix}low"], rows[f"{prefix}high"]
            ax.fill_between(rows[x], low, high, color=color, alpha=0.15, lw=0)
            ax.plot(rows[x], rows[column], color=color, lw=1.6, marker="o", ms=dot, label=name)
    percent_axis(axes)
    step_axis(axes[0], sorted(set(overall["step"])))
    axes[0].set(ylabel="neurons, mean over seeds", title="All layers")
    axes[1].set(xlabel="layer", title=f"Step {mean['step'].max():,}")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(frameon=False, fontsize="small", loc="best")
    return figure


def excess_histogram(findings: Findings) -> Figure:
    """Distribution of excess correlation at up to `MAX_NAMED` steps, and by chance at the last."""
    universality, nulls = findings.tables["universality"], findings.tables["nulls"]
    steps = spread_out(sorted(set(universality["step"])), MAX_NAMED)
    shown = universality[universality["step"].isin(steps)]
    # Bins at multiples of the width, so that a threshold in whole percent falls between two bins.
    low = np.floor(min(0.0, shown["excess_corr"].min()) / BIN_WIDTH)
    high = np.ceil(np.nanmax([*findings.thresholds, shown["excess_corr"].max()]) / BIN_WIDTH) + 1
    edges = np.arange(low, high + 1) * BIN_WIDTH
    figure = Figure(figsize=(5.8, 3.2), layout="constrained")
    ax = figure.subplots()
    for step, color in zip(steps, step_colors(len(steps)), strict=True):
        excess = shown.loc[shown["step"] == step, "excess_corr"].to_numpy()
        share = np.histogram(excess, edges)[0] / len(excess)
        ax.stairs(share, edges, color=color, lw=1.4, baseline=None)
    for name, null in _last_nulls(nulls):
        middle = (null["low"] + null["high"]) / 2
        ax.plot(middle, null["n"] / null["n"].sum(), color=BLACK, lw=1, ls=_NULL_STYLES[name])
    log_percent_axis(ax)
    ax.set(xlabel="excess correlation", ylabel=f"neurons per bin of {BIN_WIDTH:g}")
    # Room for the label of the threshold above the curves.
    ax.set_ylim(top=2 * ax.get_ylim()[1])
    _mark_thresholds(ax, findings)
    _null_key(ax, nulls)
    color_key(ax, "step", steps, step_colors(len(steps)))
    return figure


def threshold_curve(findings: Findings) -> Figure:
    """Share of neurons whose excess lies above x, for every x and step, and by chance."""
    universality, nulls = findings.tables["universality"], findings.tables["nulls"]
    steps = sorted(set(universality["step"]))
    x = np.linspace(0, 1, 201)
    figure = Figure(figsize=(5.8, 3.2), layout="constrained")
    ax = figure.subplots()
    for step, color in zip(steps, step_colors(len(steps)), strict=True):
        excess = np.sort(universality.loc[universality["step"] == step, "excess_corr"].to_numpy())
        above = 1 - np.searchsorted(excess, x, side="right") / len(excess)
        # Zero has no place on a logarithmic axis: the curve ends at its last neuron.
        ax.plot(x, np.where(above > 0, above, np.nan), color=color, lw=1.5)
    for name, null in _last_nulls(nulls):
        n_above = null["n"][::-1].cumsum()[::-1]
        share = n_above / null["n"].sum()
        (line,) = ax.plot(null["low"], share, color=BLACK, lw=1, ls=_NULL_STYLES[name])
        line.set_drawstyle("steps-pre")  # bins without a value have no row
    log_percent_axis(ax)
    ax.set(xlim=(0, 1), xlabel="excess correlation x", ylabel="neurons with excess above x")
    ax.set_xticks(np.arange(0, 1.01, 0.1))
    _mark_thresholds(ax, findings)
    _null_key(ax, nulls)
    color_key(ax, "step", steps, step_colors(len(steps)))
    return figure


def best_match_layers(findings: Findings) -> Figure:
    """Layer by layer, in which layer of the other seed the best match lies, at the last step.

    Neurons without a match (best_layer -1 or null) are left out.
    """
    matches = findings.tables["matches"]
    last = matches["step"].max()
    found = matches[(matches["step"] == last) & (matches["best_layer"] >= 0)]
    n = int(max(matches["layer"].max(), found["best_layer"].max() if len(found) else 0)) + 1
    counts = np.zeros((n, n))
    pairs = found.groupby(["layer", "best_layer"], observed=True).size()
    for (layer, best), count in pairs.items():
        counts[int(layer), int(best)] = count
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    side = min(6.2, max(2.9, 1.6 + 0.38 * n))
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    ax = figure.subplots()
    image = heat_map(ax, share, range(n), range(n), annotate=n <= 12, blank_zero=True)
    ax.set(
        xlabel="layer of the best match",
        ylabel="layer of the neuron",
        title=f"Step {last:,}",
    )
    percent_bar(figure, image, ax, "neurons of the layer")
    return figure


def token_budget(findings: Findings) -> Figure:
    """Agreement of scores from fewer tokens with those from all, per step, and reliability."""
    if findings.tables["token_budget"].empty:
        return message("no scores of fewer tokens: one shard, or screened mode")
    summary = findings.budget
    is_second = summary["part"] == "second half"
    nested, second = summary[~is_second], summary[is_second]
    steps, tokens = (sorted(set(nested[column])) for column in ("step", "n_tokens"))
    figure = Figure(figsize=(7.4, 3.1), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for step, color in zip(steps, step_colors(len(steps)), strict=True):
        rows = nested[nested["step"] == step]
        for ax, column in zip(axes, ("jaccard", "rank_corr"), strict=True):
            ax.plot(rows["n_tokens"], rows[column], color=color, lw=1.6, marker="o", ms=3)
        reliability = second.loc[second["step"] == step, "reliability"]
        axes[1].plot(tokens[-1:], reliability, color=color, marker="D", ms=6, mec="white")
    axes[0].set(title="Universal set: Jaccard index", ylabel="agreement with all tokens")
    axes[1].set(title="Excess correlation: rank correlation")
    if summary["jaccard"].isna().all():
        say(axes[0], "no sampled neuron is universal")
    label = EngFormatter(sep="")
    lowest = np.nanmin([0, *nested["jaccard"], *nested["rank_corr"]])
    for ax in axes:
        ax.axhline(ENOUGH, color=BLACK, lw=1, ls="--")
        ax.set(xlabel="scored tokens", xscale="log", ylim=(lowest - 0.03, 1.03))
        ax.xaxis.set_major_locator(StepLocator(ax, tokens))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: label(float(f"{n:.3g}"))))
        ax.xaxis.set_minor_locator(NullLocator())
    diamond = Line2D([], [], color=GREY, ls="", marker="D", ms=5)
    axes[0].legend([diamond], ["reliability of all tokens (right)"], loc="lower right")
    color_key(axes[1], "step", steps, step_colors(len(steps)))
    return figure


def _mark_thresholds(ax: Axes, findings: Findings) -> None:
    """A line at the threshold, or where seeds and layers have different ones a band."""
    low, high = findings.thresholds
    if np.isnan(low):
        return
    if low < high:
        ax.axvspan(low, high, color=BLACK, alpha=0.12, lw=0)
    ax.axvline(high, color=BLACK, lw=1, ls="--")
    left, right = ax.get_xlim()
    # Room for the label on the line's right.
    ax.set_xlim(left, max(right, high + 0.3 * (high - left)))
    ax.annotate(
        f"threshold {high:g}" if low == high else f"thresholds {low:.2f} to {high:.2f}",
        (high, 1),
        (3, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=BLACK,
    )


def _last_nulls(nulls: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The nulls of the last step that have values, by name, each sorted by bin."""
    last = nulls[nulls["step"] == nulls["step"].max()].sort_values("low")
    return [
        (name, last[last["null"] == name]) for name in _NULL_STYLES if name in set(last["null"])
    ]


def _null_key(ax: Axes, nulls: pd.DataFrame) -> None:
    names = [name for name, _ in _last_nulls(nulls)]
    if names:
        handles = [Line2D([], [], color=BLACK, lw=1, ls=_NULL_STYLES[name]) for name in names]
        # Below the label of the threshold; the curves fall and leave this corner free.
        corner = (1, 0.92)
        key = ax.legend(handles, names, title="by chance", loc="upper right", bbox_to_anchor=corner)
        ax.add_artist(key)
