"""Overlap of universal neurons between steps, against chance."""

from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, norm

from universal_neurons.persist import persistence as stage
from universal_neurons.persist.persistence import overlap_by_chance
from universal_neurons.persist.trajectories import trajectories
from universal_neurons.store.columns.persist import PERSISTENCE

COLUMNS = {column.name: column.type.replace("seed", "str") for column in PERSISTENCE.columns}


def universality(sets, widths, seed="0"):
    """A table from {step: {layer: universal neurons}} and the number of neurons per layer."""
    return pd.DataFrame(
        [
            (seed, step, layer, neuron, neuron in chosen.get(layer, ()))
            for step, chosen in sets.items()
            for layer, width in enumerate(widths)
            for neuron in range(width)
        ],
        columns=["seed", "step", "layer", "neuron", "universal"],
    )


def persistence(table, exit_threshold=None):
    """Of a table from `universality`, whose neurons may be traced and have scores, or not."""
    given = {"self_corr": np.nan, "excess_corr": 0.0, "excess_se": np.nan, "threshold": 0.5}
    whole = table.assign(**{k: v for k, v in given.items() if k not in table})
    return stage.persistence(whole, whole[stage.SCORES], exit_threshold)


def upper_tail(n_both, n, n_from, n_to):
    """P(X ≥ n_both) by counting the ways of choosing."""
    ways = sum(comb(n_from, k) * comb(n - n_from, n_to - k) for k in range(n_both, n_to + 1))
    return ways / comb(n, n_to)


def test_sets_made_by_hand_give_the_overlaps_counted_by_hand():
    table = universality(
        {
            100: {0: {0, 1, 2, 3}, 1: {5}},
            20: {0: {0, 1}, 1: set()},
            3000: {0: {2, 3, 4}, 1: {5, 6}},
        },
        widths=[10, 8],
    )
    result = persistence(table).set_index(["layer", "from_step", "to_step"])
    counts = ["n_from", "n_to", "n_both"]
    expected = {
        # layer, steps: counts, persistence, jaccard, chance
        (0, 20, 100): ([2, 4, 2], 1, 2 / 4, 4 / 10),
        (0, 20, 3000): ([2, 3, 0], 0, 0, 3 / 10),
        (0, 100, 3000): ([4, 3, 2], 2 / 4, 2 / 5, 3 / 10),
        (1, 20, 100): ([0, 1, 0], np.nan, 0, 1 / 8),
        (1, 20, 3000): ([0, 2, 0], np.nan, 0, 2 / 8),
        (1, 100, 3000): ([1, 2, 1], 1, 1 / 2, 2 / 8),
        (-1, 20, 100): ([2, 5, 2], 1, 2 / 5, 5 / 18),
        (-1, 20, 3000): ([2, 5, 0], 0, 0, 5 / 18),
        (-1, 100, 3000): ([5, 5, 3], 3 / 5, 3 / 7, 5 / 18),
    }
    assert set(result.index) == set(expected)
    for key, (numbers, *ratios) in expected.items():
        row = result.loc[key]
        assert row[counts].tolist() == numbers
        np.testing.assert_allclose(row[["persistence", "jaccard", "chance"]].tolist(), ratios)
    n = {0: 10, 1: 8, -1: 18}
    for (layer, _, _), row in result[result["n_from"] > 0].iterrows():
        n_from, n_to, n_both = row[counts].astype(int)
        assert row["p_value"] == pytest.approx(upper_tail(n_both, n[layer], n_from, n_to))
    assert result.loc[result["n_from"] == 0, "p_value"].isna().all()


def test_empty_sets_have_no_overlap_to_speak_of():
    result = persistence(universality({1: {}, 2: {}, 3: {0: {1}}, 4: {}}, widths=[6]))
    rows = result[result["layer"] == 0].set_index(["from_step", "to_step"])
    nothing = rows.loc[(1, 2)]
    assert nothing[["persistence", "jaccard", "p_value"]].isna().all()
    assert nothing["chance"] == 0
    lost = rows.loc[(3, 4)]
    assert lost[["persistence", "jaccard", "chance", "p_value"]].tolist() == [0, 0, 0, 1]


