"""The report's first lines: what they say of a run, and that they leave out what isn't known."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic

from universal_neurons.report.findings import Findings
from universal_neurons.report.opening import opening
from universal_neurons.score.criterion import Criterion


@pytest.fixture(scope="module")
def tables():
    return synthetic.tables()


def said(tables):
    return opening(Findings(tables, Criterion("excess", 0.5, 0.05)))


def test_they_give_every_kind_with_what_its_interval_covers(tables):
    text = said(tables)
    mean = tables["fractions"].query("seed == '' and layer == -1").sort_values("step").iloc[-1]
    share = (
        f"{100 * mean['mean_fraction']:.1f}\u00a0% are universal (95\u00a0% interval over tokens "
    )
    assert f"{share}and seeds" in text
    assert f"{100 * mean['beyond_random']:.1f}\u00a0% are beyond random (whitened) dir" in text
    assert "over tokens and seeds, with the directions drawn: " in text
    assert "are universal given the token (95\u00a0% interval over tokens and seeds: " in text
    assert f"{mean['expected_beyond_random']:,.0f} of {mean['n_neurons']:,.0f} do better" in text
    assert "singly, and another choice of directions gives another number." in text
    assert text.count("60.0\u00a0% (50.0") == 3, "in a new seed, of each kind"


def test_an_interval_that_no_single_seed_has_is_over_seeds(tables):
    fractions = tables["fractions"].copy()
    fractions.loc[fractions["seed"] != "", "given_token_low"] = np.nan
    text = said({**tables, "fractions": fractions})
    assert "are universal given the token (95\u00a0% interval over seeds: " in text
    assert "are universal (95\u00a0% interval over tokens and seeds: " in text


def test_what_was_not_compared_is_not_mentioned(tables):
    fractions = tables["fractions"].copy()
    unknown = [c for c in fractions if "beyond_random" in c or "given_token" in c]
    fractions[[*unknown, "low", "high", "new_seed"]] = np.nan
    text = said({**tables, "fractions": fractions})
    assert "are universal (no interval)" in text
    for word in ("random", "given the token", "not yet seen", "nan", "–"):
        assert word not in text
