"""Matches, their opposites and baselines are right for every neuron, not for the median one.

Against float64 NumPy on planted activations with the spread of real ones: see `planted.two_models`.
"""

from __future__ import annotations

import numpy as np
import planted
import pytest
import zarr
from pipeline import baseline, neurons, run_capture, run_match

from universal_neurons.activations import products
from universal_neurons.activations.calibration import read_calibration
from universal_neurons.activations.class_sums import class_sums, groups_of
from universal_neurons.activations.moments import merge, rounding_se
from universal_neurons.activations.reader import Activations
from universal_neurons.capture.capture import Encoder
from universal_neurons.capture.direct import direct_sums
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.correlate.permuted import Paired, permuted_matches, sample_of
from universal_neurons.correlate.refine import refine
from universal_neurons.correlate.rotations import Rotating, rotation, rotation_name
from universal_neurons.correlate.screen import Sampling, Side, screen
from universal_neurons.errors import UserError
from universal_neurons.score import influence
from universal_neurons.store.arrays import read_arrays

DRAWS = 2
NAMES = ("a", "b")


@pytest.fixture(scope="module")
def activations():
    return dict(zip(NAMES, planted.two_models(), strict=True))


def capture(layers, where, name, splits=(400,)):
    return run_capture(
        planted.model(layers),
        planted.tokens(len(layers[0])),
        where,
        seed=name,
        splits=splits,
        exclude=(),
        batch_tokens=4000,
        sample=planted.SAMPLE // planted.CONTEXT,
    )


@pytest.fixture(scope="module")
def shards(activations, tmp_path_factory):
    where = tmp_path_factory.mktemp("planted")
    return {name: capture(layers, where / name, name) for name, layers in activations.items()}


@pytest.fixture(scope="module")
def matches(shards, tmp_path_factory):
    where = tmp_path_factory.mktemp("matches")
    return StepMatches.read(run_match(shards["a"], shards["b"], where, draws=DRAWS)).found


def standardised(layers):
    x = np.hstack(layers).astype(np.float64)
    centred = x - x.mean(0)
    return centred / np.sqrt((centred**2).mean(0))


@pytest.fixture(scope="module")
def truth(activations):
    """Correlations of all pairs, float64."""
    a, b = (standardised(activations[name]) for name in NAMES)
    return a.T @ b / len(a)


def rotated_best(own, layers):
    """Largest correlations with the other model's rotated neurons, shape (draws, neurons)."""
    found = []
    for draw in range(DRAWS):
        best = []
        for i, layer in enumerate(layers):
            x = layer.astype(np.float64)
            turned = (x - x.mean(0)) @ rotation(0, i, draw, x.shape[1]).astype(np.float64).T
            turned /= np.sqrt((turned**2).mean(0))
            best.append((own.T @ turned / len(own)).max(1))
        found.append(np.max(best, 0))
    return np.array(found)


def stores(shards, name):
    return [Activations(shard / "activations.zarr") for shard in shards[name]]


@pytest.mark.parametrize("ways", [("a", "b"), ("b", "a")])
def test_best_and_lowest_correlations_are_those_of_float64(ways, matches, truth):
    expected = truth if ways == ("a", "b") else truth.T
    found = matches[ways]
    assert np.abs(found.best - expected.max(1)).max() <= 1e-3
    assert np.abs(found.lowest - expected.min(1)).max() <= 1e-3
    # The match found is as good as the best one, to the same error.
    chosen = expected[np.arange(len(expected)), found.index]
    assert np.abs(chosen - expected.max(1)).max() <= 1e-3


@pytest.mark.parametrize("ways", [("a", "b"), ("b", "a")])
def test_baselines_are_those_of_float64_given_the_rotations(ways, matches, activations):
    own, other = ways
    expected = rotated_best(standardised(activations[own]), activations[other])
    assert np.abs(matches[ways].baseline - expected).max() <= 2e-3


def test_activations_come_back_to_one_step_with_plain_zarr_too(shards, activations):
    """Escapes and all; none is cut."""
    escapes = 0
    for name in NAMES:
        first = 0
        for shard in shards[name]:
            group = zarr.open(shard / "activations.zarr", mode="r")
            for layer, x in enumerate(activations[name]):
                codes = group[f"layer{layer}"][:].astype("float32")
                row, neuron = group[f"escape_row{layer}"][:], group[f"escape_neuron{layer}"][:]
                codes[row, neuron] = group[f"escape_code{layer}"][:]
                scale, offset = group[f"scale{layer}"][:], group[f"offset{layer}"][:]
                found = offset + scale * codes
                own = x[first : first + len(codes)]
                # A whole code keeps 16 bits of what is beyond int8.
                step = 1.01 * scale + 2.0**-16 * np.abs(own - offset) + 1e-6 * np.abs(own)
                assert (np.abs(found - own) <= step).all()
                store = Activations(shard / "activations.zarr")
                np.testing.assert_array_equal(store.activations(layer), found)
                escapes += len(row)
            first += len(codes)
    assert 100 < escapes < 0.002 * sum(x.size for name in NAMES for x in activations[name])


