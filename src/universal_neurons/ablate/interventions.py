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
from universal_neurons.ablate.subject import Subject
from universal_neurons.activations import moments
from universal_neurons.models.load import load
from universal_neurons.store.same_run import check_same_run

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

    Raises
    ------
    UserError
        If the moments are not of one run, or see `ablation.ablate`.
    """
    check_same_run(moment_stores)
    moments_of = moments.read(moment_stores)
    tables: dict[str, list[pd.DataFrame]] = {"ablation": [], "doses": [], "effects": []}
    kinds, random_seed = options["kinds"], options["seed"]
    for seed, directory in directories.items():
        logger.info("seed %s, step %d", seed, step)
        _, sums = moments_of[step, seed]
        subject = Subject.of(load(directory, **load_options), seed, step, sums)
        own = universality[universality.seed == seed].sort_values(["layer", "neuron"])
        excess, universal = own.excess_corr.to_numpy(), own.universal.to_numpy()
        tables["ablation"].append(
            ablate(
                subject,
                sequences,
                universal,
                kinds=kinds,
                controls=options["controls"],
                random_seed=random_seed,
            )
        )
        tables["doses"].append(
            doses(subject, sequences, excess, kind=kinds[0], random_seed=random_seed)
        )
        tables["effects"].append(effects(subject, sequences, excess, random_seed=random_seed))
    return {name: pd.concat(made, ignore_index=True) for name, made in tables.items()}
