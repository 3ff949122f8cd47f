"""Intervals of universal fractions: by coverage where seeds are references and matches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special

from universal_neurons.score.fractions import fractions_table

THRESHOLD, N, GROUPS = 0.5, 400, 64
# Effect of a seed as the reference, and as a match of others, from two independent draws of it.
WORLDS = {
    "no effects": lambda x, y: (0 * x, 0 * x),
    "of references": lambda x, y: (x, 0 * x),
    "of matches, half as large": lambda x, y: (x, x / 2),
    "of both": lambda x, y: (x, x),
    "of both, independent": lambda x, y: (x, y),
}
# Spread of the effects: so small that the threshold stays inside the range of the excesses.
APART = 0.04


def tables(excess, influences=(), layer=0, threshold=THRESHOLD):
    """Scores, matches and influences from the excess by (seed, other seed)."""
    universality, matches = [], []
    for seed in sorted({seed for seed, _ in excess}):
        own = {other: found for (one, other), found in excess.items() if one == seed}
        mean = np.mean(list(own.values()), axis=0)
        columns = {"step": 1, "seed": seed, "layer": layer, "threshold": threshold}
        universality.append(pd.DataFrame({**columns, "universal": mean > threshold}))
        for other, found in own.items():
            columns = {"seed": seed, "other_seed": other, "baseline_corr": 0.25}
            matches.append(pd.DataFrame({**columns, "best_corr": found + 0.25}))
    return pd.concat(universality), pd.concat(matches), dict(influences)


def simulated(rng, names, as_reference, as_match, noise):
    """Tables of seeds with these effects, whose neurons have excesses spread over 0 to 1.

    Noise of the tokens is common to all pairs, to those of a reference, to those of a match, and of
    the single neurons.
    """
    truth = np.linspace(0, 1, N)
    everywhere, references, others = (
        noise * rng.normal(size=(n, GROUPS, 1)) for n in (1, len(names), len(names))
    )
    excess, influences = {}, {}
    for a, seed in enumerate(names):
        for m, other in enumerate(names):
            if a != m:
                own = noise * rng.normal(size=(GROUPS, N))
                parts = everywhere[0] + references[a] + others[m] + own
                excess[seed, other] = truth + as_reference[a] + as_match[m] + parts.sum(0)
                influences[seed, other] = (parts - parts.mean(0)).astype(np.float32)
    return tables(excess, influences, layer=np.arange(N) % 2)


def coverage(world, n_seeds, runs, noise=0.001):
    """How often the intervals of the mean over seeds, and of seeds, hold the true fraction."""
    rng = np.random.default_rng(1)
    names = [chr(ord("a") + i) for i in range(n_seeds)]
    of_mean, of_seeds = [], []
    for _ in range(runs):
        effects = WORLDS[world](*rng.normal(scale=APART, size=(2, n_seeds)))
        table = fractions_table(*simulated(rng, names, *effects, noise), draws=100)
        rows = table[table["layer"] == -1].set_index("seed")
        within = rows["low"] <= THRESHOLD, rows["high"] >= THRESHOLD
        of_mean.append((within[0] & within[1])[""])
        # Of one seed, for the others as they are.
        matched = (effects[1].sum() - effects[1]) / (n_seeds - 1)
        truth, own = THRESHOLD + effects[0] + matched, rows.loc[names]
        of_seeds.append((own["low"] <= truth) & (truth <= own["high"]))
    return np.mean(of_mean), np.mean(of_seeds)


@pytest.mark.parametrize(
    ("world", "n_seeds", "runs", "noise"),
    [
        ("of both", 5, 60, 0.001),
        ("of both", 3, 60, 0.001),
        ("no effects", 3, 60, 0.003),
        *(
            pytest.param(world, n_seeds, runs, 0.001, marks=pytest.mark.slow)
            for n_seeds, runs in ((3, 300), (5, 300), (10, 100))
            for world in WORLDS
        ),
    ],
)
def test_intervals_cover_the_truth_where_seeds_are_references_and_matches(
    world, n_seeds, runs, noise
):
    of_mean, of_seeds = coverage(world, n_seeds, runs, noise)
    assert of_mean >= 0.90
    assert of_seeds >= 0.87


@pytest.mark.slow
@pytest.mark.parametrize(("n_seeds", "share"), [(3, 0.8), (4, 0.2), (5, 0.5)])
def test_all_or_nothing_matches_are_covered_less_but_no_worse_than_the_method_says(n_seeds, share):
    """Other seeds offer a match to a share of the neurons: thresholds ask for a number of seeds."""
    rng = np.random.default_rng(0)
    pairs = [(a, m) for a in range(n_seeds) for m in range(n_seeds) if a != m]
    nothing = {(str(a), str(m)): np.zeros((8, N), np.float32) for a, m in pairs}
    rows = []
    for _ in range(100):
        shares = special.expit(special.logit(share) + 0.4 * rng.normal(size=n_seeds))
        excess = {
            (str(a), str(m)): 0.8 * (rng.random(N) < shares[m]) + 0.05 * rng.normal(size=N)
            for a, m in pairs
        }
        rows.append(fractions_table(*tables(excess, nothing), draws=10).iloc[0])
    found = pd.DataFrame(rows)
    truth = found["mean_fraction"].mean()
    assert ((found["low"] <= truth) & (truth <= found["high"])).mean() >= 0.75


@pytest.mark.parametrize("n_seeds", [3, 4, 7])
def test_without_noise_of_tokens_the_error_is_that_of_a_seeds_effects_in_both_roles(n_seeds):
    rng = np.random.default_rng(0)
    x, y = rng.normal(scale=APART, size=(2, n_seeds))
    truth = np.linspace(0, 1, 20_000)
    pairs = [(a, m) for a in range(n_seeds) for m in range(n_seeds) if a != m]
    excess = {(str(a), str(m)): truth + x[a] + y[m] for a, m in pairs}
    nothing = dict.fromkeys(excess, np.zeros((8, len(truth)), np.float32))
    table = fractions_table(*tables(excess, nothing), draws=10)
    expected = np.std(x + y, ddof=1) / np.sqrt(n_seeds)
    assert table["se"][0] == pytest.approx(expected, rel=0.01)


def test_noise_that_all_seeds_share_does_not_average_out():
    rng = np.random.default_rng(0)
    parts = 0.01 * rng.normal(size=(GROUPS, 1)) * np.ones(N)
    pairs = [(a, m) for a in "abcd" for m in "abcd" if a != m]
    excess = dict.fromkeys(pairs, np.linspace(0, 1, N))
    table = fractions_table(*tables(excess, dict.fromkeys(pairs, parts - parts.mean(0))))
    errors = table[table["layer"] == -1].set_index("seed")["se"]
    assert errors[""] == pytest.approx(errors["a"])
    assert errors[""] > 0


def test_of_two_seeds_each_has_an_interval_and_their_mean_has_none():
    rng = np.random.default_rng(0)
    table = fractions_table(*simulated(rng, "ab", np.zeros(2), np.zeros(2), 0.01))
    known = table.set_index("seed")[["se", "low", "high"]].notna()
    assert known.loc[["a", "b"]].all(axis=None)
    assert not known.loc[""].any(axis=None)


def test_without_activations_fractions_have_no_interval():
    excess = {("a", "b"): np.array([0.6]), ("b", "a"): np.array([0.4])}
    found = fractions_table(*tables(excess))
    assert found["fraction"].tolist() == [0.5, 0.5, 1, 1, 0, 0]
    assert found[["se", "low", "high"]].isna().all().all()


def test_fractions_are_what_was_counted_and_their_mean_stands_apart_where_widths_differ():
    excess = {("a", "b"): np.array([0.6, 0.4]), ("b", "a"): np.full(4, 0.6)}
    found = fractions_table(*tables(excess))
    assert (found["fraction"] == found["n_universal"] / found["n_neurons"]).all()
    mean = found[found["seed"] == ""]
    assert mean["fraction"].tolist() == [5 / 6] * 2
    assert mean["mean_fraction"].tolist() == [0.75] * 2
    own = found[found["seed"] != ""]
    assert (own["fraction"] == own["mean_fraction"]).all()


def test_every_neuron_is_held_to_its_own_threshold_in_the_bootstrap():
    rng = np.random.default_rng(0)
    pairs = [("a", "b"), ("b", "a")]
    influences = {pair: rng.normal(0, 0.1, (8, 100)) for pair in pairs}
    made = tables(
        dict.fromkeys(pairs, np.full(100, 0.5)),
        influences,
        layer=np.repeat([0, 1], 50),
        threshold=np.repeat([0.5, 9.0], 50),
    )
    errors = fractions_table(*made).set_index(["seed", "layer"])["se"]
    assert errors["a", 0] > 0
    assert errors["a", 1] == 0


def test_a_layer_of_one_seed_alone_has_an_interval_of_that_seed_only():
    rng = np.random.default_rng(0)
    sizes = {"a": 4, "b": 2, "c": 2}
    pairs = [(a, m) for a in sizes for m in sizes if a != m]
    excess = {(a, m): np.full(sizes[a], THRESHOLD) for a, m in pairs}
    influences = {(a, m): rng.normal(size=(8, sizes[a])) for a, m in pairs}
    universality, matches, influences = tables(excess, influences)
    universality["layer"] = [0, 0, 1, 1, 0, 0, 0, 0]
    errors = fractions_table(universality, matches, influences)
    errors = errors.set_index(["seed", "layer"])["se"]
    assert np.isnan(errors["", 1])
    assert errors.drop(("", 1)).notna().all()
