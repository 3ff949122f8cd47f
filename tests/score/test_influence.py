"""Standard errors of scores: against a recount without a group, and by coverage."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from classes import match_given
from pipeline import gpt2, neurons, random_tokens, run_capture, run_match

from universal_neurons.activations.codes import Codes
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate.matches import Matches, StepMatches
from universal_neurons.errors import UserError
from universal_neurons.prepare.clusters import write_clusters
from universal_neurons.prepare.reading import Corpus, Documents
from universal_neurons.prepare.tokens import describe
from universal_neurons.score import fractions, influence, universality
from universal_neurons.score.universality import mean_over_others
from universal_neurons.store.arrays import write_by_pair
from universal_neurons.store.files import write_json


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Activations, statistics and matches of two captured models, and their influences."""
    where = tmp_path_factory.mktemp("pair")
    tokens = random_tokens(96, 16)
    shards = {
        seed: run_capture(gpt2(i), tokens, where / seed, seed=seed, splits=(40,))
        for i, seed in enumerate("ab")
    }
    matches = StepMatches.read(run_match(shards["a"], shards["b"], where)).found
    stores = {s: [Activations(x / "activations.zarr") for x in shards[s]] for s in "ab"}
    about = {s: neurons(shards[s]) for s in "ab"}
    return stores, about, matches


def documents(cluster, context=16):
    return Documents("corpus.json", "x", context, np.asarray(cluster))


def read_activations(stores):
    return np.hstack(
        [np.concatenate([s.activations(i) for s in stores]) for i in range(len(stores[0].d_mlp))]
    ).astype(np.float64)


def test_the_influence_of_a_group_is_what_the_correlation_changes_without_it(pair):
    stores, about, matches = pair
    found, _ = influence.influence(stores, about, matches, documents(np.arange(96)))
    sequence = np.concatenate([s.token_index() for s in stores["a"]]) // 16
    group = influence.deal(sequence, influence.GROUPS)
    values = {seed: read_activations(own) for seed, own in stores.items()}
    for (seed, other), one in matches.items():
        for neuron in (0, 31, 79):
            x, y = values[seed][:, neuron], values[other][:, one.index[neuron]]
            whole = np.corrcoef(x, y)[0, 1]
            without = [np.corrcoef(x[group != g], y[group != g])[0, 1] for g in range(64)]
            assert np.corrcoef(found[seed, other][:, neuron], whole - without)[0, 1] > 0.99
            assert np.allclose(found[seed, other][:, neuron], whole - without, atol=2e-3)
    assert abs(found["a", "b"].sum(0)).max() < 1e-5


def test_documents_of_another_corpus_are_refused(tmp_path):
    """Their groups would be any sequences'."""
    store = tmp_path / "pair.zarr"
    pairs = {("a", "b"): np.zeros((2, 3), np.float32)}
    write_by_pair(store, pairs, {"corpus_sha256": "one"})
    np.save(tmp_path / "tokens.npy", np.ones((2, 4), np.int32))
    facts = describe(tmp_path / "tokens.npy", None, "text") | {"subsets": [], "edges": [0]}
    write_json(tmp_path / "corpus.json", facts)
    write_clusters(tmp_path / "clusters.npy", np.arange(2))
    files = (tmp_path / name for name in ("tokens.npy", "corpus.json", "clusters.npy"))
    tokens, about, clusters = files
    corpus = Corpus(tokens, about, clusters=clusters)
    made = {"path": tmp_path / "influence.zarr", "attributes": {}}
    with pytest.raises(UserError, match=r"corpus.json: not of the corpus that .*pair.zarr was"):
        influence.influence_of_step({}, [store], corpus, **made)


def test_a_dead_neuron_has_no_influence(pair):
    stores, about, matches = pair
    dead, about = deepcopy(matches["a", "b"]), deepcopy(about)
    dead.clear(np.arange(80) == 0)
    about["a"].factor[0] = 0
    pairs = {("a", "b"): dead}
    found = influence.influence(stores, about, pairs, documents(np.arange(96)))[0]["a", "b"]
    assert (found[:, 0] == 0).all()
    assert (found[:, 1:].std(0) > 0).all()


