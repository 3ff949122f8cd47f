"""All interventions on the models of several seeds at one step: sets, doses and single neurons."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from universal_neurons.ablate.ablation import ablate
from universal_neurons.ablate.doses import doses
from universal_neurons.ablate.effects import effects
from universal_neurons.activations import moments
from universal_neurons.models.load import load

logger = logging.getLogger(__name__)


def intervene(
    directories: Mapping[str, str | Path],
    sequences: NDArray,
    *,
    step: int,
    universality: pd.DataFrame,
    moment_stores: Sequence[str | Path],
    load_options: Mapping[str, str],
    options: Mapping[str, Any],
) -> dict[str, pd.DataFrame]:
    """Run `ablation.ablate`, `doses.doses` and `effects.effects` on several models in turn.

    Parameters
    ----------
    directories
        Model directory of every seed.
    sequences
        Held-out token ids, see `ablation.ablate`.
    step
        The step the models were saved at.
    universality
        With ``seed, layer, neuron, excess_corr, universal`` at that step.
    moment_stores
        Moments of all shards of the models, as `capture.capture` writes them.
    load_options
        See `models.load`.
    options
        The resolved section ``ablation`` of the configuration.

    Returns
    -------
    dict
        The tables ``ablation``, ``doses`` and ``effects`` of all seeds.
    """
    moments_of = moments.read(moment_stores)
    tables: dict[str, list[pd.DataFrame]] = {"ablation": [], "doses": [], "effects": []}
    for seed, directory in directories.items():
        logger.info("seed %s, step %d", seed, step)
        _, sums = moments_of[step, seed]
        own = universality[universality.seed == seed].sort_values(["layer", "neuron"])
        facts = moments.moments(sums)
        model = load(directory, **load_options)
        about: dict[str, Any] = {"seed": seed, "step": step, "random_seed": options["seed"]}
        sizes: dict[str, Any] = {
            "norm": moments.rms(sums),
            "sparsity": facts["sparsity"],
            "mean": facts["mean"],
        }
        excess = own.excess_corr.to_numpy()
        tables["ablation"].append(
            ablate(
                model,
                sequences,
                universal=own.universal.to_numpy(),
                kinds=options["kinds"],
                controls=options["controls"],
                **sizes,
                **about,
            )
        )
        tables["doses"].append(
            doses(model, sequences, excess=excess, kind=options["kinds"][0], **sizes, **about)
        )
        tables["effects"].append(
            effects(model, sequences, excess=excess, mean=sizes["mean"], **about)
        )
    return {name: pd.concat(made, ignore_index=True) for name, made in tables.items()}
