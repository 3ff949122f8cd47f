"""Control sets: non-universal neurons matched one to one with the universal ones.

Ablation changes what a layer's MLP writes, and to leading order the loss follows the size of that
change. Were universal neurons compared with others whose ablation changes less, they would seem to
matter more whatever they do. Every universal neuron therefore gets a partner of its layer whose
ablation changes as much, and which is active as often; where there is none, that is said.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from universal_neurons.models.load import Model
from universal_neurons.store.columns.ablate import LEAST_OVERLAP, MOST_ENERGY_RATIO

logger = logging.getLogger(__name__)

# How far partners may differ: in the logarithm of what their ablation changes (by a factor of 1.22,
# so its square by 1.5), and in the logit of the fraction of active tokens (odds by a factor of e).
SIZE_CALIPER = 0.2
SPARSITY_CALIPER = 1.0

# A pair's cost is its squared distance in calipers (at most 2) and a random number up to this. Two
# draws then share a third of their neurons where a neuron has 30 partners to choose from.
JITTER = 3.0

# Matchings per draw, of which the one is kept whose sum of squared sizes is nearest to that of the
# universal neurons (rerandomisation, Morgan and Rubin 2012): within the caliper partners are more
# often smaller than larger, as small neurons are more frequent.
MATCHINGS = 10

# Fractions of active tokens are kept this far from 0 and 1, where their logit is infinite.
LEAST_FRACTION = 1e-6


@dataclass(frozen=True)
class Controls:
    """Control sets of a model, all layers together.

    Attributes
    ----------
    sets
        Per draw the sorted indices (int64) of the controls.
    overlap
        By layer that has universal neurons: the share of their summed squared sizes that is of
        neurons with a partner within the calipers.
    """

    sets: list[NDArray[np.int64]]
    overlap: dict[int, float]

    @property
    def least_overlap(self) -> float:
        """Of all layers together: what can't be compared in one of them can't in all."""
        return min(self.overlap.values(), default=np.nan)


def is_comparable(overlap: float, energy_ratio: float) -> bool:
    """Whether a set and its controls are changed by as much, so that losses may be compared.

    Parameters
    ----------
    overlap
        See `Controls`; NaN is not comparable.
    energy_ratio
        Energy of the set over that of its controls (`measure.Measured.contrast`); neither is NaN.
    """
    balanced = 1 / MOST_ENERGY_RATIO <= energy_ratio <= MOST_ENERGY_RATIO
    return bool(overlap >= LEAST_OVERLAP and balanced)


def output_norms(model: Model) -> NDArray[np.float64]:
    """Length of every neuron's output weights, ‖w_out‖, shape (N,), by layer, then neuron."""
    lengths = [
        torch.linalg.vector_norm(model.output_weight(layer).float(), dim=1)
        for layer in range(len(model.d_mlp))
    ]
    return torch.cat(lengths).double().cpu().numpy()