def test_every_step_is_paired_with_every_later_one_in_order_of_number():
    steps = ["1000", "50", "200", "9"]
    table = pd.concat(universality({s: {0: {1}}}, widths=[4, 4]) for s in steps)
    result = persistence(table.astype({"step": int}))
    pairs = list(combinations([9, 50, 200, 1000], 2))
    for layer in (-1, 0, 1):
        rows = result[result["layer"] == layer]
        assert list(zip(rows["from_step"], rows["to_step"], strict=True)) == pairs


def test_a_single_step_gives_an_empty_table_with_the_right_columns():
    result = persistence(universality({5: {0: {1}}}, widths=[4]))
    assert len(result) == 0
    assert result.dtypes.astype(str).to_dict() == COLUMNS


def test_columns_and_types_with_several_seeds_as_categories():
    table = pd.concat(
        [
            universality({1: {0: {0}}, 2: {0: {0}}}, widths=[3], seed="alias-gpt2"),
            universality({1: {0: {0}}, 2: {0: {1}}}, widths=[3], seed="10"),
        ]
    ).astype({"seed": "category"})
    result = persistence(table)
    assert result.dtypes.astype(str).to_dict() == COLUMNS
    assert set(result["seed"]) == {"alias-gpt2", "10"}
    assert result.set_index(["seed", "layer"])["persistence"].to_dict() == {
        ("alias-gpt2", -1): 1,
        ("alias-gpt2", 0): 1,
        ("10", -1): 0,
        ("10", 0): 0,
    }


def test_seeds_do_not_influence_one_another_and_rows_may_come_in_any_order():
    rng = np.random.default_rng(0)
    parts = []
    for seed in "ab":
        sets = {s: {0: set(rng.choice(30, 9)), 1: set(rng.choice(20, 5))} for s in (1, 2, 3)}
        parts.append(universality(sets, widths=[30, 20], seed=seed))
    separate = pd.concat([persistence(part) for part in parts], ignore_index=True)
    together = persistence(pd.concat(parts, ignore_index=True))
    # Only the correction for multiplicity looks at all seeds together.
    assert (together["q_value"].isna() == separate["q_value"].isna()).all()
    alone = separate.drop(columns="q_value")
    pd.testing.assert_frame_equal(together.drop(columns="q_value"), alone)
    shuffled = persistence(pd.concat(parts).sample(frac=1, random_state=1))
    keys = ["seed", "layer", "from_step", "to_step"]
    pd.testing.assert_frame_equal(
        shuffled.sort_values(keys, ignore_index=True),
        together.sort_values(keys, ignore_index=True),
    )


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    n_steps=st.integers(2, 4),
    rate=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_every_row_agrees_with_sets_and_scipy(widths, n_steps, rate, seed):
    rng = np.random.default_rng(seed)
    sets = {
        step: {layer: set(np.flatnonzero(rng.random(w) < rate)) for layer, w in enumerate(widths)}
        for step in range(n_steps)
    }
    for row in persistence(universality(sets, widths)).to_dict("records"):
        here = range(len(widths)) if row["layer"] == -1 else [row["layer"]]
        a, b = (
            {(layer, i) for layer in here for i in sets[row[step]][layer]}
            for step in ("from_step", "to_step")
        )
        n = sum(widths[layer] for layer in here)
        assert (row["n_from"], row["n_to"], row["n_both"]) == (len(a), len(b), len(a & b))
        assert row["n_both"] <= min(row["n_from"], row["n_to"])
        assert row["chance"] == len(b) / n
        if a:
            assert row["persistence"] == len(a & b) / len(a)
            assert row["jaccard"] == len(a & b) / len(a | b)
            expected = hypergeom(n, len(a), len(b)).sf(len(a & b) - 1)
            assert row["p_value"] == pytest.approx(expected, abs=1e-12)
            assert row["p_value"] == pytest.approx(upper_tail(len(a & b), n, len(a), len(b)))


def test_random_sets_persist_as_chance_says():
    rng = np.random.default_rng(0)
    draws = 300
    parts = []
    for seed in range(draws):
        sets = {step: {0: set(rng.choice(200, 40, replace=False))} for step in (1, 2)}
        parts.append(universality(sets, widths=[200], seed=str(seed)))
    result = persistence(pd.concat(parts, ignore_index=True)).query("layer == 0")
    assert result["persistence"].mean() == pytest.approx(0.2, abs=0.01)
    assert (result["chance"] == 0.2).all()
    # The p-value is valid: at most a share p of random sets reaches it (with sampling error).
    for p in (0.05, 0.2, 0.5):
        assert (result["p_value"] <= p).mean() <= p + 3 * np.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize("change", ["missing", "twice"])
