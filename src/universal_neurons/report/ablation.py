"""What ablation and the estimated effects of single neurons show, in sentences."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from universal_neurons.report.findings import Findings
from universal_neurons.report.words import (
    NOT_ABLATED,
    average,
    count_seeds,
    decimals,
    listed,
    moves_loss,
    named_layers,
    number,
)
from universal_neurons.store.columns.declare import ALL_LAYERS

KIND = {
    "mean": "by their mean",
    "zero": "by zero",
    "resample": "by their values at other tokens",
}


def on_interventions(findings: Findings) -> dict[str, str]:
    """All that was done to models, topic to sentences; one where nothing was."""
    if findings.tables["ablation"].empty:
        return {"Ablation": f"{NOT_ABLATED}."}
    return {
        **on_ablation(findings),
        "Doses": on_doses(findings),
        "Single neurons": on_single(findings),
    }


def on_ablation(findings: Findings) -> dict[str, str]:
    """Loss changes of universal neurons beside those of their controls: topic to sentences."""
    ablation, kinds = findings.tables["ablation"], dict.fromkeys(findings.contrasts["kind"])
    if not kinds:
        any_universal = ablation.loc[ablation["neuron_set"] == "universal", "n_neurons"].any()
        reason = "there are no control sets" if any_universal else "there are no universal neurons"
        return {"Ablation": f"There is no ablation to report: {reason}."}
    summary, last = findings.ablation, int(ablation["step"].max())
    return {
        f"Ablation ({kind})": _on_kind(summary[summary["kind"] == kind], kind, last)
        for kind in kinds
    }


def _on_kind(summary: pd.DataFrame, kind: str, last: int) -> str:
    overall = summary[summary["layer"] == ALL_LAYERS]
    row = overall.sort_values("step").iloc[-1]
    step = row["step"]
    seeds = f"mean over {row['n_seeds']} seeds" if row["n_seeds"] > 1 else "one seed"
    digits = decimals(row["universal_se"])
    error = "not known" if math.isnan(row["universal_se"]) else f"{row['universal_se']:.{digits}f}"
    spread = "" if math.isnan(row["low"]) else _spread_of(row)
    text = (
        f"At step {step:,}{'' if step == last else ', the last with universal neurons'}, replacing "
        f"all universal neurons of a model ({average(row['n_neurons'])}) {KIND[kind]} "
        f"{moves_loss(row['universal'], digits)} (standard error {error}; {seeds}). "
        f"Replacing control sets instead, {row['n_controls']} per model, "
        f"{moves_loss(row['control'], digits, again=True)}{spread}. {_verdict(row)}"
    )
    return f"{text} {_on_layers(summary, step)}".strip()


def _spread_of(row: pd.Series) -> str:
    spread = f"{row['control_sd']:.{decimals(row['control_sd'])}f}"
    of_mean = ", of this mean" if row["n_seeds"] > 1 else ""
    return f" (standard deviation between sets{of_mean}, {spread})"


def _verdict(row: pd.Series) -> str:
    """Whether the difference between universal neurons and controls is distinguishable from 0."""
    if math.isnan(row["low"]):
        return (
            f"The difference is {number(row['difference'], 4)}; its uncertainty is not known, "
            "for want of control sets or held-out sequences."
        )
    digits = decimals((row["high"] - row["low"]) / 4)
    difference, low, high = (number(row[c], digits) for c in ("difference", "low", "high"))
    ratio = f"ratio {row['ratio']:.2f}" if not math.isnan(row["ratio"]) else ""
    interval = f"{difference} nats per token (95 % interval {low} to {high}"
    interval += f"; {ratio})" if ratio else ")"
    agree = f" It is positive in {row['n_seeds_above']} of {count_seeds(row['n_seeds'])}."
    if row["low"] > 0:
        return (
            f"The difference, {interval}, is above zero: in these models, universal neurons "
            f"matter more than comparable others.{agree}"
        )
    if row["high"] < 0:
        return (
            f"The difference, {interval}, is below zero: in these models, universal neurons "
            f"matter less than comparable others.{agree}"
        )
    return (
        f"The difference, {interval}, is compatible with zero: universal neurons are not "
        f"distinguishable from comparable others.{agree}"
    )


def _on_layers(summary: pd.DataFrame, step: int) -> str:
    layers = summary[(summary["layer"] != ALL_LAYERS) & (summary["step"] == step)]
    if len(layers) < 2:
        return ""
    groups = {
        "above zero in": layers["low"] > 0,
        "below zero in": layers["high"] < 0,
        "not distinguishable from zero in": ~((layers["low"] > 0) | (layers["high"] < 0)),
    }
    parts = [
        f"{where} {'all' if chosen.all() else named_layers(layers.loc[chosen, 'layer'].tolist())}"
        for where, chosen in groups.items()
        if chosen.any()
    ]
    return f"Of {len(layers)} layers ablated one at a time, the difference is {listed(parts)}."


def on_doses(findings: Findings) -> str:
    """The loss change of the top of all neurons at the last step, whatever the threshold."""
    largest = findings.doses.iloc[-1]
    digits = decimals((largest["high"] - largest["low"]) / 4)
    top, control, difference, low, high = (
        number(largest[c], digits) for c in ("top", "control", "difference", "low", "high")
    )
    text = (
        f"At the last step, ablating the {100 * largest['dose']:g}\u00a0% of neurons with the "
        f"largest excess changes the loss by {top} nats per token, matched controls by {control}"
    )
    if pd.isna(largest["low"]):
        return f"{text}; the uncertainty of the difference is not known."
    interval = f"difference {difference}, 95\u00a0% interval {low} to {high}"
    if largest["low"] <= 0 <= largest["high"]:
        return f"{text} ({interval}): not distinguishable from chance."
    return f"{text} ({interval})."


def on_single(findings: Findings) -> str:
    """Whether excess goes with effect neuron by neuron, and how good the estimates are."""
    last = findings.last_effects
    rhos = [
        spearmanr(own["excess_corr"], own["attributed_delta_loss"].abs()).statistic
        for _, own in last.groupby("seed", observed=True)
        if own["excess_corr"].nunique() > 1 and own["attributed_delta_loss"].abs().nunique() > 1
    ]
    if not rhos:
        return "The estimated effects of single neurons do not vary."
    mean = float(np.mean(rhos))
    text = (
        "Over all neurons at the last step, excess correlation and the size of the estimated "
        f"effect on the loss have a rank correlation of {number(mean, 2)} (mean over "
        f"{count_seeds(len(rhos))}; {number(min(rhos), 2)} to {number(max(rhos), 2)})."
    )
    if min(rhos) <= 0 <= max(rhos):
        text += " Its sign differs between seeds: not distinguishable from chance."
    exact = last[last["delta_loss"].notna()]
    for name, what in (("top", "neurons of largest estimate"), ("random", "others at random")):
        rows = exact[exact["sampled"] == name]
        if len(rows) > 2 and rows["delta_loss"].nunique() > 1:
            agreement = spearmanr(rows["attributed_delta_loss"], rows["delta_loss"]).statistic
            text += (
                f" Among {len(rows)} {what}, the rank correlation of estimated and exact "
                f"effects is {number(agreement, 2)}."
            )
    return text
