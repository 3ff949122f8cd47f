"""Contexts of chosen neurons: what the tables hold is what the module itself does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pipeline import EXCLUDED, gpt2, module_activations, random_tokens

from universal_neurons.describe import examples as examples_module
from universal_neurons.describe.collect import Batch, Histogram
from universal_neurons.describe.contexts import contexts, wanted
from universal_neurons.describe.examples import Home, Text, describe
from universal_neurons.describe.windows import AFTER, BEFORE
from universal_neurons.errors import UserError
from universal_neurons.prepare.subsets import Subsets
from universal_neurons.store.columns.registry import TABLES

CHOSEN = [np.array([0, 3, 39]), np.array([7])]
NAMES = [(0, 0), (0, 3), (0, 39), (1, 7)]
QUANTILES = {"0.99-0.999": (0.99, 0.999), "0.9-0.99": (0.9, 0.99), "0.5-0.9": (0.5, 0.9)}
QUANTILES["0-0.5"] = (0, 0.5)
TOKENS = random_tokens(200, 32)
LABELS = Subsets(["x", "y", "z"], np.random.default_rng(1).integers(0, 2, TOKENS.shape))


def activations(model):
    """The module's own at every token, by layer of shape (sequences, context length, d_mlp)."""
    found = module_activations(model, TOKENS, exclude=())
    return [x.reshape(*TOKENS.shape, -1) for x in found]


def home(model, seed="a", step=5):
    own = activations(model)
    return Home(model, seed, step, [x.min((0, 1)) for x in own], [x.max((0, 1)) for x in own])


@pytest.fixture(scope="module")
def made():
    """The model's own activations, which tokens count, and the tables."""
    model = gpt2(5)
    text = Text(TOKENS, EXCLUDED, [0], LABELS)
    tables = describe(home(model), text, CHOSEN, np.random.default_rng(0))
    counts = ~np.isin(TOKENS, EXCLUDED)
    counts[:, 0] = False
    tables = {name: TABLES[name].conform(rows).to_pandas() for name, rows in tables.items()}
    return activations(model), counts, tables


def of(table, layer, neuron):
    return table[(table.layer == layer) & (table.neuron == neuron)]


