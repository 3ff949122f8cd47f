"""What becomes of universal neurons and others from step to step, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from universal_neurons.persist.trajectories import LABELS
from universal_neurons.report.findings import Findings
from universal_neurons.report.lasting import consecutive, kept_more
from universal_neurons.report.words import (
    NOT_TRACED,
    count_seeds,
    listed,
    number,
    out_of,
    p_value,
    percent,
    pooled_over,
    share_range,
    times,
)


def on_persistence(findings: Findings, config: Mapping[str, Any]) -> str:
    """How many universal neurons stay, of how many that a second measurement would find.

    Parameters
    ----------
    findings
        Of the table persistence.
    config
        Of the run; persistence.exit_threshold is mentioned where given.
    """
    if findings.tables["persistence"].empty:
        return "Persistence needs at least two steps; this run has one."
    overall = findings.overlaps
    judged = overall[overall["n_from"] > 0]
    if judged.empty:
        return "There is no persistence to judge: no neuron is universal before the last step."
    step_by_step = consecutive(overall)
    recent = step_by_step[step_by_step["n_from"] > 0]
    sentences = []
    leaves = config.get("persistence", {}).get("exit_threshold")
    if leaves is not None:
        sentences.append(
            "A neuron once universal counts here as universal until its excess correlation is no "
            f"longer above {leaves:g} (persistence.exit_threshold)."
        )
    if len(recent):
        sentences.append(_overlap(recent.iloc[-1]))
    longest = judged[judged["to_step"] == judged["to_step"].max()].iloc[0]
    if recent.empty or longest["from_step"] != recent.iloc[-1]["from_step"]:
        sentences.append(_overlap(longest))
    if judged["pooled_ceiling"].notna().any():
        sentences.append(
            "Steps are measured with the same tokens and rotations here, and so share part of the "
            "noise: persistence can be above the ceiling, and noise may make up less of the loss."
        )
    return " ".join(sentences)


def _overlap(row: pd.Series) -> str:
    seeds = pooled_over(int(row["n_seeds"]), row["lowest"], row["highest"])
    first = f"step {int(row['from_step']):,}"
    few = " These are few neurons." if row["n_from"] < 20 else ""
    return (
        f"Of the neurons universal at {first}, {percent(row['pooled'])} "
        f"({out_of(row['n_both'], row['n_from'])}, {seeds}) are universal at step "
        f"{int(row['to_step']):,}.{few}{_of_the_ceiling(row, first)} {_against_chance(row)}"
    )


def _of_the_ceiling(row: pd.Series, first: str) -> str:
    kept, ceiling = row["pooled"], row["pooled_ceiling"]
    if pd.isna(ceiling):
        return ""
    text = (
        f" Measured anew at {first}, with other tokens and rotations, {percent(ceiling)} of them "
        "would be expected to be universal again: the ceiling of independent measurements, as "
        "scores cross the threshold by noise alone."
    )
    if kept < ceiling:
        part = (1 - ceiling) / (1 - kept)
        return f"{text} So noise can make up {percent(part)} of the loss."
    return f"{text} So the loss is no more than such noise makes."


def _against_chance(row: pd.Series) -> str:
    n, significant = int(row["n_seeds"]), int(row["n_significant"])
    chance = percent(row["pooled_chance"])
    if row["matched"]:
        text = (
            f"Of neurons of the same layer that changed as much (by their correlation with "
            f"themselves), {chance} are universal then"
        )
    else:
        text = (
            f"Of all neurons, {chance} are universal then, a low mark to pass: those that changed "
            "as much are not known, as none were traced (persistence.trace_tokens is 0)"
        )
    if row["pooled"] <= row["pooled_chance"]:
        return f"{text}, so the universal ones persist no more than these."
    text += f", so the universal ones are so {times(row['pooled'] / row['pooled_chance'])} as often"
    if not row["matched"]:
        return f"{text}."
    if significant == n:
        where = f" in each of {n} seeds" if n > 1 else ""
        return (
            f"{text}. Among draws from such neurons an overlap as large would be rare{where} "
            f"(exact test, {'largest ' if n > 1 else ''}p {p_value(row['p_max'])})."
        )
    return (
        f"{text}. Seed by seed, among draws from such neurons an overlap as large would be rare "
        f"(p < 0.05, exact test) in {significant} of {n}."
    )


def on_courses(findings: Findings) -> str:
    """What becomes of neurons, and whether their functions stay at their index."""
    trajectories = findings.tables["trajectories"]
    if trajectories["step"].nunique() == 1:
        return "Courses need at least two steps; this run has one."
    neurons = trajectories[trajectories["step"] == trajectories["step"].max()]
    counts = neurons["label"].value_counts().reindex(LABELS, fill_value=0)
    named = [f"{counts[name]:,} {name}" for name in LABELS[1:]]
    ever = len(neurons) - counts["never"]
    sentences = [
        f"{out_of(ever, len(neurons))} neurons ({percent(ever / len(neurons))}) are universal at "
        f"some step: {listed(named)}."
    ]
    table = findings.moves
    if table.empty:
        sentences.append(f"{NOT_TRACED}.")
    last = table[table["step"] == table["step"].max()].set_index("universal")
    if True in last.index:
        own = last.loc[True]
        sentences.append(
            f"Of the neurons universal at step {int(own['step']):,}, {percent(own['stayed'])} "
            f"({share_range(own['lowest'], own['highest'])} in single seeds) are their own best "
            f"match in the same seed at the next step, against {percent(own['chance'])} by chance; "
            f"their median correlation with themselves is {number(own['self_corr'], 2)}."
        )
    if {True, False} <= set(last.index):
        other = last.loc[False]
        sentences.append(
            f"Of the other neurons it is {percent(other['stayed'])}, with a median of "
            f"{number(other['self_corr'], 2)}."
        )
        compared = kept_more(trajectories)
        if other["step"] in compared.index:
            sentences.append(_keep(compared.loc[other["step"]]))
    return " ".join(sentences)


def _keep(row: pd.Series) -> str:
    """Whether universal neurons keep their index more often or less often than others."""
    n, points = int(row["n_seeds"]), f"{number(100 * row['difference'], 1)} percentage points"
    more = "more" if row["difference"] > 0 else "less"
    if n == 1:
        return (
            f"So universal neurons keep their index {more} often than others (difference {points}; "
            "one seed has no interval)."
        )
    interval = f"{number(100 * row['low'], 1)} to {number(100 * row['high'], 1)}"
    given = f"difference {points}, 95\u00a0% interval over {count_seeds(n)} {interval}"
    if row["low"] <= 0 <= row["high"]:
        return f"The two do not clearly differ in how often they keep their index ({given})."
    return f"So universal neurons keep their index {more} often than others ({given})."
