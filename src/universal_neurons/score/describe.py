"""Tables that describe neurons, subsets of the corpus and models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from universal_neurons.activations import moments
from universal_neurons.correlate.matches import layer_and_neuron
from universal_neurons.models.facts import read_facts
from universal_neurons.score.universality import logger
from universal_neurons.store.columns.describe import MODELS
from universal_neurons.store.tables import read_table


def neurons_table(stores: Iterable[str | Path]) -> pd.DataFrame:
    """Activation moments of every neuron.

    Parameters
    ----------
    stores
        Moments of all shards of all models, as `capture.capture` writes them.

    Returns
    -------
    DataFrame
        `columns.describe.NEURONS`.
    """
    frames = []
    for (step, seed), (about, sums) in moments.read(stores).items():
        layer, neuron = layer_and_neuron(about["d_mlp"])
        names = {"step": step, "seed": seed, "layer": layer, "neuron": neuron}
        about_codes = {"rounding_se": moments.rounding_se(sums, about["encoding"])}
        about_places = {"first_position_share": moments.first_position_share(sums)}
        frames.append(
            pd.DataFrame({**names, **moments.moments(sums), **about_codes, **about_places})
        )
    return pd.concat(frames, ignore_index=True)


def subsets_table(stores: Iterable[str | Path], names: Sequence[str]) -> pd.DataFrame:
    """Activation statistics of every neuron in every subset of the corpus.

    Parameters
    ----------
    stores
        Moments of all shards of all models, as `capture.capture` writes them.
    names
        Of the subsets, in the order of their labels.

    Returns
    -------
    DataFrame
        `columns.describe.SUBSETS`, subsets by name.
    """
    order = np.argsort(np.array(names))
    frames = []
    for (step, seed), (about, sums) in moments.read(stores).items():
        # (neurons, subsets), so that a neuron's rows lie together.
        n_tokens = sums["subset_tokens"][order].T
        with np.errstate(invalid="ignore", divide="ignore"):
            first, second = (power[order].T / n_tokens for power in sums["subset_powers"])
            sparsity = sums["subset_positive"][order].T / n_tokens
        layer, neuron = layer_and_neuron(about["d_mlp"])
        frames.append(
            pd.DataFrame(
                {
                    "step": step,
                    "seed": seed,
                    "layer": np.repeat(layer, len(names)),
                    "neuron": np.repeat(neuron, len(names)),
                    "subset": np.tile(np.array(names)[order], len(layer)),
                    "n_tokens": n_tokens.ravel(),
                    "mean": (sums["centre"][:, None] + first).ravel(),
                    "std": np.sqrt(np.maximum(second - first**2, 0)).ravel(),
                    "sparsity": sparsity.ravel(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def models_table(facts: Iterable[str | Path], losses: Iterable[str | Path]) -> pd.DataFrame:
    """One row per model: size, digest, held-out loss, and which other model has the same weights.

    Parameters
    ----------
    facts
        JSON files that `capture.run.fix_codes` makes, one per model, the seeds in their order.
    losses
        Tables with ``seed, step, loss_kind, clean_loss, clean_loss_later``, of every model one, if
        they were measured.

    Returns
    -------
    DataFrame
        `columns.describe.MODELS`.

    Raises
    ------
    UserError
        If a file is damaged or of another model than its path says.
    """
    table = pd.DataFrame([read_facts(path) for path in facts])
    # The seeds' order is that of the files: of categories, a table without rows has none.
    table["seed"] = pd.Categorical(table["seed"], table["seed"].unique(), ordered=True)
    table = table.sort_values(["seed", "step"], ignore_index=True)
    name = table["seed"].astype(str) + "/" + table["step"].astype(str)
    first = name.groupby(table["sha256"]).transform("first")
    table["duplicate_of"] = first.where(first != name)
    for model, original in zip(name, table["duplicate_of"], strict=True):
        if isinstance(original, str):
            logger.warning("models %s and %s have the same weights", model, original)
    measured = {"heldout_loss": "clean_loss", "heldout_loss_later": "clean_loss_later"}
    measured["loss_kind"] = "loss_kind"
    rows = [read_table(path, ["seed", "step", *measured.values()])[:1] for path in losses]
    known = pd.concat(rows) if rows else pd.DataFrame(columns=["seed", "step", *measured.values()])
    known.index = known["seed"].astype(str) + "/" + known["step"].astype(str)
    for column, loss in measured.items():
        table[column] = name.map(known[loss]).astype(object if loss == column else float)
    # Models captured by a version without the Hub have no revision.
    return table.reindex(columns=MODELS.names)
