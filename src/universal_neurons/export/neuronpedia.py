"""Neurons and their examples as a folder that Neuronpedia's importer reads.

One folder per layer, `<model>/<layer>-mlp/`: four files of JSON lines say what it is of
(``release``, ``model``, ``sourceset``, ``source``), and one file each, compressed, has its features
and their activations. Lines have the names of its database's columns (``schema.prisma``), of which
those that are missing have its defaults.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from universal_neurons.api.run import Run
from universal_neurons.errors import UserError
from universal_neurons.store.tables import records

Row = Mapping[str, Any]
Lines = list[dict[str, Any]]

# What neurons of MLPs belong to there; a layer's is "3-mlp".
SOURCE_SET = "mlp"
# Whom uploads belong to: the account that a new database of Neuronpedia begins with.
CREATOR_ID = "clkht01d40000jv08hvalcvly"
CREATOR = "universal-neurons"
DIFFERENCES = """\
Where values are not what Neuronpedia has of autoencoders' features:
  pos_values, neg_values  cosines with the unembedding, of the tokens with the largest logits
  frac_nonzero            share of tokens with an activation above 0
  activations             windows of 16 tokens, of all levels of activation"""


def bundle(run: Run, seed: str, model_id: str) -> dict[str, Lines]:
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
        By path, ``<model>/3-mlp/features/batch-0.jsonl.gz`` for example, its lines.

    Raises
    ------
    UserError
        If the run has no examples, or Neuronpedia takes no such name.
    """
    if not re.fullmatch(r"[a-z0-9_-]{1,128}", model_id):
        raise UserError(f"--model-id {model_id}: use small letters, digits, _ and - only")
    step = run.steps[-1]
    examples = run.rows("examples", seed=seed, step=step)
    if examples.empty:
        raise UserError(f"{run.path}: no examples of seed {seed}; see `explorer` in the config")
    names = ("neurons", "roles", "histograms")
    tables = {name: run.rows(name, seed=seed, step=step) for name in names}
    whole = tables["histograms"]["subset"].isna()
    tables["histograms"] = tables["histograms"][whole]
    by_neuron = {name: {_place(row): row for row in records(tables[name])} for name in tables}
    files: dict[str, Lines] = {}
    for layer, rows in groupby(records(examples), lambda row: row["layer"]):
        source = f"{layer}-{SOURCE_SET}"
        features: Lines = []
        activations: Lines = []
        for own, found in groupby(rows, _place):
            about = {"modelId": model_id, "layer": source, "index": str(own[1])}
            of = {name: neurons.get(own, {}) for name, neurons in by_neuron.items()}
            features.append(
                {**about, **_feature(run, of["neurons"], of["roles"], of["histograms"])}
            )
            activations += [{**about, **_activation(run, about, row)} for row in found]
        listed = dict(_descriptions(run, model_id, source, run.d_mlp(seed, step)))
        listed["features/batch-0.jsonl.gz"] = features
        listed["activations/batch-0.jsonl.gz"] = activations
        files |= {f"{model_id}/{source}/{name}": lines for name, lines in listed.items()}
    return files


def _place(row: Row) -> tuple[int, int]:
    return row["layer"], row["neuron"]


def _descriptions(
    run: Run, model_id: str, source: str, d_mlp: Sequence[int]
) -> Iterator[tuple[str, Lines]]:
    """Yield the files that say what a layer's features are of: all that its database requires."""
    release = f"universal-neurons-{run.name}"
    says = f"Universal neurons, run {run.name}: MLP neurons after the nonlinearity"
    own = {"creatorId": CREATOR_ID, "visibility": "PUBLIC"}
    names = {"creatorName": CREATOR, "urls": [], "description": says}
    yield "release.jsonl", [{"name": release, **names, **own}]
    model = {"id": model_id, "displayName": model_id, "displayNameShort": model_id}
    size = {"layers": len(d_mlp), "neuronsPerLayer": max(d_mlp), "owner": CREATOR}
    yield "model.jsonl", [{**model, **size, **own}]
    set_of = {"modelId": model_id, "name": SOURCE_SET, "releaseName": release}
    yield "sourceset.jsonl", [{**set_of, **names, **own}]
    yield "source.jsonl", [{"id": source, "modelId": model_id, "setName": SOURCE_SET, **own}]


def _feature(run: Run, moments: Row, roles: Row, histogram: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "sourceSetName": SOURCE_SET,
        "creatorId": CREATOR_ID,
        "maxActApprox": moments["max"],
        "frac_nonzero": moments["sparsity"],
        **{f"{sign}_{what}": [] for sign in ("pos", "neg") for what in ("str", "values")},
    }
    if roles:
        for sign, kind in (("pos", "promoted"), ("neg", "suppressed")):
            found[f"{sign}_str"] = [run.text([token]) for token in roles[f"{kind}_ids"]]
            found[f"{sign}_values"] = [float(x) for x in roles[f"{kind}_cos"]]
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
        "creatorId": CREATOR_ID,
        "tokens": [run.text([token]) for token in row["token_ids"]],
        "values": values,
        "maxValue": max(values),
        "maxValueTokenIndex": values.index(max(values)),
        "minValue": min(values),
        "dataIndex": f"{row['sequence']}:{row['start']}",
        "qualifyingTokenIndex": row["position"] - row["start"],
    }
