"""A job of the capture: what of the corpus it looks at, and what it says."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from pipeline import VOCABULARY, gpt2, random_tokens

from universal_neurons.capture.run import Cell, fix_codes
from universal_neurons.errors import UserError
from universal_neurons.plan.config import resolve
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.tokens import describe
from universal_neurons.store.arrays import read_arrays
from universal_neurons.store.place import mark_model

SCORED, HELD_OUT, CONTEXT = 20, 10, 16


@pytest.fixture
def calibrated(tmp_path):
    """Codes of a model by token ids and number of calibration tokens."""
    gpt2(1).module.save_pretrained(tmp_path / "model")

    def codes(ids, calibration_tokens):
        np.save(tmp_path / "tokens.npy", ids)
        about = describe(tmp_path / "tokens.npy", None, "tokens")
        (tmp_path / "corpus.json").write_text(json.dumps({**about, "subsets": [], "edges": None}))
        sizes = {"tokens": SCORED * CONTEXT, "heldout_tokens": HELD_OUT * CONTEXT}
        config = resolve(
            {
                "run": "r",
                "models": {"seeds": ["a", "b"], "steps": [1]},
                "corpus": {"source": "bundled", "context_length": CONTEXT, **sizes},
            }
        )
        options = {key: config["capture"][key] for key in ("encoding", "dtype", "headroom")}
        options |= {"device": "cpu", "exclude_token_ids": []}
        options["calibration_tokens"] = calibration_tokens
        corpus = Corpus(tmp_path / "tokens.npy", tmp_path / "corpus.json")
        [cell] = Cell.of(config, ["a"], 1, [tmp_path / "model"], corpus, options)
        fix_codes(cell, calibration=tmp_path / "made.zarr", facts=tmp_path / "made.json")
        return read_arrays(tmp_path / "made.zarr")

    return codes


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_codes_are_never_fixed_on_held_out_text(calibrated, caplog):
    caplog.set_level(logging.INFO)
    ids = random_tokens(SCORED + HELD_OUT, CONTEXT)
    other_text = ids.copy()
    other_text[SCORED:] = (other_text[SCORED:] + 1) % VOCABULARY
    found = calibrated(ids, 10**6)
    assert same(found, calibrated(other_text, 10**6))
    assert same(found, calibrated(ids, SCORED * CONTEXT))
    said = [
        record.getMessage() for record in caplog.records if "calibration" in record.getMessage()
    ]
    assert said == 2 * [
        f"capture.calibration_tokens: all {SCORED * CONTEXT} scored tokens fix the codes, as "
        "corpus.tokens asks for no more (1000000 were wanted)"
    ]


def test_codes_are_fixed_on_as_many_of_the_first_tokens_as_are_asked_for(calibrated):
    ids = random_tokens(SCORED + HELD_OUT, CONTEXT)
    later = ids.copy()
    later[5:] = (later[5:] + 1) % VOCABULARY
    assert same(calibrated(ids, 5 * CONTEXT), calibrated(later, 4 * CONTEXT + 1))
    assert not same(calibrated(ids, 5 * CONTEXT), calibrated(later, 5 * CONTEXT + 1))


def test_a_model_that_was_made_for_another_step_is_not_captured(tmp_path):
    made, moved = tmp_path / "models/seeda/step10", tmp_path / "models/seeda/step20"
    gpt2(1).module.save_pretrained(made)
    mark_model(made, made)
    options = SimpleNamespace(dtype="float32", device="cpu")

    def cell(directory, source):
        return Cell("a", 20, directory, source, None, options, {}, {})

    assert cell(made, "train").model.d_mlp == gpt2(1).d_mlp
    made.rename(moved)
    for source in ("train", "hub"):
        said = f"{moved}: this is seeda/step10 of a run, put in place of seeda/step20"
        with pytest.raises(UserError, match=said):
            _ = cell(moved, source).model
    # Models that a run was given may have been those of another run, by whatever name.
    assert cell(moved, "local").model.d_mlp == gpt2(1).d_mlp
