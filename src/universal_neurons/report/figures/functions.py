"""Figures of what universal neurons do, by roles and families."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from universal_neurons.report.figures.style import (
    BLACK,
    GREY,
    MAX_NAMED,
    OKABE_ITO,
    dot_size,
    figure_key,
    layer_colors,
    message,
    percent_axis,
    say,
    step_axis,
)
from universal_neurons.report.findings import Findings
from universal_neurons.store.columns.declare import ALL_LAYERS

PANELS = {"roles": "Roles, by their weights", "families": "Families, by what makes them fire"}
NONE = "no universal neuron has a role or family at any step"
# Lines of a panel that can be told apart.
MOST_LINES = len(OKABE_ITO)


def functions(findings: Findings) -> Figure:
    """Odds ratios of roles and families among universal neurons at the last step, by layer."""
    table = findings.odds_ratios.dropna(subset="odds_ratio")
    if table.empty:
        return message("universal neurons and others can't be compared by role or family")
    layers = sorted(set(table["layer"]) - {ALL_LAYERS})
    most = table.groupby("table")["name"].nunique().max()
    figure = Figure(figsize=(9.4, 1.5 + 0.42 * most), layout="constrained")
    for ax, (name, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        ax.set_title(title)
        _odds(ax, table[table["table"] == name], layers)
    named: dict[str, Any] = {"all layers": BLACK}
    if len(layers) <= MAX_NAMED:
        colors = layer_colors(len(layers))
        named |= {f"layer {n}": color for n, color in zip(layers, colors, strict=True)}
    handles = [Line2D([], [], color=c, marker="o", ls="-", ms=4) for c in named.values()]
    figure.legend(handles, list(named), loc="outside upper center", ncols=len(named))
    return figure


def _odds(ax: Axes, table: pd.DataFrame, layers: list[int]) -> None:
    whole = table[table["layer"] == ALL_LAYERS].sort_values("odds_ratio")
    if whole.empty:
        ax.set_axis_off()
        return say(ax, "none to compare")
    names = list(whole["name"])
    shown = layers if len(layers) <= MAX_NAMED else []
    lines = [(ALL_LAYERS, BLACK), *zip(shown, layer_colors(len(shown)), strict=True)]
    gaps = 0.36 * (np.arange(len(lines)) / max(len(lines) - 1, 1) - 0.5)
    for (layer, color), gap in zip(lines, gaps[::-1], strict=True):
        rows = table[table["layer"] == layer].set_index("name").reindex(names)
        y, middle = np.arange(len(names)) + gap, rows["odds_ratio"]
        ax.hlines(y, rows["low"], rows["high"], color=color, lw=1.4)
        ax.plot(middle, y, color=color, marker="o", ms=4, ls="")
    ax.axvline(1, color=GREY, lw=0.8)
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    counts = [f"{name} ({n:,})" for name, n in zip(names, whole["n_universal"], strict=True)]
    ax.set_yticks(range(len(names)), counts)
    ax.set(xlabel="odds ratio, universal against others", ylim=(-0.6, len(names) - 0.4))
    return None


def functions_by_step(findings: Findings) -> Figure:
    """Share of universal neurons that have each role and family, by step, beside all neurons."""
    table = findings.function_shares
    if not (table["share"] > 0).any():
        return message(NONE)
    steps = sorted(set(table["step"]))
    figure = Figure(figsize=(9.4, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, (name, title) in zip(axes, PANELS.items(), strict=True):
        ax.set_title(title)
        _shares(ax, table[table["table"] == name], steps)
    axes[0].set_ylabel("share of universal neurons")
    figure_key(figure, {"of universal neurons": (BLACK, "-"), "of all neurons": (BLACK, ":")})
    return figure


def _shares(ax: Axes, table: pd.DataFrame, steps: list[int]) -> None:
    largest = table.groupby("name")["share"].max().sort_values(ascending=False)
    names = list(largest[largest > 0].index[:MOST_LINES])
    for name, color in zip(names, OKABE_ITO, strict=False):
        rows = table[table["name"] == name].sort_values("step")
        size = dot_size(len(steps))
        ax.plot(rows["step"], rows["share"], color=color, lw=1.6, marker="o", ms=size, label=name)
        ax.fill_between(
            rows["step"], rows["lowest"], rows["highest"], color=color, alpha=0.15, lw=0
        )
        ax.plot(rows["step"], rows["of_all"], color=color, lw=1.1, ls=":")
    step_axis(ax, steps)
    percent_axis([ax])
    if not names:
        return say(ax, "none of them has any")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return None
