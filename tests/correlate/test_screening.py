"""Best matches from a sample: certified ones are right, all others are compared with all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from universal_neurons.activations.products import cross_sums
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate import audit
from universal_neurons.correlate import sample as sampling
from universal_neurons.correlate import screen as screening
from universal_neurons.correlate.candidates import Candidates, Screened, Screens
from universal_neurons.correlate.exact_sums import Wanted, exact_sums
from universal_neurons.correlate.match import match
from universal_neurons.correlate.neurons import Neurons
from universal_neurons.correlate.refine import refine
from universal_neurons.correlate.rotations import Baseline, rotation, rotation_name
from universal_neurons.correlate.screen import Sampling, Side, screen
from universal_neurons.errors import UserError
from universal_neurons.prepare.reading import Documents
from universal_neurons.score.notions import assignment
from universal_neurons.score.screening import upper_bound
from universal_neurons.store.arrays import create_array, new_store

CONTEXT = 32

# Neurons audited per direction where a test wants to see those that are not.
FEW = 8


@pytest.fixture
def few_audited(monkeypatch):
    monkeypatch.setattr(audit, "LEAST", FEW)


@dataclass
class Captured:
    """A model's stores and statistics, made from given activations."""

    stores: list[Activations]
    neurons: Neurons
    baseline: Baseline


def captured(where, layers, *, encoding="int8", splits=(), seed=0, standardise=False):
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
            "exclude_positions": [],
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
    amplitudes = [layer / layer.std(0) for layer in layers] if standardise else layers
    spread = np.stack(
        [
            np.concatenate(
                [
                    (layer @ rotations[rotation_name(d, i, draw)].T).std(0)
                    for i, (d, layer) in enumerate(zip(d_mlp, amplitudes, strict=True))
                ]
            )
            for draw in range(2)
        ]
    ).astype(np.float32)
    baseline = Baseline(neurons, rotations, spread, standardise=standardise)
    return Captured(stores, neurons, baseline)


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


def spiked(rng, n_sequences, n):
    """Two models: 10 to 50 % of the variance of half their neurons sits in 1 to 60 sequences.

    Every neuron of the first has a partner in the second that it correlates with everywhere, and
    another one that it shares those sequences with.
    """

    def standard(x):
        return (x - x.mean(0)) / x.std(0)

    share, weight = rng.uniform(0.1, 0.5, n), rng.uniform(0.2, 0.6, n)
    common, mine, theirs = (standard(features(rng, n_sequences, n)) for _ in range(3))
    spikes = np.zeros((n_sequences, CONTEXT, n))
    for i in range(n):
        k = int(60 ** rng.random())
        spikes[rng.choice(n_sequences, k, replace=False), :, i] = rng.random((k, CONTEXT))
    spikes = standard(spikes.reshape(-1, n))
    one = np.sqrt(1 - share) * common + np.sqrt(share) * spikes
    partner = weight * common + np.sqrt(1 - weight**2) * mine
    return one, np.hstack([partner, np.sqrt(1 - share) * theirs + np.sqrt(share) * spikes])


def exact(a, b):
    """Both directions' matches in the exact mode."""
    layers = range(len(a.neurons.d_mlp))
    total = {}
    for one, other in zip(a.stores, b.stores, strict=True):
        for name, sums in cross_sums(one, other, layers):
            total[name] = total.get(name, 0) + sums
    return match(total, a.neurons, b.neurons, layers, baseline_a=a.baseline, baseline_b=b.baseline)


