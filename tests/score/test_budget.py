"""Scores of fewer tokens against plain float64 NumPy on those tokens, and what is said of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pipeline import corr, gpt2, module_activations, random_tokens, run_capture, run_match
from scipy.stats import pearsonr, spearmanr

from universal_neurons.activations.products import tile_name
from universal_neurons.correlate import budget
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.correlate.neurons import Neurons
from universal_neurons.correlate.rotations import rotation
from universal_neurons.score import token_budget
from universal_neurons.store.arrays import Added, read_arrays, write_arrays
from universal_neurons.store.columns.score import TOKEN_BUDGET

SPLITS = (100, 150, 210, 300)


@pytest.fixture(scope="module")
def tokens():
    return random_tokens(400, 16)


@pytest.fixture
def few(monkeypatch):
    """Three neurons of every layer, out of order, so that a wrong place would show."""
    chosen = np.array([2, 7, 13])
    monkeypatch.setattr(budget, "sampled", lambda d_mlp: chosen)
    return chosen


@pytest.fixture
def captured(tokens, tmp_path):
    """Two models of different depth and width in five shards, and their activations by layer."""
    models = {"a": gpt2(1), "b": gpt2(2, d_mlp=24, layers=3)}
    stores = {
        seed: run_capture(
            model, tokens, tmp_path / seed, seed=seed, splits=SPLITS, encoding="float32"
        )
        for seed, model in models.items()
    }
    return models, stores


def best_and_baseline(mine, theirs, spread, chosen, *, standardise):
    """Of chosen neurons of every layer, from activations; rotations weigh neurons by `spread`."""
    if standardise:
        spread = [whole / whole.std(0) for whole in spread]
    own = np.hstack([x[:, chosen] for x in mine])
    full = corr(own, np.hstack(theirs))
    rotated, start = [], 0
    for layer, whole in enumerate(spread):
        d_mlp = whole.shape[1]
        r = rotation(0, layer, 0, d_mlp).astype(np.float64)
        weights = r * whole.std(0) / np.sqrt(np.diag(r @ np.cov(whole.T, ddof=0) @ r.T))[:, None]
        rotated.append(full[:, start : start + d_mlp] @ weights.T)
        start += d_mlp
    return np.array([full.max(1), np.hstack(rotated).max(1)])


def test_points_are_halves_of_halves_all_and_the_second_half():
    assert budget.shard_ranges(1) == []
    assert budget.shard_ranges(2) == [(0, 1), (0, 2), (1, 2)]
    assert budget.shard_ranges(7) == [(0, 1), (0, 3), (0, 7), (3, 7)]
    assert budget.shard_ranges(8) == [(0, 1), (0, 2), (0, 4), (0, 8), (4, 8)]


@pytest.mark.parametrize("d_mlp", [5, 64, 100, 3072])
def test_the_sample_is_spread_over_the_layer(d_mlp):
    chosen = budget.sampled(d_mlp)
    assert len(chosen) == min(d_mlp, max(64, d_mlp // 16)) == len(set(chosen))
    steps = np.diff([*chosen, d_mlp])
    assert chosen[0] == 0
    assert steps.max() - steps.min() <= 1


def test_running_totals_are_the_sums_of_the_first_stores(tmp_path):
    rng = np.random.default_rng(0)
    parts = rng.integers(-9, 9, (4, 3, 5))
    for i, values in enumerate(parts):
        write_arrays(tmp_path / f"{i}.zarr", [("x", values)], {})
    added = Added([tmp_path / f"{i}.zarr" for i in range(4)])
    for i, total in enumerate(added.running("x"), start=1):
        np.testing.assert_array_equal(total, parts[:i].sum(0))
    np.testing.assert_array_equal(added["x"], parts.sum(0))


@pytest.mark.parametrize("standardise", [False, True])
def test_every_point_equals_a_plain_float64_computation_on_its_tokens(
    few, captured, tokens, tmp_path, standardise
):
    models, stores = captured
    how = {"blocks": [(0,), (1,)], "standardise": standardise}
    parts = [read_arrays(part) for part in run_match(*stores.values(), tmp_path, **how)]
    edges = [0, *SPLITS, len(tokens)]
    whole = {seed: module_activations(model, tokens) for seed, model in models.items()}
    for point, (start, stop) in enumerate([(0, 1), (0, 2), (0, 5), (2, 5)]):
        some = tokens[edges[start] : edges[stop]]
        truth = {seed: module_activations(model, some) for seed, model in models.items()}
        for way, a, b in (("forward", "a", "b"), ("backward", "b", "a")):
            found = np.max([part[f"{way}_budget"][:, point] for part in parts], axis=0)
            expected = best_and_baseline(truth[a], truth[b], whole[b], few, standardise=standardise)
            np.testing.assert_allclose(found, expected, atol=2e-5)


def test_all_shards_give_the_scores_of_the_run_with_one_draw(few, captured, tmp_path):
    _, stores = captured
    (store,) = run_match(*stores.values(), tmp_path, draws=3)
    arrays = read_arrays(store)
    for way, starts in (("forward", [0, 40]), ("backward", [0, 24, 48])):
        rows = np.add.outer(starts, few).ravel()
        best, baseline = arrays[f"{way}_budget"][:, -2]
        np.testing.assert_allclose(best, arrays[f"{way}_candidate_corr"][rows, 0], rtol=1e-12)
        np.testing.assert_allclose(baseline, arrays[f"{way}_baseline"][0, rows], atol=1e-6)


def test_a_single_shard_has_no_curve(tokens, tmp_path):
    stores = [run_capture(gpt2(i), tokens, tmp_path / s, seed=s) for i, s in enumerate("ab")]
    table = token_budget.budget_table(
        StepMatches.read(run_match(*stores, tmp_path)).budgets, 3, {"a": 0.5, "b": 0.5}
    )
    assert table.empty
    assert list(table.columns) == TOKEN_BUDGET.names


def test_the_table_compares_parts_with_all_and_the_halves_with_each_other():
    """Made-up scores of three seeds, each pair in two stores of which one knows a value."""
    rng = np.random.default_rng(1)
    points, n, threshold = 4, 30, 0.3
    shards, tokens = [(0, 1), (0, 2), (0, 4), (2, 4)], [10, 21, 40, 19]
    scores, parts = {}, []
    for a, b in ("xy", "xz", "yz"):
        known = rng.random(n) < 0.5
        found = [{}, {}]
        for key, way in (((a, b), "forward"), ((b, a), "backward")):
            base = rng.random(n)
            noise = rng.normal(scale=[[0.5], [0.3], [0.2], [0.3]], size=(points, n))
            scores[key] = np.array([base + noise, 0.2 * rng.random((points, n))])
            for i, has in enumerate((known, ~known)):
                found[i][way] = np.where(has, scores[key], -np.inf)
        parts += [(a, b, budget.BudgetPoints(shards, tokens, **own)) for own in found]
    table = token_budget.budget_table(parts, 7, dict.fromkeys("xyz", threshold))
    assert len(table) == 3 * points
    for seed in "xyz":
        rows = table[table["seed"] == seed]
        assert list(rows["part"]) == ["first", "first", "all", "second half"]
        assert list(rows["n_shards"]) == [1, 2, 4, 2]
        assert list(rows["n_tokens"]) == [10, 21, 40, 19]
        assert set(rows["step"]) == {7}
        excess = np.mean([b[0] - b[1] for (a, _), b in scores.items() if a == seed], axis=0)
        for row, own, other in zip(rows.itertuples(), excess, excess[[2, 2, 2, 1]], strict=True):
            one, two = (set(np.flatnonzero(x > threshold)) for x in (own, other))
            assert row.n_universal == len(one)
            assert row.jaccard == len(one & two) / len(one | two)
            assert row.rank_corr == pytest.approx(spearmanr(own, other).statistic)
            assert row.corr == pytest.approx(pearsonr(own, other).statistic)
        assert rows["reliability"].isna().tolist() == [True, True, True, False]
        r = pearsonr(excess[3], excess[1]).statistic
        assert rows["reliability"].iloc[-1] == pytest.approx(2 * r / (1 + r))
    nothing = token_budget.budget_table(parts, 7, dict.fromkeys("xyz", 9.0))
    assert nothing["jaccard"].isna().all()
    assert (nothing["n_universal"] == 0).all()


def planted(n_tokens: int, where) -> pd.DataFrame:
    """The table of two seeds whose neurons share a signal of their own, weak to strong."""
    rng = np.random.default_rng(0)
    d, shards = 60, 4
    strength = np.linspace(0.05, 0.6, d)
    signal = rng.normal(size=(n_tokens, d))
    noise = np.sqrt(1 - strength**2) * rng.normal(size=(2, n_tokens, d))
    values = strength * signal + noise
    cuts = np.linspace(0, n_tokens, shards + 1).astype(int)
    for k in range(shards):
        a, b = values[:, cuts[k] : cuts[k + 1]]
        write_arrays(where / f"sums{n_tokens}_{k}.zarr", [(tile_name(0, 0), a.T @ b)], {})
    ranges = budget.shard_ranges(shards)

    def neurons(x):
        sums = {"n_tokens": np.array([len(x)]), "powers": np.array([x.sum(0), (x**2).sum(0)])}
        sums |= {"code_sum": x.sum(0), "low": x.min(0), "high": x.max(0)}
        return Neurons.of([d], sums, np.ones(d, np.float32))

    points = [[neurons(x[cuts[i] : cuts[j]]) for i, j in ranges] for x in values]
    sums = Added([where / f"sums{n_tokens}_{k}.zarr" for k in range(shards)])
    scored = budget.Budget(sums, ranges, *points)
    scored.total(0, 0, rotation(0, 0, 0, d), rotation(0, 0, 0, d))
    thresholds = dict.fromkeys("ab", 0.2)
    return token_budget.budget_table([("a", "b", scored.points())], 0, thresholds)


def test_few_tokens_are_unreliable_and_plenty_reliable(tmp_path):
    few, plenty = (planted(n, tmp_path) for n in (60, 60_000))
    assert few["reliability"].max() < 0.7
    assert plenty["reliability"].min() > 0.98
    half = plenty[(plenty["part"] == "first") & (plenty["n_shards"] == 2)]
    assert (half["jaccard"] > 0.9).all()
    assert (half["rank_corr"] > 0.98).all()
    assert (few.loc[few["part"] == "first", "jaccard"] < 0.9).all()


def test_sampled_neurons_are_held_to_the_thresholds_of_their_own_layers():
    widths = {"a": [40, 2048], "b": [70]}
    scores = pd.DataFrame(
        [
            (seed, layer, layer + i / 1e4)
            for seed in "ab"
            for layer, d in enumerate(widths[seed])
            for i in range(d)
        ],
        columns=["seed", "layer", "threshold"],
    )
    found = token_budget.sampled_thresholds(scores)
    assert {seed: len(own) for seed, own in found.items()} == {"a": 40 + 128, "b": 64}
    expected = np.concatenate([np.arange(40), 1e4 + budget.sampled(2048)]) / 1e4
    np.testing.assert_allclose(found["a"], expected)
