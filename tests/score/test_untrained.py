"""Scores of models with random weights: those of the same models run as models of a grid are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from pipeline import baseline, gpt2, random_tokens, run_capture, run_match

from universal_neurons.capture.run import CaptureOptions
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.correlate.rotations import Rotating
from universal_neurons.models import load as models
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.tokens import describe
from universal_neurons.score import nulls, untrained
from universal_neurons.score.universality import matches_table, universality_table
from universal_neurons.store.files import write_json

OPTIONS = {
    "dtype": "float32",
    "device": "cpu",
    "encoding": "float32",
    "headroom": 0.5,
    "batch_tokens": 128,
    "calibration_tokens": 200 * 16,
    "exclude_token_ids": [0, 7],
}


@pytest.fixture
def saved(tmp_path):
    gpt2(5).module.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def scores(model, room, tokens, *, standardise=False):
    room.mkdir(exist_ok=True)
    shards = run_capture(gpt2(5), tokens, room / "any", seed="any")
    baseline(shards, 2)  # leaves the run's rotations
    rotations = room / "any/rotations.zarr"
    np.save(room / "tokens.npy", tokens)
    about = describe(room / "tokens.npy", None, "tokens")
    write_json(room / "corpus.json", {**about, "subsets": [], "edges": None})
    return untrained.untrained_scores(
        model,
        Corpus(room / "tokens.npy", room / "corpus.json"),
        CaptureOptions(**OPTIONS),
        rotations=rotations,
        rotating=Rotating(2, standardise),
        kernel="auto",
        room=room,
    )


@pytest.mark.parametrize("standardise", [False, True])
def test_untrained_models_are_scored_as_those_of_a_run(saved, tmp_path, standardise):
    tokens = random_tokens(64, 16)
    found = scores(saved, tmp_path / "room", tokens, standardise=standardise)
    one, two = (
        run_capture(
            models.untrained(saved, i), tokens, tmp_path / name, seed=name, encoding="float32"
        )
        for i, name in enumerate(untrained.SEEDS)
    )
    parts = run_match(one, two, tmp_path, standardise=standardise)
    expected = universality_table(matches_table(StepMatches.read(parts), 0))
    pd.testing.assert_frame_equal(found.drop(columns="stratum"), expected)
    assert set(found["stratum"]) == {0}, "40 neurons of a layer are one stratum"
    null = nulls.untrained_null(found)
    assert len(null) == 160
    left = {path.name for path in (tmp_path / "room").iterdir()}
    assert left == {"any", "tokens.npy", "corpus.json"}


def test_their_weights_are_not_those_of_the_directory_and_differ_between_seeds(saved):
    first, again, second = (models.untrained(saved, seed) for seed in (0, 0, 1))
    trained = models.load(saved)
    assert first.digest() == again.digest()
    assert len({first.digest(), second.digest(), trained.digest()}) == 3
    assert first.d_mlp == trained.d_mlp
    weights = first.projections[0].get_parameter("weight")
    # The configuration's own initialisation.
    assert float(weights.std()) == pytest.approx(0.3 / np.sqrt(2 * 2), rel=0.1)
    assert models.untrained(saved, 0, dtype="bfloat16").module.dtype == torch.bfloat16
