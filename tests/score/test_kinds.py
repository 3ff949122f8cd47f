"""Fractions of kinds of universal neurons: counted by hand, and null where nothing was compared."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from universal_neurons.score.kinds import fractions_of_kinds

SEEDS, N = "abcde", 200


def tables(rng):
    """Scores and matches of seeds whose neurons are universal, and given the token, by halves."""
    layer = np.repeat([0, 1], N // 2)
    truth = np.where(np.arange(N) % 4 == 0, 0.7, 0.2)
    given = np.where(np.arange(N) % 8 == 0, 0.6, 0.1)
    matches = pd.concat(
        pd.DataFrame(
            {
                "seed": a,
                "other_seed": b,
                "best_corr": truth + rng.normal(0, 0.01, N) + 0.1,
                "baseline_corr": 0.1,
                "given_token_corr": given + rng.normal(0, 0.01, N) + 0.2,
                "given_token_baseline": 0.2,
            }
        )
        for a, b in permutations(SEEDS, 2)
    ).reset_index(drop=True)
    scores = pd.DataFrame({"step": 7, "seed": np.repeat(list(SEEDS), N), "threshold": 0.5})
    scores["layer"] = np.tile(layer, len(SEEDS))
    scores["universal"] = np.tile(truth > 0.5, len(SEEDS))
    # A quarter are better than the null; the p-values of the others are uniform.
    p = np.tile(np.arange(1, N + 1) / (N + 1), len(SEEDS))
    scores["p_value"] = np.where(scores["universal"], 1e-4, p)
    return scores, matches


def test_every_kind_is_counted_by_its_own_excess_and_threshold():
    scores, matches = tables(np.random.default_rng(0))
    beyond = np.where(scores["layer"] == 0, 0.5, 0.9)
    table = fractions_of_kinds(scores, matches, {}, {}, beyond).set_index(["seed", "layer"])
    everywhere = table.loc[("", -1)]
    assert everywhere["fraction"] == 0.25
    assert everywhere["beyond_random"] == 0.125, "those of the first layer alone"
    assert table.loc[("b", 0), "beyond_random"] == 0.25
    assert table.loc[("b", 1), "beyond_random"] == 0
    assert everywhere["given_token"] == 0.125
    # Seeds are alike here, so that their interval has next to no width, and they have matches.
    assert everywhere["given_token_low"] == pytest.approx(0.125)
    assert everywhere["given_token_high"] == pytest.approx(0.125)
    assert table.loc["b", "given_token_low"].isna().all()
    for name in ("new_seed", "beyond_random_new_seed", "given_token_new_seed"):
        assert everywhere[name] == 1
        assert table.loc["b", name].isna().all()
    assert np.isnan(table.loc[("", 1), "beyond_random_new_seed"]), "no case"
    assert everywhere["expected_beyond_random"] == pytest.approx(0.25 * 5 * N, rel=0.1)


def test_influences_given_the_token_give_that_share_alone_an_interval_over_tokens():
    scores, matches = tables(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    given = {
        pair: rng.normal(0, 0.2, (16, N)).astype(np.float32) for pair in permutations(SEEDS, 2)
    }
    table = fractions_of_kinds(scores, matches, {}, given, None).set_index(["seed", "layer"])
    single = table.loc["b"]
    assert single[["given_token_low", "given_token_high"]].notna().all(axis=None)
    assert (single["given_token_low"] < single["given_token_high"]).all()
    assert table.loc[("", -1), "given_token_low"] < table.loc[("", -1), "given_token"]
    assert table["low"].isna().all()


def test_where_no_excess_could_pass_there_is_no_interval():
    scores, matches = tables(np.random.default_rng(0))
    influences = {pair: np.zeros((4, N), np.float32) for pair in permutations(SEEDS, 2)}
    table = fractions_of_kinds(scores, matches, influences, {}, np.full(len(scores), np.inf))
    assert (table["beyond_random"] == 0).all()
    assert table[["beyond_random_low", "beyond_random_high"]].isna().all(axis=None)
    assert table[["low", "high"]].notna().all(axis=None)


def test_what_was_not_compared_is_null_and_the_rest_stays():
    scores, matches = tables(np.random.default_rng(0))
    nothing = matches.assign(given_token_corr=np.nan, given_token_baseline=np.nan)
    table = fractions_of_kinds(scores, nothing, {}, {}, None)
    unknown = [c for c in table if "beyond_random" in c or "given_token" in c]
    assert len(unknown) == 13
    assert table[unknown].isna().all(axis=None)
    assert table.loc[0, ["fraction", "new_seed"]].tolist() == [0.25, 1]
