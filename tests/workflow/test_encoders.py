"""The whole workflow on a grid of small BERTs, saved as Google saved its own."""

from __future__ import annotations

from functools import partial

import encoders
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import yaml
from transformers import BertForMaskedLM

import universal_neurons
from universal_neurons.prepare.masking import Masking
from universal_neurons.store.files import read_json

pytestmark = pytest.mark.slow
CELLS = [(seed, step) for seed in ("0", "1") for step in (20, 40)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    where = tmp_path_factory.mktemp("encoders")
    tiny.configure(where, encoders.grid(where))
    tiny.finish(where)
    return where / "results/encoders"


@pytest.fixture(scope="module")
def corpus(results):
    """All sequences, what is known of them, and the places of the held-out ones."""
    about, chosen = (read_json(results / f"corpus/{n}.json") for n in ("corpus", "selection"))
    held_out = slice(chosen["heldout_start"], chosen["heldout_stop"])
    return np.load(results / "corpus/tokens.npy").astype(np.int64), about, held_out


def module_of(seed, step):
    """The model as it was made, without the workflow."""
    whole = encoders.bert(100 * int(seed) + step)
    module = BertForMaskedLM(whole.config)
    state = {k: v for k, v in whole.state_dict().items() if k in module.state_dict()}
    module.load_state_dict(state)
    return module.eval()


def test_the_held_out_loss_is_transformers_own_at_the_same_masked_tokens(results, corpus):
    sequences, about, held_out = corpus
    masking = Masking.draw(sequences[held_out], about["masking"], about["masking"]["seed"])
    ids = torch.from_numpy(masking.applied(sequences[held_out]))
    labels = torch.from_numpy(sequences[held_out]).masked_fill(ids != encoders.MASK, -100)
    models = pd.read_parquet(results / "models.parquet").set_index(["seed", "step"])
    assert models["loss_kind"].eq("masked").all()
    for cell in CELLS:
        with torch.no_grad():
            expected = module_of(*cell)(ids, labels=labels).loss.item()
        assert models.heldout_loss[cell] == pytest.approx(expected, rel=1e-5)


def test_activations_are_the_mlps_own_on_unmasked_text_without_special_tokens(results, corpus):
    sequences, about, _ = corpus
    run = universal_neurons.open_run(results)
    scored = sequences[: encoders.SCORED]
    kept = ~np.isin(scored, about["masking"]["never"])
    for seed, step in CELLS[:2]:
        module, found = module_of(seed, step), []
        for block in module.bert.encoder.layer:
            keep = partial(lambda kept, _, given, output: kept.append(output), found)
            block.intermediate.register_forward_hook(keep)
        with torch.no_grad():
            module(torch.from_numpy(scored))
        for layer, own in enumerate(found):
            x = run.activations(seed, step)[layer]
            expected = own.numpy()[kept]
            assert x.shape == expected.shape
            np.testing.assert_allclose(x, expected, atol=0.05 * np.ptp(expected))
            assert np.corrcoef(x.ravel(), expected.ravel())[0, 1] > 0.9999


def test_tables_and_report_say_what_the_loss_is_of(results):
    for name in ("ablation", "doses", "effects"):
        assert pd.read_parquet(results / f"{name}.parquet")["loss_kind"].eq("masked").all()
    assert "held-out loss at masked tokens" in (results / "report.html").read_text()
    assert (results / "explorer/index.html").is_file()


def test_roles_families_and_contexts_are_known_of_encoders_too(results, corpus):
    roles = pd.read_parquet(results / "roles.parquet")
    assert roles[["vocab_kurt", "in_out_cos", "null_space", "logit_var"]].notna().all(axis=None)
    # What heads read of the first position is not known of them.
    assert roles["attention_cos"].isna().all()
    assert pd.read_parquet(results / "families.parquet")["variance_reduction"].notna().all()
    examples = pd.read_parquet(results / "examples.parquet")
    sequences, about, _ = corpus
    tokens = sequences[examples["sequence"], examples["position"]]
    assert not np.isin(tokens, about["masking"]["never"]).any()
    scores = pd.read_parquet(results / "universality.parquet")
    assert scores[["excess_corr", "p_value"]].notna().all(axis=None)


@pytest.mark.parametrize(
    "mode",
    [
        {"run": "direct", "capture": {"store": False}},
        {"run": "screened", "correlate": {"mode": "screened", "sample": 0.8}},
    ],
    ids=lambda mode: mode["run"],
)
def test_other_modes_find_the_same_matches_of_encoders(mode, results):
    """On the first step alone, up to its scores."""
    where = results.parents[1]
    config = yaml.safe_load((where / "config.yaml").read_text())
    one = {**config, **mode, "models": {**config["models"], "steps": [20]}}
    (where / "other.yaml").write_text(yaml.safe_dump(one))
    tiny.finish(where, "--configfile", "other.yaml", "--until", "score")
    columns = ["seed", "layer", "neuron", "best_layer", "best_neuron", "best_corr"]
    found, expected = (
        pd.read_parquet(where / f"results/{run}/tables/matches/step20.parquet", columns=columns)
        for run in (mode["run"], "encoders")
    )
    pd.testing.assert_frame_equal(found, expected, rtol=1e-12)


def test_nothing_is_left_to_do(results):
    assert tiny.planned(results.parents[1]) == {}
