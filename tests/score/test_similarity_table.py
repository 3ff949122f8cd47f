"""Similarity in the tables of a run is what its stores say, and how the report counts it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from universal_neurons.correlate.similar_pair import MEASURES, PairSimilarity
from universal_neurons.report.similarity import over_seeds, unmatched_counts
from universal_neurons.score.similarity import (
    of_like_depth,
    read_similarities,
    regression_r2,
    similarity_table,
)
from universal_neurons.store.columns.score import SIMILARITY


@pytest.fixture
def pairs(tmp_path):
    """Three seeds, of which c has three layers and the others two, with four neurons each."""
    rng = np.random.default_rng(0)
    layers = {"a": 2, "b": 2, "c": 3}
    made = []
    for one, other in (("b", "c"), ("a", "b"), ("a", "c")):
        shape = layers[one], layers[other]
        measures = {name: rng.random(shape) for name in MEASURES}
        r2 = (rng.random(4 * n) for n in shape)
        pair = PairSimilarity(one, other, measures, *r2)
        made.append(tmp_path / f"{one}{other}.zarr")
        pair.write(made[-1], {})
    return read_similarities(made)


def test_the_table_has_a_row_for_every_pair_of_layers(pairs):
    table = similarity_table(pairs, 7)
    assert len(SIMILARITY.conform(table)) == len(table) == 4 + 6 + 6
    assert not table.duplicated(["seed", "other_seed", "layer", "other_layer"]).any()
    row = table.query("seed == 'a' and other_seed == 'c' and layer == 1 and other_layer == 2")
    for name in MEASURES:
        assert row[name].item() == pairs[1].measures[name][1, 2]
    assert set(table["step"]) == {7}


def test_without_pairs_the_table_has_no_rows_and_nothing_is_known_of_neurons():
    assert len(SIMILARITY.conform(similarity_table([], 7))) == 0
    assert np.isnan(regression_r2([], 5)).all()


def test_what_layers_explain_is_the_mean_over_the_other_seeds(pairs):
    found = regression_r2(pairs, 28)
    ab, ac, bc = pairs
    expected = [ab.forward + ac.forward, ab.backward + bc.forward, ac.backward + bc.backward]
    np.testing.assert_allclose(found, np.concatenate(expected) / 2)


def test_layers_of_like_depth_are_found_for_every_pair_by_its_own_depth(pairs):
    near = of_like_depth(similarity_table(pairs, 7))
    places = near.groupby(["seed", "other_seed"])[["layer", "other_layer"]].apply(
        lambda rows: rows.to_numpy().tolist()
    )
    assert places["a", "b"] == [[0, 0], [1, 1]]
    # The middle one of three is as near to both of two.
    assert places["a", "c"] == [[0, 0], [0, 1], [1, 1], [1, 2]]


def test_the_interval_of_layers_alike_covers_the_mean_of_seeds_not_yet_seen():
    """A pair is as alike as its two seeds together make it, but for noise of its own."""
    runs, n, truth = 300, 5, 0.6
    rng = np.random.default_rng(2)
    one, other = np.triu_indices(n, 1)
    of_seed = 0.05 * rng.standard_normal((runs, n))
    alike = truth + of_seed[:, one] + of_seed[:, other] + 0.03 * rng.standard_normal((runs, 10))
    values = {name: alike.ravel() for name in MEASURES}
    keys = {"step": np.repeat(np.arange(runs), 10), "layer": 0, "other_layer": 0}
    pairs = {"seed": np.tile(one, runs).astype(str), "other_seed": np.tile(other, runs).astype(str)}
    found = over_seeds(pd.DataFrame({**keys, **pairs, **values})).xs("cka", level="measure")
    np.testing.assert_allclose(found["mean"], alike.mean(1))
    assert 0.91 < ((found["low"] < truth) & (truth < found["high"])).mean() < 0.99
    # As if pairs were independent it would be half as wide, and cover too rarely.
    naive = 2.26 * alike.std(1, ddof=1) / np.sqrt(10)
    assert (np.abs(alike.mean(1) - truth) < naive).mean() < 0.85


def test_two_seeds_have_no_interval_of_layers_alike(pairs):
    found = over_seeds(similarity_table(pairs[:1], 7))
    assert found["mean"].notna().all()
    assert found[["low", "high"]].isna().all(axis=None)


def test_neurons_without_a_match_are_counted_by_what_a_layer_explains():
    # Matched; split; absent; dead; correlated below 0, which is no match.
    scores = pd.DataFrame(
        {
            "step": 5,
            "max_corr": [0.9, 0.7, 0.1, 0.0, -0.9],
            "regression_r2": [0.95, 0.98, 0.02, np.nan, 0.6],
        }
    )
    counts = unmatched_counts(scores)
    assert counts.loc[5].to_dict() == {"n_neurons": 4, "unmatched": 3, "explained": 2}
    assert unmatched_counts(scores.assign(regression_r2=np.nan)).empty


def test_a_run_says_of_its_neurons_what_its_stores_say(local):
    results = local[0] / "results/exact"
    scores = pd.read_parquet(results / "universality.parquet").query("step == 20")
    layers = read_similarities(sorted(results.glob("similarity/step20/*/*.zarr")))
    assert len(layers) == 3
    expected = dict(
        zip(["1", "a", "b-x21"], np.split(regression_r2(layers, len(scores)), 3), strict=True)
    )
    for seed, rows in scores.groupby("seed", observed=True):
        np.testing.assert_array_equal(rows["regression_r2"], expected[seed])
    table = pd.read_parquet(results / "similarity.parquet")
    assert len(table) == 2 * 3 * 2 * 2
    assert table[["cka", "pwcca", "procrustes"]].notna().all().all()


@pytest.mark.slow
def test_without_stored_activations_similarity_is_the_same(local, direct):
    one, other = (
        pd.read_parquet(results / "similarity.parquet")
        for results in (local[0] / "results/exact", direct)
    )
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.slow
def test_the_screened_mode_has_no_similarity(screened):
    assert not len(pd.read_parquet(screened / "similarity.parquet"))
    assert pd.read_parquet(screened / "universality.parquet")["regression_r2"].isna().all()
