"""Best matches from a sample: certified ones are right, all others are compared with all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from universal_neurons.activations.products import cross_sums
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate import refine as refining
from universal_neurons.correlate import sample as sampling
from universal_neurons.correlate import screen as screening
from universal_neurons.correlate.candidates import Screens
from universal_neurons.correlate.match import match
from universal_neurons.correlate.neurons import Neurons
from universal_neurons.correlate.refine import refine
from universal_neurons.correlate.rotations import Baseline, rotation, rotation_name
from universal_neurons.correlate.screen import Sampling, Side, screen
from universal_neurons.errors import UserError
from universal_neurons.score.notions import assignment
from universal_neurons.store.arrays import create_array, new_store

CONTEXT = 32


@dataclass
class Captured:
    """A model's stores and statistics, made from given activations."""

    stores: list[Activations]
    neurons: Neurons
    baseline: Baseline


def captured(where, layers, *, encoding="int8", splits=(), seed=0):
    """Store activations, one array of shape (tokens, d_mlp) per layer, as `capture` would."""
    rng = np.random.default_rng(seed)
    x = np.hstack(layers)
    d_mlp = [layer.shape[1] for layer in layers]
    if encoding == "int8":
        # Some of the largest escape.
        scale = (np.abs(x).max(0) / 150 + 1e-9).astype(np.float32)
        whole = np.floor(x / scale + rng.random(x.shape)).astype(np.float32)
        values = whole.clip(-127, 127).astype(np.int8)
    else:
        scale = np.ones(x.shape[1], np.float32)
        whole = values = x.astype(np.float32)
    stores = []
    edges = [0, *splits, len(x)]
    offset = np.zeros(x.shape[1], np.float32)
    for shard, (start, stop) in enumerate(pairwise(edges)):
        attributes = {
            "d_mlp": d_mlp,
            "n_tokens": stop - start,
            "encoding": encoding,
            "corpus_sha256": "x",
            "sequences": [start, stop],
            "exclude": [],
        }
        path = where / f"{shard}.zarr"
        with new_store(path, attributes) as group:
            first = 0
            for i, d in enumerate(d_mlp):
                own = slice(first, first + d)
                first += d
                array = create_array(group, f"layer{i}", (stop - start, d), values.dtype)
                array[:] = values[start:stop, own]
                create_array(group, f"scale{i}", (d,), np.float32)[:] = scale[own]
                create_array(group, f"offset{i}", (d,), np.float32)[:] = offset[own]
                place = np.nonzero(whole[start:stop, own] != values[start:stop, own])
                code = whole[start:stop, own][place]
                for name, part in (("row", place[0]), ("neuron", place[1]), ("code", code)):
                    dtype = {"row": np.int64, "neuron": np.int32, "code": np.float32}[name]
                    array = create_array(group, f"escape_{name}{i}", part.shape, dtype)
                    array[:] = part
            index = create_array(group, "token_index", (stop - start,), np.int64)
            index[:] = np.arange(start, stop)
        stores.append(Activations(path))
    powers = np.stack([x.sum(0), (x**2).sum(0), x.sum(0), x.sum(0)])
    sums = {
        "n_tokens": np.array([len(x)]),
        "powers": powers,
        "low": x.min(0),
        "high": x.max(0),
        "code_sum": whole.sum(0, dtype=np.float64),
    }
    neurons = Neurons.of(d_mlp, sums, scale)
    rotations = {
        rotation_name(d, i, draw): rotation(0, i, draw, d)
        for i, d in enumerate(d_mlp)
        for draw in range(2)
    }
    spread = np.stack(
        [
            np.concatenate(
                [
                    (layer @ rotations[rotation_name(d, i, draw)].T).std(0)
                    for i, (d, layer) in enumerate(zip(d_mlp, layers, strict=True))
                ]
            )
            for draw in range(2)
        ]
    ).astype(np.float32)
    return Captured(stores, neurons, Baseline(neurons, rotations, spread))


def features(rng, n_sequences, n):
    """Heavy-tailed features that change slowly within a sequence, shape (tokens, n)."""
    noise = rng.standard_normal((n_sequences, CONTEXT, n))
    for t in range(1, CONTEXT):
        noise[:, t] = 0.9 * noise[:, t - 1] + np.sqrt(1 - 0.9**2) * noise[:, t]
    return np.maximum(noise, -0.2).reshape(-1, n)


