"""Similarity of layers against float64 NumPy on the raw activations, and planted truths."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import ot
import planted
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import gpt2, module_activations, random_tokens, run_capture

from universal_neurons.activations import products
from universal_neurons.correlate import similarity
from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.rotations import rotation
from universal_neurons.correlate.similar_pair import PairSimilarity, compare_pair, like_depth
from universal_neurons.correlate.similarity import Layer

ALL = ("cka", "pwcca", "procrustes", "soft_matching")


def centred(x):
    return x - x.mean(0)


def correlations(x, y):
    """Of all columns; 0 of constant ones."""
    norms = np.outer(np.linalg.norm(centred(x), axis=0), np.linalg.norm(centred(y), axis=0))
    return np.divide(centred(x).T @ centred(y), norms, out=np.zeros_like(norms), where=norms > 0)


def measured(x, y):
    """What the module says of two layers' activations, from their covariances alone."""
    corr = correlations(x, y)
    a, b = (Layer.of(np.cov(z.T, bias=True)) for z in (x, y))
    found = {name: getattr(similarity, name)(corr, a, b) for name in ALL[:3]}
    found["soft_matching"] = similarity.soft_matching(corr)
    found["unmatched_mass"], found["matched_corr"] = similarity.matched(corr)
    found["r2"] = similarity.explained(corr.T, b, len(x))
    return found


# Oracles, each by the definition in its paper and from activations.


def cka_of_grams(x, y):
    """HSIC of the tokens' Gram matrices (1905.00414)."""
    k, m = (centred(z) @ centred(z).T for z in (x, y))
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def procrustes_by_rotating(x, y):
    """Correlation of all activations with the other's, rotated by the polar factor."""
    x, y = (centred(z) / np.linalg.norm(centred(z)) for z in (x, y))
    if x.shape[1] < y.shape[1]:
        x, y = y, x
    y = np.pad(y, ((0, 0), (0, x.shape[1] - y.shape[1])))
    u, _, vt = np.linalg.svd(y.T @ x)
    return (x * (y @ (u @ vt))).sum()


def pwcca_of_variates(x, y):
    """Canonical variates from orthonormal bases of the tokens' space, weights on the neurons."""
    x, y = centred(x), centred(y)
    basis_x, basis_y = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    u, rho, vt = np.linalg.svd(basis_x.T @ basis_y, full_matrices=False)
    both = []
    for neurons, variates in ((x, basis_x @ u), (y, basis_y @ vt.T)):
        weights = np.abs(variates.T @ neurons).sum(1)
        both.append((weights * rho).sum() / weights.sum())
    return np.mean(both)


def even(corr):
    """Masses of 1 over either layer's neurons, and what moving them costs, for POT."""
    return *(np.full(n, 1 / n) for n in corr.shape), 1 - corr


def ridge_r2(x, z):
    """Share of the variance of x that a ridge regression on standardised z explains, adjusted."""
    x, z = (x - x.mean()) / x.std(), (z - z.mean(0)) / z.std(0)
    n, d = z.shape
    gram = z.T @ z / n
    inverse = np.linalg.inv(gram + similarity.RIDGE * np.eye(d))
    fitted = z @ inverse @ (z.T @ x / n)
    inside, freedom = (x * fitted).mean(), np.trace(gram @ inverse)
    return 1 - (1 - inside) * (n - 1) / (n - 1 - freedom)


