"""How far the numbers can be trusted, and what makes them wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from universal_neurons.report.baseline import baseline_remark
from universal_neurons.report.findings import PAPER_THRESHOLD, Findings
from universal_neurons.report.screening import screening_remarks, screening_warnings
from universal_neurons.report.words import (
    beaten,
    listed,
    named_layers,
    named_neuron,
    out_of,
    percent,
    plural,
)
from universal_neurons.score.criterion import LEAST_EFFECTIVE
from universal_neurons.score.nulls import LEADING

# A rounding error of correlations that the report warns of, and effective tokens too few for a
# match to mean much (conventions).
COARSE = 0.005
FEW_TOKENS = 50

# A layer's share of variance at position 0 that the report warns of, if it is also this many times
# that of a position like all others (conventions).
FIRST_SHARE = 0.1
FIRST_TIMES = 5


def warnings(findings: Findings, config: Mapping[str, Any]) -> list[str]:
    """What makes the results wrong rather than uncertain.

    That is the same weights twice, coarse codes, a small sample, and activations that vary between
    the first token and the others more than with the text; `config` with ``corpus.context_length``.
    """
    neurons = findings.tables["neurons"]
    return [
        *_on_copies(findings.tables["models"]),
        *_on_rounding(neurons),
        *_on_first_position(neurons, config["corpus"]["context_length"]),
        *screening_warnings(findings.tables["screening"]),
    ]


def _on_first_position(neurons: pd.DataFrame, context_length: int) -> list[str]:
    last = neurons[neurons["step"] == neurons["step"].max()]
    last = last.assign(
        variance=last["std"] ** 2,
        first=last["first_position_share"] * last["std"] ** 2,
        mostly=last["first_position_share"] > 0.5,
    )
    by_model = last.groupby(["layer", "seed"], observed=True)[["variance", "first"]].sum()
    shares = (by_model["first"] / by_model["variance"]).groupby("layer").mean()
    much = shares.loc[lambda share: share > max(FIRST_SHARE, FIRST_TIMES / context_length)]
    if much.empty:
        return []
    layer = much.idxmax()
    mostly = int(last.loc[last["layer"] == layer, "mostly"].sum())
    return [
        f"At the last step, {percent(much[layer])} of the variance of layer {layer}'s activations "
        f"(mean over seeds) is of the tokens at position 0 of their sequences, one in "
        f"{context_length:,}; so it is above {percent(FIRST_SHARE)} in "
        f"{named_layers(much.index.tolist())}. {plural(mostly, 'neuron', 'neurons')} of layer "
        f"{layer} in all seeds {'has' if mostly == 1 else 'have'} more than half of theirs there: "
        "such neurons correlate because they mark the first token, and their means are no typical "
        "values. Compare with corpus.exclude_positions: [0]."
    ]


def _on_rounding(neurons: pd.DataFrame) -> list[str]:
    coarse = neurons[neurons["rounding_se"] > COARSE]
    if coarse.empty:
        return []
    worst = coarse.nlargest(1, "rounding_se").iloc[0]
    return [
        f"The codes of {plural(len(coarse), 'neuron', 'neurons')} are too coarse: rounding adds a "
        f"standard error of more than {COARSE} to their correlations ({worst['rounding_se']:.2g} "
        f"to those of {named_neuron(worst['layer'], worst['neuron'])} of seed {worst['seed']}, "
        f"step {int(worst['step']):,}). They vary less than the calibration sample said, or the "
        "tokens are few: score more tokens, raise capture.calibration_tokens, or use "
        "capture.encoding: bfloat16."
    ]


def _on_copies(models: pd.DataFrame) -> list[str]:
    copies = models[models["duplicate_of"].notna()]
    if copies.empty:
        return []
    pairs = [
        f"seed {seed} step {step:,} (same as {original})"
        for seed, step, original in zip(
            copies["seed"], copies["step"], copies["duplicate_of"], strict=True
        )
    ]
    return [
        f"{plural(len(copies), 'model has', 'models have')} the same weights as another one: "
        f"{listed(pairs)}. Copies are not independent observations: between seeds they make "
        "neurons look universal, between steps they make them look persistent. The numbers below "
        "include them."
    ]


def trust(findings: Findings, config: Mapping[str, Any], scored_tokens: int) -> list[str]:
    """How far the headline numbers can be trusted, one remark each.

    Parameters
    ----------
    findings
        Of the tables universality, screening, neurons, nulls, ablation, persistence and models.
    config
        baseline.draws, baseline.standardise and corpus.heldout_tokens are mentioned where given.
    scored_tokens
        Token positions behind every correlation.
    """
    tables = findings.tables
    remarks = [
        _on_tokens(config, scored_tokens),
        *screening_remarks(tables["screening"]),
        _on_criterion(findings),
        baseline_remark(findings.baseline, config),
        _on_seeds(tables["universality"]["seed"].nunique(), config),
        *_on_neurons(tables["neurons"], config, scored_tokens),
        *_on_controls(findings.contrasts),
    ]
    if tables["persistence"]["n_from"].sum():
        remarks.append(
            "The p-values of persistence treat neurons as independent of one another. They are "
            "not, so the p-values are too small; trust the ratio to chance and the agreement "
            "between seeds more."
        )
    if tables["models"]["duplicate_of"].isna().all():
        remarks.append("No two models have the same weights (SHA-256 of the loaded weights).")
    return remarks


def _on_tokens(config: Mapping[str, Any], scored_tokens: int) -> str:
    remark = (
        f"Correlations rest on {scored_tokens:,} scored tokens. Were tokens independent, a "
        f"correlation near 0 would have a standard error of {1 / math.sqrt(scored_tokens):.2g}; "
        "tokens of one text are not, so the true error is larger."
    )
    held_out = config.get("corpus", {}).get("heldout_tokens")
    return remark + (f" Losses use {held_out:,} other tokens." if held_out else "")


def _on_criterion(findings: Findings) -> str:
    excess, criterion = findings.last_scores["excess_corr"], findings.criterion
    above = int((excess > PAPER_THRESHOLD).sum())
    pass_it = f"{out_of(above, len(excess))} neurons ({percent(above / len(excess))})"
    if criterion.kind == "q_value":
        low, high = findings.thresholds
        between = f"; at the last step these are {low:.2f} to {high:.2f}" if low == low else ""
        return (
            "Universal here means matched better than "
            f"{beaten(findings.tables['nulls'])} at a false discovery rate of "
            f"{100 * criterion.false_discovery_rate:g}\u00a0% within a seed, which comes down to a "
            "threshold of excess correlation for every seed, layer and fifth by kurtosis"
            f"{between}. The papers use {PAPER_THRESHOLD:g}, which {pass_it} would pass; "
            "percentages by different criteria cannot be compared. Intervals take the thresholds "
            "as given."
        )
    threshold = criterion.excess_threshold
    text = f"The threshold of this run is {threshold:g}, a convention like any other."
    if threshold == PAPER_THRESHOLD:
        text += " It is the one of the papers"
    else:
        text += f" The papers use {PAPER_THRESHOLD:g}"
    text += (
        ", for GPT-2 Small after 400,000 steps (about 4 % of its neurons pass); small models "
        "trained for few steps rarely reach it."
    )
    if threshold != PAPER_THRESHOLD:
        text += f" Here, {pass_it} would pass {PAPER_THRESHOLD:g} at the last step."
    if findings.suggestion:
        leads = LEADING in set(findings.tables["nulls"]["null"])
        drawn = "the random directions drawn" if leads else "the draws of the nulls"
        text += (
            f" At {findings.suggestion.threshold:g} chance would be kept to "
            f"{100 * criterion.false_discovery_rate:g}\u00a0% of the neurons above the threshold; "
            f"this depends on {drawn}."
        )
    return f"{text} Percentages at different thresholds cannot be compared."


def _on_seeds(n: int, config: Mapping[str, Any]) -> str:
    text = (
        f"{n} seeds were compared, each with the {n - 1} others. Every share is measured within "
        "this group, so the spread between seeds understates how another group would differ."
    )
    if n == 2:
        text = (
            "Only two seeds were compared: an excess correlation is that of a single pair, and "
            "what two seeds share need not be shared by a third."
        )
    draws = config.get("baseline", {}).get("draws")
    if draws:
        text += f" The baseline averages {plural(int(draws), 'rotation', 'rotations')} per pair."
    return text


def _on_neurons(neurons: pd.DataFrame, config: Mapping[str, Any], scored_tokens: int) -> list[str]:
    last = neurons[neurons["step"] == neurons["step"].max()]
    dead = int(last["dead"].sum())
    few = last[(last["effective_tokens"] < FEW_TOKENS) & ~last["dead"]]
    worst = neurons["rounding_se"].max()
    remarks = [
        f"Dead at the last step are {out_of(dead, len(last))} neurons "
        f"({percent(dead / len(last))}): their activation never changes, so they have correlation "
        "0 and are not universal."
        if dead
        else f"None of the {len(last):,} neurons is dead at the last step.",
        f"{out_of(len(few), len(last))} neurons have all their variance in fewer than "
        f"{FEW_TOKENS} tokens in effect: their matches mean little, however exact the "
        f"arithmetic (effective_tokens in neurons.parquet; below {LEAST_EFFECTIVE} none is called "
        "universal)."
        if len(few)
        else f"No neuron at the last step has its variance in fewer than {FEW_TOKENS} tokens.",
        f"The encoding adds a standard error of at most {worst:.2g} to a correlation.",
    ]
    if config.get("capture", {}).get("encoding", "int8") == "int8":
        escapes = int(neurons["escapes"].sum())
        share = percent(escapes / (len(neurons) * scored_tokens))
        remarks.append(
            f"{escapes:,} activation values of all models ({share}) lay beyond the range of the "
            "int8 codes and are stored whole: none was cut."
            if escapes
            else "No activation value lay beyond the range of the int8 codes."
        )
    return remarks


def _on_controls(contrasts: pd.DataFrame) -> list[str]:
    if contrasts.empty:
        return []
    refused = int((~contrasts["comparable"].astype(bool)).sum())
    fewest, most = contrasts["n_controls"].min(), contrasts["n_controls"].max()
    number = f"{most}" if fewest == most else f"{fewest} to {most}"
    remarks = [
        f"Each ablated set of universal neurons is held against {number} control sets, whose "
        "neurons are matched one to one in the size of what their ablation changes and in "
        "sparsity, not in all else that may matter. The interval of the difference covers the "
        "choice of seeds (Student's t), with it the draw of controls, and that of held-out "
        "documents. Intervals by layer are not corrected for the number of layers: of those "
        "without any effect, about one in twenty would still exclude zero.",
        f"In {out_of(refused, len(contrasts))} comparisons (step, seed, layer) what is changed "
        "differs too much for a verdict (`comparable` in ablation.parquet)."
        if refused
        else "All sets compared are changed by as much (`comparable` in ablation.parquet).",
    ]
    smaller = contrasts[contrasts["control_neurons"] < contrasts["n_neurons"]]
    if len(smaller):
        keys = smaller[["step", "seed", "layer"]].drop_duplicates()
        remarks.append(
            f"In {plural(len(keys), 'case', 'cases')} (step, seed and layer) more neurons are "
            "universal than not, so that control sets are smaller than the universal set: there, "
            "a larger loss change of universal neurons may be due to their number."
        )
    return remarks
