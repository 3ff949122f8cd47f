"""Figures of when neurons become universal, and whether they stay."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from universal_neurons.persist.trajectories import survival as survival_curves
from universal_neurons.report.figures.style import (
    BLACK,
    BLUE,
    MAX_NAMED,
    VERMILLION,
    color_key,
    common_labels,
    figure_key,
    heat_map,
    layer_colors,
    layer_panels,
    message,
    percent_axis,
    percent_bar,
    say,
    spread_out,
    step_axis,
    step_colors,
    step_label,
)
from universal_neurons.report.findings import Findings
from universal_neurons.report.lasting import consecutive, emerged
from universal_neurons.report.words import NOT_TRACED


def persistence(findings: Findings) -> Figure:
    """Share of a step's universal neurons that are so at a later one, with ceiling and chance."""
    summary = findings.overlaps
    if not summary["n_from"].sum():
        return message(_no_persistence(summary))
    steps = np.unique(summary[["from_step", "to_step"]].to_numpy(dtype="int64")).tolist()
    n = len(steps)
    side = min(4.6, max(2.3, 1.1 + 0.42 * n))
    panels = {
        "persistence": "Observed",
        "chance": "Neurons that changed as much" if summary["matched"].all() else "All neurons",
    }
    if summary["ceiling"].notna().any():
        panels["ceiling"] = "Ceiling: measured anew"
    figure = Figure(figsize=(len(panels) * side + 1.4, side + 0.3), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    # One colour scale for all, or the eye would compare unlike colours.
    for ax, (column, title) in zip(axes, panels.items(), strict=True):
        grid = summary.pivot(index="from_step", columns="to_step", values=column)
        grid = grid.reindex(index=steps[:-1], columns=steps[1:])
        absent = np.subtract.outer(np.arange(n - 1), np.arange(n - 1)) > 0
        image = heat_map(
            ax,
            grid.to_numpy(dtype=float),
            [step_label(s) for s in steps[1:]],
            [step_label(s) for s in steps[:-1]],
            annotate=n <= 11,
            absent=absent,
        )
        ax.set(title=title, xlabel="to step")
    axes[0].set_ylabel("from step")
    percent_bar(figure, image, axes, "universal")
    return figure


def persistence_layers(findings: Findings) -> Figure:
    """Persistence from each step to the next against its ceiling and chance, per layer."""
    summary = consecutive(findings.persistence)
    if not summary["n_from"].sum():
        return message(_no_persistence(summary))
    steps = sorted(set(summary["to_step"]))
    figure, panels = layer_panels(sorted(set(summary["layer"])), sharey=True)
    for layer, ax in panels.items():
        rows = summary[summary["layer"] == layer]
        ax.fill_between(
            rows["to_step"], rows["lowest"], rows["highest"], color=VERMILLION, alpha=0.18, lw=0
        )
        ax.plot(rows["to_step"], rows["persistence"], color=VERMILLION, marker="o", ms=3)
        ax.plot(rows["to_step"], rows["ceiling"], color=BLACK, ls=":", lw=1.2, marker=".", ms=4)
        ax.plot(rows["to_step"], rows["chance"], color=BLUE, ls="--", lw=1.2, marker=".", ms=4)
        ax.set_ylim(-0.03, 1.03)
        step_axis(ax, steps, label=None)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        if not rows["n_from"].sum():
            say(ax, "none universal")
    common_labels(figure, "to step (from the step before)", "still universal")
    lines = {"observed": (VERMILLION, "-"), "ceiling": (BLACK, ":")}
    figure_key(figure, {**lines, "expected by chance": (BLUE, "--")})
    return figure


def survival(findings: Findings) -> Figure:
    """Curves of staying universal, one per emergence step, beside chance."""
    trajectories = findings.tables["trajectories"]
    curves = survival_curves(trajectories)
    if curves.empty:
        return message("no universal neuron before the last step: nothing can persist")
    steps = sorted(set(trajectories["step"]))
    cohorts = sorted(set(curves["emergence_step"]))
    shown = spread_out(cohorts, MAX_NAMED)
    figure = Figure(figsize=(5.8, 3.2), layout="constrained")
    ax = figure.subplots()
    for start, color in zip(shown, step_colors(len(shown)), strict=True):
        rows = curves[curves["emergence_step"] == start]
        ax.plot(rows["step"], rows["survival"], color=color, lw=1.6, marker="o", ms=3)
        ax.fill_between(rows["step"], rows["low"], rows["high"], color=color, alpha=0.18, lw=0)
        ax.plot(rows["step"], rows["chance"], color=color, lw=1, ls="--")
    ax.set(ylabel="universal without a break", ylim=(-0.03, 1.03))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    step_axis(ax, steps)
    color_key(ax, "emerged at", shown, step_colors(len(shown)))
    return figure


def emergence_layers(findings: Findings) -> Figure:
    """Share of every layer's neurons that have been universal by a step."""
    table = emerged(findings.tables["trajectories"])
    layers = sorted(set(table["layer"]))
    figure = Figure(figsize=(5.8, 3.2), layout="constrained")
    ax = figure.subplots()
    for layer, color in zip(layers, layer_colors(len(layers)), strict=True):
        line = table[table["layer"] == layer]
        ax.plot(line["step"], line["share"], color=color, lw=1.6, marker="o", ms=3)
        if len(layers) <= MAX_NAMED:
            seeds = (line["lowest"], line["highest"])
            ax.fill_between(line["step"], *seeds, color=color, alpha=0.15, lw=0)
    ax.set_ylabel("has been universal")
    percent_axis([ax])
    step_axis(ax, sorted(set(table["step"])))
    color_key(ax, "layer", layers, layer_colors(len(layers)))
    return figure


def moved(findings: Findings) -> Figure:
    """Whether neurons are still their own best match at the next step."""
    table = findings.moves
    if table.empty:
        steps = findings.tables["trajectories"]["step"].nunique()
        return message("one step only: nothing can move" if steps == 1 else NOT_TRACED)
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
        step_axis(ax, sorted(set(table["step"])), "step (to the next)")
    lines = {"universal": (VERMILLION, "-"), "others": (BLUE, "-"), "chance": (BLACK, "--")}
    figure_key(figure, lines)
    return figure


def _no_persistence(summary: pd.DataFrame) -> str:
    if summary.empty:
        return "one step only: persistence needs two"
    return "no universal neuron before the last step: nothing can persist"
