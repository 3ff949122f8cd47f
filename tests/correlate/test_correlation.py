"""Correlations, best matches and the rotated baseline against plain float64 NumPy."""

from __future__ import annotations

import copy
import sys
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import (
    corr,
    gpt2,
    module_activations,
    random_tokens,
    run_capture,
    run_match,
    wrap,
)

from universal_neurons.activations import kernels, products
from universal_neurons.activations.calibration import read_calibration
from universal_neurons.activations.codes import Codes, Escapes, significant
from universal_neurons.activations.moments import merge
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate import matches
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.correlate.rotations import covariance_within, rotation
from universal_neurons.errors import UserError
from universal_neurons.score import universality
from universal_neurons.store.arrays import Added, read_arrays

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3, "int8": 2e-3}


def oracle(mine, theirs, draws):
    """best_corr, baseline_corr and min_corr of the neurons `mine` among `theirs`, per layer."""
    full = corr(np.hstack(mine), np.hstack(theirs))
    rotated = [
        corr(
            np.hstack(mine),
            np.hstack(
                [
                    y @ rotation(0, layer, draw, y.shape[1]).T.astype(np.float64)
                    for layer, y in enumerate(theirs)
                ]
            ),
        ).max(1)
        for draw in range(draws)
    ]
    return full, np.mean(rotated, axis=0)


@pytest.fixture(scope="module")
def tokens():
    return random_tokens(400, 16)


@pytest.mark.parametrize("encoding", ["int8", "bfloat16", "float32"])
def test_matches_equal_a_plain_float64_computation(encoding, tokens, tmp_path):
    # Seeds of different depth and width, which is legal.
    models = {"a": gpt2(1), "b": gpt2(2, d_mlp=24, layers=3)}
    stores = {
        seed: run_capture(
            model, tokens, tmp_path / seed, seed=seed, splits=(100, 101, 250), encoding=encoding
        )
        for seed, model in models.items()
    }
    parts = run_match(stores["a"], stores["b"], tmp_path, blocks=[(0,), (1,)])
    table = universality.matches_table(StepMatches.read(parts), step=3)
    truth = {seed: module_activations(model, tokens) for seed, model in models.items()}
    for seed, other in (("a", "b"), ("b", "a")):
        rows = table[(table.seed == seed) & (table.other_seed == other)]
        full, baseline = oracle(truth[seed], truth[other], draws=2)
        np.testing.assert_allclose(rows.best_corr, full.max(1), atol=TOLERANCE[encoding])
        np.testing.assert_allclose(rows.min_corr, full.min(1), atol=TOLERANCE[encoding])
        np.testing.assert_allclose(rows.baseline_corr, baseline, atol=TOLERANCE[encoding])
        width = truth[other][0].shape[1]
        found = rows.best_layer * width + rows.best_neuron
        at_best = full[np.arange(len(full)), found]
        np.testing.assert_allclose(at_best, full.max(1), atol=TOLERANCE[encoding])


def test_permuted_neurons_are_matched_one_to_one(tokens, tmp_path):
    original = gpt2(5)
    module = copy.deepcopy(original.module)
    order = {}
    for layer, block in enumerate(module.transformer.h):
        order[layer] = torch.randperm(40, generator=torch.Generator().manual_seed(layer))
        mlp = block.mlp
        mlp.c_fc.weight.data = mlp.c_fc.weight[:, order[layer]]
        mlp.c_fc.bias.data = mlp.c_fc.bias[order[layer]]
        mlp.c_proj.weight.data = mlp.c_proj.weight[order[layer]]
    ids = torch.from_numpy(tokens[:8])
    torch.testing.assert_close(module(ids).logits, original.module(ids).logits)

    a = run_capture(original, tokens, tmp_path / "a", seed="a")
    b = run_capture(wrap(module), tokens, tmp_path / "b", seed="b")
    table = universality.matches_table(StepMatches.read(run_match(a, b, tmp_path)), step=3)
    for _, rows in table[table.seed == "a"].groupby("layer"):
        layer = rows.layer.iloc[0]
        assert (rows.best_layer == layer).all()
        # Neuron n of the copy is neuron order[n] of the original.
        assert (order[layer].numpy()[rows.best_neuron] == rows.neuron).all()
    assert table.best_corr.min() >= 0.999


