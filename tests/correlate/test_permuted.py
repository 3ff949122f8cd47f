"""The null of permuted sequences: against NumPy, and how rarely it lets chance pass."""

from __future__ import annotations

import numpy as np
import pytest
from pipeline import gpt2, neurons, random_tokens, run_capture, run_match
from scipy import stats

from universal_neurons.activations.reader import Activations
from universal_neurons.correlate import permuted
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.score import nulls, universality

CONTEXT = 16


def captured(where, tokens, *, names="ab", **options):
    """Models by name, all captured over the same tokens."""
    return {
        name: run_capture(gpt2(i), tokens, where / name, seed=name, **options)
        for i, name in enumerate(names)
    }


def best_of(shards, pairings):
    a, b = shards
    stores = [Activations(own[0] / "activations.zarr") for own in (a, b)]
    return permuted.permuted_best(*stores, neurons(a), neurons(b), pairings)


def sample(shards, n_tokens=10**6, block=64):
    index = Activations(shards[0] / "activations.zarr").token_index()
    return permuted.pair_sequences(index, CONTEXT, n_tokens, block)


def pairs_of(pairings, index):
    """Token indices of a and b that are paired."""
    return (
        np.concatenate([index[own.rows][own.places] for own in of_model])
        for of_model in zip(*pairings, strict=True)
    )


@pytest.mark.parametrize("n_sequences", [2, 3, 8, 33])
@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_every_sequence_has_another_partner_and_tokens_keep_their_positions(n_sequences, block):
    rng = np.random.default_rng(n_sequences)
    index = np.flatnonzero(rng.random(n_sequences * CONTEXT) < 0.8)
    pairings = permuted.pair_sequences(index, CONTEXT, len(index), block)
    a, b = pairs_of(pairings, index)
    np.testing.assert_array_equal(a % CONTEXT, b % CONTEXT)
    partner = dict(zip(a // CONTEXT, b // CONTEXT, strict=True))
    assert sorted(partner) == sorted(partner.values()) == list(range(n_sequences))
    assert all(own != other for own, other in partner.items())
    # Every position that both have scored.
    scored = set(index)
    expected = sum(partner[i // CONTEXT] * CONTEXT + i % CONTEXT in scored for i in index)
    assert len(a) == expected


def test_the_sample_is_the_first_sequences_and_one_sequence_has_no_partner():
    index = np.arange(40 * CONTEXT)
    a, b = pairs_of(permuted.pair_sequences(index, CONTEXT, 10 * CONTEXT, 64), index)
    assert sorted(set(a // CONTEXT)) == sorted(set(b // CONTEXT)) == list(range(10))
    assert permuted.pair_sequences(index[:CONTEXT], CONTEXT, 10**6, 64) == []


@pytest.mark.parametrize(
    ("encoding", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-5), ("int8", 1e-5)]
)
def test_permuted_matches_equal_a_plain_float64_computation(tmp_path, encoding, tolerance):
    shards = captured(tmp_path, random_tokens(40, CONTEXT), encoding=encoding)
    pairings = sample(shards["a"])
    found = best_of(shards.values(), pairings)
    stores = {name: Activations(own[0] / "activations.zarr") for name, own in shards.items()}
    index = stores["a"].token_index()
    rows = [np.searchsorted(index, tokens) for tokens in pairs_of(pairings, index)]
    x, y = (
        np.hstack([store.activations(i)[own] for i in range(2)]).astype(np.float64)
        for store, own in zip(stores.values(), rows, strict=True)
    )
    cov = (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)
    noise = 0.25 if encoding == "int8" else 0
    spread = [
        np.maximum(
            neurons(own).std,
            np.sqrt((values.var(0) - noise * neurons(own).scale ** 2).clip(min=0)),
        )
        for own, values in zip(shards.values(), (x, y), strict=True)
    ]
    assert (spread[0] > neurons(shards["a"]).std).any(), "the sample varies more somewhere"
    corr = cov / np.outer(*spread)
    np.testing.assert_allclose(found[0], corr.max(1), atol=tolerance)
    np.testing.assert_allclose(found[1], corr.max(0), atol=tolerance)


def scores_of(where, tokens, names="ab"):
    """Scores and nulls of models, each captured over tokens of its own (said to be the same)."""
    shards = {
        name: run_capture(gpt2(i), own, where / name, seed=name, exclude=())
        for i, (name, own) in enumerate(zip(names, tokens, strict=True))
    }
    parts, best = [], {}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            parts += run_match(shards[a], shards[b], where / (a + b))
            found = best_of((shards[a], shards[b]), sample(shards[a]))
            best[a, b], best[b, a] = found
    scores = universality.universality_table(universality.matches_table(StepMatches.read(parts), 3))
    return nulls.with_p_values(
        scores,
        {
            "rotated": nulls.rotated_null(StepMatches.read(parts).found, scores),
            "permuted": nulls.permuted_null(best, scores),
        },
    )


@pytest.mark.parametrize("runs", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_models_that_read_unrelated_text_yield_no_discoveries(tmp_path, runs):
    """Real activations, correlated within sequences and as heavy-tailed as they are."""
    wrong = 0
    for run in range(runs):
        tokens = [random_tokens(64, CONTEXT, seed=100 * run + i) for i in range(2)]
        found = scores_of(tmp_path / str(run), tokens)
        wrong += (found["q_value"] < 0.05).any()
    # Two families of hypotheses, one per seed.
    assert wrong <= stats.binom.ppf(0.999, runs, 1 - 0.95**2)


def test_models_that_share_their_neurons_are_discovered(tmp_path):
    tokens = random_tokens(64, CONTEXT)
    same = {
        name: run_capture(gpt2(0), tokens, tmp_path / name, seed=name, exclude=()) for name in "ab"
    }
    parts = run_match(same["a"], same["b"], tmp_path)
    scores = universality.universality_table(universality.matches_table(StepMatches.read(parts), 3))
    ahead, back = best_of(same.values(), sample(same["a"]))
    null = nulls.permuted_null({("a", "b"): ahead, ("b", "a"): back}, scores)
    found = nulls.with_p_values(scores, {"permuted": null})
    assert (found["q_value"] < 0.05).all()


def test_sequences_with_fewer_scored_tokens_are_paired_with_fuller_ones(tmp_path):
    """Rows of the second model may be more than those of the first: both have room."""
    tokens = random_tokens(41, CONTEXT)
    tokens[:20, ::2] = 0  # not scored
    tokens[20:] = np.where(tokens[20:] == 0, 1, tokens[20:])
    shards = {
        name: run_capture(gpt2(i), tokens, tmp_path / name, seed=name, exclude=(0,))
        for i, name in enumerate("ab")
    }
    pairings = permuted.pair_sequences(
        Activations(shards["a"][0] / "activations.zarr").token_index(), CONTEXT, 10**6, 10**6
    )
    lengths = [[own.rows.stop - own.rows.start for own in pairing] for pairing in pairings]
    assert any(theirs > mine for mine, theirs in lengths)
    assert max(theirs for _, theirs in lengths) > max(mine for mine, _ in lengths)
    for best in best_of(shards.values(), pairings):
        assert np.isfinite(best).all()