def test_a_document_is_never_split_between_groups_and_groups_are_about_equal():
    cluster = np.random.default_rng(0).permutation(np.repeat(np.arange(200), 5)).repeat(16)
    group = influence.deal(cluster, 64)
    assert all(len(set(group[cluster == c])) == 1 for c in range(200))
    assert set(np.bincount(group) // 80) == {3, 4}
    assert influence.deal(np.repeat([5, 9], 3), 64).max() == 1, "fewer documents than groups"


def test_groups_of_a_corpus_are_groups_of_its_documents(pair):
    """Influences by document are sums of those by sequence."""
    stores, about, matches = pair
    cluster = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 8))
    found = influence.influence(stores, about, matches, documents(cluster))[0]["a", "b"]
    sequence = np.concatenate([s.token_index() for s in stores["a"]]) // 16
    one = matches["a", "b"]
    z, other = (
        (x - x.mean(0)) / x.std(0) for x in (read_activations(stores[seed]) for seed in "ab")
    )
    other = other[:, one.index]
    parts = (z * other - one.best * (z**2 + other**2) / 2) / len(z)
    by_document = np.stack([parts[cluster[sequence] == c].sum(0) for c in range(12)])
    by_document -= by_document.mean(0)
    group = influence.deal(np.arange(12), 64)
    np.testing.assert_allclose(found[group], by_document, atol=1e-3)


class Stored:
    """Float activations in memory, with what `influence` asks of a store."""

    def __init__(self, values, context):
        self.values, self.n_tokens, self._context = values, len(values), context

    def token_index(self):
        return np.arange(self.n_tokens)

    def codes(self, layer, rows):
        return Codes.of(self.values[rows])


class Stats:
    """Statistics of `Stored`."""

    def __init__(self, values):
        self.n_tokens, self.code_sum = len(values), values.sum(0)
        self.std = values.std(0)
        self.factor, self.layers = 1 / self.std, [slice(0, values.shape[1])]


CONTEXT, SEQUENCES, N = 16, 256, 40
TRUE = np.linspace(0.1, 0.9, N)


def planted(rng, seeds=2):
    """Models whose neuron i correlates TRUE[i] with that of any other: heavy tails, slow in time.

    All share a signal s_i and have noise e of their own, x = √ρ s + √(1 − ρ) e, both scaled to
    variance 1, so that the correlation of any two is ρ.
    """

    def slow(shape):
        values = rng.standard_t(6, shape) / np.sqrt(1.5)
        for t in range(1, CONTEXT):
            values[:, t] = 0.8 * values[:, t - 1] + 0.6 * values[:, t]
        return values.reshape(-1, N)

    shape = (SEQUENCES, CONTEXT, N)
    shared = slow(shape)
    return [np.sqrt(TRUE) * shared + np.sqrt(1 - TRUE) * slow(shape) for _ in range(seeds)]


def with_counterpart(corr):
    """Matches of every neuron with the one of its number."""
    found, index = Matches.nothing(N, 1), np.arange(N)
    found.take_pairs(index, index, corr)
    return found


def found_in(models, clusters=range(SEQUENCES)):
    """Matches of every neuron with its own counterpart, and their influences."""
    names = [str(i) for i in range(len(models))]
    stores = {n: [Stored(m, CONTEXT)] for n, m in zip(names, models, strict=True)}
    about = {n: Stats(m) for n, m in zip(names, models, strict=True)}
    matches = {}
    for a in names:
        for b in names:
            if a != b:
                x, y = stores[a][0].values, stores[b][0].values
                corr = np.array([np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(N)])
                matches[a, b] = with_counterpart(corr)
    return matches, influence.influence(stores, about, matches, documents(clusters, CONTEXT))[0]


def test_intervals_of_correlations_and_of_their_mean_cover_the_planted_truth():
    covered, covered_mean, naive = [], [], []
    rng = np.random.default_rng(0)
    for _ in range(60):
        matches, found = found_in(planted(rng, seeds=3))
        best, se = matches["0", "1"].best, fractions.standard_error(found["0", "1"])
        covered.append(abs(best - TRUE) < 1.96 * se)
        naive.append(abs(best - TRUE) < 1.96 * (1 - best**2) / np.sqrt(SEQUENCES * CONTEXT))
        mean = (best + matches["0", "2"].best) / 2
        se = fractions.standard_error(mean_over_others(found)["0"])
        covered_mean.append(abs(mean - TRUE) < 1.96 * se)
    assert 0.90 < np.mean(covered) < 0.99
    assert 0.90 < np.mean(covered_mean) < 0.99
    assert np.mean(naive) < 0.85, "tokens taken for independent would not do"


