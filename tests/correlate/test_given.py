"""What classes of tokens explain, correlations given them: planted truths, float64 oracles."""

from __future__ import annotations

import numpy as np
import planted
import pytest
from classes import given_of, match_given, write_classes
from hypothesis import given as holds
from hypothesis import settings
from hypothesis import strategies as st
from pipeline import gpt2, neurons, run_capture, wrap

from universal_neurons.activations.class_sums import KINDS, HalfSums
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate.given import array_of, read_given
from universal_neurons.correlate.given_refined import GivenRefined
from universal_neurons.correlate.refine import refine
from universal_neurons.correlate.rotations import Baseline, rotation
from universal_neurons.correlate.screen import Sampling, Side, screen

CONTEXT = planted.CONTEXT


def capture(layers, where, name, splits=(200,)):
    n = len(layers[0])
    return run_capture(
        planted.model(layers), planted.tokens(n), where, seed=name, splits=splits, exclude=(),
        batch_tokens=4000, sample=min(n, planted.SAMPLE) // CONTEXT,
    )  # fmt: skip


def zipf(rng, n_tokens, n_ids):
    """Identities as frequent as words: the first often, most hardly ever."""
    weight = 1 / (np.arange(n_ids) + 3.0)
    return rng.choice(n_ids, n_tokens, p=weight / weight.sum())