def test_steps_with_different_neurons_are_refused(change):
    table = universality({1: {0: {1}}, 2: {0: {1}}}, widths=[4])
    table = table.iloc[1:] if change == "missing" else pd.concat([table, table.iloc[:1]])
    with pytest.raises(ValueError, match="seed 0: every step must have each neuron once"):
        persistence(table)


def test_odds_ratio_is_that_of_the_two_by_two_table_with_a_half_added():
    result = persistence(universality({1: {0: {0, 1, 2}}, 2: {0: {1, 2, 3, 4}}}, widths=[20]))
    row = result[result["layer"] == 0].iloc[0]
    assert row["odds_ratio"] == pytest.approx((2.5 * 15.5) / (1.5 * 2.5))
    same = persistence(universality({1: {0: {0}}, 2: {0: {0}}}, widths=[20]))
    assert np.isfinite(same["odds_ratio"]).all()


def test_q_values_are_those_of_benjamini_and_hochberg_over_layers_seeds_and_steps():
    rng = np.random.default_rng(0)
    parts = [
        universality(
            {s: {k: set(rng.choice(30, 9)) for k in (0, 1)} for s in (1, 2, 3)}, [30, 30], seed
        )
        for seed in "abc"
    ]
    result = persistence(pd.concat(parts, ignore_index=True))
    assert result.loc[result["layer"] == -1, "q_value"].isna().all()
    single = result[result["layer"] != -1].sort_values("p_value")
    n = len(single)
    raw = single["p_value"].to_numpy() * n / np.arange(1, n + 1)
    expected = np.minimum.accumulate(raw[::-1])[::-1].clip(max=1)
    np.testing.assert_allclose(single["q_value"], expected)


def measured(rng, n, steps=(1, 2), seeds="abcd", layers=2, noise=1.0):
    """Neurons whose true scores never change, measured anew at every step, and the truth."""
    index = pd.MultiIndex.from_product([list(seeds), range(layers), range(n)]).to_frame(index=False)
    index.columns = ["seed", "layer", "neuron"]
    true = rng.gamma(2, 0.1, len(index)) * (1 + 0.3 * index["layer"])
    error = noise * 0.03 * np.exp(rng.normal(0, 0.5, len(index)))
    parts = [
        index.assign(
            step=step, excess_corr=true + error * rng.normal(size=len(index)), excess_se=error
        )
        for step in steps
    ]
    table = pd.concat(parts, ignore_index=True).assign(threshold=0.5)
    return table.assign(universal=table["excess_corr"] > table["threshold"])


@pytest.mark.parametrize("noise", [0.1, 1, 2])
def test_the_ceiling_is_how_many_a_second_measurement_finds_again(noise):
    table = measured(np.random.default_rng(0), 2000, noise=noise)
    result = persistence(table).set_index("layer")
    for layer in (-1, 0, 1):
        rows = result.loc[layer]
        # Of the same true scores, so that noise is all that loses a neuron.
        found = rows["n_both"].sum() / rows["n_from"].sum()
        expected = (rows["ceiling"] * rows["n_from"]).sum() / rows["n_from"].sum()
        assert expected == pytest.approx(found, abs=0.02)
    assert (result["ceiling"] < 1).all()


def test_the_ceiling_allows_for_scores_found_high_being_too_high():
    table = measured(np.random.default_rng(0), 4000, noise=2)
    found = table[table["universal"]]
    near = (found["excess_corr"] - found["threshold"]) / found["excess_se"]
    as_if_unselected = norm.cdf(near / np.sqrt(2)).mean()
    again = persistence(table).query("layer == -1")["persistence"].mean()
    ceiling = persistence(table).query("layer == -1")["ceiling"].mean()
    assert abs(ceiling - again) < 0.02 < as_if_unselected - again


def test_without_noise_all_are_found_again_and_without_errors_nothing_is_known():
    table = measured(np.random.default_rng(0), 200, noise=0)
    np.testing.assert_allclose(persistence(table).query("n_from > 0")["ceiling"], 1)
    assert persistence(table.assign(excess_se=np.nan))["ceiling"].isna().all()


