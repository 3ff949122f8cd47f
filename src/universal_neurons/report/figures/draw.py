"""The figures of a run, each a function of its result tables.

Colours mean the same everywhere: layers run through viridis, steps through plasma, universal
neurons are vermillion and control sets blue (Okabe and Ito), all layers together black.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from universal_neurons.budget import ENOUGH
from universal_neurons.errors import UserError
from universal_neurons.nulls import BIN_WIDTH
from universal_neurons.report.summaries import (
    ALL_LAYERS,
    ablation_contrasts,
    ablation_over_seeds,
    budget_over_seeds,
    consecutive,
    doses_over_seeds,
    emerged,
    moves,
    persistence_over_seeds,
    pooled_counts,
    read_tables,
    universal_counts,
)
from universal_neurons.trajectories import survival as survival_curves

Tables = Mapping[str, pd.DataFrame]

BLACK = "#222222"
GREY = "#999999"
VERMILLION = "#D55E00"
BLUE = "#0072B2"
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "svg.hashsalt": "universal-neurons",
}

# Of one step, of one shard, of seeds that share nothing, and with one rotation of untrained models;
# any other empty table is a mistake.
MAY_BE_EMPTY = ("persistence", "token_budget", "groups", "nulls")

# Up to this many layers or steps a legend names each; beyond, a colour bar does.
MAX_NAMED = 6

# How the curves of chance are drawn.
NULL_STYLES = {"rotated": ":", "permuted": "-.", "untrained": "--"}


@dataclass(frozen=True)
class Spec:
    """A figure of the registry `FIGURES`.

    Attributes
    ----------
    title
        Its heading in the report.
    tables
        The result tables it is drawn from.
    draw
        Makes it from (tables, excess threshold).
    """

    title: str
    tables: tuple[str, ...]
    draw: Callable[[Tables, float], Figure]


def emergence(universality: pd.DataFrame, fractions: pd.DataFrame, threshold: float) -> Figure:
    """Universal fraction by step: overall (every seed, their mean) and per layer.

    Parameters
    ----------
    universality
        Columns step, seed, layer, universal; one row per neuron.
    fractions
        Columns step, seed, layer, low, high: the interval of the mean over seeds (seed "").
    threshold
        Excess correlation above which a neuron is universal (for the label only).
    """
    counts = universal_counts(universality)
    layers = sorted(set(counts["layer"]) - {ALL_LAYERS})
    steps = sorted(set(counts["step"]))
    several = len(layers) > 1
    figure = Figure(figsize=(7.4 if several else 4.6, 3.1), layout="constrained")
    axes = figure.subplots(1, 2 if several else 1, sharey=True, squeeze=False)[0]
    overall = counts[counts["layer"] == ALL_LAYERS].pivot(
        index="step", columns="seed", values="fraction"
    )
    dot = _dot_size(len(steps))
    axes[0].plot(overall.index, overall, color=GREY, lw=0.8, marker=".", ms=dot)
    mean = overall.mean(axis=1)
    axes[0].plot(mean.index, mean, color=BLACK, lw=2.2, marker="o", ms=dot + 1)
    intervals = fractions[fractions["seed"] == ""].sort_values("step")

    def band(ax: Axes, layer: int, color: Any) -> None:
        known = intervals[intervals["layer"] == layer]
        ax.fill_between(known["step"], known["low"], known["high"], color=color, alpha=0.15, lw=0)

    band(axes[0], ALL_LAYERS, BLACK)
    _named_lines(axes[0], {"one seed": (GREY, 0.8), "mean over seeds": (BLACK, 2.2)})
    axes[0].set(ylabel="universal neurons", title="All layers")
    if several:
        pooled = pooled_counts(counts)
        for layer, color in zip(layers, _layer_colors(len(layers)), strict=True):
            line = pooled[pooled["layer"] == layer]
            axes[1].plot(line["step"], line["fraction"], color=color, lw=1.6, marker="o", ms=dot)
            if len(layers) <= MAX_NAMED:
                band(axes[1], layer, color)
        axes[1].set(title="By layer")
        _key(axes[1], "layer", layers, _layer_colors(len(layers)))
    _percent_axis(axes)
    for ax in axes:
        _step_axis(ax, steps)
        if not counts["n_universal"].any():
            _say(ax, f"no neuron has excess\ncorrelation above {threshold:g}\nat any step")
    return figure


def excess_histogram(universality: pd.DataFrame, nulls: pd.DataFrame, threshold: float) -> Figure:
    """Distribution of excess correlation at up to `MAX_NAMED` steps, and by chance.

    Parameters
    ----------
    universality
        Columns step, excess_corr; one row per neuron.
    nulls
        Columns step, null, low, high, n, see `nulls.histograms`; shown of the last step.
    threshold
        Where the line is drawn.
    """
    steps = _spread(sorted(set(universality["step"])), MAX_NAMED)
    shown = universality[universality["step"].isin(steps)]
    # Bins at multiples of the width, so that a threshold in whole percent falls between two bins.
    low = np.floor(min(0.0, shown["excess_corr"].min()) / BIN_WIDTH)
    high = np.ceil(max(threshold, shown["excess_corr"].max()) / BIN_WIDTH) + 1
    edges = np.arange(low, high + 1) * BIN_WIDTH
    figure = Figure(figsize=(5.8, 3.2), layout="constrained")
    ax = figure.subplots()
    for step, color in zip(steps, _step_colors(len(steps)), strict=True):
        excess = shown.loc[shown["step"] == step, "excess_corr"].to_numpy()
        share = np.histogram(excess, edges)[0] / len(excess)
        ax.stairs(share, edges, color=color, lw=1.4, baseline=None)
    for name, null in _last_nulls(nulls):
        middle = (null["low"] + null["high"]) / 2
        ax.plot(middle, null["n"] / null["n"].sum(), color=BLACK, lw=1, ls=NULL_STYLES[name])
    _log_percent_axis(ax)
    ax.set(xlabel="excess correlation", ylabel=f"neurons per bin of {BIN_WIDTH:g}")
    # Room for the label of the threshold above the curves.
    ax.set_ylim(top=2 * ax.get_ylim()[1])
    _threshold_line(ax, threshold)
    _null_key(ax, nulls)
    _key(ax, "step", steps, _step_colors(len(steps)))
    return figure


def threshold_curve(universality: pd.DataFrame, nulls: pd.DataFrame, threshold: float) -> Figure:
    """Share of neurons whose excess correlation lies above x, for every x, per step, and by chance.

    Parameters
    ----------
    universality
        Columns step, excess_corr; one row per neuron.
    nulls
        Columns step, null, low, high, n, see `nulls.histograms`; shown of the last step.
    threshold
        Where the line is drawn.
    """
    steps = sorted(set(universality["step"]))
    x = np.linspace(0, 1, 201)
    figure = Figure(figsize=(5.8, 3.2), layout="constrained")
    ax = figure.subplots()
    for step, color in zip(steps, _step_colors(len(steps)), strict=True):
        excess = np.sort(universality.loc[universality["step"] == step, "excess_corr"].to_numpy())
        above = 1 - np.searchsorted(excess, x, side="right") / len(excess)
        # Zero has no place on a logarithmic axis: the curve ends at its last neuron.
        ax.plot(x, np.where(above > 0, above, np.nan), color=color, lw=1.5)
    for name, null in _last_nulls(nulls):
        n_above = null["n"][::-1].cumsum()[::-1]
        share = n_above / null["n"].sum()
        (line,) = ax.plot(null["low"], share, color=BLACK, lw=1, ls=NULL_STYLES[name])
        line.set_drawstyle("steps-pre")  # bins without a value have no row
    _log_percent_axis(ax)
    ax.set(xlim=(0, 1), xlabel="excess correlation x", ylabel="neurons with excess above x")
    ax.set_xticks(np.arange(0, 1.01, 0.1))
    _threshold_line(ax, threshold)
    _null_key(ax, nulls)
    _key(ax, "step", steps, _step_colors(len(steps)))
    return figure


def best_match_layers(matches: pd.DataFrame) -> Figure:
    """Layer by layer, in which layer of the other seed the best match lies, at the last step.

    Parameters
    ----------
    matches
        Columns step, layer, best_layer; one row per neuron and other seed. Neurons without a match
        (best_layer -1 or null) are left out.
    """
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
    image = _heat(ax, share, range(n), range(n), annotate=n <= 12, blank_zero=True)
    ax.set(
        xlabel="layer of the best match",
        ylabel="layer of the neuron",
        title=f"Step {last:,}",
    )
    _percent_bar(figure, image, ax, "neurons of the layer")
    return figure


def token_budget(table: pd.DataFrame) -> Figure:
    """Agreement of scores from fewer tokens with those from all, per step, and reliability.

    Parameters
    ----------
    table
        The token budget table.
    """
    if table.empty:
        return _message("no scores of fewer tokens: one shard, or screened mode")
    summary = budget_over_seeds(table)
    is_second = summary["part"] == "second half"
    nested, second = summary[~is_second], summary[is_second]
    steps, tokens = (sorted(set(nested[column])) for column in ("step", "n_tokens"))
    figure = Figure(figsize=(7.4, 3.1), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for step, color in zip(steps, _step_colors(len(steps)), strict=True):
        rows = nested[nested["step"] == step]
        for ax, column in zip(axes, ("jaccard", "rank_corr"), strict=True):
            ax.plot(rows["n_tokens"], rows[column], color=color, lw=1.6, marker="o", ms=3)
        reliability = second.loc[second["step"] == step, "reliability"]
        axes[1].plot(tokens[-1:], reliability, color=color, marker="D", ms=6, mec="white")
    axes[0].set(title="Universal set: Jaccard index", ylabel="agreement with all tokens")
    axes[1].set(title="Excess correlation: rank correlation")
    if summary["jaccard"].isna().all():
        _say(axes[0], "no sampled neuron is universal")
    label = EngFormatter(sep="")
    lowest = np.nanmin([0, *nested["jaccard"], *nested["rank_corr"]])
    for ax in axes:
        ax.axhline(ENOUGH, color=BLACK, lw=1, ls="--")
        ax.set(xlabel="scored tokens", xscale="log", ylim=(lowest - 0.03, 1.03))
        ax.xaxis.set_major_locator(_StepLocator(ax, tokens))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: label(float(f"{n:.3g}"))))
        ax.xaxis.set_minor_locator(NullLocator())
    diamond = Line2D([], [], color=GREY, ls="", marker="D", ms=5)
    axes[0].legend([diamond], ["reliability of all tokens (right)"], loc="lower right")
    _key(axes[1], "step", steps, _step_colors(len(steps)))
    return figure


def persistence(table: pd.DataFrame) -> Figure:
    """Share of the universal neurons of one step that still are at a later one, next to chance.

    Parameters
    ----------
    table
        The persistence table; rows of layer -1 are used.
    """
    summary = persistence_over_seeds(table[table["layer"] == ALL_LAYERS])
    if not summary["n_from"].sum():
        return _message(_no_persistence(summary))
    steps = np.unique(summary[["from_step", "to_step"]].to_numpy(dtype="int64")).tolist()
    n = len(steps)
    side = min(4.6, max(2.3, 1.1 + 0.42 * n))
    figure = Figure(figsize=(2 * side + 1.4, side + 0.3), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    # One colour scale for both, or the eye would compare unlike colours.
    for ax, column, title in zip(
        axes, ("persistence", "chance"), ("Observed", "Expected by chance"), strict=True
    ):
        grid = summary.pivot(index="from_step", columns="to_step", values=column)
        grid = grid.reindex(index=steps[:-1], columns=steps[1:])
        absent = np.subtract.outer(np.arange(n - 1), np.arange(n - 1)) > 0
        image = _heat(
            ax,
            grid.to_numpy(dtype=float),
            [_step_label(s) for s in steps[1:]],
            [_step_label(s) for s in steps[:-1]],
            annotate=n <= 11,
            absent=absent,
        )
        ax.set(title=title, xlabel="to step")
    axes[0].set_ylabel("from step")
    _percent_bar(figure, image, axes, "still universal")
    return figure


def persistence_layers(table: pd.DataFrame) -> Figure:
    """Persistence from each step to the next against chance, per layer.

    Parameters
    ----------
    table
        The persistence table.
    """
    summary = consecutive(persistence_over_seeds(table))
    if not summary["n_from"].sum():
        return _message(_no_persistence(summary))
    steps = sorted(set(summary["to_step"]))
    figure, panels = _layer_panels(sorted(set(summary["layer"])), sharey=True)
    for layer, ax in panels.items():
        rows = summary[summary["layer"] == layer]
        ax.fill_between(
            rows["to_step"], rows["lowest"], rows["highest"], color=VERMILLION, alpha=0.18, lw=0
        )
        ax.plot(rows["to_step"], rows["persistence"], color=VERMILLION, marker="o", ms=3)
        ax.plot(rows["to_step"], rows["chance"], color=BLUE, ls="--", lw=1.2, marker=".", ms=4)
        ax.set_ylim(-0.03, 1.03)
        _step_axis(ax, steps, label=None)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        if not rows["n_from"].sum():
            _say(ax, "none universal")
    _common_labels(figure, "to step (from the step before)", "still universal")
    _figure_key(figure, {"observed": (VERMILLION, "-"), "expected by chance": (BLUE, "--")})
    return figure


def ablation(table: pd.DataFrame) -> Figure:
    """Loss change of universal neurons and their controls: by step and, at one step, by layer.

    Parameters
    ----------
    table
        The ablation table; one row of panels per kind of ablation.
    """
    contrasts = ablation_contrasts(table)
    if contrasts.empty:
        return _message("no universal neurons to ablate")
    summary = ablation_over_seeds(contrasts)
    kinds = list(dict.fromkeys(contrasts["kind"]))
    figure = Figure(figsize=(7.6, 0.5 + 2.6 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), 2, squeeze=False, sharey="row")
    factor, unit = _loss_unit(summary)
    for row, kind in enumerate(kinds):
        mine = summary[summary["kind"] == kind]
        whole = mine[mine["layer"] == ALL_LAYERS]
        _ablation_by_step(axes[row, 0], whole, contrasts[contrasts["kind"] == kind], factor)
        _step_axis(axes[row, 0], sorted(set(table["step"])))
        last = mine["step"].max()
        layers = sorted(set(table["layer"]) - {ALL_LAYERS})
        at_last = mine[(mine["step"] == last) & (mine["layer"] != ALL_LAYERS)]
        _ablation_by_layer(axes[row, 1], at_last, layers, factor)
        axes[row, 0].set(title=f"All layers, {kind} ablation", ylabel=f"loss change\n({unit})")
        axes[row, 1].set(title=f"By layer, {kind} ablation, step {last:,}")
    _figure_key(figure, {"universal": (VERMILLION, "-"), "matched controls": (BLUE, "-")})
    return figure


def ablation_layers(table: pd.DataFrame) -> Figure:
    """Loss change by step in one panel per layer, for the first kind of ablation.

    Parameters
    ----------
    table
        The ablation table.
    """
    contrasts = ablation_contrasts(table)
    if contrasts.empty:
        return _message("no universal neurons to ablate")
    kind = contrasts["kind"].iloc[0]
    contrasts = contrasts[contrasts["kind"] == kind]
    summary = ablation_over_seeds(contrasts)
    factor, unit = _loss_unit(summary)
    layers = sorted(set(table["layer"]))
    # Layers differ tenfold: each panel has its own scale.
    figure, panels = _layer_panels(layers, sharey=False)
    for layer, ax in panels.items():
        rows = summary[summary["layer"] == layer]
        _ablation_by_step(ax, rows, contrasts[contrasts["layer"] == layer], factor)
        _step_axis(ax, sorted(set(table["step"])), label=None)
        ax.yaxis.set_major_locator(MaxNLocator(4))
        if rows.empty:
            _say(ax, "none universal")
            ax.set_yticks([])
    _common_labels(figure, "step", f"loss change, {kind} ablation\n({unit})")
    _figure_key(figure, {"universal": (VERMILLION, "-"), "matched controls": (BLUE, "-")})
    return figure


def survival(trajectories: pd.DataFrame) -> Figure:
    """Kaplan–Meier curves of staying universal, one per emergence step, beside chance.

    Parameters
    ----------
    trajectories
        See `trajectories.survival`.
    """
    curves = survival_curves(trajectories)
    if curves.empty:
        return _message("no universal neuron before the last step: nothing can persist")
    steps = sorted(set(trajectories["step"]))
    cohorts = sorted(set(curves["emergence_step"]))
    shown = _spread(cohorts, MAX_NAMED)
    figure = Figure(figsize=(5.8, 3.2), layout="constrained")
    ax = figure.subplots()
    for start, color in zip(shown, _step_colors(len(shown)), strict=True):
        rows = curves[curves["emergence_step"] == start]
        ax.plot(rows["step"], rows["survival"], color=color, lw=1.6, marker="o", ms=3)
        ax.fill_between(rows["step"], rows["low"], rows["high"], color=color, alpha=0.18, lw=0)
        ax.plot(rows["step"], rows["chance"], color=color, lw=1, ls="--")
    ax.set(ylabel="universal without a break", ylim=(-0.03, 1.03))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    _step_axis(ax, steps)
    _key(ax, "emerged at", shown, _step_colors(len(shown)))
    return figure


def emergence_layers(trajectories: pd.DataFrame) -> Figure:
    """Share of every layer's neurons that have been universal by a step.

    Parameters
    ----------
    trajectories
        Columns seed, layer, step, emergence_step.
    """
    table = emerged(trajectories)
    layers = sorted(set(table["layer"]))
    figure = Figure(figsize=(5.8, 3.2), layout="constrained")
    ax = figure.subplots()
    for layer, color in zip(layers, _layer_colors(len(layers)), strict=True):
        line = table[table["layer"] == layer]
        ax.plot(line["step"], line["share"], color=color, lw=1.6, marker="o", ms=3)
        if len(layers) <= MAX_NAMED:
            seeds = (line["lowest"], line["highest"])
            ax.fill_between(line["step"], *seeds, color=color, alpha=0.15, lw=0)
    ax.set_ylabel("has been universal")
    _percent_axis([ax])
    _step_axis(ax, sorted(set(table["step"])))
    _key(ax, "layer", layers, _layer_colors(len(layers)))
    return figure


def moved(trajectories: pd.DataFrame) -> Figure:
    """Whether neurons are still their own best match at the next step.

    Parameters
    ----------
    trajectories
        See `summaries.moves`.
    """
    table = moves(trajectories)
    if table.empty:
        return _message("one step only: nothing can move")
    figure = Figure(figsize=(7.4, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    for universal, color in ((True, VERMILLION), (False, BLUE)):
        rows = table[table["universal"] == universal]
        left.plot(rows["step"], rows["stayed"], color=color, marker="o", ms=3)
        left.fill_between(rows["step"], rows["lowest"], rows["highest"], color=color, alpha=0.18)
        right.plot(rows["step"], rows["self_corr"], color=color, marker="o", ms=3)
    left.axhline(table["chance"].iloc[0], color=BLACK, lw=1, ls="--")
    left.set(ylabel="best match is the neuron itself", ylim=(-0.03, 1.03))
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    right.set(ylabel="median correlation with itself")
    for ax in (left, right):
        _step_axis(ax, sorted(set(table["step"])), "step (to the next)")
    lines = {"universal": (VERMILLION, "-"), "others": (BLUE, "-"), "chance": (BLACK, "--")}
    _figure_key(figure, lines)
    return figure


def dose_curve(doses: pd.DataFrame) -> Figure:
    """Loss change by the share of neurons ablated, from the top of excess correlation.

    Parameters
    ----------
    doses
        The doses table; its last step is drawn.
    """
    table = doses_over_seeds(doses)
    largest = table[["top", "control"]].abs().to_numpy().max()
    factor, unit = (1e3, "10⁻³ nats per token") if largest < 0.1 else (1.0, "nats per token")
    figure = Figure(figsize=(5.2, 3.1), layout="constrained")
    ax = figure.subplots()
    ax.axhline(0, color=BLACK, lw=0.8)
    half = (table["high"] - table["low"]) / 2
    spread = 2 * table["control_sd"].fillna(0)
    for name, color, error in (("control", BLUE, spread), ("top", VERMILLION, half.fillna(0))):
        values = factor * table[name]
        ax.errorbar(table["dose"], values, factor * error, color=color, marker="o", ms=4, capsize=2)
    ax.set_xscale("log")
    ax.set_xticks(table["dose"], [f"{100 * dose:g} %" for dose in table["dose"]])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="neurons ablated", ylabel=f"loss change\n({unit})")
    _figure_key(figure, {"top by excess": (VERMILLION, "-"), "matched controls": (BLUE, "-")})
    return figure


def single_effects(effects: pd.DataFrame) -> Figure:
    """Excess against the size of every neuron's estimated effect, and estimates against exact.

    Parameters
    ----------
    effects
        The effects table; its last step is drawn.
    """
    last = effects[effects["step"] == effects["step"].max()]
    figure = Figure(figsize=(7.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    size = last["attributed_delta_loss"].abs()
    some = size > 0
    left.plot(
        last.loc[some, "excess_corr"], size[some], ls="", marker=".", ms=2, color=GREY, alpha=0.3,
        rasterized=True,
    )  # fmt: skip
    groups = np.ceil(last["excess_corr"].rank(pct=True) * 10)
    middle = pd.DataFrame({"excess": last["excess_corr"], "size": size}).groupby(groups)
    medians = middle.median()
    low, high = (middle["size"].quantile(q) for q in (0.25, 0.75))
    if some.any():
        left.set_yscale("log")
    left.fill_between(medians["excess"], low, high, color=VERMILLION, alpha=0.2, lw=0)
    left.plot(medians["excess"], medians["size"], color=VERMILLION, marker="o", ms=3)
    left.set(xlabel="excess correlation", ylabel="|estimated effect| (nats per token)")
    exact = last[last["delta_loss"].notna()]
    for sampled, color in (("top", VERMILLION), ("random", BLUE)):
        rows = exact[exact["sampled"] == sampled]
        right.plot(
            rows["delta_loss"], rows["attributed_delta_loss"], ls="", marker=".", color=color
        )
    right.axline((0, 0), slope=1, color=BLACK, lw=0.8, ls="--")
    right.set(xlabel="exact effect (nats per token)", ylabel="estimated effect")
    right.tick_params(axis="x", rotation=30)
    _named_lines(right, {"largest estimates": (VERMILLION, 2), "random": (BLUE, 2)})
    return figure


def loss(models: pd.DataFrame) -> Figure:
    """Held-out loss of every seed by step.

    Parameters
    ----------
    models
        Columns seed, step, heldout_loss (nats per token).
    """
    known = models.dropna(subset=["heldout_loss"])
    if known.empty:
        return _message("held-out loss was not measured")
    by_seed = known.astype({"seed": str}).pivot(index="step", columns="seed", values="heldout_loss")
    by_seed = by_seed.sort_index()
    figure = Figure(figsize=(5.2, 3.1), layout="constrained")
    ax = figure.subplots()
    named = len(by_seed.columns) <= len(OKABE_ITO)
    for i, seed in enumerate(by_seed.columns):
        color = OKABE_ITO[i] if named else GREY
        ax.plot(by_seed.index, by_seed[seed], color=color, lw=1.1, marker="o", ms=3)
    lines = (
        {str(seed): (OKABE_ITO[i], 1.1) for i, seed in enumerate(by_seed.columns)}
        if named
        else {"one seed": (GREY, 1.1)}
    )
    _named_lines(ax, lines, title="seed" if named else None)
    _step_axis(ax, list(by_seed.index))
    ax.set_ylabel("held-out loss (nats per token)")
    return figure


FIGURES: dict[str, Spec] = {
    "emergence": Spec(
        "Universal neurons by step",
        ("universality", "fractions"),
        lambda tables, threshold: emergence(tables["universality"], tables["fractions"], threshold),
    ),
    "excess_histogram": Spec(
        "Distribution of excess correlation",
        ("universality", "nulls"),
        lambda tables, threshold: excess_histogram(
            tables["universality"], tables["nulls"], threshold
        ),
    ),
    "threshold_curve": Spec(
        "Universal neurons at every threshold",
        ("universality", "nulls"),
        lambda tables, threshold: threshold_curve(
            tables["universality"], tables["nulls"], threshold
        ),
    ),
    "best_match_layers": Spec(
        "Layer of the best match",
        ("matches",),
        lambda tables, _: best_match_layers(tables["matches"]),
    ),
    "token_budget": Spec(
        "Enough tokens?",
        ("token_budget",),
        lambda tables, _: token_budget(tables["token_budget"]),
    ),
    "persistence": Spec(
        "Persistence between steps",
        ("persistence",),
        lambda tables, _: persistence(tables["persistence"]),
    ),
    "persistence_layers": Spec(
        "Persistence by layer",
        ("persistence",),
        lambda tables, _: persistence_layers(tables["persistence"]),
    ),
    "survival": Spec(
        "Survival of universal neurons",
        ("trajectories",),
        lambda tables, _: survival(tables["trajectories"]),
    ),
    "emergence_layers": Spec(
        "Emergence by layer",
        ("trajectories",),
        lambda tables, _: emergence_layers(tables["trajectories"]),
    ),
    "moved": Spec(
        "Does the function move to another index?",
        ("trajectories",),
        lambda tables, _: moved(tables["trajectories"]),
    ),
    "ablation": Spec(
        "Ablation of universal neurons",
        ("ablation",),
        lambda tables, _: ablation(tables["ablation"]),
    ),
    "ablation_layers": Spec(
        "Ablation by layer and step",
        ("ablation",),
        lambda tables, _: ablation_layers(tables["ablation"]),
    ),
    "dose_curve": Spec(
        "Ablation of the top of all neurons",
        ("doses",),
        lambda tables, _: dose_curve(tables["doses"]),
    ),
    "single_effects": Spec(
        "Effect of single neurons",
        ("effects",),
        lambda tables, _: single_effects(tables["effects"]),
    ),
    "loss": Spec(
        "Held-out loss by step",
        ("models",),
        lambda tables, _: loss(tables["models"]),
    ),
}


def draw(name: str, tables: Tables, threshold: float) -> Figure:
    """Draw the figure `name` of `FIGURES`.

    Raises
    ------
    UserError
        If there is no such figure or one of its tables is empty or not given.
    """
    if name not in FIGURES:
        raise UserError(f"no figure named {name!r}; there are {', '.join(FIGURES)}")
    for table in FIGURES[name].tables:
        if table not in tables:
            raise UserError(f"figure {name} needs the table {table}")
        if tables[table].empty and table not in MAY_BE_EMPTY:
            raise UserError(f"figure {name}: the table {table} has no rows")
    with _style():
        return FIGURES[name].draw(tables, threshold)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as ``<path>.svg`` and ``<path>.png``; the same figure gives the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _style():
        figure.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None})
        figure.savefig(path.with_name(f"{path.name}.png"), dpi=150)


def write_figures(results: str | Path, out: str | Path, *, threshold: float) -> None:
    """Draw every figure of `FIGURES` from a run's tables.

    Parameters
    ----------
    results
        Directory ``results/<run>`` with the Parquet tables.
    out
        Directory for ``<name>.svg`` and ``<name>.png``.
    threshold
        Excess correlation above which a neuron is universal.
    """
    tables = read_tables(results)
    for name in FIGURES:
        save(draw(name, tables, threshold), Path(out) / name)


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield


def _layer_colors(n: int) -> np.ndarray:
    return mpl.colormaps["viridis"](np.linspace(0.1, 0.88, n))


def _step_colors(n: int) -> np.ndarray:
    return mpl.colormaps["plasma"](np.linspace(0.0, 0.86, n)[::-1])


def _spread(values: Sequence[int], n: int) -> list[int]:
    """At most `n` of `values`, evenly spaced, with the first and the last."""
    if len(values) <= n:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, n).round().astype(int)]


def _step_label(step: float) -> str:
    return f"{step / 1000:g}k" if step >= 10_000 else f"{step:,.0f}"


class _StepLocator(Locator):
    """Ticks at as many of the steps as have room for their labels; the last always has one."""

    def __init__(self, ax: Axes, steps: Sequence[int]) -> None:
        self.ax = ax
        self.steps = list(steps)

    def __call__(self) -> list[float]:
        # At drawing time: only then is the width known that the layout leaves to the axes.
        points = self.ax.transData.transform([(step, 0) for step in self.steps])
        inches = points[:, 0] / self.ax.figure.get_figure(root=True).dpi
        kept = [len(self.steps) - 1]
        for i in reversed(range(len(self.steps) - 1)):
            if inches[kept[-1]] - inches[i] > 0.45:
                kept.append(i)
        return [self.steps[i] for i in reversed(kept)]


def _step_axis(ax: Axes, steps: Sequence[int], label: str | None = "step") -> None:
    """Ticks at the steps themselves, on a logarithmic axis where they span more than a decade."""
    if label:
        ax.set_xlabel(label)
    positive = [s for s in steps if s > 0]
    if positive and positive[-1] > 10 * positive[0]:
        if positive[0] == steps[0]:
            ax.set_xscale("log")
        else:
            ax.set_xscale("symlog", linthresh=positive[0], linscale=0.3)
    scale = ax.xaxis.get_transform()
    ends = scale.transform(np.array([steps[0], steps[-1]], dtype=float))
    margin = 0.04 * (ends[1] - ends[0]) or 0.5
    left, right = scale.inverted().transform(ends + np.array([-margin, margin]))
    ax.set_xlim(left, right)
    ax.xaxis.set_major_locator(_StepLocator(ax, steps))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: _step_label(step)))
    ax.xaxis.set_minor_locator(NullLocator())


def _percent_axis(axes: Sequence[Axes]) -> None:
    """Shares on a linear axis from 0, common to `axes`, with some height where all are 0."""
    highest = max(0.01, *(1.08 * ax.dataLim.y1 for ax in axes))
    for ax in axes:
        ax.set_ylim(0, highest)
        decimals = 0 if highest > 0.04 else 1
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=decimals, symbol=" %"))


def _log_percent_axis(ax: Axes) -> None:
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    # Over less than two decades the powers of ten alone would be one tick or none.
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    ax.yaxis.set_minor_locator(NullLocator())


def _dot_size(n_steps: int) -> float:
    return 3 if n_steps <= 8 else 1.5


def _threshold_line(ax: Axes, threshold: float) -> None:
    ax.axvline(threshold, color=BLACK, lw=1, ls="--")
    left, right = ax.get_xlim()
    # Room for the label on the line's right.
    ax.set_xlim(left, max(right, threshold + 0.3 * (threshold - left)))
    ax.annotate(
        f"threshold {threshold:g}",
        (threshold, 1),
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
    return [(name, last[last["null"] == name]) for name in NULL_STYLES if name in set(last["null"])]


def _null_key(ax: Axes, nulls: pd.DataFrame) -> None:
    names = [name for name, _ in _last_nulls(nulls)]
    if names:
        handles = [Line2D([], [], color=BLACK, lw=1, ls=NULL_STYLES[name]) for name in names]
        # Below the label of the threshold; the curves fall and leave this corner free.
        corner = (1, 0.92)
        key = ax.legend(handles, names, title="by chance", loc="upper right", bbox_to_anchor=corner)
        ax.add_artist(key)


def _named_lines(
    ax: Axes, lines: Mapping[str, tuple[str, float]], *, title: str | None = None
) -> None:
    """A legend inside the axes, or beside them if it has a title."""
    handles = [Line2D([], [], color=color, lw=lw) for color, lw in lines.values()]
    beside = (1.0, 1.0) if title else None
    ax.legend(handles, list(lines), title=title, loc="upper left", bbox_to_anchor=beside)


def _key(ax: Axes, what: str, values: Sequence[int], colors: np.ndarray) -> None:
    """Name the colours of `values` beside the axes: a legend, or a colour bar if they are many."""
    if len(values) <= MAX_NAMED:
        handles = [Line2D([], [], color=c, lw=2) for c in colors]
        labels = [f"{v:,}" for v in values]
        ax.legend(handles, labels, title=what, loc="upper left", bbox_to_anchor=(1, 1))
        return
    norm = BoundaryNorm(np.arange(len(values) + 1) - 0.5, len(values))
    mappable = ScalarMappable(norm, ListedColormap(list(colors)))
    figure = ax.figure.get_figure(root=True)
    bar = figure.colorbar(mappable, ax=ax, pad=0.02, aspect=30, label=what)
    ticks = range(0, len(values), ceil(len(values) / 12))
    bar.set_ticks(ticks, labels=[_step_label(values[i]) for i in ticks])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.grid(False)


def _figure_key(figure: Figure, lines: Mapping[str, tuple[str, str]]) -> None:
    handles = [Line2D([], [], color=color, ls=ls, lw=2) for color, ls in lines.values()]
    figure.legend(handles, list(lines), loc="outside upper center", ncols=len(lines))


def _common_labels(figure: Figure, x: str, y: str) -> None:
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)


def _say(ax: Axes, text: str) -> None:
    ax.text(
        *(0.5, 0.5, text),
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=8,
        color="#444444",
        bbox={"facecolor": "white", "edgecolor": "#cccccc", "boxstyle": "round,pad=0.5"},
    )


def _message(text: str) -> Figure:
    figure = Figure(figsize=(5.2, 1.4), layout="constrained")
    ax = figure.subplots()
    ax.set_axis_off()
    _say(ax, text)
    return figure


def _no_persistence(summary: pd.DataFrame) -> str:
    if summary.empty:
        return "one step only: persistence needs two"
    return "no universal neuron before the last step: nothing can persist"


def _heat(
    ax: Axes,
    share: np.ndarray,
    columns: Sequence[Any],
    rows: Sequence[Any],
    *,
    annotate: bool,
    absent: np.ndarray | None = None,
    blank_zero: bool = False,
) -> AxesImage:
    """A heat map of shares from 0 to 1. NaN is grey, except where `absent` (blank)."""
    ax.grid(False)
    image = ax.imshow(share, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    absent = np.zeros(share.shape, bool) if absent is None else absent
    for i, j in np.argwhere(np.isnan(share) & ~absent):
        box = Rectangle((j - 0.5, i - 0.5), 1, 1, fc="#dddddd", ec="white")
        ax.add_patch(box)
    if annotate:
        for i, j in np.argwhere(share >= 0.005 if blank_zero else ~np.isnan(share)):
            color = "white" if share[i, j] < 0.6 else "black"
            ax.text(
                *(j, i, f"{100 * share[i, j]:.0f}"),
                ha="center",
                va="center",
                fontsize=8,
                color=color,
            )
    for axis, labels in ((ax.xaxis, columns), (ax.yaxis, rows)):
        # Labels of every other cell and so on, where each would touch its neighbour.
        every = ceil(len(labels) / 12)
        axis.set_ticks(range(0, len(labels), every), [str(v) for v in labels[::every]])
    if max(len(str(v)) for v in columns) > 2 and len(columns) > 4:
        ax.tick_params(axis="x", rotation=45)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return image


def _percent_bar(figure: Figure, image: AxesImage, axes: Any, label: str) -> None:
    bar = figure.colorbar(
        image, ax=axes, pad=0.02, label=label, format=PercentFormatter(1, symbol=" %")
    )
    bar.outline.set_visible(False)
    bar.ax.grid(False)


def _layer_panels(layers: Sequence[int], *, sharey: bool) -> tuple[Figure, dict[int, Axes]]:
    """One small panel per layer, all layers first; with a single layer that one is enough."""
    shown = [ALL_LAYERS] if len(layers) == 2 and ALL_LAYERS in layers else list(layers)
    n_columns = min(len(shown), 3 if len(shown) <= 6 else 5)
    n_rows = ceil(len(shown) / n_columns)
    width = 4.4 if len(shown) == 1 else max(6.0, 1.9 * n_columns)
    figure = Figure(figsize=(width, 0.8 + (1.9 if n_rows > 2 else 2.2) * n_rows))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharey=sharey).flat
    axes = list(grid)
    for ax in axes[len(shown) :]:
        ax.remove()
    panels = dict(zip(shown, axes, strict=False))
    for layer, ax in panels.items():
        ax.set_title("All layers" if layer == ALL_LAYERS else f"Layer {layer}", fontsize=9)
    return figure, panels


def _loss_unit(summary: pd.DataFrame) -> tuple[float, str]:
    largest = summary[["universal", "control"]].abs().to_numpy().max()
    return (1e3, "10⁻³ nats per token") if largest < 0.1 else (1.0, "nats per token")


def _ablation_by_step(
    ax: Axes, summary: pd.DataFrame, contrasts: pd.DataFrame, factor: float
) -> None:
    ax.axhline(0, color=BLACK, lw=0.8)
    own = contrasts[contrasts["layer"].isin(summary["layer"])]
    dot = _dot_size(len(summary))
    each = factor * own["universal"]
    ax.plot(own["step"], each, ls="", marker=".", ms=dot + 1, color=VERMILLION, alpha=0.4)
    spread = summary["control_sd"].fillna(0)
    ax.fill_between(
        summary["step"],
        factor * (summary["control"] - 2 * spread),
        factor * (summary["control"] + 2 * spread),
        color=BLUE,
        alpha=0.2,
        lw=0,
    )
    for column, color, error in (
        ("control", BLUE, spread),
        ("universal", VERMILLION, summary["universal_se"]),
    ):
        ax.errorbar(
            summary["step"],
            factor * summary[column],
            2 * factor * error,
            color=color,
            lw=1.5,
            marker="o",
            ms=dot + 0.5,
            capsize=2,
        )


def _ablation_by_layer(
    ax: Axes, summary: pd.DataFrame, layers: Sequence[int], factor: float
) -> None:
    ax.axhline(0, color=BLACK, lw=0.8)
    for column, color, error, shift in (
        ("universal", VERMILLION, summary["universal_se"], -0.12),
        ("control", BLUE, summary["control_sd"].fillna(0), 0.12),
    ):
        ax.errorbar(
            summary["layer"] + shift,
            factor * summary[column],
            2 * factor * error,
            color=color,
            ls="",
            marker="o",
            ms=4,
            capsize=2,
        )
    ax.set_xticks(layers[:: ceil(len(layers) / 12)])
    ax.set(xlim=(min(layers) - 0.6, max(layers) + 0.6), xlabel="layer")
    if summary.empty:
        _say(ax, "none universal")
