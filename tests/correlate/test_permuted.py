"""The null of permuted sequences: against NumPy, and how rarely it lets chance pass."""

from __future__ import annotations

import numpy as np
import pytest
from pipeline import corr, gpt2, neurons, random_tokens, run_capture, run_match
from scipy import stats

from universal_neurons.activations.moments import effective_tokens
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate import permuted
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.correlate.rotations import Rotating, rotation, rotation_name
from universal_neurons.score import nulls, universality

CONTEXT, DRAWS = 16, 2


def captured(where, tokens, *, names="ab", **options):
    """Models by name, all captured over the same tokens."""
    return {
        name: run_capture(gpt2(i), tokens, where / name, seed=name, **options)
        for i, name in enumerate(names)
    }


def paired(own, kept):
    return permuted.Paired(Activations(own[0] / "activations.zarr"), neurons(own).scale, kept)


def drawn(kinds):
    """Rotations of layers, by name."""
    return {
        rotation_name(d_mlp, layer, draw): rotation(0, layer, draw, d_mlp)
        for d_mlp, layer in kinds
        for draw in range(DRAWS)
    }


def matches_of(shards, pairings, *, standardise=False):
    """Both ways, of models of two layers of 40 neurons."""
    a, b = (
        paired(own, kept) for own, kept in zip(shards, zip(*pairings, strict=True), strict=True)
    )
    rotating = Rotating(DRAWS, standardise)
    return permuted.permuted_matches(a, b, drawn([(40, 0), (40, 1)]), rotating)


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
    ("encoding", "standardise"),
    [("float32", False), ("float32", True), ("bfloat16", False), ("int8", False)],
)
def test_permuted_matches_and_their_baseline_equal_a_plain_float64_computation(
    tmp_path, encoding, standardise
):
    shards = captured(tmp_path, random_tokens(40, CONTEXT), encoding=encoding)
    pairings = sample(shards["a"])
    ways = matches_of(shards.values(), pairings, standardise=standardise)
    stores = {name: Activations(own[0] / "activations.zarr") for name, own in shards.items()}
    index = stores["a"].token_index()
    rows = [np.searchsorted(index, tokens) for tokens in pairs_of(pairings, index)]
    values = [
        [store.activations(i)[own].astype(np.float64) for i in range(2)]
        for store, own in zip(stores.values(), rows, strict=True)
    ]
    for found, mine, theirs in zip(ways, values, values[::-1], strict=True):
        between = corr(np.hstack(mine), np.hstack(theirs))
        np.testing.assert_allclose(found.best, between.max(1), atol=1e-5)
        np.testing.assert_array_equal(found.index, between.argmax(1))
        for draw in range(DRAWS):
            amplitudes = [y / y.std(0) if standardise else y for y in theirs]
            rotated = [y @ rotation(0, i, draw, 40).T for i, y in enumerate(amplitudes)]
            expected = corr(np.hstack(mine), np.hstack(rotated)).max(1)
            np.testing.assert_allclose(found.baseline[draw], expected, atol=1e-4)


def test_what_noise_matches_in_excess_is_about_nothing(tmp_path):
    """The baseline of the same text, which lets rotations match too, is far above it."""
    tokens = random_tokens(64, CONTEXT)
    shards = {name: run_capture(gpt2(0), tokens, tmp_path / name, seed=name) for name in "ab"}
    ahead, back = matches_of(shards.values(), sample(shards["a"]))
    excess = np.concatenate([found.best - found.baseline.mean(0) for found in (ahead, back)])
    assert abs(excess.mean()) < 0.05
    assert np.abs(excess).max() < 0.5
    scores = scores_by(shards, tmp_path)
    best = np.append(ahead.best, back.best)
    assert (best - scores["baseline_corr"]).mean() < -0.1


def scores_by(shards, where):
    """Scores of two models, and the fifths that they are held against nulls in."""
    parts = run_match(*shards.values(), where / "matches")
    table = universality.matches_table(StepMatches.read(parts), 3)
    scores = universality.universality_table(table)
    moments = [own[0] / "moments.zarr" for own in shards.values()]
    return nulls.with_strata(scores, effective_tokens(moments))


def noise_of(ways, shards):
    """Scores by permuted matches."""
    named = [list(shards), list(shards)[::-1]]
    found = {tuple(pair): matches for pair, matches in zip(named, ways, strict=True)}
    matches = StepMatches(found, dict.fromkeys(shards, (40, 40)), {}, [])
    return universality.universality_table(universality.matches_table(matches, 3))


def scores_of(where, tokens, names="ab"):
    """Scores and nulls of models, each captured over tokens of its own (said to be the same)."""
    shards = {
        name: run_capture(gpt2(i), own, where / name, seed=name, exclude=())
        for i, (name, own) in enumerate(zip(names, tokens, strict=True))
    }
    scores = scores_by(shards, where)
    found = StepMatches.read([where / "matches/matches(0, 1).zarr"]).found
    noise = noise_of(matches_of(shards.values(), sample(shards["a"])), shards)
    return nulls.with_p_values(
        scores,
        {
            "rotated": nulls.rotated_null(found, scores),
            "permuted": nulls.permuted_null(noise, scores),
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
    scores = scores_by(same, tmp_path)
    noise = noise_of(matches_of(same.values(), sample(same["a"])), same)
    found = nulls.with_p_values(scores, {"permuted": nulls.permuted_null(noise, scores)})
    assert (found["q_value"] < 0.1).all(), "as small as 32 values of a fifth allow"
    assert (found["p_value"] == found["p_value"].min()).all()


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
    for found in matches_of(shards.values(), pairings):
        assert np.isfinite(found.best).all()
        assert np.isfinite(found.baseline).all()


def test_without_a_second_sequence_all_neurons_are_dead_and_make_no_null(tmp_path):
    shards = captured(tmp_path, random_tokens(40, CONTEXT))
    stores = [paired(own, []) for own in shards.values()]
    ways = permuted.permuted_matches(*stores, drawn([(40, 0), (40, 1)]), Rotating(DRAWS))
    noise = noise_of(ways, shards)
    scores = scores_by(shards, tmp_path)
    assert nulls.permuted_null(noise, scores).empty
