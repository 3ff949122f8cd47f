"""The report of a run: its numbers in sentences, how far to trust them, figures and tables.

Every sentence follows from the result tables; where they show nothing, the sentence says so.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml
from docutils.core import publish_parts
from markupsafe import Markup
from scipy.stats import spearmanr

from universal_neurons.budget import ENOUGH
from universal_neurons.errors import UserError
from universal_neurons.report.figures.draw import FIGURES, MAY_BE_EMPTY
from universal_neurons.report.summaries import (
    ALL_LAYERS,
    ablation_contrasts,
    ablation_over_seeds,
    agreement,
    budget_over_seeds,
    chance_curve,
    consecutive,
    doses_over_seeds,
    moves,
    persistence_over_seeds,
    pooled_counts,
    universal_counts,
)
from universal_neurons.trajectories import LABELS

Tables = Mapping[str, pd.DataFrame]

# Of 2401.12181: GPT-2 Small after 400,000 steps.
PAPER_THRESHOLD = 0.5
FALSE_DISCOVERY_RATE = 0.05

# A rounding error of correlations that the report warns of, and effective tokens too few for a
# match to mean much (conventions).
COARSE = 0.005
FEW_TOKENS = 50

# Groups that the report lists.
MAX_GROUPS = 20

# What each null of the table `nulls` stands for.
NULLS = {
    "rotated": "random rotations of the other seeds' neurons",
    "permuted": "other seeds run over other sequences",
    "untrained": "untrained models",
}

# Columns of `ablation_over_seeds` that are losses.
ABLATION_LOSSES = (
    *("universal", "universal_se", "control", "control_sd"),
    *("difference", "low", "high"),
)

KIND = {
    "mean": "by their mean",
    "zero": "by zero",
    "resample": "by their values at other tokens",
}


@dataclass(frozen=True)
class Headline:
    """A paragraph of the results: what it is about, and the sentences."""

    topic: str
    text: str


@dataclass(frozen=True)
class ShortTable:
    """A table of the report: rows of column to finished text."""

    title: str
    note: str
    rows: list[dict[str, str]]
    text_columns: frozenset[str] = field(default=frozenset())

    @property
    def columns(self) -> list[str]:
        """Column names in order."""
        return list(self.rows[0]) if self.rows else []


def write_report(
    tables: Tables,
    figures: str | Path,
    captions: str | Path,
    *,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    out: str | Path,
    benchmarks: Mapping[str, Mapping[str, float]] | None = None,
    subsets: pd.DataFrame | None = None,
) -> None:
    """Write ``report.html``: one file that needs no other and loads nothing.

    Parameters
    ----------
    tables
        As `summaries.read_tables` returns them.
    figures
        Directory with ``<name>.svg`` for every name of `figures.FIGURES`.
    captions
        Directory with ``<name>.rst`` for each of these, and ``workflow.rst``.
    config
        The run's configuration, defaults filled in.
    provenance
        What to list as the run's origin, name to value. ``scored_tokens``, if among it, is the
        number of token positions behind every correlation.
    out
        Path of the HTML file.
    benchmarks
        As `read_benchmarks` returns them.
    subsets
        As `summaries.subset_preferences` returns them.

    Raises
    ------
    UserError
        If a figure or caption is missing, or a table is empty.
    """
    for name, table in tables.items():
        if table.empty and name not in MAY_BE_EMPTY:
            raise UserError(f"report: the table {name} has no rows")
    threshold = float(config["universality"]["excess_threshold"])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("universal_neurons.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        run=config["run"],
        warnings=warnings(tables),
        headlines=headlines(tables, threshold),
        introduction=_caption(Path(captions) / "workflow.rst"),
        trust=trust(tables, config, provenance),
        figures=[_figure(name, Path(figures), Path(captions)) for name in FIGURES],
        tables=short_tables(tables, benchmarks, subsets),
        configuration=_as_yaml(config),
        provenance=provenance,
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def read_benchmarks(folder: str | Path) -> dict[str, dict[str, float]]:
    """Add up Snakemake's benchmark files by rule.

    Parameters
    ----------
    folder
        Holds ``<rule>.tsv`` or ``<rule>/…/*.tsv``.

    Returns
    -------
    dict
        Rule to ``jobs`` (number), ``seconds`` (their sum) and ``memory_mb`` (the largest), slowest
        rule first.
    """
    folder = Path(folder)
    rules: dict[str, list[pd.DataFrame]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        rules.setdefault(rule, []).append(pd.read_csv(path, sep="\t", na_values="-"))
    totals = {rule: pd.concat(parts) for rule, parts in rules.items()}
    summed = {
        rule: {
            "jobs": float(len(table)),
            "seconds": float(table["s"].sum()),
            "memory_mb": float(table["max_rss"].max()),
        }
        for rule, table in totals.items()
    }
    return dict(sorted(summed.items(), key=lambda item: -item[1]["seconds"]))


def headlines(tables: Tables, threshold: float) -> list[Headline]:
    """The run's main numbers in plain sentences, computed from its tables.

    Parameters
    ----------
    tables
        As `summaries.read_tables` returns them.
    threshold
        Excess correlation above which a neuron is universal.
    """
    return [
        Headline(
            "Universal neurons",
            _on_emergence(tables["universality"], tables["fractions"], threshold),
        ),
        Headline("Beyond chance", _on_chance(tables["universality"], tables["nulls"])),
        Headline("Enough tokens?", _on_budget(tables["token_budget"])),
        Headline("Groups", _on_groups(tables["universality"])),
        Headline("Persistence", _on_persistence(tables["persistence"])),
        Headline("Courses of neurons", _on_courses(tables["trajectories"])),
        *_on_ablation(tables["ablation"]),
        Headline("Doses", _on_doses(tables["doses"])),
        Headline("Single neurons", _on_single(tables["effects"])),
        Headline("Held-out loss", _on_loss(tables["models"])),
    ]


def warnings(tables: Tables) -> list[str]:
    """What makes the results wrong rather than uncertain: same weights, coarse codes."""
    return [*_on_copies(tables["models"]), *_on_rounding(tables["neurons"])]


def _on_rounding(neurons: pd.DataFrame) -> list[str]:
    if "rounding_se" not in neurons:
        return []
    coarse = neurons[neurons["rounding_se"] > COARSE]
    if coarse.empty:
        return []
    worst = coarse.nlargest(1, "rounding_se").iloc[0]
    return [
        f"The codes of {_plural(len(coarse), 'neuron', 'neurons')} are too coarse: rounding adds a "
        f"standard error of more than {COARSE} to their correlations ({worst['rounding_se']:.2g} "
        f"to those of seed {worst['seed']}, step {int(worst['step']):,}, layer "
        f"{int(worst['layer'])}, neuron {int(worst['neuron'])}). They vary less than the "
        "calibration sample said, or the tokens are few: score more tokens, raise "
        "capture.calibration_tokens, or use capture.encoding: bfloat16."
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
        f"{_plural(len(copies), 'model has', 'models have')} the same weights as another one: "
        f"{_listed(pairs)}. Copies are not independent observations: between seeds they make "
        "neurons look universal, between steps they make them look persistent. The numbers below "
        "include them."
    ]


def trust(tables: Tables, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[str]:
    """How far the headline numbers can be trusted, one remark each.

    Parameters
    ----------
    tables
        As `summaries.read_tables` returns them.
    config
        With universality.excess_threshold; corpus.tokens, baseline.draws and capture.encoding are
        mentioned where given.
    provenance
        ``scored_tokens``, if given, replaces the number asked for in the configuration.
    """
    threshold = float(config["universality"]["excess_threshold"])
    remarks = [
        *_on_tokens(config, provenance),
        _on_threshold(tables["universality"], threshold),
        _on_seeds(tables["universality"], config),
        *_on_neurons(tables["neurons"], config, provenance),
        *_on_controls(tables["ablation"]),
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


def short_tables(
    tables: Tables,
    benchmarks: Mapping[str, Mapping[str, float]] | None = None,
    subsets: pd.DataFrame | None = None,
) -> list[ShortTable]:
    """The tables of the report, summarised over seeds."""
    shorts = [
        _claims_table(tables),
        _universal_table(tables["universality"]),
        _chance_table(tables["universality"], tables["nulls"]),
        _agreement_table(tables["universality"]),
        _groups_table(tables["groups"], tables["universality"]),
        _persistence_table(tables["persistence"]),
        _ablation_table(tables["ablation"]),
        _models_table(tables["models"]),
    ]
    if subsets is not None:
        shorts.append(_subset_table(subsets))
    if benchmarks:
        shorts.append(_benchmark_table(benchmarks))
    return [short for short in shorts if short.rows]


def _on_emergence(universality: pd.DataFrame, fractions: pd.DataFrame, threshold: float) -> str:
    pooled = pooled_counts(universal_counts(universality))
    overall = pooled[pooled["layer"] == ALL_LAYERS].set_index("step").sort_index()
    last, first = overall.index[-1], overall.index[0]
    now = overall.loc[last]
    sentences = []
    if now["n_universal"]:
        sentences.append(
            f"At the last step ({last:,}), {_percent(now['fraction'])} of neurons "
            f"({_of(now['n_universal'], now['n_neurons'])}, "
            f"{_pooled(int(now['n_seeds']), now['lowest'], now['highest'])}) have an excess "
            f"correlation above {threshold:g}."
        )
    else:
        highest = universality.loc[universality["step"] == last, "excess_corr"].max()
        sentences.append(
            f"At the last step ({last:,}), no universal neuron was found: none of "
            f"{int(now['n_neurons']):,} neurons (pooled over {_seeds(int(now['n_seeds']))}) has an "
            f"excess correlation above {threshold:g}; the highest is {_number(highest, 3)}."
        )
    sentences.append(_interval_of(fractions))
    if first != last:
        then = overall.loc[first]
        sentences.append(
            f"At the first step ({first:,}) it was {_percent(then['fraction'])} "
            f"({_of(then['n_universal'], then['n_neurons'])})."
        )
    most = overall.iloc[int(overall["fraction"].to_numpy().argmax())]
    peak = most.name
    if peak not in (first, last):
        sentences.append(
            f"The share was highest at step {peak:,}: {_percent(most['fraction'])} "
            f"({_of(most['n_universal'], most['n_neurons'])})."
        )
    by_layer = pooled[(pooled["layer"] != ALL_LAYERS) & (pooled["step"] == last)]
    by_layer = by_layer.set_index("layer")["fraction"]
    if len(by_layer) > 1 and now["n_universal"]:
        sentences.append(
            f"Of the layers at the last step, layer {by_layer.idxmax()} has the largest share "
            f"({_percent(by_layer.max())}), layer {by_layer.idxmin()} the smallest "
            f"({_percent(by_layer.min())})."
        )
    means = universality.groupby("step")["excess_corr"].mean()
    average = f"Whatever the threshold, the mean excess correlation is {_number(means[last], 3)}"
    before = f" at the last step and was {_number(means[first], 3)} at the first"
    sentences.append(average + (before if first != last else "") + ".")
    return " ".join(sentences)


def _interval_of(fractions: pd.DataFrame) -> str:
    mean = fractions[(fractions["seed"] == "") & (fractions["layer"] == ALL_LAYERS)]
    mean = mean.sort_values("step")
    now, then = mean.iloc[-1], mean.iloc[0]
    if np.isnan(now["se"]):
        return "Its standard error is not known: that takes stored activations (capture.store)."
    said = (
        f"The mean over seeds has a 95 % interval of {_percent(now['low'])} to "
        f"{_percent(now['high'])}, for the choice of tokens and of seeds"
    )
    if len(mean) > 1:
        apart = now["low"] > then["high"] or now["high"] < then["low"]
        if apart:
            said += "; it does not overlap that of the first step"
        else:
            said += "; it overlaps that of the first step: the two are not clearly distinguishable"
    return said + "."


def _on_chance(universality: pd.DataFrame, nulls: pd.DataFrame) -> str:
    last = universality["step"].max()
    now = universality[universality["step"] == last]
    if now["q_value"].isna().all():
        return (
            "No p-values: at step 0 a null takes two rotations at least (baseline.draws) or stored "
            "activations (capture.store)."
        )
    compared = set(nulls.loc[nulls["step"] == nulls["step"].max(), "null"])
    known = [name for name in NULLS if name in compared]
    chance = _listed([NULLS[name] for name in known])
    n, passing = len(now), int((now["q_value"] < FALSE_DISCOVERY_RATE).sum())
    above = int((now["excess_corr"] > PAPER_THRESHOLD).sum())
    rate = _percent(FALSE_DISCOVERY_RATE)
    if passing:
        lowest = now.loc[now["q_value"] < FALSE_DISCOVERY_RATE, "excess_corr"].min()
        text = (
            f"At the last step ({last:,}), {_of(passing, n)} neurons ({_percent(passing / n)}) are "
            f"beyond chance at a false discovery rate of {rate}: matched better than {chance}. "
            f"The smallest excess correlation among them is {_number(lowest, 2)}; "
        )
    else:
        text = (
            f"At the last step ({last:,}), none of {n:,} neurons is distinguishable from chance "
            f"({chance}) at a false discovery rate of {rate}; "
        )
    return text + f"{_of(above, n)} exceed the papers' {PAPER_THRESHOLD:g}."


def _on_budget(token_budget: pd.DataFrame) -> str:
    """Whether half the tokens would have said the same, and two halves of them agree."""
    if token_budget.empty:
        return (
            "There are no scores of fewer tokens to compare: they take two shards or more "
            "(corpus.shards) and correlations of all pairs (correlate.mode: exact)."
        )
    summary = budget_over_seeds(token_budget)
    last = summary[summary["step"] == summary["step"].max()].set_index("part")
    half, everything = last.loc[["first"]].iloc[-1], last.loc["all"]
    reliability = last.loc["second half", "reliability"]
    text = (
        f"Of {int(everything['n_neurons']):,} sampled neurons (of "
        f"{_seeds(int(everything['n_seeds']))}) at the last step, "
        f"{int(everything['n_universal']):,} are universal with all "
        f"{int(everything['n_tokens']):,} tokens. With the first {int(half['n_tokens']):,} of them "
    )
    if pd.isna(half["jaccard"]):
        text += "none is either, so there are no sets to compare"
    else:
        text += f"the universal set has a Jaccard index of {half['jaccard']:.2f} with that of all"
    text += (
        f", excess correlations have a rank correlation of {_number(half['rank_corr'], 2)}, and "
        f"the agreement of two halves gives all tokens a reliability of {_number(reliability, 2)}"
    )
    if not half["jaccard"] < ENOUGH and reliability >= ENOUGH:
        return f"{text}: the tokens were enough, more would change little."
    return (
        f"{text}: the tokens were not enough (both should be {ENOUGH:g} or more), more could "
        "change which neurons are universal."
    )


def _on_persistence(persistence: pd.DataFrame) -> str:
    if persistence.empty:
        return "Persistence needs at least two steps; this run has one."
    overall = persistence_over_seeds(persistence[persistence["layer"] == ALL_LAYERS])
    judged = overall[overall["n_from"] > 0]
    if judged.empty:
        return "There is no persistence to judge: no neuron is universal before the last step."
    step_by_step = consecutive(overall)
    recent = step_by_step[step_by_step["n_from"] > 0]
    sentences = [_overlap(recent.iloc[-1])] if len(recent) else []
    longest = judged[judged["to_step"] == judged["to_step"].max()].iloc[0]
    if recent.empty or longest["from_step"] != recent.iloc[-1]["from_step"]:
        sentences.append(_overlap(longest))
    return " ".join(sentences)


def _overlap(row: pd.Series) -> str:
    n, significant = int(row["n_seeds"]), int(row["n_significant"])
    seeds = _pooled(n, row["lowest"], row["highest"])
    text = (
        f"Of the neurons universal at step {int(row['from_step']):,}, {_percent(row['pooled'])} "
        f"({_of(row['n_both'], row['n_from'])}, {seeds}) are universal at step "
        f"{int(row['to_step']):,}; {_percent(row['pooled_chance'])} would be by chance"
    )
    few = " These are few neurons." if row["n_from"] < 20 else ""
    if row["pooled"] <= row["pooled_chance"]:
        return f"{text}, so they persist no more than chance would have it.{few}"
    text += f", so they persist {_times(row['pooled'] / row['pooled_chance'])} as often.{few}"
    if significant == n:
        where = f" in each of {n} seeds" if n > 1 else ""
        return (
            f"{text} An overlap as large or larger would be unlikely by chance{where} "
            f"(hypergeometric test, {'largest ' if n > 1 else ''}p {_p_value(row['p_max'])})."
        )
    return (
        f"{text} Seed by seed, so large an overlap would be unlikely by chance (p < 0.05, "
        f"hypergeometric test) in {significant} of {n}."
    )


def _on_groups(universality: pd.DataFrame) -> str:
    """Neurons that every seed has, without a threshold, and how well matches foretell a seed."""
    last = universality[universality["step"] == universality["step"].max()]
    n_seeds, members = last["seed"].nunique(), last[last["in_group"]]
    n_groups = len(members) // n_seeds
    if n_groups == 0:
        text = "At the last step no neurons are each other's best match in all seeds."
    else:
        universal = int(members["universal"].sum())
        text = (
            f"At the last step {_plural(n_groups, 'group', 'groups')} of {n_seeds} neurons, one of "
            f"each seed, {'is' if n_groups == 1 else 'are'} each other's best match throughout "
            f"(groups.parquet); {_of(universal, len(members))} of these neurons are universal."
        )
    foretold = last["leave_one_out"].dropna()
    if len(foretold):
        text += (
            f" A neuron called universal by the other seeds has a match in a seed left out in "
            f"{_percent(foretold.mean())} of the cases (mean over {len(foretold):,} neurons)."
        )
    return text


def _on_courses(trajectories: pd.DataFrame) -> str:
    """What becomes of neurons, and whether their functions stay at their index."""
    if trajectories["step"].nunique() == 1:
        return "Courses need at least two steps; this run has one."
    neurons = trajectories[trajectories["step"] == trajectories["step"].max()]
    counts = neurons["label"].value_counts().reindex(LABELS, fill_value=0)
    named = [f"{counts[name]:,} {name}" for name in LABELS[1:]]
    ever = len(neurons) - counts["never"]
    sentences = [
        f"{_of(ever, len(neurons))} neurons ({_percent(ever / len(neurons))}) are universal at "
        f"some step: {_listed(named)}."
    ]
    table = moves(trajectories)
    last = table[table["step"] == table["step"].max()].set_index("universal")
    if True in last.index:
        own = last.loc[True]
        sentences.append(
            f"Of the neurons universal at step {int(own['step']):,}, {_percent(own['stayed'])} "
            f"({_range(own['lowest'], own['highest'])} in single seeds) are their own best match "
            f"in the same seed at the next step, against {_percent(own['chance'])} by chance; "
            f"their median correlation with themselves is {_number(own['self_corr'], 2)}."
        )
    if {True, False} <= set(last.index):
        other = last.loc[False]
        sentences.append(
            f"Of the other neurons it is {_percent(other['stayed'])}, with a median of "
            f"{_number(other['self_corr'], 2)}."
        )
    return " ".join(sentences)


def _on_doses(doses: pd.DataFrame) -> str:
    """The loss change of the top of all neurons at the last step, whatever the threshold."""
    table = doses_over_seeds(doses)
    largest = table.iloc[-1]
    digits = _decimals((largest["high"] - largest["low"]) / 4)
    top, control, difference, low, high = (
        _number(largest[c], digits) for c in ("top", "control", "difference", "low", "high")
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


def _on_single(effects: pd.DataFrame) -> str:
    """Whether excess goes with effect neuron by neuron, and how good the estimates are."""
    last = effects[effects["step"] == effects["step"].max()]
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
        f"effect on the loss have a rank correlation of {_number(mean, 2)} (mean over "
        f"{_seeds(len(rhos))}; {_number(min(rhos), 2)} to {_number(max(rhos), 2)})."
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
                f"effects is {_number(agreement, 2)}."
            )
    return text


def _on_ablation(ablation: pd.DataFrame) -> list[Headline]:
    contrasts = ablation_contrasts(ablation)
    if contrasts.empty:
        any_universal = ablation.loc[ablation["neuron_set"] == "universal", "n_neurons"].any()
        reason = "there are no control sets" if any_universal else "there are no universal neurons"
        return [Headline("Ablation", f"There is no ablation to report: {reason}.")]
    summary = ablation_over_seeds(contrasts)
    last = int(ablation["step"].max())
    return [
        Headline(f"Ablation ({kind})", _on_kind(summary[summary["kind"] == kind], kind, last))
        for kind in dict.fromkeys(contrasts["kind"])
    ]


def _on_kind(summary: pd.DataFrame, kind: str, last: int) -> str:
    overall = summary[summary["layer"] == ALL_LAYERS]
    row = overall.sort_values("step").iloc[-1]
    step = row["step"]
    seeds = f"mean over {row['n_seeds']} seeds" if row["n_seeds"] > 1 else "one seed"
    digits = _decimals(row["universal_se"])
    error = "not known" if math.isnan(row["universal_se"]) else f"{row['universal_se']:.{digits}f}"
    spread = "" if math.isnan(row["low"]) else _spread_of(row)
    text = (
        f"At step {step:,}{'' if step == last else ', the last with universal neurons'}, replacing "
        f"all universal neurons of a model ({_average(row['n_neurons'])}) {KIND[kind]} "
        f"{_moves(row['universal'], digits)} (standard error {error}; {seeds}). "
        f"Replacing control sets instead, {row['n_controls']} per model, "
        f"{_moves(row['control'], digits, again=True)}{spread}. {_verdict(row)}"
    )
    return f"{text} {_on_layers(summary, step)}".strip()


def _spread_of(row: pd.Series) -> str:
    spread = f"{row['control_sd']:.{_decimals(row['control_sd'])}f}"
    of_mean = ", of this mean" if row["n_seeds"] > 1 else ""
    return f" (standard deviation between sets{of_mean}, {spread})"


def _verdict(row: pd.Series) -> str:
    """Whether the difference between universal neurons and controls is distinguishable from 0."""
    if math.isnan(row["low"]):
        return (
            f"The difference is {_number(row['difference'], 4)}; its uncertainty is not known, "
            "for want of control sets or held-out sequences."
        )
    digits = _decimals((row["high"] - row["low"]) / 4)
    difference, low, high = (_number(row[c], digits) for c in ("difference", "low", "high"))
    ratio = f"ratio {row['ratio']:.2f}" if not math.isnan(row["ratio"]) else ""
    interval = f"{difference} nats per token (95 % interval {low} to {high}"
    interval += f"; {ratio})" if ratio else ")"
    agree = f" It is positive in {row['n_seeds_above']} of {_seeds(row['n_seeds'])}."
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
        f"{where} {'all' if chosen.all() else _layers(layers.loc[chosen, 'layer'].tolist())}"
        for where, chosen in groups.items()
        if chosen.any()
    ]
    return f"Of {len(layers)} layers ablated one at a time, the difference is {_listed(parts)}."


def _on_loss(models: pd.DataFrame) -> str:
    loss = models.dropna(subset=["heldout_loss"]).groupby("step")["heldout_loss"]
    if not loss.ngroups:
        return "The held-out loss was not measured."
    mean, lowest, highest, seeds = loss.mean(), loss.min(), loss.max(), loss.size()
    first, last = mean.index.min(), mean.index.max()
    single = f"{lowest[last]:.3f} to {highest[last]:.3f} in single seeds"
    if first == last:
        return (
            f"At step {last:,} the held-out loss is {mean[last]:.3f} nats per token "
            f"(mean over {_seeds(seeds[last])}; {single})."
        )
    verb = "falls" if mean[last] < mean[first] else "does not fall: it goes"
    return (
        f"The held-out loss {verb} from {mean[first]:.3f} nats per token at step {first:,} to "
        f"{mean[last]:.3f} at step {last:,} (mean over {_seeds(seeds[last])}; at the last step "
        f"{single})."
    )


def _on_tokens(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[str]:
    corpus = config.get("corpus", {})
    scored = provenance.get("scored_tokens")
    if scored:
        count, what = int(scored), f"{int(scored):,} scored tokens"
    elif "tokens" in corpus:
        count = int(corpus["tokens"])
        what = f"at most {count:,} scored tokens (in whole sequences, excluded tokens not counted)"
    else:
        return []
    remark = (
        f"Correlations rest on {what}. Were tokens independent, a correlation near 0 would have a "
        f"standard error of {1 / math.sqrt(count):.2g}; tokens of one text are not, so the true "
        "error is larger."
    )
    held_out = corpus.get("heldout_tokens")
    return [remark + (f" Losses use {held_out:,} other tokens." if held_out else "")]


def _on_threshold(universality: pd.DataFrame, threshold: float) -> str:
    last = universality["step"].max()
    excess = universality.loc[universality["step"] == last, "excess_corr"]
    above = int((excess > PAPER_THRESHOLD).sum())
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
        text += (
            f" Here, {_of(above, len(excess))} neurons ({_percent(above / len(excess))}) would "
            f"pass {PAPER_THRESHOLD:g} at the last step."
        )
    return f"{text} Percentages at different thresholds cannot be compared."


def _on_seeds(universality: pd.DataFrame, config: Mapping[str, Any]) -> str:
    n = universality["seed"].nunique()
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
        text += f" The baseline averages {_plural(int(draws), 'rotation', 'rotations')} per pair."
    return text


def _on_neurons(
    neurons: pd.DataFrame, config: Mapping[str, Any], provenance: Mapping[str, Any]
) -> list[str]:
    last = neurons[neurons["step"] == neurons["step"].max()]
    dead = int((last["dead"] if "dead" in last else last["std"] == 0).sum())
    remarks = [
        f"Dead at the last step are {_of(dead, len(last))} neurons ({_percent(dead / len(last))}): "
        "their activation never changes, so they have correlation 0 and are not universal."
        if dead
        else f"None of the {len(last):,} neurons is dead at the last step."
    ]
    if "effective_tokens" in last:
        few = last[(last["effective_tokens"] < FEW_TOKENS) & (last["std"] > 0)]
        remarks.append(
            f"{_of(len(few), len(last))} neurons have all their variance in fewer than "
            f"{FEW_TOKENS} tokens in effect: their matches mean little, however exact the "
            "arithmetic (effective_tokens in neurons.parquet)."
            if len(few)
            else f"No neuron at the last step has its variance in fewer than {FEW_TOKENS} tokens."
        )
    if "rounding_se" in neurons:
        worst = neurons["rounding_se"].max()
        remarks.append(
            f"The encoding adds a standard error of at most {worst:.2g} to a correlation."
        )
    int8 = config.get("capture", {}).get("encoding", "int8") == "int8"
    if int8 and "escapes" in neurons:
        escapes = int(neurons["escapes"].sum())
        scored = provenance.get("scored_tokens")
        share = f" ({_percent(escapes / (len(neurons) * int(scored)))})" if scored else ""
        remarks.append(
            f"{escapes:,} activation values of all models{share} lay beyond the range of the int8 "
            "codes and are stored whole: none was cut."
            if escapes
            else "No activation value lay beyond the range of the int8 codes."
        )
    return remarks


def _on_controls(ablation: pd.DataFrame) -> list[str]:
    contrasts = ablation_contrasts(ablation)
    if contrasts.empty:
        return []
    fewest, most = contrasts["n_controls"].min(), contrasts["n_controls"].max()
    number = f"{most}" if fewest == most else f"{fewest} to {most}"
    remarks = [
        f"Each ablated set of universal neurons is held against {number} control sets. The "
        "interval of the difference covers chance in drawing them (independent between seeds) and "
        "in the held-out sequences (shared by all seeds); it says nothing about other seeds. "
        "Intervals by layer are not corrected for the number of layers: of those without any "
        "effect, about one in twenty would still exclude zero."
    ]
    smaller = contrasts[contrasts["control_neurons"] < contrasts["n_neurons"]]
    if len(smaller):
        keys = smaller[["step", "seed", "layer"]].drop_duplicates()
        remarks.append(
            f"In {_plural(len(keys), 'case', 'cases')} (step, seed and layer) more neurons are "
            "universal than not, so that control sets are smaller than the universal set: there, "
            "a larger loss change of universal neurons may be due to their number."
        )
    return remarks


UNKNOWN = "cannot be said from this run"


def _claims_table(tables: Tables) -> ShortTable:
    """What the papers say, beside what this run shows."""
    claims = [
        ("1 to 5 % of neurons are universal (2401.12181)", _found_share(tables)),
        ("universal neurons appear early and rise in number (2508.00903)", _found_rise(tables)),
        ("they persist far above chance (2508.00903)", _found_persistence(tables)),
        ("most so in the first and last layers (2508.00903)", _found_persistent_layers(tables)),
        ("ablating them costs more than ablating others (2508.00903)", _found_cost(tables)),
        ("most of all in layer 0 (2508.00903)", _found_costly_layer(tables)),
    ]
    rows = [{"published claim": claim, "this run": found} for claim, found in claims]
    note = (
        "Published for GPT-2 of 12 layers and more, at a threshold of 0.5; pooled over seeds here."
    )
    return ShortTable("Published claims", note, rows, frozenset({"published claim", "this run"}))


def _found_share(tables: Tables) -> str:
    pooled = pooled_counts(universal_counts(tables["universality"]))
    now = pooled[pooled["layer"] == ALL_LAYERS].sort_values("step").iloc[-1]
    return f"{_percent(now['fraction'])} at the last step, at the threshold of this run"


def _found_rise(tables: Tables) -> str:
    pooled = pooled_counts(universal_counts(tables["universality"]))
    overall = pooled[pooled["layer"] == ALL_LAYERS].set_index("step").sort_index()
    if len(overall) < 2:
        return f"{UNKNOWN}: one step only"
    counts = overall["n_universal"]
    some = counts[counts > 0]
    if some.empty:
        return f"{UNKNOWN}: no neuron is universal"
    first, last = counts.index[0], counts.index[-1]
    verb = "rise" if counts[last] > counts[first] else "do not rise"
    always = "" if counts.is_monotonic_increasing else ", not at every step"
    shares = f"{_percent(overall['fraction'][first])} to {_percent(overall['fraction'][last])}"
    steady = always if verb == "rise" else ""
    return f"first found at step {some.index[0]:,}; they {verb} from {shares}{steady}"


def _found_persistence(tables: Tables) -> str:
    persistence = tables["persistence"]
    if persistence.empty:
        return f"{UNKNOWN}: one step only"
    single = persistence["q_value"].dropna()
    overall = persistence_over_seeds(persistence[persistence["layer"] == ALL_LAYERS])
    judged = consecutive(overall)[lambda table: table["n_from"] > 0]
    if judged.empty:
        return f"{UNKNOWN}: no neuron is universal before the last step"
    row = judged.iloc[-1]
    text = (
        f"{_percent(row['pooled'])} from step {int(row['from_step']):,} to "
        f"{int(row['to_step']):,}, {_percent(row['pooled_chance'])} by chance"
    )
    if row["n_significant"] == 0:
        text += ": not distinguishable from chance"
    if len(single):
        passing = int((single < 0.05).sum())
        text += f"; {_of(passing, len(single))} overlaps of single layers have q < 0.05"
    return text


def _found_persistent_layers(tables: Tables) -> str:
    persistence = tables["persistence"]
    summary = consecutive(persistence_over_seeds(persistence)) if len(persistence) else persistence
    layers = sorted(set(tables["universality"]["layer"]))
    if len(layers) < 3:
        return f"{UNKNOWN}: {_plural(len(layers), 'layer has', 'layers have')} no middle"
    if persistence.empty:
        return f"{UNKNOWN}: one step only"
    last = summary[summary["to_step"] == summary["to_step"].max()].set_index("layer")
    pooled = last["pooled"].drop(ALL_LAYERS).dropna()
    if len(pooled) < 3:
        return f"{UNKNOWN}: too few layers have universal neurons before the last step"
    order = pooled.sort_values(ascending=False)
    return (
        f"layers {order.index[0]} and {order.index[1]} have the largest persistence "
        f"({_percent(order.iloc[0])}, {_percent(order.iloc[1])}), layer {order.index[-1]} the "
        f"smallest ({_percent(order.iloc[-1])})"
    )


def _last_ablation(tables: Tables) -> pd.DataFrame:
    """`ablation_over_seeds` of the first kind at the last step that has contrasts."""
    contrasts = ablation_contrasts(tables["ablation"])
    if contrasts.empty:
        return contrasts
    summary = ablation_over_seeds(contrasts[contrasts["kind"] == contrasts["kind"].iloc[0]])
    return summary[summary["step"] == summary["step"].max()].set_index("layer")


def _found_cost(tables: Tables) -> str:
    summary = _last_ablation(tables)
    if ALL_LAYERS not in summary.index:
        return f"{UNKNOWN}: no universal neurons with controls"
    row = summary.loc[[ALL_LAYERS]].iloc[0]
    text = (
        f"{_number(row['universal'], 4)} against {_number(row['control'], 4)} nats per token of "
        f"matched controls"
    )
    if pd.isna(row["low"]):
        return f"{text}; its uncertainty is not known"
    if row["low"] <= 0 <= row["high"]:
        text += ": not distinguishable from chance"
    ablation = tables["ablation"]
    mine = ablation[
        (ablation["layer"] == ALL_LAYERS)
        & (ablation["step"] == row["step"])
        & (ablation["neuron_set"] == "universal")
        & (ablation["kind"] == row["kind"])
    ]
    p = mine["permutation_p"].dropna()
    if p.empty:
        return text
    few = int((p < 0.05).sum())
    text += f"; permutation p < 0.05 in {_of(few, len(p))} {'seed' if len(p) == 1 else 'seeds'}"
    share = float(mine["direct_delta_loss"].mean() / mine["delta_loss"].mean())
    # The ratio means nothing where the change itself is not clear.
    clear = row["universal"] > 2 * row["universal_se"]
    return f"{text}; {_percent(share)} of the change is direct" if clear else text


def _found_costly_layer(tables: Tables) -> str:
    summary = _last_ablation(tables)
    single = summary.drop(index=ALL_LAYERS, errors="ignore")
    if len(single) < 2:
        return f"{UNKNOWN}: too few layers with universal neurons and controls"
    row = single.sort_values("difference").iloc[-1]
    difference = _number(row["difference"], 4)
    text = f"the difference to controls is largest in layer {row.name} ({difference})"
    if pd.isna(row["low"]) or row["low"] <= 0 <= row["high"]:
        text += ", but not distinguishable from chance"
    return text


def _universal_table(universality: pd.DataFrame) -> ShortTable:
    pooled = pooled_counts(universal_counts(universality))
    shares = pooled.pivot(index="step", columns="layer", values="fraction")
    whole = pooled[pooled["layer"] == ALL_LAYERS].set_index("step")
    rows = []
    for step in shares.index:
        row = {
            "step": f"{step:,}",
            "universal": f"{int(whole.loc[step, 'n_universal']):,}",
            "of": f"{int(whole.loc[step, 'n_neurons']):,}",
        }
        for layer, share in shares.loc[step].items():
            name = "all layers" if layer == ALL_LAYERS else f"layer {layer}"
            row[name] = "–" if pd.isna(share) else _percent(share)
        rows.append(row)
    return ShortTable(
        "Universal neurons by step and layer", "Share of neurons, pooled over seeds.", rows
    )


def _chance_table(universality: pd.DataFrame, nulls: pd.DataFrame) -> ShortTable:
    table = chance_curve(universality, nulls)
    rows = [
        {"excess above": f"{row['threshold']:g}", "neurons": _percent(row["found"])}
        | {f"by chance: {name}": _percent(row[name]) for name in NULLS if name in table}
        for _, row in table.iterrows()
    ]
    return ShortTable(
        "Universal neurons and chance at every threshold",
        "Share of all seeds' neurons at the last step, and of the values of every null.",
        rows,
    )


def _agreement_table(universality: pd.DataFrame) -> ShortTable:
    table = agreement(universality)
    rows = [
        {"notion": str(name), "neurons": f"{int(row['count']):,}"}
        | {other: _number(row[other], 2) for other in table.index}
        for name, row in table.iterrows()
    ]
    return ShortTable(
        "Notions of a universal neuron",
        "Neurons of all seeds at the last step, and the Jaccard index of every two notions. "
        "One to one: the excess correlation with partners assigned so that none has two. "
        "Matched: excess correlation above the threshold. Mutual: each the other's best match. In "
        "a group: one of as many neurons as seeds, every two of them mutual matches.",
        rows,
        frozenset({"notion"}),
    )


def _groups_table(groups: pd.DataFrame, universality: pd.DataFrame) -> ShortTable:
    now = groups[groups["step"] == universality["step"].max()]
    n = now["group"].nunique()
    rows = []
    for _, members in now[now["group"] < MAX_GROUPS].groupby("group"):
        places = {f"seed {m['seed']}": f"{m['layer']}.{m['neuron']}" for _, m in members.iterrows()}
        first = members.iloc[0]
        rows.append(
            {
                "mean correlation": _number(first["group_mean_corr"], 2),
                "smallest": _number(first["group_min_corr"], 2),
                "mean excess": _number(members["excess_corr"].mean(), 2),
                **places,
            }
        )
    shown = f"the {len(rows)} closest of {n:,} groups" if n > len(rows) else "all groups"
    return ShortTable(
        "Groups: one neuron of each seed",
        "Neurons (layer.neuron) that are each other's best match in all seeds at the last step: "
        f"{shown}, with the correlations of their members. groups.parquet has all, of every step.",
        rows,
    )


def _persistence_table(persistence: pd.DataFrame) -> ShortTable:
    title = "Persistence, all layers"
    note = (
        "Each step to the next, and to the last; pooled over seeds with universal neurons at the "
        "earlier step."
    )
    if persistence.empty:
        return ShortTable(title, note, [])
    overall = persistence_over_seeds(persistence[persistence["layer"] == ALL_LAYERS])
    to_last = overall[overall["to_step"] == overall["to_step"].max()]
    shown = pd.concat([consecutive(overall), to_last]).drop_duplicates(["from_step", "to_step"])
    rows = [
        {
            "from step": f"{row['from_step']:,}",
            "to step": f"{row['to_step']:,}",
            "seeds": f"{row['n_seeds']}",
            "universal before": f"{row['n_from']:,}",
            "at both": f"{row['n_both']:,}",
            "persistence": _percent(row["pooled"]),
            "by chance": _percent(row["pooled_chance"]),
            "largest p": "–" if pd.isna(row["p_max"]) else _p_number(row["p_max"]),
        }
        for row in shown.sort_values(["from_step", "to_step"]).to_dict("records")
    ]
    return ShortTable(title, note, rows)


def _ablation_table(ablation: pd.DataFrame) -> ShortTable:
    note = (
        "All layers at every step, and each layer at the last step with universal neurons. Loss "
        "changes in 10⁻³ nats per token, mean over seeds, with the standard error over sequences "
        "(universal) or the standard deviation over control sets (controls)."
    )
    contrasts = ablation_contrasts(ablation)
    if contrasts.empty:
        return ShortTable("Ablation", note, [])
    summary = ablation_over_seeds(contrasts)
    last = summary.groupby("kind")["step"].transform("max")
    shown = summary[(summary["layer"] == ALL_LAYERS) | (summary["step"] == last)]
    rows = []
    for row in shown.sort_values(["kind", "step", "layer"]).to_dict("records"):
        change = {c: _number(1e3 * row[c], 3) for c in ABLATION_LOSSES}
        interval = f"{change['low']} to {change['high']}"
        rows.append(
            {
                "kind": row["kind"],
                "step": f"{row['step']:,}",
                "layer": "all" if row["layer"] == ALL_LAYERS else f"{row['layer']}",
                "seeds": f"{row['n_seeds']}",
                "neurons": f"{row['n_neurons']:,.1f}",
                "universal": f"{change['universal']} ± {change['universal_se']}",
                "controls": f"{change['control']} ± {change['control_sd']}",
                "difference": change["difference"],
                "95 % interval": "–" if pd.isna(row["low"]) else interval,
                "ratio": _number(row["ratio"], 2),
            }
        )
    return ShortTable("Ablation", note, rows, frozenset({"kind"}))


def _models_table(models: pd.DataFrame) -> ShortTable:
    rows = [
        {
            "seed": str(row["seed"]),
            "step": f"{row['step']:,}",
            "source": str(row["source"]),
            "commit": "–" if pd.isna(row["revision"]) else str(row["revision"])[:12],
            "SHA-256": str(row["sha256"])[:12],
            "same weights as": "–" if pd.isna(row["duplicate_of"]) else str(row["duplicate_of"]),
            "held-out loss": _number(row["heldout_loss"], 4),
        }
        for row in models.to_dict("records")
    ]
    return ShortTable(
        "Models",
        "Commit on the Hub and SHA-256 of the loaded weights, first 12 digits. Loss in nats per "
        "token.",
        rows,
        frozenset({"seed", "source", "commit", "SHA-256", "same weights as"}),
    )


def _subset_table(subsets: pd.DataFrame) -> ShortTable:
    neurons, universal = subsets["n_neurons"].sum(), subsets["n_universal"].sum()
    rows = [
        {
            "subset": row["subset"],
            "scored tokens": f"{row['n_tokens']:,}",
            "of all neurons": _of(row["n_neurons"], neurons),
            "of universal neurons": _of(row["n_universal"], universal),
        }
        for row in subsets.to_dict("records")
    ]
    return ShortTable(
        "Subsets of the corpus",
        "Where neurons have their largest mean activation, at the last step, all seeds. Subsets "
        "with few tokens have noisy means and so win too often. Every neuron's statistics are in "
        "subsets.parquet.",
        rows,
        frozenset({"subset"}),
    )


def _benchmark_table(benchmarks: Mapping[str, Mapping[str, float]]) -> ShortTable:
    rows = [
        {
            "rule": rule,
            "jobs": f"{cost['jobs']:,.0f}",
            "seconds": f"{cost['seconds']:,.1f}",
            "largest memory (MB)": _number(cost["memory_mb"], 0),
        }
        for rule, cost in benchmarks.items()
    ]
    return ShortTable("Time and memory by rule", "Summed over jobs.", rows, frozenset({"rule"}))


def _figure(name: str, figures: Path, captions: Path) -> dict[str, Any]:
    path = figures / f"{name}.svg"
    if not path.is_file():
        raise UserError(f"{path} is missing: draw the figures first")
    svg = path.read_bytes()
    # Matplotlib gives the size in points, of which 72 make 96 CSS pixels.
    width = re.search(rb'<svg[^>]*? width="([\d.]+)pt"', svg)
    return {
        "name": name,
        "title": FIGURES[name].title,
        "caption": _caption(captions / f"{name}.rst"),
        "source": f"data:image/svg+xml;base64,{b64encode(svg).decode()}",
        "width": round(float(width[1]) * 96 / 72) if width else 900,
    }


def _caption(path: Path) -> Markup:
    if not path.is_file():
        raise UserError(f"{path} is missing: every figure needs a caption")
    parts = publish_parts(
        path.read_text(encoding="utf-8"),
        writer="html5",
        settings_overrides={"file_insertion_enabled": False, "raw_enabled": False},
    )
    return Markup(parts["body"])


def _as_yaml(config: Mapping[str, Any]) -> str:
    # By way of JSON, because Snakemake's config may hold its own kinds of dict.
    plain = json.loads(json.dumps(config, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _percent(share: float) -> str:
    """A share in percent that is never rounded to nothing or to everything."""
    if pd.isna(share):
        return "–"
    percent = 100 * share
    if percent in (0, 100):
        return f"{percent:.0f}\u00a0%"
    if percent < 0.01:
        return "under 0.01\u00a0%"
    if percent >= 99.95:
        return "over 99.9\u00a0%"
    return f"{percent:.{2 if percent < 1 else 1}f}\u00a0%"


def _range(low: float, high: float) -> str:
    return _percent(low) if low == high else f"{_percent(low)} to {_percent(high)}"


def _pooled(n_seeds: int, lowest: float, highest: float) -> str:
    if n_seeds == 1:
        return "in the only seed that has any"
    return f"pooled over {n_seeds} seeds; {_range(lowest, highest)} in single seeds"


def _of(part: float, whole: float) -> str:
    return f"{int(part):,} of {int(whole):,}"


def _number(value: float, decimals: int) -> str:
    """With a true minus sign, and none before zero; a dash where there is no value."""
    if pd.isna(value):
        return "–"
    text = f"{value:,.{decimals}f}"
    negative = text.startswith("-") and float(text.replace(",", "")) != 0
    return ("−" if negative else "") + text.removeprefix("-")


def _decimals(error: float) -> int:
    """Decimals that show a number to two significant digits of its error."""
    if math.isnan(error) or error <= 0:
        return 4
    return min(8, max(2, 1 - math.floor(math.log10(error))))


def _moves(change: float, digits: int, again: bool = False) -> str:
    what = "it" if again else "the held-out loss"
    verb = "raises" if change > 0 else "lowers"
    amount = f"{abs(change):.{digits}f}"
    return f"{verb} {what} by {amount}{'' if again else ' nats per token'}"


def _average(count: float) -> str:
    return f"{count:,.0f}" if count == int(count) else f"{count:,.1f} on average"


def _times(ratio: float) -> str:
    return f"{ratio:,.1f} times" if ratio < 10 else f"{ratio:,.0f} times"


def _p_number(p: float) -> str:
    if p >= 0.001:
        return f"{p:.3f}"
    if p < 1e-15:
        return "< 10⁻¹⁵"
    mantissa, exponent = f"{p:.0e}".split("e")
    superscript = str(abs(int(exponent))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}×10⁻{superscript}"


def _p_value(p: float) -> str:
    text = _p_number(p)
    return text if text.startswith("<") else f"= {text}"


def _plural(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _seeds(n: int) -> str:
    return _plural(n, "seed", "seeds")


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _layers(layers: Sequence[int]) -> str:
    return ("layer " if len(layers) == 1 else "layers ") + _listed([str(x) for x in layers])