def test_independent_models_at_initialisation_show_no_excess(tmp_path):
    # Wide enough for the largest of many chance correlations to be close to its expectation.
    tokens = random_tokens(600, 16)
    stores = {
        seed: run_capture(
            gpt2(i, d_mlp=64, initializer_range=0.02), tokens, tmp_path / seed, seed=seed
        )
        for i, seed in enumerate("ab")
    }
    parts = run_match(stores["a"], stores["b"], tmp_path, draws=5)
    scores = universality.universality_table(universality.matches_table(StepMatches.read(parts), 3))
    assert abs(scores.excess_corr.mean()) < 0.05
    assert scores.excess_corr.abs().quantile(0.95) < 0.2
    assert not (scores.excess_corr > 0.5).any()


def test_a_dead_neuron_correlates_with_nothing(tokens, tmp_path):
    model = gpt2(1)
    mlp = model.blocks[1].mlp
    mlp.c_fc.weight[:, 4] = 0
    mlp.c_fc.bias[4] = -1
    a = run_capture(model, tokens, tmp_path / "a", seed="a", splits=(200,))
    b = run_capture(gpt2(2), tokens, tmp_path / "b", seed="b", splits=(200,))
    table = universality.matches_table(StepMatches.read(run_match(a, b, tmp_path)), step=3)
    dead = table[(table.seed == "a") & (table.layer == 1) & (table.neuron == 4)].iloc[0]
    assert (dead[["best_corr", "baseline_corr", "min_corr"]] == 0).all()
    assert dead.best_layer == dead.best_neuron == -1
    assert not table.drop(columns="best_corr_se").isna().any().any(), "no influences given"


@pytest.mark.parametrize(
    "splits",
    [
        (1, 2, 3, 399),
        *(pytest.param(s, marks=pytest.mark.slow) for s in ((), (1,), (17, 100, 350))),
    ],
)
def test_any_split_into_shards_gives_the_same_int8_sums_to_the_bit(splits, tokens, tmp_path):
    models = {"a": gpt2(1), "b": gpt2(2)}
    whole, cut = (
        {
            seed: run_capture(model, tokens, tmp_path / f"{seed}{name}", seed=seed, splits=where)
            for seed, model in models.items()
        }
        for name, where in (("whole", ()), ("cut", splits))
    )
    sums = {}
    for name, stores in (("whole", whole), ("cut", cut)):
        pieces = [
            dict(
                products.cross_sums(
                    Activations(a / "activations.zarr"), Activations(b / "activations.zarr"), (0, 1)
                )
            )
            for a, b in zip(stores["a"], stores["b"], strict=True)
        ]
        # Merged in the opposite order, too.
        sums[name] = {key: sum(piece[key] for piece in reversed(pieces)) for key in pieces[0]}
    for key, total in sums["whole"].items():
        np.testing.assert_array_equal(sums["cut"][key], total)
    for key, total in read_arrays(whole["a"][0] / "within.zarr").items():
        np.testing.assert_array_equal(
            Added([shard / "within.zarr" for shard in cut["a"]])[key], total
        )


