"""A job of the capture: what of the corpus it looks at, and what it says."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from pipeline import VOCABULARY, gpt2, random_tokens

from universal_neurons.capture.run import Cell, fix_codes
from universal_neurons.plan.config import resolve
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.tokens import describe
from universal_neurons.store.arrays import read_arrays

SCORED, HELD_OUT, CONTEXT = 20, 10, 16


@pytest.fixture
def calibrated(tmp_path):
    """Codes of a model by token ids and number of calibration tokens."""
    gpt2(1).module.save_pretrained(tmp_path / "model")

    def codes(ids, calibration_tokens):
        np.save(tmp_path / "tokens.npy", ids)
        about = describe(tmp_path / "tokens.npy", None, "tokens")
        (tmp_path / "corpus.json").write_text(json.dumps({**about, "subsets": []}))
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