@pytest.mark.parametrize("name", NAMES)
def test_the_top_contexts_are_those_that_a_search_of_all_activations_finds(made, name):
    own, counts, tables = made
    layer, neuron = name
    x = np.where(counts, own[layer][..., neuron], -np.inf)
    best = np.argsort(-x.max(1), kind="stable")[:20]
    rows = of(tables["examples"], *name).query("band == 'top'")
    assert rows["rank"].tolist() == list(range(20))
    assert rows["sequence"].tolist() == best.tolist()
    assert rows["position"].tolist() == x[best].argmax(1).tolist()
    np.testing.assert_allclose(rows["activation"], x[best].max(1), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_band_holds_tokens_between_its_quantiles_and_none_twice(made, name):
    own, counts, tables = made
    layer, neuron = name
    x = own[layer][..., neuron][counts]
    rows = of(tables["examples"], *name)
    sizes = rows.groupby("band").size().to_dict()
    assert sizes == {"top": 20, "random": 10, **dict.fromkeys(QUANTILES, 5)}
    assert not rows.duplicated(["band", "sequence", "position"]).any()
    assert counts[rows["sequence"], rows["position"]].all()
    for band, (low, high) in QUANTILES.items():
        inside = rows[rows["band"] == band]["activation"]
        # All tokens fit into the sample, so that quantiles are those of all.
        at_least = np.quantile(x, low, method="lower") - 1e-5
        at_most = np.quantile(x, high, method="higher") + 1e-5
        assert inside.between(at_least, at_most).all(), band
        assert inside.is_monotonic_decreasing


def test_windows_are_the_tokens_about_a_context_and_the_modules_activations_there(made):
    own, _, tables = made
    for row in tables["examples"].itertuples():
        start, stop = max(0, row.position - BEFORE), min(32, row.position + AFTER + 1)
        assert row.start == start
        assert row.token_ids.tolist() == TOKENS[row.sequence, start:stop].tolist()
        x = own[row.layer][row.sequence, start:stop, row.neuron]
        np.testing.assert_allclose(row.activations, x, rtol=1e-4, atol=1e-5)
        assert row.activations[row.position - start] == np.float32(row.activation)


@pytest.mark.parametrize("name", NAMES)
def test_histograms_count_every_scored_token_as_numpy_does_and_so_for_subsets(made, name):
    own, counts, tables = made
    layer, neuron = name
    rows = of(tables["histograms"], *name)
    assert rows["subset"].isna().tolist() == [True, False, False, False]
    assert rows["subset"].tolist()[1:] == ["x", "y", "z"]
    x = own[layer][..., neuron].astype(np.float64)
    wheres = [counts, *(counts & (LABELS.labels == i) for i in range(3))]
    for row, where in zip(rows.itertuples(), wheres, strict=True):
        assert (row.low, row.high) == (x.min(), x.max())
        assert len(row.counts) == 256
        assert row.counts.sum() == where.sum()
        expected, _ = np.histogram(x[where], 256, (row.low, row.high))
        # The module runs other batches: a value on the edge of a bin may be in the next.
        assert np.abs(row.counts - expected).sum() <= 4


def test_a_histogram_is_numpys_to_the_count_also_of_edges_and_of_dead_neurons():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 16, 5)).astype(np.float32)
    x[..., 1] = x[..., 1].clip(0)
    x[..., 2] = rng.integers(0, 257, x.shape[:2]) / 256
    x[..., 3] = 0.25
    x[..., 4] *= 1e30
    low, high = x.min((0, 1)), x.max((0, 1))
    found = Histogram(low, high, 1)
    counts = rng.random(x.shape[:2]) < 0.9
    for rows in (slice(0, 7), slice(7, 40)):
        found.add(x[rows], Batch(rows.start, np.zeros(x[rows].shape[:2], int), counts[rows], None))
    for i in range(5):
        ends = (float(low[i]), float(high[i]))
        expected, edges = np.histogram(x[counts][:, i].astype(np.float64), 256, ends)
        assert found.counts[0, i].tolist() == expected.tolist()
        assert (found.low[i], found.high[i]) == (edges[0], edges[-1])
    beyond = np.nextafter(high, np.inf)[None, None]
    found.add(beyond, Batch(40, np.zeros((1, 1), int), np.ones((1, 1), bool), None))
    assert found.counts.sum() == 5 * (counts.sum() + 1)


@pytest.mark.parametrize("name", NAMES)
def test_activating_tokens_have_the_largest_means_of_those_that_occur_ten_times(made, name):
    own, counts, tables = made
    layer, neuron = name
    x, ids = own[layer][..., neuron][counts].astype(np.float64), TOKENS[counts]
    frequent = [i for i in np.unique(ids) if (ids == i).sum() >= 10]
    means = pd.Series({i: x[ids == i].mean() for i in frequent}).sort_values(ascending=False)
    rows = of(tables["activating_tokens"], *name)
    assert rows["rank"].tolist() == list(range(20))
    assert rows["token_id"].tolist() == means.index[:20].tolist()
    np.testing.assert_allclose(rows["mean"], means[:20], rtol=1e-5)
    assert rows["count"].tolist() == [(ids == i).sum() for i in means.index[:20]]


def test_a_sample_of_sequences_gives_contexts_of_these_alone(monkeypatch):
    monkeypatch.setattr(examples_module, "SAMPLE_TOKENS", 15 * 32)
    model = gpt2(5)
    first, second = (
        describe(home(model), Text(TOKENS, EXCLUDED), CHOSEN, np.random.default_rng(seed))
        for seed in (0, 1)
    )
    rows = first["examples"].to_pandas()
    drawn = rows[rows["band"] != "top"]
    assert drawn["sequence"].nunique() <= 15
    own = activations(model)
    for row in drawn.itertuples():
        x = own[row.layer][row.sequence, row.position, row.neuron]
        assert row.activation == pytest.approx(x, rel=1e-4, abs=1e-5)
    pd.testing.assert_frame_equal(first["histograms"], second["histograms"])
    other = second["examples"].to_pandas()
    assert set(drawn["sequence"]) != set(other[other["band"] != "top"]["sequence"])
    is_top = rows["band"] == "top"
    assert rows[is_top]["sequence"].tolist() == other[is_top]["sequence"].tolist()