def test_rounding_errors_are_as_large_as_stated(shards, activations, truth):
    """The spread of the errors over all pairs, in units of the stated standard errors."""
    a, b = (neurons(shards[name]) for name in NAMES)
    errors = []
    for name in NAMES:
        sums = merge(read_arrays(shard / "moments.zarr") for shard in shards[name])
        errors.append(rounding_se(sums, "int8"))
        assert errors[-1].max() < 3e-4
    total = sum(
        np.block(tiles(*pair))
        for pair in zip(stores(shards, "a"), stores(shards, "b"), strict=True)
    )
    corr = (total - np.outer(a.code_sum, b.code_sum) / a.n_tokens) / a.n_tokens
    corr *= np.outer(a.factor, b.factor)
    # Of whole codes 16 bits are kept, and of activations 24.
    stated = np.sqrt(errors[0][:, None] ** 2 + errors[1] ** 2 + 2.0**-34)
    pulls = (corr - truth) / stated
    assert np.std(pulls) < 1.1
    assert np.abs(pulls).max() < 8


def tiles(a, b):
    found = dict(products.cross_sums(a, b, range(len(a.d_mlp))))
    return [[found[f"{i}x{j}"] for j in range(len(b.d_mlp))] for i in range(len(a.d_mlp))]


def test_sums_straight_from_the_models_have_the_same_bits(shards, activations):
    models = {name: planted.model(layers) for name, layers in activations.items()}
    encoders = {
        name: Encoder(
            name,
            3,
            read_calibration(shards[name][0].parent / "calibration.zarr"),
            "int8",
            (),
            4000,
        )
        for name in NAMES
    }
    tokens = planted.tokens()
    index = np.arange(400 * planted.CONTEXT, tokens.size)
    groups = groups_of(tokens, tokens, np.arange(len(tokens)) % 2, index)
    found = direct_sums(
        models,
        encoders,
        tokens,
        (400, len(tokens)),
        pairs=[NAMES],
        layers=[0, 1],
        own=groups,
    )
    last = {name: stores(shards, name)[-1] for name in NAMES}
    for name, sums in products.cross_sums(last["a"], last["b"], [0, 1]):
        check_bits(found.cross[NAMES][name], sums, last.values(), name)
    for seed in NAMES:
        over_classes = dict(found.classes.of_seed(seed))
        for name, sums in class_sums(last[seed], groups):
            np.testing.assert_array_equal(over_classes.pop(name), sums)
        assert not over_classes
        for name, sums in read_arrays(shards[seed][-1] / "within.zarr").items():
            check_bits(found.within[seed][name], sums, [last[seed]] * 2, name)
        for name, sums in read_arrays(shards[seed][-1] / "moments.zarr").items():
            np.testing.assert_array_equal(found.moments[seed][name], sums)


def check_bits(found, sums, stores, tile):
    """Equal where no sum on the way can need more than float64's 53 bits (Cauchy and Schwarz)."""
    norms = [
        np.linalg.norm(store.codes(int(layer)).whole().astype(np.float64), axis=0)
        for store, layer in zip(stores, tile.split("x"), strict=True)
    ]
    size = np.outer(*norms)
    exact = size < 2.0**53
    np.testing.assert_array_equal(found[exact], sums[exact])
    assert (np.abs(found - sums) <= 1e-15 * size).all()
    assert exact.mean() > 0.5


def test_screened_matches_are_those_of_the_exact_mode(shards, matches):
    a, b = (
        Side(stores(shards, name), neurons(shards[name]), baseline(shards[name], DRAWS))
        for name in NAMES
    )
    found = screen(a, b, [0, 1], Sampling(0.3, 4), planted.documents())
    refined, _ = refine(a, b, found)
    for ways, mine in zip((NAMES, NAMES[::-1]), refined, strict=True):
        np.testing.assert_array_equal(mine.index, matches[ways].index)
        # Sums of two neurons that were silent in the sample may need more than 53 bits.
        np.testing.assert_allclose(mine.best, matches[ways].best, rtol=1e-15)


def test_permuted_correlations_stay_correlations(shards):
    a, b = (stores(shards, name)[0] for name in NAMES)
    pairings = sample_of(a, planted.CONTEXT, planted.N_TOKENS)
    sides = zip((a, b), NAMES, zip(*pairings, strict=True), strict=True)
    paired = [Paired(store, neurons(shards[name]).scale, kept) for store, name, kept in sides]
    rotations = {
        rotation_name(d_mlp, layer, 0): rotation(0, layer, 0, d_mlp)
        for layer, d_mlp in enumerate(a.d_mlp)
    }
    for found in permuted_matches(*paired, rotations, Rotating(1)):
        assert found.best.max() <= 1 + 1e-12
        assert found.baseline.max() <= 1 + 1e-5


