"""What universal neurons do: counts, odds ratios with their intervals, and shares by step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy.stats import t

from universal_neurons.report.functions import (
    function_counts,
    function_shares,
    mantel_haenszel,
    odds_ratios,
    on_functions,
    on_mediation,
)


def run(steps=(1, 2), seeds=("a", "b"), layers=2, width=400, ratio=4.0, base=(0.1, 0.5)):
    """Tables in which the odds of being a unigram neuron are `ratio` times larger if universal."""
    rng = np.random.default_rng(0)
    grid = pd.MultiIndex.from_product(
        [steps, seeds, range(layers), range(width)], names=["step", "seed", "layer", "neuron"]
    ).to_frame(index=False)
    # The layer with more of the family has more universal neurons: a trap for pooled counts.
    universal = rng.random(len(grid)) < np.array([0.1, 0.4])[grid["layer"]]
    odds = np.array(base)[grid["layer"]]
    odds = odds / (1 - odds) * np.where(universal, ratio, 1)
    unigram = rng.random(len(grid)) < odds / (1 + odds)
    return {
        "universality": grid.assign(universal=universal),
        "roles": grid.assign(role=np.where(grid["neuron"] % 10 == 0, "partition", None)),
        "families": grid.assign(family=np.where(unigram, "unigram", None)),
    }


def test_counts_are_those_of_the_tables():
    tables = run()
    counts = function_counts(tables).set_index(["table", "name", "step", "seed", "layer"])
    both = tables["universality"].merge(tables["families"])
    for (step, seed, layer), rows in both.groupby(["step", "seed", "layer"]):
        found = counts.loc[("families", "unigram", step, seed, layer)]
        named = rows["family"] == "unigram"
        expected = [named.sum(), (named & rows["universal"]).sum(), 400, rows["universal"].sum()]
        assert found[["n", "n_universal", "total", "total_universal"]].tolist() == expected


def test_one_stratum_has_the_plain_odds_ratio_and_woolfs_interval():
    a, b, c, d = 30.0, 50.0, 20.0, 300.0
    ratio, low, high = mantel_haenszel(np.array([[a], [b], [c], [d]]))
    assert ratio == pytest.approx(a * d / (b * c))
    error = np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    assert np.log([low, high]) == pytest.approx(
        np.log(ratio) + 1.959964 * error * np.array([-1, 1])
    )


def test_intervals_hold_the_true_ratio_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        base = rng.uniform(0.05, 0.5, 10)
        raised = 3 * base / (1 - base) / (1 + 3 * base / (1 - base))
        a, b = rng.binomial(20, raised), rng.binomial(100, base)
        _, low, high = mantel_haenszel(np.array([a, b, 20 - a, 100 - b], dtype=float))
        held += low <= 3 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_odds_ratios_are_not_of_the_layers():
    tables = run(steps=(1,), width=2000, ratio=1.0)
    both = tables["universality"].merge(tables["families"])
    crude = pd.crosstab(both["universal"], both["family"] == "unigram").to_numpy(dtype=float)
    assert crude[0, 0] * crude[1, 1] / crude[0, 1] / crude[1, 0] > 1.5
    for ratio in (1.0, 4.0):
        table = odds_ratios(function_counts(run(steps=(1,), width=2000, ratio=ratio)))
        row = table.set_index(["table", "name", "layer"]).loc[("families", "unigram", -1)]
        assert row["odds_ratio"] == pytest.approx(ratio, rel=0.15)


def test_what_no_universal_neuron_has_has_no_ratio():
    tables = run(steps=(1,))
    tables["families"]["family"] = np.where(tables["universality"]["universal"], None, "digit")
    table = odds_ratios(function_counts(tables))
    row = table.set_index(["table", "name", "layer"]).loc[("families", "digit", -1)]
    assert np.isnan(row["odds_ratio"])
    assert row["n_universal"] == 0


def test_shares_are_of_universal_neurons_and_of_all():
    tables = run()
    both = tables["universality"].merge(tables["families"])
    shares = function_shares(function_counts(tables)).set_index(["table", "name", "step"])
    for step, rows in both.groupby("step"):
        unigram, found = rows["family"] == "unigram", shares.loc[("families", "unigram", step)]
        assert found["share"] == pytest.approx(unigram[rows["universal"]].mean())
        assert found["of_all"] == pytest.approx(unigram.mean())
        by_seed = unigram[rows["universal"]].groupby(rows["seed"]).mean()
        assert [found["lowest"], found["highest"]] == pytest.approx([by_seed.min(), by_seed.max()])


def test_neurons_without_any_role_are_counted_as_none():
    tables = run(steps=(1,))
    tables["roles"]["role"] = None
    counts = function_counts(tables)
    assert set(counts["table"]) == {"families"}
    nothing = {**tables, "families": tables["families"].assign(family=None)}
    assert function_counts(nothing).empty
    assert odds_ratios(function_counts(nothing)).empty
    assert function_shares(function_counts(nothing)).empty


def test_the_most_common_role_and_family_are_named_with_their_odds():
    tables = run(steps=(1,))
    ratios = odds_ratios(function_counts(tables))
    text = on_functions(ratios, tables["universality"])
    row = ratios.query("name == 'unigram' and layer == -1").iloc[0]
    n = tables["universality"]["universal"].sum()
    assert f"universal neurons is unigram: {row.n_universal} of {n} have it" in text
    assert f"with {row.odds_ratio:.2f} times the odds of others" in text
    assert f"neurons taken for independent: {row.low:.2f} to" in text
    nothing = tables["universality"].assign(universal=False)
    ratios = odds_ratios(function_counts({**tables, "universality": nothing}))
    assert "No universal neuron has a role" in on_functions(ratios, nothing)


def test_how_much_of_an_effect_goes_by_a_way_is_said_beside_that_of_others():
    mediation = synthetic.tables(steps=(1,))["mediation"]
    text = on_mediation(mediation)
    n = (mediation["role"] == "entropy").sum()
    assert f"one of {n} entropy neurons by its mean changes the loss by 0.200 thousandths" in text
    every = "(95\u00a0% interval over 5 seeds: "
    assert f"75\u00a0% {every}75 to 75) of that is gone; of {n} others of the same" in text
    assert f"layers 10\u00a0% {every}10 to 10)." in text
    assert "token frequency" not in text
    assert on_mediation(mediation[mediation["role"] != "entropy"]) == ""
    assert on_mediation(mediation.iloc[:0]) == ""


def test_how_much_goes_by_a_way_has_an_interval_over_seeds():
    """Where all seeds' effects are as large, it is Student's of their own shares."""
    mediation = synthetic.tables(steps=(1,))["mediation"]
    seeds = sorted(mediation["seed"].unique())
    shares = np.array([0.1, 0.2, 0.15, 0.3, 0.05])
    by_way = mediation["seed"].map(dict(zip(seeds, shares, strict=True))).astype(float)
    text = on_mediation(mediation.assign(through_norm=by_way * mediation["delta_loss"]))
    half = t.ppf(0.975, 4) * shares.std(ddof=1) / np.sqrt(5)
    ends = f"{100 * (shares.mean() - half):.0f} to {100 * (shares.mean() + half):.0f}"
    assert f"16\u00a0% (95\u00a0% interval over 5 seeds: {ends}) of that is gone" in text
    two = mediation[mediation["seed"].isin(seeds[:2])]
    assert "75\u00a0% (no interval) of that is gone" in on_mediation(two)
