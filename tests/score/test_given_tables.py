"""What is known given classes of tokens, in the tables of matches and scores."""

from __future__ import annotations

import numpy as np
import pandas as pd

from universal_neurons.correlate.matches import Matches, StepMatches
from universal_neurons.score.given import with_given_matches
from universal_neurons.store.columns.given import MATCHES_GIVEN

D_MLP = [2, 3]


def matches(corr):
    """Every neuron's partner is the last one of the other seed."""
    n = sum(D_MLP)
    found = Matches.nothing(n, 2)
    found.take_pairs(np.arange(n), np.full(n, n - 1), np.full(n, corr))
    found.baseline[:] = [[0.1], [0.3]]
    return found


def test_matches_have_those_given_every_class_that_was_asked_for():
    pairs = [("a", "b"), ("b", "a")]
    given = {
        kind: {pair: matches(corr) for pair in pairs}
        for kind, corr in (("token", 0.5), ("position", 0.25))
    }
    found = {pair: matches(0.9) for pair in pairs}
    step = StepMatches(found, dict.fromkeys("ab", D_MLP), {}, [], given)
    table = with_given_matches(pd.DataFrame({"best_corr": np.full(10, 0.9)}), step)
    assert [*table][1:] == [column.name for column in MATCHES_GIVEN]
    for kind, corr in (("token", 0.5), ("position", 0.25)):
        assert (table[f"given_{kind}_corr"] == corr).all()
        np.testing.assert_allclose(table[f"given_{kind}_baseline"], 0.2)
        assert (table[[f"given_{kind}_layer", f"given_{kind}_neuron"]] == [1, 2]).all(axis=None)
    unasked = table.filter(like="given_previous_token")
    assert unasked.filter(regex="corr|baseline").isna().all(axis=None)
    assert (unasked.filter(regex="layer|neuron") == -1).all(axis=None)