def test_influences_see_escapes(shards, matches, activations):
    """Over all groups they add up to nothing, and their size is that of float64's."""
    captured = {name: stores(shards, name) for name in NAMES}
    statistics = {name: neurons(shards[name]) for name in NAMES}
    found, _ = influence.influence(captured, statistics, matches, planted.documents())
    z, other = (standardised(activations[name]) for name in NAMES)
    other = other[:, matches[NAMES].index]
    contributions = z * other - matches[NAMES].best * (z**2 + other**2) / 2
    group = influence.deal(np.arange(planted.N_TOKENS) // planted.CONTEXT, influence.GROUPS)
    expected = np.stack([contributions[group == g].sum(0) for g in range(influence.GROUPS)])
    expected = (expected - expected.mean(0)) / planted.N_TOKENS
    np.testing.assert_allclose(found[NAMES], expected, atol=2e-3)


@pytest.mark.parametrize("exponents", ["powers of two", "any"])
def test_results_do_not_depend_on_a_neurons_unit(exponents, activations, tmp_path):
    """The same function with a neuron's activation times c: the same codes, up to the scale."""
    layers = [x[:20_000] for x in activations["a"]]
    rng = np.random.default_rng(1)
    units = [10 ** rng.uniform(-3, 3, x.shape[1]) for x in layers]
    if exponents == "powers of two":
        units = [2.0 ** np.rint(3 * np.log2(c)) for c in units]
    scaled = [(x * c.astype(np.float32)) for x, c in zip(layers, units, strict=True)]
    (one,) = capture(layers, tmp_path / "one", "a", ())
    (other,) = capture(scaled, tmp_path / "other", "a", ())
    one, other = Activations(one / "activations.zarr"), Activations(other / "activations.zarr")
    for layer, c in enumerate(units):
        # A neuron that is constant in the sample has no unit to go by, and finer steps than any.
        live = np.ptp(layers[layer][: planted.SAMPLE], axis=0) > 0
        assert (one.ranges(layer).scale[~live] == other.ranges(layer).scale[~live]).all()
        mine, theirs = (store.codes(layer).whole()[:, live] for store in (one, other))
        ratio = (other.ranges(layer).scale / one.ranges(layer).scale)[live]
        np.testing.assert_allclose(ratio, c[live], rtol=1e-5)
        different = (mine != theirs).mean()
        assert different == 0 if exponents == "powers of two" else different < 1e-3


@pytest.mark.parametrize("unit", [1e-7, 1e-3, 1, 1e5])
def test_a_neuron_constant_in_the_sample_is_right_beside_neurons_of_any_unit(unit, tmp_path):
    """Its neighbours' activations are in the hundred thousands, and say nothing of its own."""
    rng = np.random.default_rng(3)
    n_tokens = 30_000
    shards, layers = {}, {}
    fires = rng.integers(planted.SAMPLE, n_tokens, 3)
    for name in NAMES:
        x = 1e5 * rng.standard_normal((n_tokens, 12))
        x[:, 0] = 0
        x[fires, 0] = unit * (1 + rng.random(3))
        layers[name] = [x.astype(np.float32)]
        shards[name] = capture(layers[name], tmp_path / name, name, (250,))
    found = StepMatches.read(run_match(shards["a"], shards["b"], tmp_path, blocks=((0,),))).found
    a, b = (standardised(layers[name]) for name in NAMES)
    expected = a.T @ b / n_tokens
    assert np.abs(found[NAMES].best - expected.max(1)).max() <= 1e-3
    assert np.abs(found[NAMES].lowest - expected.min(1)).max() <= 1e-3


def test_a_neuron_far_from_zero_that_hardly_moves_in_the_sample_is_right(tmp_path):
    """One token one step of float32 off: sums of squares about 0 would see no spread."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((20_000, 5)).astype(np.float32)
    x[:, 1] = 1000
    x[7, 1] = np.nextafter(np.float32(1000), np.float32(2000))
    x[18_000:, 1] = 1600 + 100 * x[18_000:, 0]
    (shard,) = capture([x], tmp_path, "a", ())
    own, sums = neurons([shard]), read_arrays(shard / "within.zarr")["0x0"]
    corr = (sums - np.outer(own.code_sum, own.code_sum) / len(x)) / len(x)
    corr *= np.outer(own.factor, own.factor)
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(corr[off], np.corrcoef(x.T.astype(float))[off], atol=2e-3)


@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_codes_that_no_float_holds_stop_the_job_with_the_layers_name(encoding, tmp_path):
    x = np.random.default_rng(5).standard_normal((3000, 3)).astype(np.float32)
    x[:, 0] *= 1e-30
    x[2500, 0] = 3e38
    with pytest.raises(UserError, match="seed a, step 3, layer 0: activations 1e38 times as large"):
        run_capture(
            planted.model([x]),
            planted.tokens(3000),
            tmp_path,
            seed="a",
            exclude=(),
            encoding=encoding,
            sample=20,
        )
