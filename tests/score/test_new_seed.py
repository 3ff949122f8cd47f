"""Matches in a seed not yet seen: by hand, and the coverage of the interval in simulated seeds."""

from itertools import permutations

import numpy as np
import pytest

from universal_neurons.score.new_seed import new_seed_table


def test_cases_are_counted_by_hand():
    excess = {
        ("a", "b"): np.array([0.9, 0.9, 0.1]),
        ("a", "c"): np.array([0.6, 0.3, 0.1]),
        ("b", "a"): np.array([0.0, 0.7, 0.7]),
        ("b", "c"): np.array([0.0, 0.7, 0.4]),
        ("c", "a"): np.array([0.0, 0.0, 0.0]),
        ("c", "b"): np.array([0.0, 0.0, 0.0]),
    }
    threshold = {seed: np.full(3, 0.5) for seed in "abc"}
    layer = {seed: np.array([0, 0, 1]) for seed in "abc"}
    table = new_seed_table(excess, threshold, layer).set_index("layer")
    # a: neuron 0 both ways, matched; neuron 1 without c only, not matched in c.
    # b: neuron 1 both ways, matched; neuron 2 without c only, not matched in c.
    assert table["cases"].tolist() == [6, 5, 1]
    assert table["new_seed"].tolist() == pytest.approx([4 / 6, 4 / 5, 0])
    assert table[["low", "high"]].isna().all(axis=None), "three seeds are too few"


def simulated(rng, n_seeds, n=400, of_match=0.05, of_reference=0.05):
    """Excess of neurons whose seeds differ in how well they match, and in how well they are."""
    seeds = [str(i) for i in range(n_seeds)]
    match, reference = (rng.normal(0, size, n_seeds) for size in (of_match, of_reference))
    own = {seed: rng.beta(2, 3, n) for seed in seeds}
    excess = {
        (a, b): own[a] + match[int(b)] + reference[int(a)] + rng.normal(0, 0.1, n)
        for a, b in permutations(seeds, 2)
    }
    return excess, {s: np.full(n, 0.5) for s in seeds}, {s: np.zeros(n, int) for s in seeds}


@pytest.mark.parametrize(
    "n_seeds", [4, pytest.param(5, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("sizes", [(0.05, 0.0), (0.05, 0.05), (0.0, 0.05)])
def test_the_interval_covers_what_new_seeds_show(n_seeds, sizes):
    rng = np.random.default_rng(n_seeds)
    runs = [new_seed_table(*simulated(rng, n_seeds, 400, *sizes)).iloc[0] for _ in range(200)]
    truth = np.mean([run["new_seed"] for run in runs])
    inside = np.mean([run["low"] <= truth <= run["high"] for run in runs])
    assert inside >= 0.9
    # And not for being as wide as all that is possible.
    assert np.median([run["high"] - run["low"] for run in runs]) < 0.5
