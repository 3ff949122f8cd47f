"""The tables of the report, summarised over seeds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from universal_neurons.report.baseline import baseline_table
from universal_neurons.report.claims import claims_table
from universal_neurons.report.findings import Findings
from universal_neurons.report.lasting import consecutive
from universal_neurons.report.summaries import agreement, chance_curve
from universal_neurons.report.top import top_table
from universal_neurons.report.words import (
    NULLS,
    ShortTable,
    named_neuron,
    number,
    out_of,
    p_number,
    percent,
)
from universal_neurons.store.columns.declare import ALL_LAYERS

# Groups that the report lists.
MAX_GROUPS = 20

# Columns of `contrasts.over_seeds` that are losses.
ABLATION_LOSSES = (
    *("universal", "universal_se", "control", "control_sd"),
    *("difference", "low", "high", "adjusted", "adjusted_low", "adjusted_high"),
)


def short_tables(
    findings: Findings,
    benchmarks: Mapping[str, Mapping[str, float]] | None = None,
    subsets: pd.DataFrame | None = None,
) -> list[ShortTable]:
    """The tables of the report that have rows.

    Parameters
    ----------
    findings
        Of the tables universality, neurons, matches, nulls, groups, persistence, ablation and
        models.
    benchmarks
        As `results.read_benchmarks` returns them.
    subsets
        As `results.subset_preferences` returns them.
    """
    shorts = [
        claims_table(findings),
        _universal_table(findings),
        _chance_table(findings),
        baseline_table(findings.baseline),
        _agreement_table(findings),
        top_table(findings.last_scores, findings.tables["matches"], findings.tables["models"]),
        _groups_table(findings),
        _persistence_table(findings),
        _ablation_table(findings),
        _models_table(findings.tables["models"]),
    ]
    if subsets is not None:
        shorts.append(_subset_table(subsets))
    if benchmarks:
        shorts.append(_benchmark_table(benchmarks))
    return [short for short in shorts if short.rows]


def _universal_table(findings: Findings) -> ShortTable:
    shares = findings.pooled.pivot(index="step", columns="layer", values="fraction")
    whole, past = findings.overall, findings.past_token
    rows = []
    for step in shares.index:
        row = {
            "step": f"{step:,}",
            "universal": f"{int(whole.loc[step, 'n_universal']):,}",
            "of": f"{int(whole.loc[step, 'n_neurons']):,}",
            "beyond the token": "–" if pd.isna(past[step]) else f"{int(past[step]):,}",
        }
        for layer, share in shares.loc[step].items():
            name = "all layers" if layer == ALL_LAYERS else f"layer {layer}"
            row[name] = "–" if pd.isna(share) else percent(share)
        rows.append(row)
    return ShortTable(
        "Universal neurons by step and layer",
        "Share of neurons, pooled over seeds. Beyond the token: above the threshold once the mean "
        "of every token's identity is taken out of both models.",
        rows,
    )


def _chance_table(findings: Findings) -> ShortTable:
    table = chance_curve(findings.last_scores, findings.tables["nulls"])
    rows = [
        {"excess above": f"{row['threshold']:g}", "neurons": percent(row["found"])}
        | {f"by chance: {name}": percent(row[name]) for name in NULLS if name in table}
        for _, row in table.iterrows()
    ]
    return ShortTable(
        "Universal neurons and chance at every threshold",
        "Share of all seeds' neurons at the last step, and of the values of every null.",
        rows,
    )


def _agreement_table(findings: Findings) -> ShortTable:
    table = agreement(findings.last_scores, findings.criterion.false_discovery_rate)
    rows = [
        {
            "notion": str(name),
            "neurons": f"{int(row['count']):,}",
            "by noise": "–" if np.isnan(row["by_noise"]) else f"{int(row['by_noise']):,}",
        }
        | {other: number(row[other], 2) for other in table.index}
        for name, row in table.iterrows()
    ]
    return ShortTable(
        "Notions of a universal neuron",
        "Neurons of all seeds at the last step, and the Jaccard index of every two notions. "
        "One to one: the excess correlation with partners assigned so that none has two. "
        "Matched: excess correlation above the threshold. Mutual: each the other's best match. In "
        "a group: one of as many neurons as seeds, every two of them mutual matches. By noise: "
        "where models read other sequences, in one draw of these; others give another number.",
        rows,
        frozenset({"notion"}),
    )


def _groups_table(findings: Findings) -> ShortTable:
    groups = findings.tables["groups"]
    now = groups[groups["step"] == findings.last_scores["step"].max()]
    n = now["group"].nunique()
    rows = []
    for _, members in now[now["group"] < MAX_GROUPS].groupby("group"):
        places = {
            f"seed {member.seed}": named_neuron(member.layer, member.neuron)
            for member in members.itertuples()
        }
        first = members.iloc[0]
        rows.append(
            {
                "mean correlation": number(first["group_mean_corr"], 2),
                "smallest": number(first["group_min_corr"], 2),
                "mean excess": number(members["excess_corr"].mean(), 2),
                **places,
            }
        )
    shown = f"the {len(rows)} closest of {n:,} groups" if n > len(rows) else "all groups"
    return ShortTable(
        "Groups: one neuron of each seed",
        "Neurons (L1N10: layer 1, neuron 10) that are each other's best match in all seeds at the "
        f"last step: {shown}, with the correlations of their members. groups.parquet has all, of "
        "every step.",
        rows,
    )


def _persistence_table(findings: Findings) -> ShortTable:
    title = "Persistence, all layers"
    note = (
        "Each step to the next, and to the last; pooled over seeds with universal neurons at the "
        "earlier step. Ceiling: expected at that step itself if it were measured anew, with other "
        "tokens and rotations (here all steps have the same, and may exceed it). By chance: among "
        "neurons of the same layer that changed as much, where neurons were traced."
    )
    if findings.tables["persistence"].empty:
        return ShortTable(title, note, [])
    overall = findings.overlaps
    to_last = overall[overall["to_step"] == overall["to_step"].max()]
    shown = pd.concat([consecutive(overall), to_last]).drop_duplicates(["from_step", "to_step"])
    rows = [
        {
            "from step": f"{row['from_step']:,}",
            "to step": f"{row['to_step']:,}",
            "seeds": f"{row['n_seeds']}",
            "universal before": f"{row['n_from']:,}",
            "at both": f"{row['n_both']:,}",
            "persistence": percent(row["pooled"]),
            "ceiling": percent(row["pooled_ceiling"]),
            "by chance": percent(row["pooled_chance"]),
            "largest p": "–" if pd.isna(row["p_max"]) else p_number(row["p_max"]),
        }
        for row in shown.sort_values(["from_step", "to_step"]).to_dict("records")
    ]
    return ShortTable(title, note, rows)


def _ablation_table(findings: Findings) -> ShortTable:
    note = (
        "All layers at every step, and each layer at the last step with universal neurons. Loss "
        "changes in 10⁻³ nats per token, mean over seeds, with the standard error (universal) or "
        "the standard deviation over control sets (controls). Energy: squared length of the "
        "change of what the MLPs write, of universal neurons and controls; per energy: loss change "
        "divided by it. Differences are those of the comparable seeds, the second one at equal "
        "energy, with 95 % intervals for the choice of seeds and documents."
    )
    if findings.contrasts.empty:
        return ShortTable("Ablation", note, [])
    summary = findings.ablation
    last = summary.groupby("kind")["step"].transform("max")
    shown = summary[(summary["layer"] == ALL_LAYERS) | (summary["step"] == last)]
    rows = []
    for row in shown.sort_values(["kind", "step", "layer"]).to_dict("records"):
        change = {c: number(1e3 * row[c], 3) for c in ABLATION_LOSSES}
        interval = f"{change['low']} to {change['high']}"
        adjusted = f"{change['adjusted_low']} to {change['adjusted_high']}"
        rows.append(
            {
                "kind": row["kind"],
                "step": f"{row['step']:,}",
                "layer": "all" if row["layer"] == ALL_LAYERS else f"{row['layer']}",
                "seeds": f"{row['n_seeds']}",
                "neurons": f"{row['n_neurons']:,.1f}",
                "universal": f"{change['universal']} ± {change['universal_se']}",
                "controls": f"{change['control']} ± {change['control_sd']}",
                "energy": f"{row['universal_energy']:.3g} / {row['control_energy']:.3g}",
                "per energy": " / ".join(
                    number(1e3 * row[name] / row[f"{name}_energy"], 3)
                    if row[f"{name}_energy"] > 0
                    else "–"
                    for name in ("universal", "control")
                ),
                "comparable": f"{row['n_comparable']} of {row['n_seeds']}",
                "difference": change["difference"] if row["n_comparable"] else "not comparable",
                "95 % interval": "–" if pd.isna(row["low"]) else interval,
                "at equal energy": change["adjusted"],
                "its interval": "–" if pd.isna(row["adjusted_low"]) else adjusted,
                "ratio": number(row["ratio"], 2),
            }
        )
    return ShortTable("Ablation", note, rows, frozenset({"kind"}))


def _models_table(models: pd.DataFrame) -> ShortTable:
    masked = (models["loss_kind"] == "masked").any()
    of_what = "of the tokens that are masked" if masked else "of all predictions"
    rows = [
        {
            "seed": str(row["seed"]),
            "step": f"{row['step']:,}",
            "source": str(row["source"]),
            "commit": "–" if pd.isna(row["revision"]) else str(row["revision"])[:12],
            "SHA-256": str(row["sha256"])[:12],
            "same weights as": "–" if pd.isna(row["duplicate_of"]) else str(row["duplicate_of"]),
            "held-out loss": number(row["heldout_loss"], 4),
            "without position 0": number(row["heldout_loss_later"], 4),
        }
        for row in models.to_dict("records")
    ]
    return ShortTable(
        "Models",
        "Commit on the Hub and SHA-256 of the loaded weights, first 12 digits. Loss in nats per "
        f"token, {of_what} and without those made at position 0 of a sequence.",
        rows,
        frozenset({"seed", "source", "commit", "SHA-256", "same weights as"}),
    )


def _subset_table(subsets: pd.DataFrame) -> ShortTable:
    neurons, universal = subsets["n_neurons"].sum(), subsets["n_universal"].sum()
    rows = [
        {
            "subset": row["subset"],
            "scored tokens": f"{row['n_tokens']:,}",
            "of all neurons": out_of(row["n_neurons"], neurons),
            "of universal neurons": out_of(row["n_universal"], universal),
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
            "largest memory (MB)": number(cost["memory_mb"], 0),
        }
        for rule, cost in benchmarks.items()
    ]
    return ShortTable("Time and memory by rule", "Summed over jobs.", rows, frozenset({"rule"}))
