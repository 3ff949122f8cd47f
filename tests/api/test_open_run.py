"""A run as a Python object says what the run's files say."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import universal_neurons
from universal_neurons.errors import UserError

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def results(local):
    return local[0] / "results/exact"


@pytest.fixture(scope="module")
def run(results):
    return universal_neurons.open_run(results)


@pytest.fixture(scope="module")
def neuron(run):
    return run.neuron(seed="a", step=20, layer=1, neuron=5)


def test_every_table_of_the_folder_is_an_attribute(run, results):
    files = {path.stem for path in results.glob("*.parquet")}
    assert set(run.tables) == files
    for name in files - {"matches"}:
        pd.testing.assert_frame_equal(
            getattr(run, name), pd.read_parquet(results / f"{name}.parquet")
        )
    assert files <= set(dir(run))


def test_a_run_knows_its_seeds_and_steps_in_their_order(run):
    assert run.seeds == ["a", "b-x21", "1"]
    assert run.steps == [10, 20]
    assert run.name == "exact"
    assert "3 seeds, 2 steps" in repr(run)


def test_matches_are_those_of_a_pair_and_step(run, results):
    table = pd.read_parquet(results / "matches.parquet")
    own = table[(table.step == 10) & (table.seed == "1") & (table.other_seed == "a")]
    found = run.matches("1", "a", step=10)
    assert found.best_corr.tolist() == own.best_corr.tolist()
    assert len(found) == len(own) > 0


def test_the_matrix_has_every_best_match_in_its_place(run):
    found, matrix = run.matches("a", "1", step=20), run.match_matrix("a", "1", step=20)
    width = run.d_mlp("a", 20)[0]
    live = found[found.best_layer >= 0]
    assert matrix.nnz == len(live)
    assert matrix.shape == (len(found), sum(run.d_mlp("1", 20)))
    for row in live.itertuples():
        at = row.layer * width + row.neuron, row.best_layer * width + row.best_neuron
        assert matrix[at] == row.best_corr


def test_activations_are_those_of_the_model_itself(run):
    """Int8 codes: every value within a step of the scale."""
    stored, model = run.activations("a", 20), run.model("a", 20)
    corpus = np.load(run.path / "corpus/tokens.npy")
    found: dict[int, list] = {layer: [] for layer in range(len(stored))}
    read = model.tap(lambda layer, x: found[layer].append(x.flatten(0, -2).numpy()))
    with read, torch.no_grad():
        model.module(torch.from_numpy(corpus.astype(np.int64)))
    for layer, parts in found.items():
        own = np.concatenate(parts)[stored.token_index]
        scale = (own.max(0) - own.min(0)) / 50
        assert (np.abs(stored[layer] - own) <= scale + 1e-6).all()
    assert (corpus.ravel()[stored.token_index] == stored.token_ids).all()
    assert stored.n_tokens == len(stored.token_ids) > 0


def test_a_neurons_activations_are_its_column(run, neuron):
    assert (neuron.activations == run.activations("a", 20)[1][:, 5]).all()


def test_a_neuron_has_its_rows_of_all_tables(run, neuron):
    own = {"step": 20, "seed": "a", "layer": 1, "neuron": 5}
    row = run.universality.query("step == 20 & seed == 'a' & layer == 1 & neuron == 5").iloc[0]
    assert neuron.scores["excess_corr"] == row.excess_corr
    assert neuron.moments["std"] == run.rows("neurons", **own)["std"].iloc[0]
    assert neuron.partners.other_seed.tolist() == ["b-x21", "1"]
    assert neuron.partners.excess_corr.mean() == pytest.approx(row.excess_corr)
    assert neuron.trajectory.step.tolist() == [10, 20]
    assert neuron.trajectory.excess_corr.iloc[1] == row.excess_corr


def test_a_card_shows_scores_partners_and_training(neuron):
    text, page = str(neuron), neuron._repr_html_()
    for said in ("Neuron 1.5 of seed a at step 20 (exact)", "b-x21", "Over training"):
        assert said in text
        assert said in page
    assert f"{neuron.scores['excess_corr']:.3f}" in text
    assert neuron.address == "a/20/1/5"
    assert str(neuron.run.neuron_at("a/20/1/5")) == text


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("a/20/1", "seed/step/layer/neuron"),
        ("z/20/1/5", "no seed 'z'; the run's seeds, as text, are 'a', 'b-x21', '1'"),
        ("a/30/1/5", "no step 30; the run's steps are 10, 20"),
        ("a/20/9/5", "no neuron 9.5; layers go from 0 to 1"),
        ("a/20/1/999", "no neuron 1.999"),
    ],
)
def test_a_wrong_address_is_refused_with_the_right_ones(run, address, said):
    with pytest.raises(UserError, match=said):
        run.neuron_at(address)


def test_what_is_no_run_is_refused(tmp_path, run):
    with pytest.raises(UserError, match="no results of a run here"):
        universal_neurons.open_run(tmp_path)
    with pytest.raises(UserError, match="no table nothing; it has"):
        run.table("nothing")
    with pytest.raises(AttributeError, match="run.tables"):
        run.nothing  # noqa: B018


def test_a_model_that_is_another_one_is_refused(run, local):
    with pytest.raises(UserError, match="not the weights that seed a at step 20 had"):
        run.model("a", 20, directory=local[0] / "my models/a/10")


def test_without_stored_activations_the_model_is_still_there(direct):
    run = universal_neurons.open_run(direct)
    with pytest.raises(UserError, match="no activations of seed a at step 20 are stored"):
        run.activations("a", 20)
    assert (
        run.model("a", 20).digest() == run.models.query("seed == 'a' & step == 20").sha256.iloc[0]
    )
    assert "null" not in str(run.neuron_at("a/20/1/5")).lower()


def test_a_run_can_be_moved(results, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("universality", "matches", "neurons", "nulls"):
        shutil.copy(results / f"{name}.parquet", moved)
    assert "Neuron 1.5" in str(universal_neurons.open_run(moved).neuron_at("a/20/1/5"))
