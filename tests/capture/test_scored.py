"""Correlations rest on enough scored tokens, or are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pipeline import gpt2

from universal_neurons.capture.run import CaptureOptions, Cell, fix_codes
from universal_neurons.errors import UserError
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.tokens import describe

LENGTH = 16


def fix(where, n_scored):
    """Fix the codes of a model over 40 sequences of which so many tokens are scored."""
    tokens = np.zeros((60, LENGTH), np.int32)
    tokens.flat[:n_scored] = 5
    # Held-out ones do not count.
    tokens[40:] = 5
    np.save(where / "tokens.npy", tokens)
    about = describe(where / "tokens.npy", None, "tokens") | {"subsets": [], "edges": None}
    (where / "corpus.json").write_text(json.dumps(about))
    gpt2(0).module.save_pretrained(where / "model")
    cell = Cell(
        seed="a",
        step=1,
        directory=where / "model",
        source="local",
        corpus=Corpus(where / "tokens.npy", where / "corpus.json"),
        options=CaptureOptions("int8", "float32", "cpu", 100, 0.5, [0], 256),
        selection={"tokens": 40 * LENGTH, "heldout_tokens": 20 * LENGTH, "train": False},
        provenance={"run": "r"},
    )
    fix_codes(cell, calibration=where / "calibration.zarr", facts=where / "facts.json")


def test_a_hundred_scored_tokens_are_enough_and_fewer_are_refused(tmp_path):
    with pytest.raises(UserError, match="exclude_token_ids: only 99 tokens are scored"):
        fix(tmp_path, 99)
    assert not (tmp_path / "calibration.zarr").exists()
    fix(tmp_path, 100)
    assert (tmp_path / "calibration.zarr").exists()
