"""What the papers claim, beside what this run shows."""

from __future__ import annotations

import pandas as pd

from universal_neurons.report.findings import Findings
from universal_neurons.report.lasting import consecutive
from universal_neurons.report.words import NOT_ABLATED, ShortTable, number, out_of, percent, plural
from universal_neurons.store.columns.declare import ALL_LAYERS

UNKNOWN = "cannot be said from this run"

# What the comparison of two ablated sets says, by its verdict.
COST = {
    "more": "above zero, also at equal energy of what is changed",
    "less": "below zero, also at equal energy of what is changed",
    "size": "not clear at equal energy of what is changed",
    "undecided": "not distinguishable from zero",
    "not known": "its uncertainty is not known",
    "not comparable": "not comparable, as no other neurons change as much",
}


def claims_table(findings: Findings) -> ShortTable:
    """What the papers say, beside what this run shows."""
    claims = [
        ("1 to 5 % of neurons are universal (2401.12181)", _found_share(findings)),
        ("universal neurons appear early and rise in number (2508.00903)", _found_rise(findings)),
        ("they persist far above chance (2508.00903)", _found_persistence(findings)),
        ("most so in the first and last layers (2508.00903)", _found_persistent_layers(findings)),
        ("ablating them costs more than ablating others (2508.00903)", _found_cost(findings)),
        ("most of all in layer 0 (2508.00903)", _found_costly_layer(findings)),
    ]
    rows = [{"published claim": claim, "this run": found} for claim, found in claims]
    note = (
        "Published for GPT-2 of 12 layers and more, at a threshold of 0.5; pooled over seeds here."
    )
    return ShortTable("Published claims", note, rows, frozenset({"published claim", "this run"}))


def _found_share(findings: Findings) -> str:
    share = findings.overall["fraction"].iloc[-1]
    return f"{percent(share)} at the last step, by the criterion of this run"


def _found_rise(findings: Findings) -> str:
    overall = findings.overall
    if len(overall) < 2:
        return f"{UNKNOWN}: one step only"
    counts = overall["n_universal"]
    some = counts[counts > 0]
    if some.empty:
        return f"{UNKNOWN}: no neuron is universal"
    first, last = counts.index[0], counts.index[-1]
    verb = "rise" if counts[last] > counts[first] else "do not rise"
    always = "" if counts.is_monotonic_increasing else ", not at every step"
    shares = f"{percent(overall['fraction'][first])} to {percent(overall['fraction'][last])}"
    steady = always if verb == "rise" else ""
    return f"first found at step {some.index[0]:,}; they {verb} from {shares}{steady}"


def _found_persistence(findings: Findings) -> str:
    if findings.tables["persistence"].empty:
        return f"{UNKNOWN}: one step only"
    judged = consecutive(findings.overlaps)[lambda table: table["n_from"] > 0]
    if judged.empty:
        return f"{UNKNOWN}: no neuron is universal before the last step"
    row = judged.iloc[-1]
    text = (
        f"{percent(row['pooled'])} from step {int(row['from_step']):,} to "
        f"{int(row['to_step']):,} (measured anew, with other tokens: "
        f"{percent(row['pooled_ceiling'])}), "
        f"{percent(row['pooled_chance'])} by chance"
    )
    if not row["matched"]:
        return f"{text}, of any neurons: none were traced"
    found = f"p < 0.05 in {out_of(row['n_significant'], row['n_seeds'])} seeds"
    if row["n_significant"] == 0:
        found = "not distinguishable from chance"
    return f"{text} among neurons that changed as much: {found}"


def _found_persistent_layers(findings: Findings) -> str:
    n_layers = findings.tables["universality"]["layer"].nunique()
    if n_layers < 3:
        return f"{UNKNOWN}: {plural(n_layers, 'layer has', 'layers have')} no middle"
    if findings.tables["persistence"].empty:
        return f"{UNKNOWN}: one step only"
    summary = consecutive(findings.persistence)
    last = summary[summary["to_step"] == summary["to_step"].max()].set_index("layer")
    pooled = last["pooled"].drop(ALL_LAYERS).dropna()
    if len(pooled) < 3:
        return f"{UNKNOWN}: too few layers have universal neurons before the last step"
    if pooled.nunique() == 1:
        return f"all layers have the same persistence ({percent(pooled.iloc[0])})"
    order = pooled.sort_values(ascending=False)
    return (
        f"layers {order.index[0]} and {order.index[1]} have the largest persistence "
        f"({percent(order.iloc[0])}, {percent(order.iloc[1])}), layer {order.index[-1]} the "
        f"smallest ({percent(order.iloc[-1])})"
    )


def _last_ablation(findings: Findings) -> pd.DataFrame:
    """The ablation over seeds of the first kind at the last step that has contrasts."""
    contrasts = findings.contrasts
    if contrasts.empty:
        return contrasts
    summary = findings.ablation[findings.ablation["kind"] == contrasts["kind"].iloc[0]]
    return summary[summary["step"] == summary["step"].max()].set_index("layer")


def _found_cost(findings: Findings) -> str:
    summary = _last_ablation(findings)
    if findings.tables["ablation"].empty:
        return f"{UNKNOWN}: {NOT_ABLATED}"
    if ALL_LAYERS not in summary.index:
        return f"{UNKNOWN}: no universal neurons with controls"
    row = summary.loc[[ALL_LAYERS]].iloc[0]
    n = row["n_comparable"]
    text = (
        f"{number(row['universal'], 4)} against {number(row['control'], 4)} nats per token of "
        "matched controls"
    )
    if n:
        # The means are of all seeds; sets of most of them may not be comparable.
        text = (
            f"in {out_of(n, row['n_seeds'])} seeds, the comparable {'one' if n == 1 else 'ones'}, "
            f"a difference of {number(row['difference'], 4)} nats per token: "
            f"{COST[row['verdict']]}; above each of its control sets in "
            f"{out_of(row['n_above_all'], n)} comparable {'seed' if n == 1 else 'seeds'}; over all "
            f"seeds {text}"
        )
    else:
        text += f": {COST[row['verdict']]}"
    ablation = findings.tables["ablation"]
    mine = ablation[
        (ablation["layer"] == ALL_LAYERS)
        & (ablation["step"] == row["step"])
        & (ablation["neuron_set"] == "universal")
        & (ablation["kind"] == row["kind"])
    ]
    share = float(mine["direct_delta_loss"].mean() / mine["delta_loss"].mean())
    # The ratio means nothing where the change itself is not clear.
    clear = row["universal"] > 2 * row["universal_se"]
    return f"{text}; {percent(share)} of the change is direct" if clear else text


def _found_costly_layer(findings: Findings) -> str:
    summary = _last_ablation(findings)
    if findings.tables["ablation"].empty:
        return f"{UNKNOWN}: {NOT_ABLATED}"
    single = summary.drop(index=ALL_LAYERS, errors="ignore")
    if len(single):
        single = single[single["n_comparable"] > 0]
    if len(single) < 2:
        return f"{UNKNOWN}: too few layers with universal neurons and comparable controls"
    row = single.sort_values("difference").iloc[-1]
    difference = number(row["difference"], 4)
    text = f"the difference to controls is largest in layer {row.name} ({difference})"
    if row["verdict"] not in ("more", "less"):
        text += f", but {COST[row['verdict']]}"
    return text