def alternate(n_tokens):
    """Halves of documents of one sequence each, in turn."""
    return np.arange(n_tokens // CONTEXT) % 2


def excess(matches):
    return matches.best - matches.baseline.mean(0)


# Planted truths.


def test_a_layer_that_sees_no_context_is_all_token_and_nothing_is_left_given_it(tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.choice(61, (1500, 16), p=np.r_[np.full(30, 0.03), np.full(31, 0.1 / 31)])
    first = gpt2(1)
    blind(first)
    state = {name: x.clone() for name, x in first.module.state_dict().items()}
    other = gpt2(2)
    order = rng.permutation(40)
    for i in range(2):
        mlp = f"transformer.h.{i}.mlp."
        for name in ("c_fc.weight", "c_fc.bias"):
            state[mlp + name] = state[mlp + name][..., order]
        state[mlp + "c_proj.weight"] = state[mlp + "c_proj.weight"][order]
    other.module.load_state_dict(state)
    models = [
        run_capture(
            model, tokens, tmp_path / name, seed=name, splits=(700,), exclude=(), batch_tokens=4000
        )
        for name, model in (("a", first), ("b", wrap(other.module)))
    ]
    halves = np.arange(len(tokens)) % 2
    matches, stored = match_given(models, tokens, halves, tmp_path)
    layer0 = slice(0, 40)
    for (seed, found), of_model in zip(matches.found.items(), stored, strict=True):
        live = of_model["token_r2"][layer0] > 0
        assert live.sum() > 35
        assert of_model["token_r2"][layer0][live].min() >= 0.999
        # A neuron that is 0 but for a handful of tokens has few codes to go by.
        assert found.best[layer0][live].min() > 0.995
        assert np.abs(excess(matches.given["token"][seed])[layer0]).max() < 0.02
        # The next layer sees the other tokens: something is left, and its copy has the same.
        left = matches.given["token"][seed].best[40:]
        assert np.median(left) > 0.99


def blind(model):
    """Take positions and the first layer's attention out of a GPT-2."""
    model.module.transformer.wpe.weight[:] = 0
    attention = model.module.transformer.h[0].attn.c_proj
    attention.weight[:] = 0
    attention.bias[:] = 0


def test_neurons_lose_their_excess_given_the_class_that_they_read_and_no_other(tmp_path):
    """A layer reads the token, one the token before, one the position; half of each with noise."""
    rng = np.random.default_rng(11)
    n, width = 40_000, 24
    ids = zipf(rng, n, 400).reshape(-1, CONTEXT)
    labels = labels_of(ids)
    read = {
        kind: rng.standard_normal((label.max() + 1, width))[label] for kind, label in labels.items()
    }
    # The start of a sequence is known by its position and by its lack of a token before.
    for kind in KINDS[1:]:
        read[kind][::CONTEXT] = 0
    noise = np.repeat([0.0, 0.5], width // 2)
    layers = [
        [(x + noise * rng.standard_normal((n, width))).astype(np.float32) for x in read.values()]
        for _ in range(2)
    ]
    models = [capture(x, tmp_path / name, name) for name, x in zip("ab", layers, strict=True)]
    matches, _ = match_given(models, ids, alternate(n), tmp_path)
    for key, found in matches.found.items():
        all_tokens = excess(found).reshape(len(KINDS), width)
        assert (np.median(all_tokens, axis=1) > 0.3).all()
        for kind in KINDS:
            left = excess(matches.given[kind][key]).reshape(len(KINDS), width)
            own = [reads == kind for reads in read]
            assert np.abs(left[own]).max() < 0.03, kind
            assert np.abs(left - all_tokens)[np.logical_not(own)].max() < 0.03, kind


def labels_of(ids):
    """Class of every token by kind, counted from 0; the token before position 0 is one more."""
    before = np.hstack([np.full((len(ids), 1), ids.max() + 1), ids[:, :-1]])
    position = np.arange(ids.size) % CONTEXT
    return dict(zip(KINDS, (ids.ravel(), before.ravel(), position), strict=True))


def test_neurons_that_respond_to_context_alone_keep_their_excess(tmp_path):
    rng = np.random.default_rng(1)
    n = 40_000
    ids = zipf(rng, n, 800).reshape(-1, CONTEXT)
    factors = rng.standard_normal((n, 30)) ** 3 + rng.standard_normal((n, 30))
    layers = [
        [np.maximum(factors + 0.8 * rng.standard_normal((n, 30)), 0).astype(np.float32)]
        for _ in range(2)
    ]
    models = [capture(x, tmp_path / name, name) for name, x in zip("ab", layers, strict=True)]
    matches, stored = match_given(models, ids, alternate(n), tmp_path)
    for key, found in matches.found.items():
        assert np.median(excess(found)) > 0.2
        for given in matches.given.values():
            assert np.abs(excess(given[key]) - excess(found)).max() < 0.02
    for of_model in stored:
        for kind in KINDS:
            assert of_model[f"{kind}_r2"].max() < 0.01


@pytest.mark.parametrize("times", [1, 2])
def test_rare_tokens_do_not_raise_the_share_of_a_noise_neuron(times, tmp_path):
    """Half of the tokens are of identities seen once or twice, of which a fit explains much."""
    rng = np.random.default_rng(times)
    n = 20_000
    rare = np.repeat(np.arange(n // 2 // times), times) + 100
    ids = rng.permutation(np.r_[rare, rng.integers(0, 100, n - len(rare))])
    noise = rng.standard_normal((n, 120))
    noise[:, 40:80] = np.maximum(noise[:, 40:80] - 1, 0) ** 2
    noise[:, 80:] = rng.standard_t(3, (n, 40))
    noise *= 10 ** rng.uniform(-3, 3, 120)
    shards = capture([noise.astype(np.float32)], tmp_path, "a", ())
    stored = given_of(shards, ids.reshape(-1, CONTEXT), alternate(n))
    x = (noise - noise.mean(0)) / noise.std(0)
    means = np.array([np.bincount(ids, column) for column in x.T]) / np.bincount(ids).clip(1)
    naive = (means[:, ids] ** 2).mean(1)
    assert naive.min() > 0.2, "fitted on the tokens that it is tried on it is large"
    for kind in KINDS:
        assert stored[f"{kind}_r2"].max() < 0.01


def test_a_mixture_of_token_and_context_has_the_share_that_was_planted(tmp_path):
    rng = np.random.default_rng(5)
    n = 40_000
    ids = zipf(rng, n, 300)
    share = np.linspace(0.02, 0.98, 60)
    of_token = rng.standard_normal((300, 60))[ids]
    of_token = (of_token - of_token.mean(0)) / of_token.std(0)
    x = np.sqrt(share) * of_token + np.sqrt(1 - share) * rng.standard_normal((n, 60))
    shards = capture([x.astype(np.float32)], tmp_path, "a")
    stored = given_of(shards, ids.reshape(-1, CONTEXT), alternate(n))
    assert np.abs(stored["token_r2"] - share).max() < 0.02
    np.testing.assert_allclose((stored["std"] / x.std(0)) ** 2, 1 - share, rtol=0.02, atol=2e-3)


# Formulas against float64.


@pytest.fixture(scope="module")
def hard():
    """Activations of all kinds and units; identities that some of them follow; halves."""
    layers = planted.two_models(3)
    rng = np.random.default_rng(9)
    ids = zipf(rng, planted.N_TOKENS, 3000)
    # Of 30,000 tokens the identity follows the neurons of one factor, in units of 50 alike.
    x = np.hstack(layers[0]).astype(np.float64)
    z = unit(x - x.mean(0))
    kurtosis = (z**4).mean(0)
    order = np.argsort(z[:, np.where(kurtosis > 1, kurtosis, np.inf).argmin()])
    ids[order[-30_000:]] = 3000 + np.arange(30_000) // 50
    return layers, ids, alternate(planted.N_TOKENS)


@pytest.fixture(scope="module")
def computed(hard, tmp_path_factory):
    layers, ids, halves = hard
    where = tmp_path_factory.mktemp("hard")
    models = [capture(x, where / name, name, (400,)) for name, x in zip("ab", layers, strict=True)]
    return match_given(models, ids.reshape(-1, CONTEXT), halves, where), models


def residual(layers, ids):
    """Activations less the mean of their class, float64, per layer."""
    found = []
    for layer in layers:
        x = layer.astype(np.float64)
        x -= x.mean(0)
        sums = np.stack([np.bincount(ids, column) for column in x.T], axis=1)
        found.append(x - (sums / np.bincount(ids).clip(1)[:, None])[ids])
    return found


def unit(x):
    norm = np.sqrt((x**2).mean(0))
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


@pytest.fixture(scope="module", params=KINDS)
def within(request, hard, computed):
    """By kind of class: what is left of both models in float64, what is stored, what is found."""
    layers, ids, _ = hard
    (matches, stored), _ = computed
    label = labels_of(ids.reshape(-1, CONTEXT))[request.param]
    spread = [of_model[array_of(request.param, "std")] for of_model in stored]
    return [residual(own, label) for own in layers], spread, matches.given[request.param]


def test_spreads_within_classes_are_those_of_float64(hard, within):
    (layers, _, _), (residuals, spreads, _) = hard, within
    for own, of_own, found in zip(layers, residuals, spreads, strict=True):
        left = np.hstack(of_own).std(0)
        std = np.hstack(own).astype(np.float64).std(0)
        # Nothing is left, or too little to be told from the rounding.
        known = found > 0
        assert (left[~known] < 0.05 * std[~known]).all()
        assert known.mean() > 0.8
        share = (found**2 - left**2) / std**2
        assert np.abs(share[known]).max() < 1e-3


def test_correlations_within_classes_are_those_of_float64(computed, within):
    ((matches, _), _), (left, spreads, given) = computed, within
    known = [spread > 0 for spread in spreads]
    a, b = (unit(np.hstack(x)) * live for x, live in zip(left, known, strict=True))
    truth = a.T @ b / len(a)
    for (key, found), expected, live in zip(given.items(), (truth, truth.T), known, strict=True):
        assert key in matches.found
        assert np.abs(found.best - expected.max(1))[live].max() < 5e-3
        assert (found.best[~live] == 0).all()
        assert (found.index[~live] == -1).all()
        chosen = expected[np.arange(len(expected)), found.index]
        assert np.abs(chosen - expected.max(1))[live].max() < 5e-3


def test_the_baseline_within_classes_is_that_of_rotated_residuals(within):
    left, spreads, given = within
    known = [np.split(spread > 0, [left[0][0].shape[1]]) for spread in spreads]
    for (mine, theirs), found in zip(((0, 1), (1, 0)), given.values(), strict=True):
        own = unit(np.hstack(left[mine]))
        best = []
        for draw in range(2):
            turned = [
                unit((x * live) @ rotation(0, i, draw, x.shape[1]).astype(np.float64).T)
                for i, (x, live) in enumerate(zip(left[theirs], known[theirs], strict=True))
            ]
            best.append((own.T @ np.hstack(turned) / len(own)).max(1))
        live = np.concatenate(known[mine])
        assert np.abs(found.baseline - best)[:, live].max() < 5e-3


def test_shares_explained_are_those_of_float64(hard, computed):
    """Token by token, on the activations themselves."""
    layers, ids, halves = hard
    (_, stored), _ = computed
    half = np.repeat(halves, CONTEXT)
    for own, of_model in zip(layers, stored, strict=True):
        x = np.hstack(own).astype(np.float64)
        for kind, label in labels_of(ids.reshape(-1, CONTEXT)).items():
            expected = np.array([tried_on_the_other_half(c, label, half) for c in x.T])
            assert np.abs(of_model[f"{kind}_r2"] - expected).max() < 5e-3, kind
        assert (of_model["token_r2"] > 0.5).sum() >= 2


def tried_on_the_other_half(x, label, half):
    """The share by the definition, of one neuron."""
    if np.ptp(x) == 0:
        return 0.0
    x = (x - x.mean()) / x.std()
    _, label = np.unique(label, return_inverse=True)
    n, total = np.bincount(label), np.bincount(label, x)
    within = max(0.0, (x**2).sum() - (total**2 / n).sum()) / (len(x) - len(n))
    between = (total**2 / n).sum() - (len(n) - 1) * within
    between = max(0.0, between / (len(x) - (n**2).sum() / len(x)))
    counts = np.stack([np.bincount(label, half == h, len(n)) for h in (0, 1)])
    sums = np.stack([np.bincount(label, x * (half == h), len(n)) for h in (0, 1)])
    tried = (counts > 0).all(0)[label]
    learned, mean = counts[1 - half, label][tried], sums[1 - half, label][tried]
    if between == 0:
        return 0.0
    predicted = mean / (learned + within / between)
    own = x[tried]
    # All of its variance is in tokens that are left out: nothing is said of it.
    if (own**2).sum() < 1e-3 * len(x):
        return 0.0
    return np.clip(1 - ((own - predicted) ** 2).sum() / (own**2).sum(), 0, 1)


# The screened mode.


def test_refined_pairs_have_the_same_correlations_within_classes(hard, computed):
    (matches, _), models = computed
    where = models[0][0].parent.parent
    sides, stored = [], []
    rotations = next(where.glob("rotations.zarr"))
    for i, shards in enumerate(models):
        own = neurons(shards)
        turned = Baseline.read(own, rotations, where / f"rotated{i}.zarr")
        sides.append(Side([Activations(x / "activations.zarr") for x in shards], own, turned))
        stored.append((where / f"given{i}.zarr", own))
    given = read_given(stored, rotations)
    found = {kind: GivenRefined(*both) for kind, both in given.items()}
    documents = planted.documents(sum(store.n_tokens for store in sides[0].stores))
    plain, screening = refine(
        *sides, screen(*sides, [0, 1], Sampling(0.3, 4), documents), given=[*found.values()]
    )
    assert list(found) == list(KINDS)
    ways = (
        (*both, kind)
        for kind, refined in found.items()
        for both in zip(matches.given[kind].values(), plain, refined.found(), strict=True)
    )
    for exact, of_all, own, kind in ways:
        live = exact.index >= 0
        np.testing.assert_array_equal(live, own.index >= 0)
        full = live & ~of_all.certified
        np.testing.assert_array_equal(own.certified, of_all.certified)
        np.testing.assert_allclose(own.best[full], exact.best[full], atol=2e-4)
        np.testing.assert_allclose(own.baseline[:, full], exact.baseline[:, full], atol=2e-4)
        certified = live & of_all.certified
        assert (own.best[certified] <= exact.best[certified] + 2e-4).all()
        # Nearly always the best match given the token is among those of all tokens.
        strong = certified & (exact.best > 0.3)
        np.testing.assert_allclose(own.best[strong], exact.best[strong], atol=2e-4)
        error = (own.baseline - exact.baseline)[:, certified]
        assert np.sqrt((error**2).mean()) < 0.05 if certified.any() else True, kind
    assert sum(side.certified for side in screening) > 0


# Algebra of the sums.


@pytest.fixture(scope="module")
def pieces(hard, tmp_path_factory):
    layers, ids, halves = hard
    where = tmp_path_factory.mktemp("pieces")
    few = [[x[:10_000, :20] for x in layers[0]]]
    sequences, halves = ids[:10_000].reshape(-1, CONTEXT), halves[:200]
    whole = write_classes(capture(few[0], where / "whole", "a", ()), sequences, halves)
    parts = write_classes(
        capture(few[0], where / "parts", "a", (30, 31, 90, 170)), sequences, halves
    )
    return whole, parts


@settings(deadline=None, max_examples=15)
@holds(order=st.permutations(range(5)))
def test_sums_of_shards_in_any_order_are_the_sums_of_the_whole(pieces, order):
    whole, parts = pieces
    for kind in KINDS:
        one, other = HalfSums(whole, kind), HalfSums([parts[i] for i in order], kind)
        np.testing.assert_array_equal(one.label, other.label)
        np.testing.assert_array_equal(one.count, other.count)
        for layer in range(2):
            np.testing.assert_array_equal(one.layer(layer), other.layer(layer))