def near_ties(rng, n_sequences, n, gap=0.004):
    """Two models: every neuron of the first has two matches in the second, almost equally good."""
    shared = features(rng, n_sequences, n)

    def noisy(weight):
        other = features(rng, n_sequences, n)
        return weight * shared + np.sqrt(1 - weight**2) * other

    return noisy(0.9), np.hstack([noisy(0.8), noisy(0.8 - gap)])


def exact(a, b):
    """Both directions' matches in the exact mode."""
    layers = range(len(a.neurons.d_mlp))
    total = {}
    for one, other in zip(a.stores, b.stores, strict=True):
        for name, sums in cross_sums(one, other, layers):
            total[name] = total.get(name, 0) + sums
    return match(total, a.neurons, b.neurons, layers, baseline_a=a.baseline, baseline_b=b.baseline)


def side(model):
    return Side(model.stores, model.neurons, model.baseline)


def screened(a, b, where, *, sample=0.1, candidates=2, blocks=None):
    """Both directions' matches in the screened mode."""
    paths = []
    for block in blocks or [range(len(a.neurons.d_mlp))]:
        found = screen(side(a), side(b), list(block), Sampling(sample, candidates, CONTEXT))
        paths.append(where / f"screen{block[0]}.zarr")
        found.write(paths[-1], block, {})
    return refine(a.stores, b.stores, a.neurons, b.neurons, Screens.read(paths))


def split(x, layers):
    return np.split(x, layers, axis=1)


@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_screened_matches_are_those_of_the_exact_mode_to_the_bit(encoding, tmp_path):
    """Near ties included: what the sample can't decide is compared with all neurons."""
    rng = np.random.default_rng(1)
    one, other = near_ties(rng, 1500, 60)
    shards = (640 * CONTEXT, 1000 * CONTEXT)
    a = captured(tmp_path / "a", split(one, [25]), encoding=encoding, splits=shards)
    b = captured(tmp_path / "b", split(other, [50, 90]), encoding=encoding, splits=shards, seed=1)
    found = screened(a, b, tmp_path, blocks=[(1,), (0,)])
    for mine, truth in zip(found, exact(a, b), strict=True):
        np.testing.assert_array_equal(mine.index, truth.index)
        tolerance = 0 if encoding == "int8" else 1e-6
        np.testing.assert_allclose(mine.best, truth.best, rtol=0, atol=tolerance)
        assert (mine.lowest >= truth.lowest - tolerance).all()
        # The sample's baseline is near that of all tokens.
        assert abs((mine.baseline - truth.baseline).mean()) < 0.03
    # Every neuron has a match that no other wants.
    assigned, _ = assignment(*found)
    np.testing.assert_array_equal(assigned, found[0].index)
    np.testing.assert_array_equal(assigned, assignment(*exact(a, b))[0])
    assert found[0].certified.mean() > 0.5


def test_with_one_candidate_near_ties_are_not_certified_but_found(tmp_path):
    one, other = near_ties(np.random.default_rng(2), 1500, 40)
    a, b = captured(tmp_path / "a", [one]), captured(tmp_path / "b", [other], seed=1)
    found, _ = screened(a, b, tmp_path, candidates=1)
    truth, _ = exact(a, b)
    assert found.certified.mean() < 0.5
    np.testing.assert_array_equal(found.index, truth.index)


def test_certificates_are_wrong_no_more_often_than_stated(tmp_path, monkeypatch):
    """On exact ties in autocorrelated, heavy-tailed activations, the hardest case there is."""
    one, other = near_ties(np.random.default_rng(3), 1000, 120, gap=0.0)
    a, b = captured(tmp_path / "a", [one]), captured(tmp_path / "b", [other], seed=1)
    truth, _ = exact(a, b)
    corr = np.corrcoef(one.T, other.T)[: one.shape[1], one.shape[1] :]
    draw = sampling.sample_groups

    def wrong_certificates(error):
        wrong = []
        for seed in range(6):
            monkeypatch.setattr(screening, "sample_groups", partial(draw, seed=seed))
            # One candidate: the runner-up is always the other of two equals.
            found = screen(side(a), side(b), [0], Sampling(0.1, 1, CONTEXT, error=error))
            candidates = found.forward.candidates
            index = candidates.index[:, 0]
            certified = candidates.rest <= corr[np.arange(len(corr)), index]
            # Rare neurons need no certificate: they are compared on all tokens.
            common = ~found.forward.rare & ~found.backward.rare[truth.index]
            wrong.append((certified & (index != truth.index))[common])
        assert sum(map(len, wrong)) > 200
        n = sum(map(len, wrong))
        # Less three standard errors of a count of so many.
        return np.mean(np.concatenate(wrong)) - 3 * np.sqrt(error * (1 - error) / n)

    assert wrong_certificates(0.05) <= 0.05
    assert wrong_certificates(0.20) <= 0.20
    # The measure can fail: without a margin many are wrong.
    assert wrong_certificates(0.5 - 1e-9) > 0.15


