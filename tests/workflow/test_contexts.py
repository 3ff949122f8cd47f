"""Contexts of a whole run, in every mode, against what its models themselves do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from grids import SEEDS, STEPS
from pipeline import gpt2, module_activations

LAST = STEPS[-1]


def truth(tokens):
    """All models' own activations by (seed, step), by layer of (sequences, context, neurons)."""
    found = {}
    for i, seed in enumerate(SEEDS):
        for step in STEPS:
            model = gpt2(100 * i + (10 if seed == "1" else step))
            layers = module_activations(model, tokens, exclude=())
            found[seed, step] = [x.reshape(*tokens.shape, -1) for x in layers]
    return found


@pytest.mark.parametrize("mode", ["exact", "screened", "direct"])
def test_every_context_has_what_its_models_do_there(local, mode, request):
    where, _ = local
    if mode != "exact":
        request.getfixturevalue(mode)
    results = where / "results" / mode
    own = truth(np.load(where / "tokens.npy")[:61])
    tables = {
        name: pd.read_parquet(results / f"{name}.parquet")
        for name in ("examples", "contexts", "matches", "universality", "histograms")
    }
    examples = tables["examples"]
    assert set(examples["step"]) == {LAST}
    chosen = set(examples[["seed", "layer", "neuron"]].itertuples(index=False, name=None))
    universal = tables["universality"].query("universal")[["seed", "layer", "neuron"]]
    assert set(universal.itertuples(index=False, name=None)) <= chosen
    for row in examples.itertuples():
        stop = row.start + len(row.token_ids)
        x = own[row.seed, LAST][row.layer][row.sequence, row.start : stop, row.neuron]
        np.testing.assert_allclose(row.activations, x, rtol=1e-3, atol=1e-4)
    assert set(tables["histograms"]["counts"].map(sum)) == {tables["histograms"]["counts"][0].sum()}

    contexts = tables["contexts"]
    cells = contexts[["seed", "other_seed", "other_step"]].drop_duplicates()
    expected = {(a, b, LAST) for a in SEEDS for b in SEEDS if a != b}
    expected |= {(seed, seed, STEPS[0]) for seed in SEEDS}
    assert set(cells.itertuples(index=False, name=None)) == expected
    keys = ["seed", "layer", "neuron", "band", "rank"]
    rows = contexts.merge(examples[[*keys, "sequence", "start"]], on=keys)
    assert len(rows) == len(contexts) == len(examples) * 3
    best = tables["matches"].set_index(["step", "seed", "other_seed", "layer", "neuron"])
    best = best[["best_layer", "best_neuron"]].to_dict("index")
    for row in rows.itertuples():
        partner = (row.layer, row.neuron)
        if row.seed != row.other_seed:
            partner = tuple(best[LAST, row.seed, row.other_seed, *partner].values())
        assert partner == (row.other_layer, row.other_neuron)
        x = own[row.other_seed, row.other_step][row.other_layer][row.sequence, :, row.other_neuron]
        x = x[row.start : row.start + len(row.activations)]
        np.testing.assert_allclose(row.activations, x, rtol=1e-3, atol=1e-4)