@pytest.mark.parametrize(("n", "length"), [(1, 32), (30, 4), (3, 2)])
def test_few_and_short_sequences_give_the_contexts_that_there_are(n, length):
    text = Text(TOKENS[:n, :length], EXCLUDED)
    tables = describe(home(gpt2(5)), text, CHOSEN, np.random.default_rng(0))
    rows = TABLES["examples"].conform(tables["examples"]).to_pandas()
    counts = ~np.isin(text.sequences, EXCLUDED)
    top = rows.query("band == 'top' and layer == 0 and neuron == 3")
    assert len(top) == min(20, counts.any(1).sum())
    assert (rows["start"] == 0).all() if length < 11 else True
    assert rows["activations"].map(len).equals(rows["token_ids"].map(len))
    assert rows["activations"].map(len).max() <= length
    assert counts[rows["sequence"], rows["position"]].all()


def test_tokens_of_which_none_is_scored_are_refused():
    with pytest.raises(UserError, match="explorer.tokens: none of these tokens is scored"):
        describe(home(gpt2(5)), Text(TOKENS, range(61)), CHOSEN, np.random.default_rng(0))


@pytest.fixture
def parts(made, tmp_path):
    """The examples of seed a, and best matches of its neurons in seed b, as files."""
    matches = pd.DataFrame(
        {
            "step": 5,
            "seed": "a",
            "other_seed": "b",
            "layer": [0, 0, 0, 1],
            "neuron": [0, 3, 39, 7],
            "best_layer": [1, 0, -1, 1],
            "best_neuron": [11, 3, -1, 11],
        }
    )
    made[2]["examples"].to_parquet(tmp_path / "examples.parquet")
    matches.to_parquet(tmp_path / "matches.parquet")
    return tmp_path / "examples.parquet", tmp_path / "matches.parquet"


def check_contexts(rows, examples, own, partner):
    """Hold contexts against the module's own activations of each neuron's partner."""
    place = examples.set_index(["layer", "neuron", "band", "rank"])
    names = examples[["layer", "neuron"]].itertuples(index=False, name=None)
    assert len(rows) == sum(name in partner for name in names)
    for row in rows.itertuples():
        home_row = place.loc[(row.layer, row.neuron, row.band, row.rank)]
        assert (row.other_layer, row.other_neuron) == partner[row.layer, row.neuron]
        stop = home_row.start + len(home_row.token_ids)
        x = own[row.other_layer][home_row.sequence, home_row.start : stop, row.other_neuron]
        np.testing.assert_allclose(row.activations, x, rtol=1e-4, atol=1e-5)


def test_partners_in_another_seed_are_read_in_the_same_contexts(made, parts):
    example_file, match_file = parts
    model = gpt2(77)
    found = wanted([example_file], [match_file], "b", 5)
    rows = TABLES["contexts"].conform(contexts(model, TOKENS, found)).to_pandas()
    assert (rows["other_seed"] == "b").all()
    # The third has no match: it is dead.
    partner = {(0, 0): (1, 11), (0, 3): (0, 3), (1, 7): (1, 11)}
    check_contexts(rows, made[2]["examples"], activations(model), partner)


def test_the_same_neuron_is_read_in_the_same_contexts_at_another_step(made, parts):
    model = gpt2(78)
    found = wanted([parts[0]], [], "a", 2)
    rows = TABLES["contexts"].conform(contexts(model, TOKENS, found)).to_pandas()
    models = rows[["seed", "step", "other_seed", "other_step"]].drop_duplicates()
    assert models.to_numpy().tolist() == [["a", 5, "a", 2]]
    check_contexts(rows, made[2]["examples"], activations(model), {name: name for name in NAMES})


def test_read_again_at_home_contexts_have_the_activations_of_the_examples(made, parts):
    found = wanted([parts[0]], [], "a", 5)
    rows = contexts(gpt2(5), TOKENS, found).to_pandas()
    for again, first in zip(rows.activations, made[2]["examples"].activations, strict=True):
        np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-5)


def test_where_no_neuron_has_a_partner_there_are_no_contexts(parts):
    found = wanted([parts[0]], [parts[1]], "c", 5)
    assert TABLES["contexts"].conform(contexts(gpt2(5), TOKENS, found)).num_rows == 0
