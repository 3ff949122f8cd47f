"""What ablation and the estimated effects of single neurons show, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from universal_neurons.report.findings import Findings
from universal_neurons.report.response import NAMED
from universal_neurons.report.summaries import partial_rank_correlation
from universal_neurons.report.words import (
    NOT_ABLATED,
    average,
    count_seeds,
    decimals,
    listed,
    moves_loss,
    named_layers,
    number,
    percent,
)
from universal_neurons.store.columns.ablate import LEAST_OVERLAP, MOST_ENERGY_RATIO
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
        "At equal perturbation": on_equal_energy(findings),
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
    spread = "" if math.isnan(row["control_sd"]) else _spread_of(row)
    when = f"At step {step:,}{'' if step == last else ', the last with universal neurons'}"
    measured = (
        f"replacing all universal neurons of a model ({average(row['n_neurons'])}) {KIND[kind]} "
        f"{moves_loss(row['universal'], digits)} (standard error {error}; {seeds}). "
        f"Replacing control sets instead, {row['n_controls']} per model, "
        f"{moves_loss(row['control'], digits, again=True)}{spread}.{_later(row, digits)}"
    )
    return f"{_judged(row, when, measured)} {_on_layers(summary, step)}".strip()


def _judged(row: pd.Series, when: str, measured: str) -> str:
    """What was measured over all seeds, and the verdict on those whose sets are comparable."""
    if 0 < row["n_comparable"] < row["n_seeds"]:
        # First what can be judged: means over all seeds are of sets that are not alike, too.
        return f"{_verdict(row)} {when}, over all seeds, comparable or not, {measured} {_size(row)}"
    return f"{when}, {measured} {_size(row)} {_verdict(row)}"


def _spread_of(row: pd.Series) -> str:
    spread = f"{row['control_sd']:.{decimals(row['control_sd'])}f}"
    of_mean = ", of this mean" if row["n_seeds"] > 1 else ""
    return f" (standard deviation between sets{of_mean}, {spread})"


def _later(row: pd.Series, digits: int) -> str:
    """The same without position 0, where sequences are longer than that."""
    if math.isnan(row["universal_later"]):
        return ""
    universal, control = (number(row[c], digits) for c in ("universal_later", "control_later"))
    return f" Without the predictions made at position 0 it is {universal} and {control}."


def _size(row: pd.Series) -> str:
    """How much is changed, and what that costs per unit of it."""
    return (
        f"Squared in length, what is changed is {row['universal_energy']:.3g} against "
        f"{row['control_energy']:.3g} of the controls."
    )


def _verdict(row: pd.Series) -> str:
    """What the difference between universal neurons and controls says."""
    n, of = row["n_comparable"], row["n_seeds"]
    if row["verdict"] == "not comparable":
        where = f"any of {of} seeds" if of > 1 else "this seed"
        return (
            f"Not comparable in {where}, so there is no verdict: neurons with a "
            f"partner of like size and sparsity have {percent(row['overlap'])} of the summed "
            f"squared sizes (of the layer that has fewest), where {percent(LEAST_OVERLAP)} are "
            f"needed, and energies within a factor of {MOST_ENERGY_RATIO:g}. Those that have a "
            "partner are not compared on their own: they would not be the universal neurons."
        )
    there = f"In {n} of {of} seeds the ablated and control sets are comparable; there, the"
    difference = f"{'The' if n == of else there} difference"
    if row["verdict"] == "not known":
        return (
            f"{difference} is {number(row['difference'], 4)} nats per token; its uncertainty is "
            "not known, for want of comparable seeds or of held-out documents."
        )
    digits = decimals((row["high"] - row["low"]) / 4)
    ratio = f"; ratio {row['ratio']:.2f}" if not math.isnan(row["ratio"]) else ""
    plain = f"{_interval(row, 'difference', 'low', 'high', digits)}{ratio})"
    same = f"{_interval(row, 'adjusted', 'adjusted_low', 'adjusted_high', digits)})"
    agree = f" It is positive in {row['n_above']} of {count_seeds(n)}."
    side = "above" if row["low"] > 0 else "below"
    says = {
        "more": f"{difference}, {plain}, is above zero, and so it is at equal energy, {same}: "
        "ablating these universal neurons costs more than ablating others by which as much is "
        "changed.",
        "less": f"{difference}, {plain}, is below zero, and so it is at equal energy, {same}: "
        "ablating these universal neurons costs less than ablating others by which as much is "
        "changed.",
        "size": f"{difference}, {plain}, is {side} zero, but not clearly so at equal energy, "
        f"{same}: it may be due to how much is changed.",
        "undecided": f"{difference}, {plain}, is compatible with zero: universal neurons are not "
        "distinguishable from comparable others.",
    }
    return f"{says[row['verdict']]}{agree}"


def _interval(row: pd.Series, value: str, low: str, high: str, digits: int) -> str:
    mean, low, high = (number(row[c], digits) for c in (value, low, high))
    return f"{mean} nats per token (95\u00a0% interval {low} to {high}"


def _on_layers(summary: pd.DataFrame, step: int) -> str:
    layers = summary[(summary["layer"] != ALL_LAYERS) & (summary["step"] == step)]
    if len(layers) < 2:
        return ""
    groups = {
        "above zero, also at equal energy, in": ["more"],
        "below zero, also at equal energy, in": ["less"],
        "of one sign, but not at equal energy, in": ["size"],
        "not distinguishable from zero in": ["undecided"],
        "of unknown uncertainty in": ["not known"],
        "not to be judged, as the sets are not comparable, in": ["not comparable"],
    }
    parts = []
    for where, verdicts in groups.items():
        chosen = layers["verdict"].isin(verdicts)
        if chosen.any():
            named = "all" if chosen.all() else named_layers(layers.loc[chosen, "layer"].tolist())
            parts.append(f"{where} {named}")
    return f"Of {len(layers)} layers ablated one at a time, the difference is {listed(parts)}."


def on_doses(findings: Findings) -> str:
    """The loss change of the top of all neurons at the last step, whatever the threshold."""
    if findings.doses.empty:
        return "No dose has control sets to compare it with."
    largest = findings.doses.iloc[-1]
    digits = decimals(largest["universal_se"])
    top, control = (number(largest[c], digits) for c in ("universal", "control"))
    measured = (
        f"ablating the {100 * largest['dose']:g}\u00a0% of neurons with the "
        f"largest excess changes the loss by {top} nats per token, control sets by {control}."
    )
    text = _judged(largest, "At the last step", measured)
    return text.replace("universal neurons", "neurons")


def on_equal_energy(findings: Findings) -> str:
    """Loss changes beside those of other neurons that change as much, however many these are."""
    table = findings.equal_energy
    if table.empty:
        return "No sets of other neurons were ablated to hold a loss change against."
    text = (
        "At the last step, random sets of other neurons, of many sizes and in the same shares of "
        "the layers, say what it costs to change what the MLPs write by any energy (E‖Δ‖², its "
        "mean squared length). At equal perturbation, the loss changes, in multiples of what "
        "replacing others changes, by "
    )
    return text + "; by ".join(_at_equal_energy(row) for _, row in table.iterrows()) + "."


def _at_equal_energy(row: pd.Series) -> str:
    if row["neuron_set"] in NAMED:
        what = f"all neurons replaced that are {NAMED[row['neuron_set']]}"
    else:
        what = f"the {100 * row['dose']:g} % of largest excess replaced"
    if row["verdict"] == "not comparable":
        return (
            f"an unknown factor with {what}: in none of {count_seeds(row['n_seeds'])} do others "
            "change as much and clearly cost something"
        )
    seeds = count_seeds(row["n_within"])
    if row["n_within"] < row["n_seeds"]:
        seeds += f" of {row['n_seeds']}, in which others change as much and clearly cost something"
    if row["verdict"] == "not known":
        return f"{number(row['ratio'], 2)} with {what} ({seeds}; no interval)"
    says = {"more": "more", "less": "less", "undecided": "not distinguishable from 1"}
    interval = f"95 % interval {number(row['low'], 2)} to {number(row['high'], 2)}, {seeds}"
    return f"{row['ratio']:.2f} with {what} ({interval}): {says[row['verdict']]}"


def _over_seeds(values: Sequence[float]) -> str:
    """Mean and range of a correlation over seeds."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "not known"
    text = f"{number(float(np.mean(known)), 2)} (mean over {count_seeds(len(known))}; "
    text += f"{number(min(known), 2)} to {number(max(known), 2)})"
    if min(known) <= 0 <= max(known):
        text += ", whose sign differs between seeds: not distinguishable from chance"
    return text


def on_single(findings: Findings) -> str:
    """Whether excess goes with effect neuron by neuron, and how good the estimates are."""
    last = findings.last_effects.assign(
        size=lambda table: table["attributed_delta_loss"].abs(),
    )
    seeds = [own for _, own in last.groupby("seed", observed=True)]
    seeds = [own for own in seeds if min(own["excess_corr"].nunique(), own["size"].nunique()) > 1]
    if not seeds:
        return "The estimated effects of single neurons do not vary."
    plain = [spearmanr(own["excess_corr"], own["size"]).statistic for own in seeds]
    partial = [
        partial_rank_correlation(
            own, "excess_corr", "size", given=["perturbation", "sparsity"], within="layer"
        )
        for own in seeds
    ]
    text = (
        "Over all neurons at the last step, excess correlation and the size of the estimated "
        f"effect on the loss have a rank correlation of {_over_seeds(plain)}. The partial rank "
        "correlation, given how much a neuron's ablation changes (standard deviation times norm "
        f"of output weights), its sparsity and its layer, is {_over_seeds(partial)}."
    )
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
