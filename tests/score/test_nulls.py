"""False discoveries and power of the nulls, with planted truths."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from universal_neurons.correlate.matches import Matches
from universal_neurons.score import nulls

DRAWS, OTHERS, N = 5, 4, 1000


def scored(rng, planted=0):
    """A model's scores and null: best matches are one more heavy-tailed draw, save the planted."""
    draws = 0.2 + 0.02 * rng.standard_t(4, (OTHERS, DRAWS + 1, N))
    draws[:, 0, :planted] += 0.4
    scores = pd.DataFrame({"step": 1, "seed": "0", "layer": np.repeat([0, 1], N // 2)})
    scores["stratum"] = 0
    scores["baseline_corr"] = draws[:, 1:].mean((0, 1))
    scores["excess_corr"] = draws[:, 0].mean(0) - scores["baseline_corr"]
    matches = {
        ("0", f"other {i}"): Matches(
            np.zeros((N, 1), int), best[:, None], best, rest, rest[:0], np.zeros(N, bool)
        )
        for i, (best, *rest) in enumerate(draws)
        for rest in [np.array(rest)]
    }
    null = nulls.rotated_null(matches, scores)
    return nulls.with_p_values(scores, {"rotated": null})


def test_without_planted_matches_false_discoveries_are_as_rare_as_promised():
    rng = np.random.default_rng(0)
    runs = 200
    wrong = sum((scored(rng).q_value < 0.05).any() for _ in range(runs))
    # All discoveries are false here, so the rate is that of runs with any.
    assert wrong <= stats.binom.ppf(0.999, runs, 0.05)


def kurtotic(rng, n=2000):
    """Null excesses, and kurtoses that say how far they stray; two layers of two seeds."""
    kurtosis = np.exp(rng.uniform(1, 5, 2 * n))
    table = pd.DataFrame(
        {"seed": np.repeat(["a", "b"], n), "layer": np.tile([0, 1], n), "baseline_corr": 0.1}
    )
    excess = rng.standard_normal((6, 2 * n)) * 0.01 * kurtosis**0.5
    return nulls.with_strata(table.assign(excess_corr=excess[0]), 1e5 / kurtosis), excess[1:]


def test_rejection_on_null_data_is_as_promised_for_neurons_of_any_kurtosis():
    scores, others = kurtotic(np.random.default_rng(5))
    named = scores[["layer", "stratum"]]
    null = pd.concat([named.assign(excess=excess) for excess in others])
    rejected = pd.Series(nulls.p_values(scores, null) < 0.05)
    rates = rejected.groupby([scores["layer"], scores["stratum"]]).mean()
    assert len(rates) == 2 * nulls.STRATA
    # 400 neurons each: a standard error of 1.1 %.
    assert rates.between(0.015, 0.085).all()
    rates = rejected.groupby(scores["stratum"]).mean()
    assert rates.between(0.03, 0.07).all()
    pooled = pd.Series(nulls.p_values(scores.assign(stratum=0), null.assign(stratum=0)) < 0.05)
    assert pooled.groupby(scores["stratum"]).mean().max() > 0.1, "one null for all is no null"


@pytest.mark.parametrize(("n", "parts"), [(666, nulls.STRATA), (270, 2), (60, 1)])
def test_strata_are_equal_parts_of_the_live_neurons_of_a_layer_by_kurtosis(n, parts):
    scores, _ = kurtotic(np.random.default_rng(6), n=n)
    tokens = np.random.default_rng(7).permutation(np.arange(1.0, len(scores) + 1))
    scores.loc[::7, "baseline_corr"] = 0
    found = nulls.with_strata(scores, tokens)
    alive = found[found["baseline_corr"] != 0].assign(tokens=tokens[found["baseline_corr"] != 0])
    for _, own in alive.groupby(["seed", "layer"]):
        sizes = own.groupby("stratum").size()
        assert len(sizes) == parts
        assert sizes.max() - sizes.min() <= 1
        ordered = own.sort_values("tokens")["stratum"]
        assert ordered.is_monotonic_decreasing, "few tokens, a large kurtosis, a high stratum"


def test_planted_matches_are_found_and_few_others_with_them():
    rng = np.random.default_rng(1)
    found = [scored(rng, planted=50).q_value.to_numpy() < 0.05 for _ in range(100)]
    assert np.mean([f[:50].mean() for f in found]) > 0.99
    assert np.mean([f[50:].sum() / max(1, f.sum()) for f in found]) < 0.06


@pytest.fixture
def scores():
    return pd.DataFrame(
        {
            "seed": "0",
            "layer": [0, 0, 1, 1],
            "stratum": 0,
            "baseline_corr": [0.1, 0.1, 0.1, 0.0],  # the last one is dead
            "excess_corr": [0.3, 0.1, 0.2, 0.0],
        }
    )


def test_p_values_are_those_of_counting_within_a_layer_and_a_stratum(scores):
    null = pd.DataFrame(
        {
            "layer": [0, 0, 0, 0, 1, 1, 0, 0, 1],
            "stratum": [0] * 6 + [1] * 3,
            "excess": [0.1, 0.2, -0.1, -0.2, 0.5, -0.5, 9, 9, 9],
        }
    )
    np.testing.assert_allclose(nulls.p_values(scores, null), [1 / 5, 3 / 5, 2 / 3, 1])
    other = nulls.p_values(scores.assign(stratum=1), null)
    np.testing.assert_allclose(other, [1, 1, 1, 1])


def test_a_neuron_is_better_than_the_nulls_only_if_it_is_better_than_each(scores):
    weak = pd.DataFrame({"layer": np.repeat([0, 1], 99), "stratum": 0, "excess": -1.0})
    strong = weak.assign(excess=0.25)
    both = nulls.with_p_values(scores, {"rotated": weak, "untrained": strong})
    np.testing.assert_allclose(both["p_value"], [0.01, 1, 1, 1])
    np.testing.assert_allclose(both["q_value"], [0.04, 1, 1, 1])
    empty = nulls.with_p_values(scores, {"rotated": weak[:0], "untrained": strong})
    pd.testing.assert_frame_equal(empty, both)


def test_a_null_says_nothing_of_layers_that_it_lacks(scores):
    weak = pd.DataFrame({"layer": np.repeat([0, 1], 99), "stratum": 0, "excess": -1.0})
    shallow = weak[weak["layer"] == 0].assign(excess=0.25)
    found = nulls.with_p_values(scores, {"rotated": weak, "untrained": shallow})
    np.testing.assert_allclose(found["p_value"], [0.01, 1, 0.01, 1])
    alone = nulls.with_p_values(scores, {"untrained": shallow})
    np.testing.assert_allclose(alone["p_value"], [0.01, 1, np.nan, 1])
    assert alone["q_value"].isna().tolist() == [False, False, True, False]


def test_one_rotation_and_no_untrained_model_give_no_p_value(scores):
    matches = {
        ("0", "1"): Matches(
            *[np.zeros((4, 1))] * 2,
            np.zeros(4),
            np.full((1, 4), 0.1),
            np.zeros((0, 4)),
            np.zeros(4, bool),
        )
    }
    null = nulls.rotated_null(matches, scores)
    result = nulls.with_p_values(scores, {"rotated": null})
    assert result[["p_value", "q_value"]].isna().all().all()
    assert nulls.histograms({"rotated": null}, 3).empty


def test_untrained_neurons_are_no_discoveries_among_untrained_neurons():
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"seed": np.repeat(list("abc"), 400), "layer": np.tile([0, 1], 600)})
    table["stratum"] = np.arange(1200) // 2 % nulls.STRATA
    wrong = 0
    for _ in range(100):
        first, second = (
            table.assign(excess_corr=0.3 * rng.standard_t(3, 1200) ** 2, baseline_corr=0.1)
            for _ in "ab"
        )
        found = nulls.with_p_values(second, {"untrained": nulls.untrained_null(first)})
        wrong += (found["q_value"] < 0.05).any()
    # Three families of hypotheses, one per seed.
    assert wrong <= stats.binom.ppf(0.999, 100, 1 - 0.95**3)


def test_histograms_hold_every_value_once_in_its_bin():
    rng = np.random.default_rng(3)
    values = np.append(rng.normal(0, 0.1, 999), 0.3)
    table = nulls.histograms({"rotated": pd.DataFrame({"excess": values})}, 7)
    for row in table.itertuples():
        inside = (values > row.low - 1e-9) & (values < row.high - 1e-9)
        assert row.n == inside.sum() > 0
    assert table["n"].sum() == len(values)
    assert set(table["step"]) == {7}