def test_hysteresis_raises_persistence_and_its_ceiling_alike():
    table = measured(np.random.default_rng(0), 2000, steps=(1, 2, 3))
    nothing = table.iloc[:0].assign(next_layer=0, next_neuron=0, next_corr=0.0, self_corr=0.0)
    single = persistence(table).query("layer == -1")
    kept = trajectories(table, nothing, exit_threshold=0.42)
    result = stage.persistence(kept, table, 0.42).query("layer == -1")
    pair = "from_step == 1 and to_step == 2"
    found = result.query(pair)["persistence"].mean()
    assert found > single.query(pair)["persistence"].mean() + 0.05
    assert result.query(pair)["ceiling"].mean() == pytest.approx(found, abs=0.02)


def test_neurons_of_few_tokens_take_no_part_in_the_ceiling():
    table = measured(np.random.default_rng(0), 500)
    few = table["neuron"] < 250
    table = table.assign(threshold=np.where(few, np.inf, 0.5), universal=table["universal"] & ~few)
    result = persistence(table, exit_threshold=0.4).query("layer == -1")
    assert result["ceiling"].between(0.7, 1).all()


def traced(rng, keeps, n=2000, steps=2):
    """Neurons that are universal as often as they change little; of some, universality stays."""
    self_corr = rng.random(n)
    likely = self_corr**3
    sets = [rng.random(n) < likely]
    for _ in range(steps - 1):
        again = rng.random(n) < likely
        sets.append(np.where(rng.random(n) < keeps, sets[-1], again))
    return pd.concat(
        pd.DataFrame(
            {
                "seed": "a",
                "step": t,
                "layer": 0,
                "neuron": np.arange(n),
                "universal": universal,
                "self_corr": self_corr,
            }
        )
        for t, universal in enumerate(sets)
    )


def test_persistence_that_stability_explains_is_no_more_than_that_of_neurons_alike():
    rng = np.random.default_rng(0)
    rows = pd.concat(persistence(traced(rng, 0)).query("layer == 0") for _ in range(100))
    # Against an unrelated set it looks like persistence, and is not.
    assert (rows["p_value"] < 1e-6).all()
    assert (rows["persistence"] > 1.5 * rows["chance"]).all()
    assert rows["matched_chance"].mean() == pytest.approx(rows["persistence"].mean(), abs=0.01)
    for p in (0.05, 0.2, 0.5):
        assert (rows["matched_p_value"] <= p).mean() <= p + 3 * np.sqrt(p * (1 - p) / len(rows))


def test_persistence_beyond_neurons_alike_is_found():
    row = persistence(traced(np.random.default_rng(0), 0.5)).query("layer == 0").iloc[0]
    assert row["persistence"] > 1.2 * row["matched_chance"]
    assert row["matched_p_value"] < 1e-6


def test_over_several_steps_neurons_are_alike_by_the_product_of_their_correlations():
    table = traced(np.random.default_rng(0), 0, n=400, steps=3)
    rng = np.random.default_rng(1)
    table["self_corr"] = rng.uniform(-0.2, 1, len(table))
    row = persistence(table).query("layer == 0 and from_step == 0 and to_step == 2").iloc[0]
    by_step = [table[table["step"] == t] for t in (0, 1, 2)]
    product = by_step[0]["self_corr"].clip(lower=0) * by_step[1]["self_corr"].clip(lower=0)
    order = np.argsort(product.to_numpy(), kind="stable")
    first, last = (part["universal"].to_numpy()[order].reshape(20, 20) for part in by_step[::2])
    expected = (first.sum(1) * last.mean(1)).sum() / first.sum()
    assert row["matched_chance"] == pytest.approx(expected)


def test_overlap_by_chance_agrees_with_draws():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 5, 120)
    first, second = rng.random((2, 120)) < 0.3
    expected, p_value = overlap_by_chance(first, second, group)
    overlaps = []
    for _ in range(4000):
        drawn = second.copy()
        for g in range(5):
            drawn[group == g] = rng.permutation(second[group == g])
        overlaps.append((first & drawn).sum())
    assert np.mean(overlaps) == pytest.approx(expected, abs=0.15)
    assert np.mean(np.array(overlaps) >= (first & second).sum()) == pytest.approx(p_value, abs=0.03)


def test_neurons_that_were_not_traced_have_no_neurons_alike():
    result = persistence(measured(np.random.default_rng(0), 50))
    assert result[["matched_chance", "matched_p_value"]].isna().all(axis=None)
