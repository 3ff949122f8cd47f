"""Control sets: non-universal neurons as like the universal ones as a layer has them.

A neuron that is large, or active all the time, costs more to take out than another, universal or
not. Controls therefore match the universal neurons in what they write into the residual stream and
in how often they are active.
"""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from universal_neurons.models.load import Model

logger = logging.getLogger(__name__)

# A control neuron is drawn from this many nearest neighbours: few enough to be similar, enough for
# 20 draws to differ even for one universal neuron.
NEIGHBOURS = 20

# Fractions of active tokens are kept this far from 0 and 1, where their logit is infinite.
LEAST_FRACTION = 1e-6


def contribution(model: Model, norm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square length of what every neuron adds to its MLP's output: rms(x) · ‖w_out‖.

    Parameters
    ----------
    norm
        Root mean square activation of every neuron, shape (N,), by layer, then neuron.

    Returns
    -------
    array
        Shape (N,), float64.
    """
    lengths = []
    for projection in model.projections:
        weight = projection.get_parameter("weight")
        # GPT-2's Conv1D stores (neurons, outputs), a linear layer (outputs, neurons).
        per_neuron = weight.T if isinstance(projection, nn.Linear) else weight
        lengths.append(torch.linalg.vector_norm(per_neuron.float(), dim=1))
    return norm * torch.cat(lengths).double().cpu().numpy()


def matched_controls(
    universal: NDArray[np.bool_],
    contribution: NDArray[np.float64],
    sparsity: NDArray[np.float64],
    layer: NDArray[np.integer],
    *,
    draws: int,
    seed: str,
    step: int,
    random_seed: int = 0,
) -> list[NDArray[np.int64]]:
    """Draw sets of non-universal neurons like the universal ones in layer, count, size, sparsity.

    In every layer, each universal neuron (in random order) gets one of the `NEIGHBOURS`
    non-universal neurons nearest to it, without replacement within a draw. Nearness is Euclidean
    in the logarithm of the contribution and the logit of the sparsity, each divided by its standard
    deviation over the layer's active neurons. Neurons that are never active (contribution 0) are
    drawn only where a layer has too few others.

    Parameters
    ----------
    universal, contribution, sparsity, layer
        Shape (N,), over the neurons of one model: whether it is universal, see `contribution`, the
        fraction of tokens at which it is above 0, and its layer.
    draws
        Number of control sets.
    seed, step
        The model; with `random_seed`, the layer and the draw they fix the random numbers.

    Returns
    -------
    list
        Per draw the sorted indices (int64) of the controls, all layers together. Where a layer has
        fewer non-universal than universal neurons, all of them are taken and a warning is logged.
    """
    drawn: list[list[NDArray[np.int64]]] = [[] for _ in range(draws)]
    for one in np.unique(layer):
        own = np.flatnonzero(universal & (layer == one))
        pool = np.flatnonzero(~universal & (layer == one))
        active = pool[contribution[pool] > 0]
        if len(active) >= len(own):
            pool = active
        if draws and len(pool) < len(own):
            logger.warning(
                "seed %s, step %d, layer %d: %d of %d neurons are universal, so its control sets "
                "have only %d neurons",
                *(seed, step, one, len(own), len(own) + len(pool), len(pool)),
            )
        place = _places(contribution, sparsity, layer == one)
        for draw, parts in enumerate(drawn):
            rng = generator(random_seed, seed, step, one, draw)
            parts.append(_draw_matched(place, own, pool, rng))
    return [np.sort(np.concatenate(parts)) for parts in drawn]


def _places(
    contribution: NDArray[np.float64], sparsity: NDArray[np.float64], here: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Where neurons lie, shape (N, 2), in standard deviations of the active neurons of `here`."""
    size = np.log(np.maximum(contribution, np.finfo(np.float64).tiny))
    fraction = np.clip(sparsity, LEAST_FRACTION, 1 - LEAST_FRACTION)
    place = np.stack([size, np.log(fraction / (1 - fraction))], axis=1)
    active = place[here & (contribution > 0)]
    spread = active.std(0) if len(active) else np.ones(2)
    return place / np.where(spread > 0, spread, 1)


def _draw_matched(
    place: NDArray[np.float64],
    own: NDArray[np.int64],
    pool: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """One control for each of `own` from `pool`."""
    distance = ((place[own, None] - place[None, pool]) ** 2).sum(-1)
    chosen: list[int] = []
    for i in rng.permutation(len(own))[: len(pool)]:
        n_free = len(pool) - len(chosen)
        nearest = np.argsort(distance[i], kind="stable")[: min(NEIGHBOURS, n_free)]
        pick = int(rng.choice(nearest))
        chosen.append(pick)
        distance[:, pick] = np.inf
    return pool[np.asarray(chosen, np.int64)]


def generator(*key: object) -> np.random.Generator:
    """Random numbers fixed by the words and numbers of `key`, the same in every process."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
