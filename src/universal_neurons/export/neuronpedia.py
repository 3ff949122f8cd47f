"""Neurons and their examples as the features and activations that Neuronpedia reads.

Two files of JSON lines per layer, with the names of its database's fields: one line per feature,
one per context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np

from universal_neurons.api.run import Run
from universal_neurons.errors import UserError
from universal_neurons.store.tables import records

Row = Mapping[str, Any]

# What a neuron of layer 3 belongs to there.
SOURCE = "{layer}-mlp"


def bundle(run: Run, seed: str, model_id: str) -> dict[str, list[dict[str, Any]]]:
    """Features and activations of a seed's chosen neurons at the last step.

    Parameters
    ----------
    run
        The run.
    seed
        The model.
    model_id
        Its name at Neuronpedia.

    Returns
    -------
    dict
        By file name, ``features/layer3.jsonl`` and ``activations/layer3.jsonl``, its lines.

    Raises
    ------
    UserError
        If the run has no examples.
    """
    where = {"seed": seed, "step": run.steps[-1]}
    examples = run.rows("examples", **where)
    if examples.empty:
        raise UserError(f"{run.path}: no examples of seed {seed}; see `explorer` in the config")
    tables = {name: run.rows(name, **where) for name in ("neurons", "roles", "histograms")}
    whole = tables["histograms"]["subset"].isna()
    tables["histograms"] = tables["histograms"][whole]
    by_neuron = {name: {_place(row): row for row in records(tables[name])} for name in tables}
    files: dict[str, list[dict[str, Any]]] = {}
    for own, found in groupby(records(examples), _place):
        layer, neuron = own
        about = {"modelId": model_id, "layer": SOURCE.format(layer=layer), "index": str(neuron)}
        of = {name: rows.get(own, {}) for name, rows in by_neuron.items()}
        features = files.setdefault(f"features/layer{layer}.jsonl", [])
        features.append({**about, **_feature(run, of["neurons"], of["roles"], of["histograms"])})
        activations = files.setdefault(f"activations/layer{layer}.jsonl", [])
        activations += [{**about, **_activation(run, about, row)} for row in found]
    return files


def _place(row: Row) -> tuple[int, int]:
    return row["layer"], row["neuron"]


def _feature(run: Run, moments: Row, roles: Row, histogram: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "sourceSetName": "mlp",
        "maxActApprox": moments["max"],
        "frac_nonzero": moments["sparsity"],
    }
    if roles:
        for sign, kind in (("pos", "promoted"), ("neg", "suppressed")):
            found[f"{sign}_str"] = [run.text([token]) for token in roles[f"{kind}_ids"]]
            found[f"{sign}_values"] = [float(x) for x in roles[f"{kind}_cos"]]
    if histogram:
        heights, low, high = (histogram[name] for name in ("counts", "low", "high"))
        edges = np.linspace(low, high, len(heights) + 1)
        found["freq_hist_data_bar_heights"] = [int(n) for n in heights]
        found["freq_hist_data_bar_values"] = [float(x) for x in (edges[1:] + edges[:-1]) / 2]
    return found


def _activation(run: Run, about: Mapping[str, str], row: Row) -> dict[str, Any]:
    values = [float(x) for x in row["activations"]]
    key = [*about.values(), row["band"], row["rank"], row["sequence"], row["position"]]
    return {
        "id": hashlib.sha256("/".join(map(str, key)).encode()).hexdigest()[:25],
        "tokens": [run.text([token]) for token in row["token_ids"]],
        "values": values,
        "maxValue": max(values),
        "maxValueTokenIndex": values.index(max(values)),
        "minValue": min(values),
        "dataIndex": f"{row['sequence']}:{row['start']}",
        "qualifyingTokenIndex": row["position"] - row["start"],
    }
