"""Mutual matches, groups over all seeds and leaving seeds out, on planted matches."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest

from universal_neurons.notions import add_notions, groups_table, mutual_partners
from universal_neurons.universality import universality_table

D_MLP = {"a": (3, 2), "b": (2, 4), "c": (4, 1)}


def tables(corr, baseline=0.1, threshold=0.5):
    """Matches of every ordered pair of seeds from correlation matrices, and their scores."""
    places = {
        seed: [(layer, i) for layer, width in enumerate(widths) for i in range(width)]
        for seed, widths in D_MLP.items()
    }
    rows = []
    for seed, other in sorted(permutations(D_MLP, 2)):
        matrix = corr[seed, other] if (seed, other) in corr else corr[other, seed].T
        for (layer, neuron), row in zip(places[seed], matrix, strict=True):
            dead = not row.any()
            best_layer, best_neuron = (-1, -1) if dead else places[other][row.argmax()]
            rows.append((7, seed, other, layer, neuron, row.max(), best_layer, best_neuron))
    columns = [
        "step",
        "seed",
        "other_seed",
        "layer",
        "neuron",
        "best_corr",
        "best_layer",
        "best_neuron",
    ]
    matches = pd.DataFrame(rows, columns=columns).assign(baseline_corr=baseline, baseline_se=0.0)
    return matches, universality_table(matches, threshold)


def random_corr(rng):
    n = {seed: sum(widths) for seed, widths in D_MLP.items()}
    return {(a, b): rng.uniform(0, 1, (n[a], n[b])) for a, b in combinations(n, 2)}


@pytest.mark.parametrize("seed", range(20))
def test_mutual_partners_and_groups_are_those_of_a_search_over_all_neurons(seed):
    corr = random_corr(np.random.default_rng(seed))
    corr["a", "b"][1] = 0  # dead in a
    corr["a", "c"][1] = 0
    matches, scores = tables(corr)
    partners = mutual_partners(matches)
    edges = set()
    for (a, b), matrix in corr.items():
        for i, j in np.ndindex(matrix.shape):
            best = matrix[i].argmax() == j and matrix[:, j].argmax() == i and matrix[i].any()
            assert (partners[a, b][i] == j) == best
            assert (partners[b, a][j] == i) == best
            if best:
                edges.add(((a, i), (b, j)))
    sizes = {s: sum(widths) for s, widths in D_MLP.items()}
    expected = {
        (i, j, k)
        for i, j, k in np.ndindex(sizes["a"], sizes["b"], sizes["c"])
        if {(("a", i), ("b", j)), (("a", i), ("c", k)), (("b", j), ("c", k))} <= edges
    }
    groups = groups_table(matches, scores, partners)
    starts = {s: np.cumsum([0, *widths]) for s, widths in D_MLP.items()}
    found = {
        tuple(starts[row.seed][row.layer] + row.neuron for row in group.itertuples())
        for _, group in groups.groupby("group")
    }
    assert found == expected


def test_a_group_knows_its_weakest_link_and_the_strongest_group_comes_first():
    corr = {
        key: np.full_like(matrix, 0.2)
        for key, matrix in random_corr(np.random.default_rng(0)).items()
    }
    for i, strength in ((0, 0.7), (2, 0.9)):
        for matrix in corr.values():
            matrix[i, i] = strength
    corr["b", "c"][2, 2] = 0.6
    matches, scores = tables(corr)
    groups = groups_table(matches, scores, mutual_partners(matches))
    strong = groups[groups.group == 0]
    assert list(strong.seed) == ["a", "b", "c"]
    assert list(zip(strong.layer, strong.neuron, strict=True)) == [(0, 2), (1, 0), (0, 2)]
    assert strong.group_min_corr.iloc[0] == 0.6
    assert strong.group_mean_corr.iloc[0] == pytest.approx(0.8)
    assert groups.groupby("group").group_mean_corr.first().is_monotonic_decreasing


def test_scores_count_matches_and_leave_seeds_out():
    corr = {key: np.full_like(m, 0.2) for key, m in random_corr(np.random.default_rng(0)).items()}
    # Neuron 0 of a: 0.9 in b, 0.3 in c; neuron 1: 0.8 in both. Baseline 0.1, threshold 0.5.
    corr["a", "b"][0, 0], corr["a", "c"][0, 0] = 0.9, 0.3
    corr["a", "b"][1, 1] = corr["a", "c"][1, 1] = 0.8
    matches, scores, groups = add_notions(*tables(corr), excess_threshold=0.5)
    a = scores[scores.seed == "a"].reset_index()
    assert list(a.n_matched[:3]) == [1, 2, 0]
    assert list(a.n_mutual[:2]) == [2, 2]
    # Universal without c (by b alone), and not matched in c; not universal without b.
    assert a.leave_one_out[0] == 0
    assert a.leave_one_out[1] == 1
    assert np.isnan(a.leave_one_out[2])
    assert matches.mutual.sum() == scores.n_mutual.sum()
    assert scores.in_group.sum() == len(groups)


def test_two_seeds_have_groups_of_two_and_nothing_to_leave_out():
    matches, scores = tables(random_corr(np.random.default_rng(3)))
    two = {"a", "b"}
    matches = matches[matches.seed.isin(two) & matches.other_seed.isin(two)]
    matches, scores, groups = add_notions(
        matches.reset_index(drop=True), universality_table(matches, 0.5), 0.5
    )
    assert scores.leave_one_out.isna().all()
    assert (groups.groupby("group").size() == 2).all()
    assert 2 * groups.group.nunique() == matches.mutual.sum()
    assert len(groups) > 0
