"""Universal by excess correlation or by q-value: one threshold per stratum says the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from universal_neurons.score import criterion as criterion_module
from universal_neurons.score import nulls
from universal_neurons.score.criterion import Criterion
from universal_neurons.score.score import score_step
from universal_neurons.store.tables import read_table


def scores_and_nulls(rng, missing_layer=False):
    """Two seeds of three layers, a sixth of their neurons shared, some dead, and three nulls."""
    n = 360
    scores = pd.DataFrame(
        {"seed": np.repeat(["a", "b"], n), "layer": np.tile(np.repeat([0, 1, 2], n // 3), 2)}
    )
    shared = rng.random(2 * n) < 1 / 6
    dead = rng.random(2 * n) < 0.05
    excess = rng.normal(0, 0.02, 2 * n).round(2) + 0.13 * shared * (1 + scores["layer"])
    scores["excess_corr"] = np.where(dead, 0.0, excess)
    scores["baseline_corr"] = np.where(dead, 0.0, 0.1)
    scores["stratum"] = rng.integers(0, nulls.STRATA, 2 * n)
    rotated = scores[["layer", "stratum"]].loc[scores.index.repeat(5)]
    found = {
        "rotated": rotated.assign(excess=rng.normal(0, 0.02, len(rotated)).round(2)),
        "permuted": rotated.assign(excess=rng.normal(-0.05, 0.05, len(rotated))),
        "untrained": pd.DataFrame(
            {
                "layer": np.arange(6000) % 3,
                "stratum": np.arange(6000) // 3 % nulls.STRATA,
                "excess": np.arange(6000) / 2e5,
            }
        ),
    }
    if missing_layer:
        found = {name: null[null["layer"] < 2] for name, null in found.items()}
    return nulls.with_p_values(scores, found), found


@pytest.mark.parametrize("missing_layer", [False, True])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("seed", range(20))
def test_above_the_threshold_of_a_rate_are_the_neurons_of_smaller_q_values(
    seed, rate, missing_layer
):
    scores, chance = scores_and_nulls(np.random.default_rng(seed), missing_layer)
    found = Criterion("q_value", 0.5, rate).judge(scores, chance, np.inf)
    expected = (scores["q_value"] < rate) & (scores["excess_corr"] > 0)
    assert (found["universal"] == expected).all()
    assert found.groupby(["seed", "layer", "stratum"])["threshold"].nunique().eq(1).all()
    assert (found["threshold"] >= 0).all()
    if missing_layer:
        assert np.isinf(found.loc[found["layer"] == 2, "threshold"]).all()


def test_planted_neurons_are_universal_by_q_value_where_none_is_above_a_half():
    scores, chance = scores_and_nulls(np.random.default_rng(0))
    by_excess = Criterion("excess", 0.5, 0.05).judge(scores, chance, np.inf)
    by_q_value = Criterion("q_value", 0.5, 0.05).judge(scores, chance, np.inf)
    assert not by_excess["universal"].any()
    assert (by_excess["threshold"] == 0.5).all()
    assert by_q_value["universal"].sum() > 10


@pytest.mark.parametrize("kind", ["excess", "q_value"])
def test_a_neuron_of_a_handful_of_tokens_is_not_called_universal(kind):
    scores, chance = scores_and_nulls(np.random.default_rng(0))
    criterion = Criterion(kind, 0.05, 0.05)
    everywhere = criterion.judge(scores, chance, np.inf)
    tokens = np.where(np.arange(len(scores)) % 2, 9.9, 10.0)
    found = criterion.judge(scores, chance, tokens)
    few = tokens < 10
    assert everywhere.loc[few, "universal"].any()
    assert not found.loc[few, "universal"].any()
    assert np.isinf(found.loc[few, "threshold"]).all()
    assert (found.loc[~few, "universal"] == everywhere.loc[~few, "universal"]).all()


def test_a_step_is_scored_with_the_effective_tokens_of_its_own_neurons(local, monkeypatch):
    """The bound is set between those of the tiny grid, in which every neuron has more."""
    results = local[0] / "results/exact"
    known = read_table(results / "neurons.parquet").query("step == 20")
    bound = known["effective_tokens"].median()
    monkeypatch.setattr(criterion_module, "LEAST_EFFECTIVE", bound)
    scores = score_step(
        20,
        sorted(results.glob("matches/step20/*/*/*.zarr")),
        moments=sorted(results.glob("moments/*/step20/*.zarr")),
        criterion=Criterion("excess", -1, 0.05),
    )["universality"]
    keys = ["seed", "layer", "neuron"]
    joined = scores.merge(known.astype({"seed": str}), on=keys, validate="1:1")
    assert len(joined) == len(scores)
    assert (joined["universal"] == (joined["effective_tokens"] >= bound)).all()
    assert 0 < joined["universal"].sum() < len(joined)


def test_without_a_null_no_neuron_is_universal_by_q_value():
    scores, _ = scores_and_nulls(np.random.default_rng(0))
    unknown = nulls.with_p_values(scores, {})
    found = Criterion("q_value", 0.5, 0.05).judge(unknown, {}, np.inf)
    assert not found["universal"].any()
    assert np.isinf(found["threshold"]).all()


def test_every_table_of_a_step_goes_by_the_q_value(local):
    results = local[0] / "results/exact"
    tables = score_step(
        20,
        sorted(results.glob("matches/step20/*/*/*.zarr")),
        moments=sorted(results.glob("moments/*/step20/*.zarr")),
        criterion=Criterion("q_value", 0.5, 0.9),
        influence=results / "influence/step20.zarr",
        permuted=sorted(results.glob("permuted/step20/*/*.zarr")),
        untrained=results / "untrained.parquet",
    )
    scores = tables["universality"]
    universal = (scores["q_value"] < 0.9) & (scores["excess_corr"] > 0)
    assert 0 < universal.sum() < len(scores)
    assert (scores["universal"] == universal).all()
    assert (scores["assigned_universal"] == (scores.assigned_excess > scores.threshold)).all()
    assert not (scores.loc[np.isinf(scores["threshold"]), "n_matched"] > 0).any()
    counts = universal.groupby([scores["seed"], scores["layer"]]).sum()
    fractions = tables["fractions"].set_index(["seed", "layer"])
    assert (fractions.loc[counts.index, "n_universal"] == counts).all()
