"""Figures of what universal neurons and their controls do to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from universal_neurons.report.figures.style import (
    BLACK,
    BLUE,
    GREY,
    OKABE_ITO,
    VERMILLION,
    common_labels,
    dot_size,
    figure_key,
    layer_panels,
    message,
    named_lines,
    say,
    step_axis,
)
from universal_neurons.report.findings import Findings
from universal_neurons.report.words import NOT_ABLATED
from universal_neurons.store.columns.declare import ALL_LAYERS


def ablation(findings: Findings) -> Figure:
    """Loss change of universal neurons and their controls: by step and, at one step, by layer.

    One row of panels per kind of ablation.
    """
    table, contrasts = findings.tables["ablation"], findings.contrasts
    if contrasts.empty:
        return message(NOT_ABLATED if table.empty else "no universal neurons to ablate")
    summary = findings.ablation
    kinds = list(dict.fromkeys(contrasts["kind"]))
    figure = Figure(figsize=(7.6, 0.5 + 2.6 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), 2, squeeze=False, sharey="row")
    factor, unit = _loss_unit(summary[["universal", "control"]])
    for row, kind in enumerate(kinds):
        mine = summary[summary["kind"] == kind]
        whole = mine[mine["layer"] == ALL_LAYERS]
        _ablation_by_step(axes[row, 0], whole, contrasts[contrasts["kind"] == kind], factor)
        step_axis(axes[row, 0], sorted(set(table["step"])))
        last = mine["step"].max()
        layers = sorted(set(table["layer"]) - {ALL_LAYERS})
        at_last = mine[(mine["step"] == last) & (mine["layer"] != ALL_LAYERS)]
        _ablation_by_layer(axes[row, 1], at_last, layers, factor)
        axes[row, 0].set(title=f"All layers, {kind} ablation", ylabel=f"loss change\n({unit})")
        axes[row, 1].set(title=f"By layer, {kind} ablation, step {last:,}")
    figure_key(figure, {"universal": (VERMILLION, "-"), "matched controls": (BLUE, "-")})
    return figure


def ablation_layers(findings: Findings) -> Figure:
    """Loss change by step in one panel per layer, for the first kind of ablation."""
    table, contrasts = findings.tables["ablation"], findings.contrasts
    if contrasts.empty:
        return message(NOT_ABLATED if table.empty else "no universal neurons to ablate")
    kind = contrasts["kind"].iloc[0]
    contrasts = contrasts[contrasts["kind"] == kind]
    summary = findings.ablation[findings.ablation["kind"] == kind]
    factor, unit = _loss_unit(summary[["universal", "control"]])
    layers = sorted(set(table["layer"]))
    # Layers differ tenfold: each panel has its own scale.
    figure, panels = layer_panels(layers, sharey=False)
    for layer, ax in panels.items():
        rows = summary[summary["layer"] == layer]
        _ablation_by_step(ax, rows, contrasts[contrasts["layer"] == layer], factor)
        step_axis(ax, sorted(set(table["step"])), label=None)
        ax.yaxis.set_major_locator(MaxNLocator(4))
        if rows.empty:
            say(ax, "none universal")
            ax.set_yticks([])
    common_labels(figure, "step", f"loss change, {kind} ablation\n({unit})")
    figure_key(figure, {"universal": (VERMILLION, "-"), "matched controls": (BLUE, "-")})
    return figure


def dose_curve(findings: Findings) -> Figure:
    """Loss change at the last step by the share of neurons ablated, from the top of excess."""
    table = findings.doses
    if table.empty:
        return message(NOT_ABLATED)
    factor, unit = _loss_unit(table[["universal", "control"]])
    figure = Figure(figsize=(5.2, 3.1), layout="constrained")
    ax = figure.subplots()
    ax.axhline(0, color=BLACK, lw=0.8)
    for name, color, error in (
        ("control", BLUE, table["control_sd"].fillna(0)),
        ("universal", VERMILLION, table["universal_se"].fillna(0)),
    ):
        values, bars = factor * table[name], 2 * factor * error
        ax.errorbar(table["dose"], values, bars, color=color, marker="o", ms=4, capsize=2)
    _open_incomparable(ax, table, "dose", factor, 4)
    ax.set_xscale("log")
    ax.set_xticks(table["dose"], [f"{100 * dose:g} %" for dose in table["dose"]])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="neurons ablated", ylabel=f"loss change\n({unit})")
    figure_key(figure, {"top by excess": (VERMILLION, "-"), "matched controls": (BLUE, "-")})
    return figure


def single_effects(findings: Findings) -> Figure:
    """Excess against the size of every neuron's estimated effect, and estimates against exact."""
    last = findings.last_effects
    if last.empty:
        return message(NOT_ABLATED)
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
    named_lines(right, {"largest estimates": (VERMILLION, 2), "random": (BLUE, 2)})
    return figure


def loss(findings: Findings) -> Figure:
    """Held-out loss of every seed by step."""
    models = findings.tables["models"]
    known = models.dropna(subset=["heldout_loss"])
    if known.empty:
        return message("held-out loss was not measured")
    by_seed = known.pivot(index="step", columns="seed", values="heldout_loss")
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
    named_lines(ax, lines, title="seed" if named else None)
    step_axis(ax, list(by_seed.index))
    ax.set_ylabel("held-out loss (nats per token)")
    return figure


def _loss_unit(changes: pd.DataFrame) -> tuple[float, str]:
    """Factor and name of the unit that shows these loss changes without leading zeros."""
    largest = changes.abs().to_numpy().max()
    return (1e3, "10⁻³ nats per token") if largest < 0.1 else (1.0, "nats per token")


def _open_incomparable(
    ax: Axes, summary: pd.DataFrame, x: str, factor: float, size: float, shift: float = 0
) -> None:
    """Draw open what is changed too differently from its controls to be compared with them."""
    rows = summary[summary["n_comparable"] == 0]
    ax.plot(
        rows[x] + shift, factor * rows["universal"], ls="", marker="o", ms=size, mfc="white",
        mec=VERMILLION, zorder=5,
    )  # fmt: skip


def _ablation_by_step(
    ax: Axes, summary: pd.DataFrame, contrasts: pd.DataFrame, factor: float
) -> None:
    ax.axhline(0, color=BLACK, lw=0.8)
    own = contrasts[contrasts["layer"].isin(summary["layer"])]
    dot = dot_size(len(summary))
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
    _open_incomparable(ax, summary, "step", factor, dot + 0.5)


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
    _open_incomparable(ax, summary, "layer", factor, 4, shift=-0.12)
    ax.set_xticks(layers[:: ceil(len(layers) / 12)])
    ax.set(xlim=(min(layers) - 0.6, max(layers) + 0.6), xlabel="layer")
    if summary.empty:
        say(ax, "none universal")