def matched_controls(
    universal: NDArray[np.bool_],
    size: NDArray[np.float64],
    sparsity: NDArray[np.float64],
    layer: NDArray[np.integer],
    *,
    draws: int,
    seed: str,
    step: int,
    random_seed: int = 0,
) -> Controls:
    """Draw sets of non-universal neurons, each a one-to-one matching with the universal ones.

    In every layer, partners may differ by `SIZE_CALIPER` and `SPARSITY_CALIPER`. A draw is an
    assignment with as many such pairs as there can be and the least sum of costs (squared distances
    in calipers and seeded random numbers, so that draws differ); of `MATCHINGS` assignments the
    best balanced one that was not drawn before. Universal neurons without a partner get the nearest
    of the others, so that counts stay equal, and `Controls.overlap` tells how much they are.
    Neurons whose ablation changes nothing (size 0) are drawn only where a layer has too few others.

    Parameters
    ----------
    universal, size, sparsity, layer
        Shape (N,), over the neurons of one model: whether it is universal, the length of the change
        that its ablation makes (`Subject.perturbation`), the fraction of tokens at which it is
        above 0, and its layer.
    draws
        Number of control sets.
    seed, step
        The model; with `random_seed`, the layer and the draw they fix the random numbers.

    Returns
    -------
    Controls
        Where a layer has fewer non-universal than universal neurons, all of them are taken and a
        warning is logged.
    """
    drawn: list[list[NDArray[np.int64]]] = [[] for _ in range(draws)]
    overlap: dict[int, float] = {}
    for one in np.unique(layer).tolist():
        own = np.flatnonzero(universal & (layer == one))
        pool = np.flatnonzero(~universal & (layer == one))
        active = pool[size[pool] > 0]
        if len(active) >= len(own):
            pool = active
        if draws and len(pool) < len(own):
            logger.warning(
                "seed %s, step %d, layer %d: %d of %d neurons are universal, so its control sets "
                "have only %d neurons",
                *(seed, step, one, len(own), len(own) + len(pool), len(pool)),
            )
        if not len(own):
            continue
        pairs = _Pairs.of(size, sparsity, own, pool)
        overlap[one] = pairs.overlap()
        seen: set[bytes] = set()
        for draw, parts in enumerate(drawn):
            chosen = pairs.draw(generator(random_seed, seed, step, one, draw), seen)
            seen.add(chosen.tobytes())
            parts.append(pool[chosen])
    none = np.empty(0, np.int64)
    return Controls([np.sort(np.concatenate([none, *parts])) for parts in drawn], overlap)


@dataclass(frozen=True)
class _Pairs:
    """Every pair of a layer's universal and other neurons, shapes (own, pool).

    Attributes
    ----------
    near
        Whether it is within the calipers.
    cost
        Of near pairs the squared distance in calipers; of others above what all near pairs of an
        assignment can sum up to, so that no assignment has one more than it must.
    own, pool
        Squared sizes, shapes (own,) and (pool,).
    """

    near: NDArray[np.bool_]
    cost: NDArray[np.float64]
    own: NDArray[np.float64]
    pool: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        size: NDArray[np.float64],
        sparsity: NDArray[np.float64],
        own: NDArray[np.int64],
        pool: NDArray[np.int64],
    ) -> _Pairs:
        fraction = np.clip(sparsity, LEAST_FRACTION, 1 - LEAST_FRACTION)
        place = np.stack(
            [
                np.log(np.maximum(size, np.finfo(np.float64).tiny)) / SIZE_CALIPER,
                np.log(fraction / (1 - fraction)) / SPARSITY_CALIPER,
            ],
            axis=1,
        )
        gap = np.abs(place[own, None] - place[None, pool])
        near, distance = np.all(gap <= 1, axis=-1), (gap**2).sum(-1)
        beyond = (3 + JITTER) * (1 + len(own))
        cost = np.where(near, distance, beyond + distance / (1 + distance))
        return cls(near, cost, size[own] ** 2, size[pool] ** 2)

    def overlap(self) -> float:
        """Share of the universal neurons' squared sizes that has partners."""
        rows, columns = linear_sum_assignment(self.cost)
        matched = self.own[rows[self.near[rows, columns]]].sum()
        return float(matched / self.own.sum()) if self.own.any() else 1.0

    def draw(self, rng: np.random.Generator, seen: set[bytes]) -> NDArray[np.int64]:
        """The sorted places in the pool of one control set, not one of `seen` if it can be."""
        candidates = [
            np.sort(linear_sum_assignment(self.cost + JITTER * rng.random(self.cost.shape))[1])
            for _ in range(MATCHINGS)
        ]
        new = [one for one in candidates if one.tobytes() not in seen]
        target = self.own.sum()
        return min(new or candidates, key=lambda one: abs(self.pool[one].sum() - target))


def generator(*key: object) -> np.random.Generator:
    """Random numbers fixed by the words and numbers of `key`, the same in every process."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