def each(model):
    """Every sequence a document of its own."""
    n_tokens = sum(store.n_tokens for store in model.stores)
    return Documents("corpus.json", "x", CONTEXT, np.arange(n_tokens // CONTEXT))


def side(model):
    return Side(model.stores, model.neurons, model.baseline)


def screened(a, b, where, *, sample=0.1, candidates=2, blocks=None):
    """Both directions' matches in the screened mode, and how they were found."""
    paths = []
    for block in blocks or [range(len(a.neurons.d_mlp))]:
        found = screen(side(a), side(b), list(block), Sampling(sample, candidates), each(a))
        paths.append(where / f"screen{block[0]}.zarr")
        found.write(paths[-1], block, {})
    return refine(side(a), side(b), Screens.read(paths))


def split(x, layers):
    return np.split(x, layers, axis=1)


@pytest.mark.parametrize(
    ("encoding", "standardise"), [("int8", False), ("int8", True), ("float32", False)]
)
def test_screened_matches_are_those_of_the_exact_mode_to_the_bit(
    encoding, standardise, tmp_path, few_audited
):
    """Near ties included: what the sample can't decide is compared with all neurons."""
    rng = np.random.default_rng(1)
    one, other = near_ties(rng, 1500, 60)
    shards = (640 * CONTEXT, 1000 * CONTEXT)
    how = {"encoding": encoding, "splits": shards, "standardise": standardise}
    a = captured(tmp_path / "a", split(one, [25]), **how)
    b = captured(tmp_path / "b", split(other, [50, 90]), seed=1, **how)
    found, screening = screened(a, b, tmp_path, blocks=[(1,), (0,)])
    for mine, truth in zip(found, exact(a, b), strict=True):
        np.testing.assert_array_equal(mine.index, truth.index)
        tolerance = 0 if encoding == "int8" else 1e-6
        np.testing.assert_allclose(mine.best, truth.best, rtol=0, atol=tolerance)
        assert (mine.lowest >= truth.lowest - tolerance).all()
        # Neurons compared with all have the exact baseline, the others' is near it: their mean by
        # about two standard errors of a line through the few audited ones.
        rest = mine.certified
        np.testing.assert_allclose(mine.baseline[:, ~rest], truth.baseline[:, ~rest], atol=1e-6)
        assert abs((mine.baseline - truth.baseline)[:, rest].mean()) < 0.02
    # Every neuron has a match that no other wants.
    assigned, _ = assignment(*found)
    np.testing.assert_array_equal(assigned, found[0].index)
    np.testing.assert_array_equal(assigned, assignment(*exact(a, b))[0])
    assert found[0].certified.mean() > 0.4
    for mine, told in zip(found, screening, strict=True):
        assert told.audited == FEW
        assert told.certified == mine.certified.sum() + FEW
        assert told.rare + told.undecided + told.certified == len(mine.best)


def test_with_one_candidate_near_ties_are_not_certified_but_found(tmp_path):
    one, other = near_ties(np.random.default_rng(2), 1500, 40)
    a, b = captured(tmp_path / "a", [one]), captured(tmp_path / "b", [other], seed=1)
    (found, _), (screening, _) = screened(a, b, tmp_path, candidates=1)
    truth, _ = exact(a, b)
    assert screening.certified < 0.5 * len(found.best)
    np.testing.assert_array_equal(found.index, truth.index)


@pytest.mark.slow
def test_bounds_of_common_neurons_fail_no_more_often_than_their_tail_says(tmp_path, monkeypatch):
    """On exact ties in autocorrelated, heavy-tailed activations, the hardest case there is."""
    one, other = near_ties(np.random.default_rng(3), 1000, 120, gap=0.0)
    a, b = captured(tmp_path / "a", [one]), captured(tmp_path / "b", [other], seed=1)
    truth, _ = exact(a, b)
    corr = np.corrcoef(one.T, other.T)[: one.shape[1], one.shape[1] :]
    draw = sampling.sample_groups

    def wrong_certificates(tail):
        wrong = []
        for seed in range(6):
            monkeypatch.setattr(screening, "sample_groups", partial(draw, seed=seed))
            # One candidate: the runner-up is always the other of two equals.
            found = screen(side(a), side(b), [0], Sampling(0.1, 1, tail=tail), each(a))
            candidates = found.forward.candidates
            index = candidates.index[:, 0]
            certified = candidates.rest <= corr[np.arange(len(corr)), index]
            # Rare neurons need no certificate: they are compared on all tokens.
            common = ~found.forward.rare & ~found.backward.rare[truth.index]
            wrong.append((certified & (index != truth.index))[common])
        assert sum(map(len, wrong)) > 200
        n = sum(map(len, wrong))
        # Less three standard errors of a count of so many.
        return np.mean(np.concatenate(wrong)) - 3 * np.sqrt(tail * (1 - tail) / n)

    assert wrong_certificates(0.05) <= 0.05
    assert wrong_certificates(0.20) <= 0.20
    # The measure can fail: without a margin many are wrong.
    assert wrong_certificates(0.5 - 1e-9) > 0.1


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
    (forward, backward), _ = screened(a, b, tmp_path)
    for found, truth in zip((forward, backward), exact(a, b), strict=True):
        np.testing.assert_array_equal(found.index[n:], np.arange(n, 2 * n))
        np.testing.assert_array_equal(found.index, truth.index)
        assert not found.certified[n:].any()


def test_a_dead_neuron_correlates_with_nothing_in_the_screened_mode(tmp_path):
    one, other = near_ties(np.random.default_rng(5), 400, 10)
    one[:, 3] = other[:, 7] = 0.25
    a, b = captured(tmp_path / "a", [one]), captured(tmp_path / "b", [other], seed=1)
    (forward, backward), _ = screened(a, b, tmp_path)
    for found, dead in ((forward, 3), (backward, 7)):
        assert found.index[dead] == -1
        assert found.best[dead] == found.lowest[dead] == 0
        assert (found.baseline[:, dead] == 0).all()
        assert (np.delete(found.index, dead) >= 0).all()


def test_groups_are_disjoint_and_of_whole_sequences(tmp_path):
    x = np.random.default_rng(6).standard_normal((300 * CONTEXT, 4))
    a = captured(tmp_path, [x], splits=(90 * CONTEXT, 100 * CONTEXT))
    groups = sampling.sample_groups(a.stores, 0.3, each(a))
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


def documents_of(cluster):
    return Documents("corpus.json", "x", CONTEXT, np.asarray(cluster))


def test_all_that_the_sample_has_of_a_document_is_in_one_group(tmp_path):
    rng = np.random.default_rng(6)
    # From one sequence to fifty, in any order.
    cluster = rng.permutation(np.repeat(np.arange(60), [50, 30, *rng.integers(1, 9, 58)]))
    x = rng.standard_normal((len(cluster) * CONTEXT, 4))
    a = captured(tmp_path, [x], splits=(90 * CONTEXT, 100 * CONTEXT))
    groups = sampling.sample_groups(a.stores, 0.5, documents_of(cluster))
    first = [0, 90 * CONTEXT, 100 * CONTEXT]
    tokens = [
        np.concatenate([np.arange(p.rows.start, p.rows.stop) + first[p.shard] for p in group])
        for group in groups
    ]
    together = np.concatenate(tokens)
    assert len(np.unique(together)) == len(together)
    assert len(together) == pytest.approx(0.5 * len(x), rel=0.1)
    assert (np.bincount(together // CONTEXT) % CONTEXT == 0).all()
    found = [set(cluster[own // CONTEXT]) for own in tokens]
    assert sum(map(len, found)) == len(set.union(*found))
    # About equal in size, but for the largest document.
    sizes = np.sort([len(own) for own in tokens])
    assert sizes[-3] <= 3 * sizes[0]


@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_a_group_is_read_as_the_rows_that_it_is_of(encoding, tmp_path, monkeypatch):
    """Pieces of one chunk are read together, those of several chunks by themselves."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal((300 * CONTEXT, 5)) ** 3
    a = captured(tmp_path, [x], splits=(90 * CONTEXT,), encoding=encoding)
    whole = [store.codes(0).whole() for store in a.stores]
    groups = sampling.sample_groups(a.stores, 0.6, documents_of(rng.integers(0, 40, 300)))
    assert max(map(len, groups)) > 2
    for chunk_tokens in (10**6, 7 * CONTEXT, 3):
        monkeypatch.setattr(Activations, "chunk_tokens", chunk_tokens)
        read = sampling.GroupReader(groups)
        for group in groups:
            found = read(a.stores, 0, group).whole()
            expected = np.concatenate([whole[p.shard][p.rows] for p in group])
            np.testing.assert_array_equal(found, expected)


def test_groups_of_documents_spread_as_samples_of_documents_do():
    """Half of every variance is a document's: its eight sequences are alike."""
    rng = np.random.default_rng(10)
    n, true, n_documents = 20, 0.4, 200
    n_tokens = 8 * n_documents * CONTEXT
    store = SimpleNamespace(
        n_tokens=n_tokens, chunk_tokens=4 * CONTEXT, token_index=lambda: np.arange(n_tokens)
    )
    covered = {"documents": [], "sequences": []}
    for run in range(20):
        cluster = rng.permutation(np.arange(8 * n_documents) // 8)

        def part(cluster=cluster):
            shared = rng.standard_normal((n_documents, n))[np.repeat(cluster, CONTEXT)]
            return np.sqrt(0.5) * (shared + rng.standard_normal((n_tokens, n)))

        common = part()
        x, y = (np.sqrt(true) * common + np.sqrt(1 - true) * part() for _ in range(2))
        for name, groups in (("documents", cluster), ("sequences", np.arange(len(cluster)))):
            drawn = sampling.sample_groups([store], 0.4, documents_of(groups), seed=run)
            rows = [np.concatenate([np.arange(n_tokens)[p.rows] for p in g]) for g in drawn]
            sizes = np.array([len(own) for own in rows])
            each = np.array([(x[own] * y[own]).mean(0) for own in rows])
            mean = sizes @ each / sizes.sum()
            squares = sizes @ (each - mean) ** 2
            se = np.sqrt(squares / sizes.sum() / (sampling.GROUPS - 1))
            covered[name].append(abs(mean - true) < scipy.stats.t.isf(0.025, 31) * se)
    assert 0.92 <= np.mean(covered["documents"]) <= 0.98
    assert np.mean(covered["sequences"]) < 0.85


def test_neighbours_of_unknown_documents_stay_in_one_group(tmp_path):
    """Of a token file, where consecutive sequences may well be of one document."""
    x = np.random.default_rng(6).standard_normal((3000 * CONTEXT, 1))
    a = captured(tmp_path, [x])
    groups = sampling.sample_groups(a.stores, 0.5, each(a))
    group = np.full(3000, -1)
    for number, own in enumerate(groups):
        for piece in own:
            group[piece.rows.start // CONTEXT : piece.rows.stop // CONTEXT] = number
    changes = np.count_nonzero(np.diff(group[group >= 0]))
    # Runs of two dozen sequences.
    assert changes < 80


def test_a_corpus_too_short_to_sample_is_refused(tmp_path):
    a = captured(tmp_path, [np.random.default_rng(7).standard_normal((8 * CONTEXT, 4))])
    with pytest.raises(UserError, match="at least 32 documents"):
        sampling.sample_groups(a.stores, 0.1, each(a))


def test_a_sample_of_few_documents_is_refused_however_many_sequences_it_has(tmp_path):
    a = captured(tmp_path, [np.random.default_rng(7).standard_normal((300 * CONTEXT, 4))])
    with pytest.raises(UserError, match="at least 32 documents.* in its sample .*has 31"):
        sampling.sample_groups(a.stores, 0.5, documents_of(np.arange(300) % 31))


@pytest.mark.parametrize("encoding", ["int8", "float32"])
@pytest.mark.parametrize("width", [1, 8])
def test_sums_of_pairs_and_of_rows_are_those_of_all(encoding, width, tmp_path):
    """Of any widths, and of multiples of eight, of which eight codes are moved at a time."""
    rng = np.random.default_rng(8)
    one, other = (rng.standard_normal((700, d * width)) for d in (12, 18))
    of_a, of_b = [5 * width], [6 * width, 8 * width]
    a = captured(tmp_path / "a", split(one, of_a), encoding=encoding, splits=(90, 91))
    b = captured(tmp_path / "b", split(other, of_b), encoding=encoding, splits=(90, 91))
    values = [
        np.vstack([np.hstack([s.codes(i).whole() for i in range(len(s.d_mlp))]) for s in m.stores])
        for m in (a, b)
    ]
    full = values[0].astype(np.float64).T @ values[1].astype(np.float64)
    first, second = (rng.integers(0, d * width, 40 * width) for d in (12, 18))
    tolerance = {"int8": 0, "float32": 1e-3}[encoding]
    rows = np.array([1, 4, 5, 6, 11]), np.array([0, 17])
    found, pairs = exact_sums(a.stores, b.stores, Wanted(rows, first, second))
    np.testing.assert_allclose(pairs, full[first, second], rtol=0, atol=tolerance)
    np.testing.assert_allclose(found[0], full[rows[0]], rtol=0, atol=tolerance)
    np.testing.assert_allclose(found[1], full.T[rows[1]], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def spikes(tmp_path_factory):
    where = tmp_path_factory.mktemp("spikes")
    one, other = spiked(np.random.default_rng(0), 1500, 80)
    return captured(where / "a", [one]), captured(where / "b", [other], seed=1)


def audited_all(models, where, monkeypatch):
    """How many certificates there are in a world of spikes, and how many of them are wrong."""
    monkeypatch.setattr(audit, "LEAST", 1000)
    _, told = screened(*models, where)
    assert all(found.audited == found.certified for found in told)
    return sum(found.certified for found in told), sum(found.wrong for found in told)


def test_certificates_hold_where_variance_sits_in_sequences_that_the_sample_lacks(
    spikes, tmp_path, monkeypatch
):
    certified, wrong = audited_all(spikes, tmp_path, monkeypatch)
    assert certified > 40
    assert wrong == 0


def test_the_audit_sees_certificates_that_take_no_account_of_unseen_variance(
    spikes, tmp_path, monkeypatch
):
    """Those of the method's version 2: more than one in twenty is wrong in this world."""
    nothing = property(lambda self: np.zeros(len(self.energy)))
    monkeypatch.setattr(Screened, "unseen", nothing)
    certified, wrong = audited_all(spikes, tmp_path, monkeypatch)
    assert wrong > 0.05 * certified


def bursts(rng, n_sequences, n):
    """Two models whose layers are loud in rare sequences: half of each loud neuron's variance.

    All other neurons share a little of that, so a sample without these sequences underestimates
    every correlation with rotated neurons, and one with many of them overestimates it.
    """
    where = np.zeros((n_sequences, 1, 1))
    where[rng.choice(n_sequences, 40, replace=False)] = 1
    burst = (where * rng.standard_normal((n_sequences, CONTEXT, 1))).reshape(-1, 1)
    burst /= burst.std()
    common = features(rng, n_sequences, n)

    def model():
        x = 2 * common + features(rng, n_sequences, n) + 0.35 * burst
        loud = 3 * (features(rng, n_sequences, 6) + 1.5 * burst)
        return np.hstack([x, loud])

    return model(), model()


def test_baselines_of_certified_neurons_are_on_average_those_of_all_tokens(tmp_path, monkeypatch):
    """A sample that lacks what is rare is lower; those that are audited say by how much."""
    monkeypatch.setattr(audit, "LEAST", 30)
    one, other = bursts(np.random.default_rng(11), 3000, 120)
    a, b = captured(tmp_path / "a", [one]), captured(tmp_path / "b", [other], seed=1)
    found, screening = screened(a, b, tmp_path)
    truth = exact(a, b)
    stored = Screens.read([tmp_path / "screen0.zarr"])
    for mine, right, told, raw in zip(
        found, truth, screening, (stored.forward, stored.backward), strict=True
    ):
        rest = mine.certified
        assert rest.sum() > 50
        off = (mine.baseline - right.baseline)[:, rest].mean(0)
        assert abs((raw.baseline - right.baseline)[:, rest].mean()) > 0.02
        assert abs(off.mean()) < 0.005
        assert 0.5 < np.sqrt(np.mean(off**2)) / told.baseline_error < 2


def test_no_sampled_baseline_is_above_one(tmp_path):
    """Where the sample holds far more of the rare tokens than its share, it once was 3.5."""
    screened_ = Screened.nothing(3, 1, 2)
    screened_.baseline[:] = [[3.5, 0.4, 0.0], [0.9, 0.4, 0.0]]
    screened_.energy[:] = [4.0, 0.64, 0.0]
    np.testing.assert_allclose(screened_.own_baseline, [[1, 0.5, 0], [0.45, 0.5, 0]])
    sampled, known = np.array([[0.1, 0.2, 0.3, 5.0]]), np.array([0, 1, 2])
    estimate, error = audit.correct(sampled, np.array([[0.3, 0.5, 0.7]]), known)
    np.testing.assert_allclose(estimate, [[0.3, 0.5, 0.7, 1.0]])
    assert error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("wrong", "audited"), [(0, 100), (3, 100), (5, 5)])
def test_the_bound_of_the_error_rate_is_clopper_and_pearsons(wrong, audited):
    """The largest rate at which so few wrong ones are not yet less likely than 5 %."""
    bound = upper_bound(wrong, audited)
    chance = scipy.stats.binom.cdf(wrong, audited, bound)
    assert chance == pytest.approx(0.05 if wrong < audited else 1)
    assert upper_bound(0, 0) is None


def test_at_least_a_hundred_and_one_in_a_hundred_are_audited():
    certified = np.random.default_rng(0).random(30_000) < 0.8
    few, many = certified[:90], certified
    np.testing.assert_array_equal(audit.choose(few), np.flatnonzero(few))
    chosen = audit.choose(many)
    assert len(chosen) == round(0.01 * many.sum())
    assert certified[chosen].all()
    assert len(np.unique(chosen)) == len(chosen)
    assert len(audit.choose(certified[:2000])) == 100


def test_only_what_a_sound_bound_leaves_open_is_refined():
    """The first four, and whose upper bound reaches the largest lower one."""
    found = Candidates.nothing(2, 6)
    found.index[:] = np.arange(6)
    found.bound[:] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    found.rest[:], found.floor[:] = 0.3, [0.45, 0.75]
    np.testing.assert_array_equal(found.refined().sum(1), [5, 4])
    np.testing.assert_array_equal(found.limit(), np.float32([0.4, 0.5]))


def test_audited_neurons_are_those_chosen_before_and_more_where_they_are_few(monkeypatch):
    monkeypatch.setattr(audit, "LEAST", 10)
    certified = np.random.default_rng(0).random(400) < 0.5
    early = audit.choose(np.ones(400, bool))
    chosen = audit.among(certified, early)
    assert len(chosen) == len(np.unique(chosen)) == 10
    assert certified[chosen].all()
    assert set(early[certified[early]]) <= set(chosen)
    np.testing.assert_array_equal(
        audit.among(certified[:12], early[:0]), np.flatnonzero(certified[:12])
    )
