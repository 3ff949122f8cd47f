"""Mutual matches, groups over all seeds and leaving seeds out, on planted matches."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment

from universal_neurons.correlate.matches import CANDIDATES, Matches
from universal_neurons.score.criterion import Criterion
from universal_neurons.score.notions import add_notions, assignment, groups_table, mutual_partners
from universal_neurons.score.universality import universality_table

D_MLP = {"a": (3, 2), "b": (2, 4), "c": (4, 1)}


def judged(matches, threshold):
    return Criterion("excess", threshold, 0.05).judge(universality_table(matches), {}, np.inf)


def tables(corr, baseline=0.1, threshold=0.5):
    """Matches of every ordered pair of seeds from correlation matrices, and scores, and both."""
    places = {
        seed: [(layer, i) for layer, width in enumerate(widths) for i in range(width)]
        for seed, widths in D_MLP.items()
    }
    rows, found = [], {}
    for seed, other in sorted(permutations(D_MLP, 2)):
        matrix = corr[seed, other] if (seed, other) in corr else corr[other, seed].T
        one = found[seed, other] = Matches.nothing(len(matrix), 1)
        one.take(matrix, *map(np.arange, matrix.shape))
        one.clear(~matrix.any(1))
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
    return matches, judged(matches, threshold), found


def random_corr(rng):
    n = {seed: sum(widths) for seed, widths in D_MLP.items()}
    return {(a, b): rng.uniform(0, 1, (n[a], n[b])) for a, b in combinations(n, 2)}


@pytest.mark.parametrize("seed", range(20))
def test_mutual_partners_and_groups_are_those_of_a_search_over_all_neurons(seed):
    corr = random_corr(np.random.default_rng(seed))
    corr["a", "b"][1] = 0  # dead in a
    corr["a", "c"][1] = 0
    _, scores, found = tables(corr)
    partners = mutual_partners(found)
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
    groups = groups_table(found, scores, partners)
    starts = {s: np.cumsum([0, *widths]) for s, widths in D_MLP.items()}
    grouped = {
        tuple(starts[row.seed][row.layer] + row.neuron for row in group.itertuples())
        for _, group in groups.groupby("group")
    }
    assert grouped == expected


def test_a_group_knows_its_weakest_link_and_the_strongest_group_comes_first():
    corr = {
        key: np.full_like(matrix, 0.2)
        for key, matrix in random_corr(np.random.default_rng(0)).items()
    }
    for i, strength in ((0, 0.7), (2, 0.9)):
        for matrix in corr.values():
            matrix[i, i] = strength
    corr["b", "c"][2, 2] = 0.6
    _, scores, found = tables(corr)
    groups = groups_table(found, scores, mutual_partners(found))
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
    matches, scores, groups = add_notions(*tables(corr, threshold=0.5), {})
    a = scores[scores.seed == "a"].reset_index()
    assert list(a.n_matched[:3]) == [1, 2, 0]
    assert list(a.n_mutual[:2]) == [2, 2]
    # Universal without c (by b alone), and not matched in c; not universal without b.
    assert a.leave_one_out[0] == 0
    assert a.leave_one_out[1] == 1
    assert np.isnan(a.leave_one_out[2])
    assert list(a.leave_one_out_cases[:3]) == [1, 2, 0]
    assert matches.mutual.sum() == scores.n_mutual.sum()
    assert scores.in_group.sum() == len(groups)


def test_mutual_matches_and_groups_by_noise_stand_beside_those_found():
    rng = np.random.default_rng(4)
    *found, noise = *tables(random_corr(rng)), tables(random_corr(rng))[2]
    _, scores, _ = add_notions(*found, noise)
    expected = tables(random_corr(np.random.default_rng(4)))
    assert (scores.n_mutual_permuted != scores.n_mutual).any()
    by_noise = mutual_partners(noise)
    for seed, own in scores.groupby("seed"):
        others = [partner >= 0 for (one, _), partner in by_noise.items() if one == seed]
        assert list(own.n_mutual_permuted) == list(np.sum(others, axis=0))
    _, again, same = add_notions(*expected, expected[2])
    assert (again.n_mutual_permuted == again.n_mutual).all()
    assert (same.n_permuted == same.group.nunique()).all()
    alone = add_notions(*expected, {})
    assert alone[1].n_mutual_permuted.isna().all()
    assert alone[2].n_permuted.isna().all()


def test_two_seeds_have_groups_of_two_and_nothing_to_leave_out():
    matches, _, found = tables(random_corr(np.random.default_rng(3)))
    two = {"a", "b"}
    matches = matches[matches.seed.isin(two) & matches.other_seed.isin(two)]
    matches, scores, groups = add_notions(
        matches.reset_index(drop=True), judged(matches, 0.5), found, {}
    )
    assert scores.leave_one_out.isna().all()
    assert (groups.groupby("group").size() == 2).all()
    assert 2 * groups.group.nunique() == matches.mutual.sum()
    assert len(groups) > 0


def both_ways(corr):
    """All candidates that are kept of a correlation matrix, of either side."""
    found = []
    for matrix in (corr, corr.T):
        one = Matches.nothing(len(matrix), 1)
        one.take(np.ascontiguousarray(matrix), *map(np.arange, matrix.shape))
        one.clear(~matrix.any(1))
        found.append(one)
    return found


@pytest.mark.parametrize("shape", [(CANDIDATES, CANDIDATES), (5, 8), (8, 3), (40, 60), (60, 40)])
@pytest.mark.parametrize("decimals", [1, 15])
@pytest.mark.parametrize("seed", range(3))
def test_the_assignment_has_the_largest_sum_that_candidates_allow(shape, decimals, seed):
    """Of few neurons all are candidates; with one decimal many correlations are equal."""
    corr = np.random.default_rng(seed).uniform(-0.5, 1, shape).round(decimals)
    ranks = [np.argsort(np.argsort(-corr, axis, kind="stable"), axis) for axis in (0, 1)]
    allowed = np.where(np.minimum(*ranks) < CANDIDATES, np.maximum(corr, 0), 0)
    partner, found = assignment(*both_ways(corr))
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    assert np.nansum(found) == pytest.approx(allowed[rows, columns].sum())
    assigned = partner >= 0
    assert len(set(partner[assigned])) == assigned.sum()
    np.testing.assert_array_equal(found[assigned], allowed[assigned, partner[assigned]])
    assert (found[assigned] > 0).all()
    assert np.isnan(found[~assigned]).all()


def test_without_a_positive_correlation_no_neuron_is_assigned():
    partner, found = assignment(*both_ways(np.full((12, 9), -0.1)))
    assert (partner == -1).all()
    assert np.isnan(found).all()


def test_both_sides_are_assigned_the_same_and_a_planted_permutation_is_found():
    rng = np.random.default_rng(7)
    order = rng.permutation(200)
    corr = rng.normal(0, 0.1, (200, 200)).clip(-0.35, 0.35)
    corr[np.arange(200), order] = rng.uniform(0.4, 0.9, 200)
    forward, backward = both_ways(corr)
    partner, _ = assignment(forward, backward)
    back, _ = assignment(backward, forward)
    np.testing.assert_array_equal(partner, order)
    np.testing.assert_array_equal(back[partner], np.arange(200))


def test_a_neuron_that_many_match_is_assigned_once_and_a_dead_one_never():
    corr = np.full((4, 4), 0.01)
    corr[:, 0] = [0.7, 0.9, 0.8, 0.0]
    corr[0, 1], corr[3] = 0.3, 0.0
    forward, backward = both_ways(corr)
    assert list(forward.index) == [0, 0, 0, -1]
    partner, found = assignment(forward, backward)
    assert partner[1] == 0
    assert partner[0] == 1
    assert partner[3] == -1
    assert np.isnan(found[3])


def test_tables_name_the_assigned_partner_on_either_side():
    matches, scores, _ = add_notions(*tables(random_corr(np.random.default_rng(5))), {})
    rows = matches[matches["assigned_neuron"] >= 0]
    assert 0 < len(rows) < len(matches)
    ends = ["seed", "layer", "neuron"], ["other_seed", "assigned_layer", "assigned_neuron"]
    there, back = (set(zip(*(rows[c] for c in a + b), strict=True)) for a, b in (ends, ends[::-1]))
    assert there == back
    own = matches[(matches["seed"] == "a") & (matches["layer"] == 0) & (matches["neuron"] == 0)]
    expected = own["assigned_corr"].fillna(0).mean() - 0.1
    assert scores.loc[0, "assigned_excess"] == pytest.approx(expected)
    assert scores["n_assigned"].sum() == (rows["assigned_corr"] - 0.1 > 0.5).sum() > 0