@given(
    tokens=st.integers(1, 3000),
    d_a=st.integers(1, 9),
    d_b=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_both_kernels_give_the_exact_integer_sums(tokens, d_a, d_b, seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(-127, 128, (tokens, d_a)).astype(np.int8)
    b = rng.integers(-127, 128, (tokens, d_b)).astype(np.int8)
    expected = a.astype(np.int64).T @ b.astype(np.int64)
    for kernel in ("int8", "float32"):
        total = np.ones((d_a, d_b), np.int64)
        kernels.add_products(total, Codes.of(a), Codes.of(b), kernel)
        np.testing.assert_array_equal(total, expected + 1)


@pytest.mark.parametrize("kernel", ["int8", "float32"])
def test_extreme_codes_do_not_overflow(kernel):
    n = kernels.EXACT_TOKENS["int8"] + 5
    a = np.full((n, 2), 127, np.int8)
    b = np.array([[127, -127]], np.int8).repeat(n, 0)
    total = np.zeros((2, 2), np.int64)
    kernels.add_products(total, Codes.of(a), Codes.of(b), kernel)
    np.testing.assert_array_equal(total, [[127**2 * n, -(127**2) * n]] * 2)
    assert total.max() > 2**31


def test_excluded_tokens_have_no_influence(tokens, tmp_path):
    """Whatever the model does at excluded tokens, sums and moments keep their bits."""
    model = gpt2(1)
    excluded = np.isin(tokens, (0, 7))
    row = 0

    def garbage(module, inputs, output):
        nonlocal row
        mask = torch.from_numpy(excluded[row : row + len(output)])
        row = (row + len(output)) % len(tokens)
        return torch.where(mask[..., None], 1e6, output)

    # In the last layer, so that no later position can see it.
    model.blocks[-1].mlp.act.register_forward_hook(garbage)
    # The calibration's sample is all tokens, so that `row` starts again with the capture.
    spoiled = run_capture(model, tokens, tmp_path / "spoiled", seed="a", sample=len(tokens))
    plain = run_capture(gpt2(1), tokens, tmp_path / "plain", seed="a", sample=len(tokens))
    assert excluded.any()
    for name in ("moments", "within", "activations"):
        left, right = (read_arrays(stores[0] / f"{name}.zarr") for stores in (spoiled, plain))
        for key, values in right.items():
            np.testing.assert_array_equal(left[key], values)
    n = read_arrays(plain[0] / "moments.zarr")["n_tokens"][0]
    assert n == (~excluded).sum()


def test_rotations_are_orthogonal_seeded_and_haar():
    r = rotation(0, 1, 2, 30).astype(np.float64)
    np.testing.assert_allclose(r @ r.T, np.eye(30), atol=1e-6)
    np.testing.assert_array_equal(r, rotation(0, 1, 2, 30))
    assert not np.allclose(r, rotation(0, 1, 3, 30))
    assert not np.allclose(r, rotation(1, 1, 2, 30))
    # A plain QR's Q has a diagonal of one sign on average; Haar's entries have mean 0 and
    # variance 1/d.
    diagonals = np.array([np.diag(rotation(0, 0, k, 8)) for k in range(400)])
    assert abs(diagonals.mean()) < 4 * np.sqrt(1 / 8 / diagonals.size)
    assert diagonals.var() == pytest.approx(1 / 8, rel=0.1)


def test_stores_of_different_tokens_are_refused(tokens, tmp_path):
    a = run_capture(gpt2(1), tokens, tmp_path / "a", seed="a")
    b = run_capture(gpt2(2), tokens[:300], tmp_path / "b", seed="b")
    with pytest.raises(UserError, match="different sequences"):
        run_match(a, b, tmp_path)


def test_within_covariance_is_that_of_the_activations(tokens, tmp_path):
    model = gpt2(1)
    stores = run_capture(model, tokens, tmp_path, seed="a", splits=(50,))
    sums = merge(read_arrays(shard / "moments.zarr") for shard in stores)
    within = Added([shard / "within.zarr" for shard in stores])
    calibration = read_calibration(tmp_path / "calibration.zarr")
    scale = np.concatenate([layer.ranges.scale for layer in calibration])
    for layer, x in enumerate(module_activations(model, tokens)):
        expected = np.cov(x.T, ddof=0)
        own = slice(layer * x.shape[1], (layer + 1) * x.shape[1])
        measured = covariance_within(within[f"{layer}x{layer}"], sums, scale, own)
        spread = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert (np.abs(measured - expected) / spread).max() < 2e-3
        np.testing.assert_allclose(np.diag(measured), np.diag(expected), rtol=1e-5)


def test_the_kernel_is_chosen_by_measurement_or_key_and_refused_where_it_is_not_exact(monkeypatch):
    with monkeypatch.context() as without:
        without.delitem(sys.modules, "torch")
        assert kernels.choose_kernel("auto", 1e6) == "float32", "NumPy, before torch is imported"
    assert kernels.choose_kernel("auto", 1e6) == kernels.fastest_kernel("cpu", kernels.FEW)
    assert kernels.choose_kernel("auto", 1e15) == kernels.fastest_kernel("cpu")
    assert kernels.fastest_kernel() in ("int8", "float32")
    assert kernels.choose_kernel("int8", 1e6) == "int8"
    with pytest.raises(UserError, match="correlate.kernel: bfloat16 sums are exact on CUDA"):
        kernels.choose_kernel("bfloat16", 1e15)


@pytest.mark.parametrize("kernel", ["int8", "float32"])
def test_tensors_and_arrays_give_the_same_sums(kernel):
    rng = np.random.default_rng(0)
    a, b = (random_codes(rng, 3000, d, 300) for d in (5, 8))
    total, tensor = np.zeros((5, 8), np.int64), torch.zeros(5, 8, dtype=torch.int64)
    kernels.add_products(total, a, b, kernel)
    kernels.add_products(tensor, tensors(a), tensors(b), kernel)
    np.testing.assert_array_equal(tensor.numpy(), total)


@pytest.mark.parametrize("kernel", ["int8", "float32"])
@pytest.mark.parametrize(("d_a", "largest"), [(24, 1), (24, 1e6), (1, 1)])
def test_products_of_a_block_are_exact_in_int32_and_beyond_it(kernel, d_a, largest):
    rng = np.random.default_rng(0)
    a, b = (random_codes(rng, 3000, d, 300) for d in (d_a, 32))
    a.escapes.code[0] *= largest
    room = np.full((d_a, 32), 7)
    found = kernels.block_products(a, b, kernel, room)
    narrow = kernel == "int8" and d_a > 1 and largest == 1
    assert found.dtype == (np.int32 if narrow else np.int64)
    one, other = (x.whole().astype(np.int64) for x in (a, b))
    np.testing.assert_array_equal(found, one.T @ other)


@pytest.mark.parametrize("kernel", ["int8", "float32"])
def test_codes_as_a_gpu_wants_them_give_the_same_sums(kernel):
    """On the CPU: both sides with the tokens of a neuron side by side."""
    rng = np.random.default_rng(0)
    a, b = (random_codes(rng, 3000, d, 300) for d in (24, 32))
    expected = kernels.add_products(np.zeros((24, 32), np.int64), a, b, kernel)

    def turned(codes):
        dense = torch.from_numpy(np.ascontiguousarray(codes.dense.T)).t()
        assert dense.stride() == (1, 3000)
        return Codes(dense, codes.escapes)

    total = torch.zeros(24, 32, dtype=torch.int64)
    kernels.add_products(total, turned(a), turned(b), kernel)
    np.testing.assert_array_equal(total.numpy(), expected)


def test_on_a_gpu_the_tokens_of_a_neuron_lie_side_by_side(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", lambda *shape, dtype, device: torch.zeros(*shape))
        codes = kernels.empty_codes(1000, 24, torch.int8, torch.device("cuda"))
    assert codes.shape == (1000, 24)
    assert codes.stride() == (1, 1008)
    assert kernels.empty_codes(1000, 24, torch.int8, torch.device("cpu")).stride() == (24, 1)


def random_codes(rng, n_tokens, d_mlp, largest):
    """Codes a few of which escape."""
    whole = rng.integers(-127, 128, (n_tokens, d_mlp)).astype(np.float32)
    row, neuron = np.nonzero(rng.random(whole.shape) < 0.02)
    code = rng.choice([-1, 1], len(row)) * np.floor(rng.uniform(128, largest, len(row)))
    escapes = Escapes(row, neuron.astype(np.int32), significant(code.astype(np.float32)))
    whole[row, neuron] = escapes.code
    return Codes(whole.clip(-127, 127).astype(np.int8), escapes)


def tensors(codes):
    return Codes(torch.from_numpy(codes.dense), codes.escapes)


@settings(deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from([200, 1e5, 1e12]),
    st.integers(0, 2**32 - 1),
)
def test_sums_with_escapes_are_those_of_whole_codes(n_tokens, d_a, d_b, largest, seed):
    """Exact: Python's integers know no bound."""
    rng = np.random.default_rng(seed)
    a, b = random_codes(rng, n_tokens, d_a, largest), random_codes(rng, n_tokens, d_b, largest)
    wholes = [codes.whole().astype(object).astype(int).astype(object) for codes in (a, b)]
    expected = (wholes[0].T @ wholes[1]).astype(np.float64)
    size = (np.abs(wholes[0]).T @ np.abs(wholes[1])).astype(np.float64)
    for one, other in ((a, b), (tensors(a), tensors(b))):
        for kernel in ("int8", "float32"):
            total = torch.zeros(d_a, d_b, dtype=torch.int64)
            total = total.numpy() if one is a else total
            found = np.asarray(kernels.add_products(total, one, other, kernel))
            if largest < 1e6:
                assert found.dtype == np.int64
                np.testing.assert_array_equal(found, expected)
            assert (np.abs(found - expected) <= 1e-15 * size).all()
    total = torch.zeros(d_a, d_b, dtype=torch.float64)
    kernels._add_float32(total, *(torch.from_numpy(codes.dense) for codes in (a, b)))
    kernels._add_rests_on_device(total, tensors(a), tensors(b))
    assert (np.abs(total.numpy() - expected) <= 1e-15 * size).all()


def test_some_tokens_and_neurons_of_codes_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    codes = random_codes(rng, 50, 9, 500)
    whole = codes.whole()
    rows, columns = np.array([0, 3, 4, 49]), np.array([1, 2, 8])
    np.testing.assert_array_equal(codes.take_rows(rows).whole(), whole[rows])
    np.testing.assert_array_equal(codes.take_neurons(columns).whole(), whole[:, columns])
    np.testing.assert_array_equal(codes.take_rows(rows[:0]).whole(), whole[:0])
    both = Codes.side_by_side([codes, codes.take_neurons(columns)])
    np.testing.assert_array_equal(both.whole(), np.hstack([whole, whole[:, columns]]))
    assert (np.diff(both.escapes.row) >= 0).all()
    part = codes.escapes.between(3, 20)
    np.testing.assert_array_equal(Codes(codes.dense[3:20], part).whole(), whole[3:20])


def test_blocks_are_read_ahead_in_order_and_buffers_are_not_overwritten(tokens, tmp_path):
    """Small blocks, so that many are read while others are multiplied."""
    a = run_capture(gpt2(1), tokens, tmp_path / "a", seed="a")[0] / "activations.zarr"
    b = run_capture(gpt2(2), tokens, tmp_path / "b", seed="b")[0] / "activations.zarr"
    a, b = Activations(a), Activations(b)
    blocks = [slice(i, min(i + 700, a.n_tokens)) for i in range(0, a.n_tokens, 700)]
    for store in (a, b):
        store.row_blocks = lambda rows: blocks
    found = dict(products.cross_sums(a, b, (0, 1), "float32"))
    for i in (0, 1):
        for j in (0, 1):
            one, other = (x.whole().astype(np.int64) for x in (a.codes(i), b.codes(j)))
            expected = one.T @ other
            np.testing.assert_array_equal(found[f"{i}x{j}"], expected)


@settings(deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_candidates_are_the_largest_whatever_the_tiles_and_their_order(n, m, seed, twice):
    rng = np.random.default_rng(seed)
    # Few values, so that many are equal: of equal ones the first neurons count.
    values = rng.integers(-4, 5, (n, m)) / 4
    row_cuts, column_cuts = (np.unique([0, size, *rng.integers(0, size + 1, 2)]) for size in (n, m))
    tiles = list(product(pairwise(row_cuts), pairwise(column_cuts)))
    rng.shuffle(tiles)
    forward, backward = matches.Matches.nothing(n, 1), matches.Matches.nothing(m, 1)
    joined = matches.Matches.nothing(n, 1)
    for (i, j), (k, stop) in [*tiles, *(tiles if twice else [])]:
        rows, columns = np.arange(i, j), np.arange(k, stop)
        tile = values[i:j, k:stop]
        forward.take(tile, rows, columns)
        backward.take(tile.T, columns, rows)
        part = matches.Matches.nothing(j - i, 1)
        part.take(tile, np.arange(j - i), columns)
        joined.update(part, slice(i, j))
    for found, matrix in ((forward, values), (backward, values.T), (joined, values)):
        order = np.argsort(-matrix, axis=1, kind="stable")[:, : matches.CANDIDATES]
        known = order.shape[1]
        np.testing.assert_array_equal(found.candidates[:, :known], order)
        np.testing.assert_array_equal(
            found.candidate_corr[:, :known], np.take_along_axis(matrix, order, 1)
        )
        assert (found.candidates[:, known:] == -1).all()
        np.testing.assert_array_equal(found.lowest, matrix.min(1))
