"""Overlap of universal neurons between steps, against chance."""

from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from universal_neurons.persist.persistence import persistence
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