@pytest.mark.parametrize("runs", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_intervals_cover_the_planted_truth_by_documents_but_not_by_sequences(runs):
    """Half of every variance is a document's: its eight sequences are alike."""
    rng = np.random.default_rng(3)
    covered = {"documents": [], "sequences": []}
    for _ in range(runs):
        document = rng.permutation(np.arange(2 * SEQUENCES) // 8)

        def part(document=document):
            of_documents = rng.normal(size=(2 * SEQUENCES // 8, N))[document.repeat(CONTEXT)]
            tokens = rng.normal(size=(2 * SEQUENCES * CONTEXT, N))
            return np.sqrt(0.5) * (of_documents + tokens)

        shared = part()
        models = [np.sqrt(TRUE) * shared + np.sqrt(1 - TRUE) * part() for _ in range(2)]
        for groups, clusters in (("documents", document), ("sequences", range(2 * SEQUENCES))):
            matches, found = found_in(models, clusters)
            se = fractions.standard_error(found["0", "1"])
            covered[groups].append(abs(matches["0", "1"].best - TRUE) < 1.96 * se)
    assert 0.93 <= np.mean(covered["documents"]) <= 0.97
    assert np.mean(covered["sequences"]) < 0.9


def orthogonal(rng):
    q, r = np.linalg.qr(rng.normal(size=(N, N)))
    return q * np.sign(np.diag(r))


@pytest.mark.parametrize("runs", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_intervals_of_excess_cover_the_planted_truth_with_a_baseline_of_the_same_tokens(runs):
    rng = np.random.default_rng(2)
    # With true correlations ρ_i between equal indices and 0 between others, the correlation of
    # neuron i with rotated neuron j is ρ_i R_ji.
    truth = TRUE * (1 - np.mean([orthogonal(rng).max(0) for _ in range(4000)], axis=0))
    covered = []
    for _ in range(runs):
        models = planted(rng, seeds=3)
        rotations = {str(i): [orthogonal(rng) for _ in range(5)] for i in range(3)}
        matches, found = found_in(models)
        tables = []
        for (seed, other), one in matches.items():
            x, y = models[int(seed)], models[int(other)]
            cross, within = np.corrcoef(x.T, y.T)[:N, N:], np.corrcoef(y.T)
            draws = np.array(
                [
                    (cross @ r.T / np.sqrt(np.diag(r @ within @ r.T))).max(1)
                    for r in rotations[other]
                ]
            )
            columns = {"best_corr": one.best, "baseline_corr": draws.mean(0)}
            columns["baseline_se"] = draws.std(0, ddof=1) / np.sqrt(len(draws))
            names = {"step": 1, "seed": seed, "other_seed": other, "layer": 0}
            tables.append(pd.DataFrame({**names, "neuron": np.arange(N), **columns}))
        scores = universality.universality_table(pd.concat(tables), mean_over_others(found))
        error = (scores["excess_corr"] - np.tile(truth, 3)).abs()
        covered.append((error < 1.96 * scores["excess_se"]).to_numpy().reshape(3, N))
    # Weaker correlations are no larger than the noise that the baseline picks up.
    assert 0.90 <= np.mean(np.array(covered)[..., TRUE >= 0.3]) <= 0.99


# Given the token.


def given_token(rng, names, document):
    """Models that share what a token says and, by TRUE, what follows a document; and the tokens.

    Half of every neuron's variance is its token's, of which many are seen a few times only; the
    rest, of which half is a document's, correlates by TRUE.
    """
    n = CONTEXT * SEQUENCES
    weight = 1 / (np.arange(300) + 3.0)
    ids = rng.choice(300, n, p=weight / weight.sum())
    means = rng.standard_normal((300, N))[ids]

    def part():
        of_documents = rng.normal(size=(document.max() + 1, N))[document.repeat(CONTEXT)]
        return np.sqrt(0.5) * (of_documents + rng.normal(size=(n, N)))

    shared = part()
    models = (means + np.sqrt(TRUE) * shared + np.sqrt(1 - TRUE) * part() for _ in names)
    return dict(zip(names, models, strict=True)), ids


def residuals(models, ids):
    """Float64; and the means of the classes, by class."""
    _, label = np.unique(ids, return_inverse=True)
    count = np.bincount(label)
    means = {
        name: (np.stack([np.bincount(label, x) for x in values.T]) / count).astype(np.float32)
        for name, values in models.items()
    }
    return label, means, {name: x - means[name].T[label] for name, x in models.items()}


def correlations(x, y):
    """Of residuals, column by column."""
    return (x * y).mean(0) / np.sqrt((x**2).mean(0) * (y**2).mean(0))


def found_given(models, ids, clusters):
    """Matches given the token of every neuron with its own counterpart, and their influences."""
    label, means, left = residuals(models, ids)
    matches = {
        (a, b): with_counterpart(correlations(left[a], left[b]))
        for a in models
        for b in models
        if a != b
    }
    within, about = {}, {name: Stats(values) for name, values in models.items()}
    for name, values in left.items():
        within[name] = Stats(values)
        within[name].code_sum = np.zeros(N)
    stores = {name: [Stored(values, CONTEXT)] for name, values in models.items()}
    given = influence.Within(label, means, within, matches)
    _, found = influence.influence(stores, about, {}, documents(clusters, CONTEXT), given)
    return matches, found


def test_an_influence_given_the_token_is_what_that_correlation_changes_without_the_group():
    document = np.arange(SEQUENCES) // 4
    models, ids = given_token(np.random.default_rng(4), "ab", document)
    matches, found = found_given(models, ids, document)
    group = influence.deal(document.repeat(CONTEXT), influence.GROUPS)
    without = []
    for g in range(64):
        kept = group != g
        _, _, left = residuals({name: x[kept] for name, x in models.items()}, ids[kept])
        without.append(correlations(left["a"], left["b"]))
    changes = matches["a", "b"].best - np.stack(without)
    changes -= changes.mean(0)
    same = [np.corrcoef(x, y)[0, 1] for x, y in zip(changes.T, found["a", "b"].T, strict=True)]
    assert np.min(same) > 0.97
    assert found["a", "b"].std() == pytest.approx(changes.std(), rel=0.1)


def test_class_means_are_read_of_the_same_tokens_only(tmp_path):
    tokens = random_tokens(96, 16)
    shards = [
        run_capture(gpt2(i), tokens, tmp_path / seed, seed=seed, splits=(40,))
        for i, seed in enumerate("ab")
    ]
    matches, _ = match_given(shards, tokens, np.arange(96) % 2, tmp_path)
    stores = {
        s: [Activations(x / "activations.zarr") for x in shards[i]] for i, s in enumerate("ab")
    }
    about = {s: neurons(shards[i]) for i, s in enumerate("ab")}
    given = {"a": tmp_path / "given0.zarr", "b": tmp_path / "given1.zarr"}
    ids = tokens.reshape(-1)[np.concatenate([x.token_index() for x in stores["a"]])]
    within = influence.Within.read(given, about, matches.given["token"], ids)
    label, _, left = residuals({s: read_activations(x) for s, x in stores.items()}, ids)
    assert np.array_equal(within.label, label)
    live = within.neurons["a"].std > 0
    np.testing.assert_allclose(
        within.neurons["a"].std[live], left["a"].std(0)[live], rtol=0.02, atol=1e-4
    )
    _, found = influence.influence(stores, about, matches.found, documents(np.arange(96)), within)
    assert set(found) == set(matches.found)
    assert np.isfinite(found["a", "b"]).all()
    with pytest.raises(UserError, match=r"given0.zarr: sums by token are of other tokens"):
        influence.Within.read(given, about, matches.given["token"], ids + np.arange(len(ids)) % 2)


@pytest.mark.slow
def test_intervals_of_correlations_given_the_token_cover_the_planted_truth():
    rng, covered = np.random.default_rng(5), []
    for _ in range(200):
        document = rng.permutation(np.arange(SEQUENCES) // 4)
        models, ids = given_token(rng, "ab", document)
        matches, found = found_given(models, ids, document)
        se = fractions.standard_error(found["a", "b"])
        covered.append(abs(matches["a", "b"].best - TRUE) < 1.96 * se)
    assert 0.92 <= np.mean(covered) <= 0.97
