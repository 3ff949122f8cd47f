"""Other notions of a match: mutual, seeds matched, found again in a seed left out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from universal_neurons import correlation, universality


def write(path, a, b, forward, backward):
    """Matches of a pair with the given best matches."""
    both = [
        correlation.Matches(
            np.full(len(index), 0.5),
            np.zeros(len(index)),
            np.array(index),
            np.full((2, len(index)), 0.1),
            np.zeros(len(index), bool),
        )
        for index in (forward, backward)
    ]
    names = {"seed": a, "other_seed": b, "layers": [0]}
    sizes = {"d_mlp": [len(forward)], "other_d_mlp": [len(backward)]}
    correlation.write_matches(path, *both, **names, **sizes, attributes={"mode": "exact"})


def test_mutual_is_both_ways_and_never_true_of_a_dead_neuron(tmp_path):
    write(tmp_path / "m.zarr", "a", "b", [1, 1, -1], [2, 0, 1, -1])
    table = universality.matches_table([tmp_path / "m.zarr"], 5)
    assert table["mutual"].tolist() == [True, False, False, False, True, False, False]


def test_a_neuron_is_found_again_in_seeds_that_had_no_say():
    """Excess of three neurons in four other seeds, threshold 0.35, worked out by hand."""
    excess = {
        "found in all": [0.5, 0.5, 0.5, 0.5],
        "carried by two": [0.9, 0.9, 0.0, 0.0],
        "in none": [0.0, 0.1, 0.0, 0.1],
    }
    matches = pd.DataFrame(
        [
            {"step": 1, "seed": "a", "other_seed": s, "layer": 0, "neuron": i, "best_corr": e}
            for i, values in enumerate(excess.values())
            for s, e in zip("bcde", values, strict=True)
        ]
    ).assign(baseline_corr=0.0, baseline_se=0.0)
    table = universality.universality_table(matches, 0.35)
    assert table["n_matched"].tolist() == [4, 2, 0]
    # Of the second: without b the mean is 0.3; without d it is 0.6, and d has no match.
    np.testing.assert_array_equal(table["leave_one_out"], [1, 0, np.nan])
