"""Mutual matches of two seeds as the ``best_buddies.json`` of Dravid et al. (2606.03990)."""

from __future__ import annotations

from typing import Any

from universal_neurons.api.run import Run
from universal_neurons.store.tables import records


def best_buddies(run: Run, seed: str, other_seed: str, step: int) -> list[dict[str, Any]]:
    """Pairs of neurons that are each other's best match, the most alike first.

    Parameters
    ----------
    run
        The run.
    seed, other_seed
        Model 1 and model 2.
    step
        Of both.

    Returns
    -------
    list of dict
        ``model1_layer``, ``model1_neuron``, ``model2_layer``, ``model2_neuron``, ``correlation``,
        ``rank_in_model1`` and ``rank_in_model2``, which are 1: best matches.

    Raises
    ------
    UserError
        If the run has no such seed or step.
    """
    found = run.matches(seed, other_seed, step=step)
    mutual = found[found["mutual"]].sort_values(
        ["best_corr", "layer", "neuron"], ascending=[False, True, True]
    )
    return [
        {
            "model1_layer": row["layer"],
            "model1_neuron": row["neuron"],
            "model2_layer": row["best_layer"],
            "model2_neuron": row["best_neuron"],
            "correlation": row["best_corr"],
            "rank_in_model1": 1,
            "rank_in_model2": 1,
        }
        for row in records(mutual)
    ]