def layers(seed, n=400, d=12, other=12):
    """Two layers that share something, rectified, in neurons' own units."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 6))
    made = []
    for width in (d, other):
        x = shared @ rng.standard_normal((6, width)) + rng.standard_normal((n, width))
        made.append(np.maximum(x, 0) * 10 ** rng.uniform(-1, 1, width))
    return made


@pytest.mark.parametrize("other", [12, 8, 18])
@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_their_papers_from_raw_activations(seed, other):
    x, y = layers(seed, other=other)
    found = measured(x, y)
    assert found["cka"] == pytest.approx(cka_of_grams(x, y), rel=1e-9)
    assert found["procrustes"] == pytest.approx(procrustes_by_rotating(x, y), rel=1e-9)
    assert found["pwcca"] == pytest.approx(pwcca_of_variates(x, y), rel=1e-6)
    corr = correlations(x, y)
    assert found["soft_matching"] == pytest.approx(1 - ot.emd2(*even(corr)), rel=1e-9)
    expected = [ridge_r2(column, y) for column in x.T]
    np.testing.assert_allclose(found["r2"], expected, rtol=1e-9)


@pytest.mark.parametrize("other", [12, 8, 18])
@pytest.mark.parametrize("seed", range(3))
def test_partial_matching_is_the_optimal_transport_with_the_price(seed, other):
    x, y = layers(seed, other=other)
    found = measured(x, y)
    corr, price = correlations(x, y), 1 - similarity.UNMATCHED_BELOW
    plan = ot.partial.partial_wasserstein_lagrange(*even(corr), reg_m=price)
    assert 0 < plan.sum() < 1, "some mass must be matched and some not"
    mass = 1 - found["unmatched_mass"]
    assert mass == pytest.approx(plan.sum(), abs=1e-6)
    assert mass * found["matched_corr"] == pytest.approx((plan * corr).sum(), rel=1e-6)
    # The same as a given mass, in place of a price (2602.19331).
    masses = ot.partial.partial_wasserstein(*even(corr), m=mass)
    assert mass * found["matched_corr"] == pytest.approx((masses * corr).sum(), rel=1e-6)


@pytest.mark.parametrize("width", [200, 100])
def test_matchings_of_wider_layers_are_those_of_optimal_transport(width):
    rng = np.random.default_rng(9)
    shared = rng.standard_normal((600, 150))
    x, y = (
        shared @ (rng.standard_normal((150, d)) * (rng.random((150, d)) < 0.02))
        + 0.2 * rng.standard_normal((600, d))
        for d in (200, width)
    )
    corr = correlations(x, y)
    assert similarity.soft_matching(corr) == pytest.approx(1 - ot.emd2(*even(corr)), rel=1e-9)
    unmatched, mean = similarity.matched(corr)
    price = 1 - similarity.UNMATCHED_BELOW
    plan = ot.partial.partial_wasserstein_lagrange(*even(corr), reg_m=price, numItermax=10**6)
    assert 0.1 < unmatched < 0.9
    assert 1 - unmatched == pytest.approx(plan.sum(), abs=1e-6)
    assert (1 - unmatched) * mean == pytest.approx((plan * corr).sum(), rel=1e-6)


def test_procrustes_is_the_cosine_of_a_metric():
    """Of the angular shape metric (2110.14739): symmetric, 0 of a rotation, with the triangle."""
    shared, _ = layers(0, d=12)
    three = [shared, *(z for seed in (0, 1) for z in layers(seed)[1:])]
    far = np.array(
        [[np.arccos(min(1, measured(x, y)["procrustes"])) for y in three] for x in three]
    )
    assert np.allclose(far, far.T)
    assert np.abs(far.diagonal()).max() < 1e-6
    for i, j, k in permutations(range(3)):
        assert far[i, k] <= far[i, j] + far[j, k]


def test_a_permuted_copy_is_like_in_every_measure():
    x, _ = layers(0)
    found = measured(x, x[:, np.random.default_rng(1).permutation(12)])
    assert [found[name] for name in ALL] == pytest.approx([1] * 4)
    assert (found["unmatched_mass"], found["matched_corr"]) == pytest.approx((0, 1))
    assert found["r2"].min() > 0.95


def test_a_rotated_copy_is_like_in_its_space_but_not_in_its_neurons():
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((4000, 64)) - 1, 0)
    found = measured(x, x @ rotation(0, 0, 0, 64).astype(float))
    assert [found[name] for name in ALL[:3]] == pytest.approx([1] * 3, abs=1e-5)
    assert found["soft_matching"] < 0.45
    assert found["unmatched_mass"] > 0.8
    assert found["r2"].min() > 0.95


def test_unrelated_layers_are_unlike_in_every_measure():
    x, y = np.random.default_rng(0).standard_normal((2, 40_000, 16))
    found = measured(x, y)
    assert max(found[name] for name in ALL) < 0.03
    assert found["unmatched_mass"] == 1
    assert np.isnan(found["matched_corr"])


def test_a_split_neuron_is_told_from_an_absent_one():
    """Two halves of a neuron each correlate .7 with it, and explain it together."""
    rng = np.random.default_rng(0)
    halves = rng.standard_normal((20_000, 2))
    other = np.hstack([halves, rng.standard_normal((20_000, 30))])
    mine = np.column_stack([halves.sum(1), rng.standard_normal(20_000), other[:, 5]])
    split, absent, shared = similarity.explained(
        correlations(other, mine), Layer.of(np.cov(other.T, bias=True)), 20_000
    )
    best = correlations(mine, other).max(1)
    assert best[:2] == pytest.approx([0.707, 0], abs=0.03)
    assert split > 0.97
    assert abs(absent) < 0.005
    assert shared > 0.97


@pytest.mark.parametrize("tails", ["normal", "rare"])
def test_many_regressors_do_not_explain_noise(tails):
    """A tenth as many regressors as tokens: unadjusted, a tenth of all noise would be explained."""
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, 2000, 200))
    if tails == "rare":
        x, z = (np.maximum(v - 2, 0) ** 2 for v in (x, z))
    found = similarity.explained(correlations(z, x), Layer.of(np.cov(z.T, bias=True)), 2000)
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(200)
    # Of rare neurons single ones coincide: right on average is all that holds.
    assert found.max() < {"normal": 0.05, "rare": 1}[tails]


def test_dead_and_repeated_neurons_leave_the_measures_finite():
    x, y = layers(0)
    x[:, 3] = 0
    x[:, 5] = x[:, 4]
    found = measured(x, y)
    alive = np.delete(x, [3, 5], axis=1)
    # The repeated one has a weight of its own.
    weighted = np.delete(x, 3, axis=1)
    assert found["pwcca"] == pytest.approx(pwcca_of_variates(alive, y), abs=0.02)
    assert found["cka"] == pytest.approx(cka_of_grams(weighted, y), rel=1e-9)
    assert found["procrustes"] == pytest.approx(procrustes_by_rotating(weighted, y), rel=1e-6)
    assert found["r2"][3] <= 0
    nothing = measured(np.zeros_like(x), y)
    assert np.isnan([nothing[name] for name in ALL[:3]]).all()
    assert nothing["soft_matching"] == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-6, 1e6))
def test_measures_keep_what_their_invariances_say(seed, scale):
    """Of order and unit all; of rotations what is of spaces."""
    rng = np.random.default_rng(seed)
    x, y = layers(seed, n=200, d=7, other=7)
    before = measured(x, y)
    moved = measured(x, scale * y[:, rng.permutation(7)] + 3)
    for name in (*ALL, "unmatched_mass", "matched_corr"):
        assert moved[name] == pytest.approx(before[name], rel=1e-6, nan_ok=True), name
    np.testing.assert_allclose(moved["r2"], before["r2"], rtol=1e-6)
    back = measured(y, x)
    for name in ALL:
        assert back[name] == pytest.approx(before[name], rel=1e-6)
        assert -1 <= before[name] <= 1 + 1e-9
    q = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    turned = measured(x, y @ q)
    for name in ("cka", "procrustes"):
        assert turned[name] == pytest.approx(before[name], rel=1e-6)


def test_layers_of_like_depth_are_the_diagonal_or_the_nearest():
    np.testing.assert_array_equal(like_depth(3, 3), np.eye(3, dtype=bool))
    found = like_depth(2, 4)
    assert found.any(0).all()
    assert found.any(1).all()
    np.testing.assert_array_equal(found, [[1, 1, 0, 0], [0, 0, 1, 1]])
    assert like_depth(1, 1).all()


def compared(shards, where, layers):
    """What `compare_pair` stores of two captured models, in blocks of one layer."""
    sums = []
    for layer in layers:
        for i, pair in enumerate(zip(*shards, strict=True)):
            sums.append(where / f"sums{layer}/{i}.zarr")
            one, other = (shard / "activations.zarr" for shard in pair)
            products.sum_pair(one, other, [layer], "auto", path=sums[-1], attributes={})
    captured = [
        Captured([shard / "moments.zarr" for shard in own], own[0].parent / "calibration.zarr")
        for own in shards
    ]
    within = tuple([shard / "within.zarr" for shard in own] for own in shards)
    compare_pair(sums, *captured, within, path=where / "similarity.zarr", attributes={})
    return PairSimilarity.read(where / "similarity.zarr")


@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_a_pair_of_models_is_compared_as_from_its_raw_activations(encoding, tmp_path):
    """Seeds of different depth and width, in shards and blocks of layers."""
    tokens = random_tokens(1200, 16)
    models = {"a": gpt2(1), "b": gpt2(2, d_mlp=24, layers=3)}
    shards = {
        seed: run_capture(
            model, tokens, tmp_path / seed, seed=seed, splits=(100, 700), encoding=encoding
        )
        for seed, model in models.items()
    }
    found = compared(list(shards.values()), tmp_path, layers=(0, 1))
    assert (found.seed, found.other_seed) == ("a", "b")
    a, b = (module_activations(model, tokens) for model in models.values())
    expected = [[measured(x, y) for y in b] for x in a]
    # Rounding to int8 is noise of 18,000 tokens.
    tolerance = {"int8": 5e-3, "float32": 1e-4}[encoding]
    for name, values in found.measures.items():
        truth = [[cell[name] for cell in row] for row in expected]
        np.testing.assert_allclose(values, truth, atol=tolerance, err_msg=name)
    truth = np.concatenate([np.max([cell["r2"] for cell in row], 0) for row in expected])
    np.testing.assert_allclose(found.forward, truth, atol=tolerance)
    back = [np.max([measured(y, x)["r2"] for x in a], 0) for y in b]
    np.testing.assert_allclose(found.backward, np.concatenate(back), atol=tolerance)
    assert [len(x) for x in (found.forward, found.backward)] == [80, 72]


def test_neurons_of_all_kinds_are_compared_as_from_their_raw_activations(tmp_path):
    """Units from 1e-5 to 1e5, rare, massive and nearly constant neurons, in int8."""
    raw = planted.two_models()
    shards = [
        run_capture(
            planted.model(layers),
            planted.tokens(),
            tmp_path / seed,
            seed=seed,
            splits=(500,),
            exclude=(),
            sample=planted.SAMPLE // planted.CONTEXT,
        )
        for seed, layers in zip("ab", raw, strict=True)
    ]
    found = compared(shards, tmp_path, layers=(0, 1))
    a, b = ([x.astype(np.float64) for x in layers] for layers in raw)
    expected = [[measured(x, y) for y in b] for x in a]
    for name, values in found.measures.items():
        truth = [[cell[name] for cell in row] for row in expected]
        np.testing.assert_allclose(values, truth, atol=0.01, err_msg=name)
    truth = np.concatenate([np.max([cell["r2"] for cell in row], 0) for row in expected])
    np.testing.assert_allclose(found.forward, truth, atol=0.01)