def test_neurons_active_in_a_few_sequences_are_compared_on_all_tokens(tmp_path):
    rng = np.random.default_rng(4)
    n_sequences, n = 800, 20
    one, other = features(rng, n_sequences, n), features(rng, n_sequences, n)
    for _ in range(n):
        # Neuron i of both models fires in the same two sequences and nowhere else.
        where = np.zeros((n_sequences, CONTEXT, 1), bool)
        where[rng.choice(n_sequences, 2, replace=False)] = True
        shared = 5 * rng.random((n_sequences * CONTEXT, 1)) * where.reshape(-1, 1)
        one, other = np.hstack([one, shared]), np.hstack([other, shared])
    a, b = captured(tmp_path / "a", [one]), captured(tmp_path / "b", [other], seed=1)
    forward, backward = screened(a, b, tmp_path)
    for found, truth in zip((forward, backward), exact(a, b), strict=True):
        np.testing.assert_array_equal(found.index[n:], np.arange(n, 2 * n))
        np.testing.assert_array_equal(found.index, truth.index)
        assert not found.certified[n:].any()


def test_a_dead_neuron_correlates_with_nothing_in_the_screened_mode(tmp_path):
    one, other = near_ties(np.random.default_rng(5), 400, 10)
    one[:, 3] = other[:, 7] = 0.25
    a, b = captured(tmp_path / "a", [one]), captured(tmp_path / "b", [other], seed=1)
    forward, backward = screened(a, b, tmp_path)
    for found, dead in ((forward, 3), (backward, 7)):
        assert found.index[dead] == -1
        assert found.best[dead] == found.lowest[dead] == 0
        assert (found.baseline[:, dead] == 0).all()
        assert (np.delete(found.index, dead) >= 0).all()


def test_groups_are_disjoint_and_of_whole_sequences(tmp_path):
    x = np.random.default_rng(6).standard_normal((300 * CONTEXT, 4))
    a = captured(tmp_path, [x], splits=(90 * CONTEXT, 100 * CONTEXT))
    groups = sampling.sample_groups(a.stores, 0.3, CONTEXT)
    rows = [
        (piece.shard, row)
        for group in groups
        for piece in group
        for row in range(piece.rows.start, piece.rows.stop)
    ]
    assert len(rows) == len(set(rows))
    assert len(rows) == pytest.approx(0.3 * len(x), rel=0.1)
    assert all(group for group in groups)
    assert all(p.rows.start % CONTEXT == p.rows.stop % CONTEXT == 0 for g in groups for p in g)


def test_a_corpus_too_short_to_sample_is_refused(tmp_path):
    a = captured(tmp_path, [np.random.default_rng(7).standard_normal((8 * CONTEXT, 4))])
    with pytest.raises(UserError, match="at least 32 sequences"):
        sampling.sample_groups(a.stores, 0.1, CONTEXT)


@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_sums_of_pairs_and_of_rows_are_those_of_all(encoding, tmp_path, monkeypatch):
    monkeypatch.setattr(refining, "EXACT_BYTES", 8 * 18 * 2)
    rng = np.random.default_rng(8)
    one, other = (rng.standard_normal((700, d)) for d in (12, 18))
    a = captured(tmp_path / "a", split(one, [5]), encoding=encoding, splits=(90, 91))
    b = captured(tmp_path / "b", split(other, [6, 8]), encoding=encoding, splits=(90, 91))
    values = [
        np.vstack([np.hstack([s.codes(i).whole() for i in range(len(s.d_mlp))]) for s in m.stores])
        for m in (a, b)
    ]
    full = values[0].astype(np.float64).T @ values[1].astype(np.float64)
    first, second = rng.integers(0, 12, 40), rng.integers(0, 18, 40)
    tolerance = {"int8": 0, "float32": 1e-3}[encoding]
    found = refining.pair_sums(a.stores, b.stores, first, second)
    np.testing.assert_allclose(found, full[first, second], rtol=0, atol=tolerance)
    rows = np.array([1, 4, 5, 6, 11])
    parts = list(refining.row_sums(a.stores, b.stores, rows))
    assert len(parts) == 3
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), rows)
    sums = np.vstack([part[1] for part in parts])
    np.testing.assert_allclose(sums, full[rows], rtol=0, atol=tolerance)
