"""Best matches from a sample of the tokens: every neuron's candidates.

1. All pairs are correlated on a sample of the tokens, cut into groups of documents. Every
   correlation gets an upper bound from its spread over the groups, and from what the sample lacks
   of the two neurons' variance.
2. The few neurons with the largest bounds are every neuron's candidates. They are correlated on all
   tokens (`refine`). A neuron is certified if its best candidate exceeds the bounds of all others.
3. Neurons that can't be certified, and those too rarely active for a sample to speak for, are
   correlated with all others on all tokens.

docs/method.md derives the bound and says what it assumes; `audit` counts how often it fails. The
baseline here is that of the sample; `refine` has that of all tokens where it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes
from universal_neurons.activations.kernels import block_products, choose_kernel, zeros
from universal_neurons.activations.products import paired
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate.candidates import Screened, Screens
from universal_neurons.correlate.neurons import Captured, Neurons, part
from universal_neurons.correlate.rotations import Baseline
from universal_neurons.correlate.sample import (
    GROUPS,
    GroupReader,
    GroupSums,
    Piece,
    Spread,
    sample_groups,
)
from universal_neurons.jobs import progress
from universal_neurons.prepare.reading import Documents
from universal_neurons.store.same_run import check_same_run

if TYPE_CHECKING:
    import torch

# Tail of Student's t that gives the width of a bound. It is no probability of a wrong certificate:
# groups of tokens are neither normal nor many.
TAIL = 1e-6


@dataclass(frozen=True)
class Side:
    """One model of a pair.

    Attributes
    ----------
    stores
        Its activations, all shards.
    neurons
        Its statistics over all tokens.
    baseline
        Its rotations.
    """

    stores: Sequence[Activations]
    neurons: Neurons
    baseline: Baseline

    @classmethod
    def read(cls, captured: Captured, rotations: str | Path) -> Side:
        """Open a model's stores."""
        neurons = Neurons.read(captured.moments, captured.calibration)
        return cls(
            list(map(Activations, captured.activations)),
            neurons,
            Baseline.read(neurons, rotations, captured.rotated),
        )


@dataclass(frozen=True)
class Sampling:
    """How to screen.

    Attributes
    ----------
    sample
        Fraction of the tokens.
    candidates
        Neurons to refine per neuron and direction.
    kernel
        See `kernels.choose_kernel`.
    tail
        Of Student's t beyond the bounds.
    """

    sample: float
    candidates: int
    kernel: str = "auto"
    tail: float = TAIL


def screen(
    a: Side, b: Side, layers: Sequence[int], sampling: Sampling, documents: Documents
) -> Screens:
    """Correlate some layers of one model with all of another on a sample of the tokens.

    Parameters
    ----------
    a, b
        The two models.
    layers
        Layers of `a`.
    sampling
        The sample's size and what is kept of it.
    documents
        Of the corpus.
    """
    for one, other in zip(a.stores, b.stores, strict=True):
        one.check_same_tokens(other)
    groups = sample_groups(a.stores, sampling.sample, documents)
    sizes = np.array([sum(map(len, group)) for group in groups])
    sampled = int(sizes.sum())
    d_a, d_b = [a.neurons.d_mlp[i] for i in layers], b.neurons.d_mlp
    kernel = choose_kernel(sampling.kernel, 2 * sampled * sum(d_a) * sum(d_b))
    width = _width(sampling.tail, sampled, a.neurons.n_tokens)
    forward = Screened.nothing(sum(d_a), sampling.candidates, b.baseline.draws)
    backward = Screened.nothing(sum(d_b), sampling.candidates, a.baseline.draws)
    spreads, energy_a, energy_b = _on_sample(a, b, layers, groups, kernel)
    forward.take_energy(slice(None), energy_a, sizes)
    backward.take_energy(slice(None), energy_b, sizes)
    edges = np.cumsum([0, *d_a])
    rotated_a = [_rotations(a.baseline, layer) for layer in layers]
    for j, theirs in enumerate(progress(b.neurons.layers, "layers of the other seed")):
        rotated_b = _rotations(b.baseline, j)
        allowed_b = ~backward.rare[theirs] & (b.neurons.factor[theirs] > 0)
        for place, layer in enumerate(layers):
            own, rows = a.neurons.layers[layer], slice(int(edges[place]), int(edges[place + 1]))
            allowed_a = ~forward.rare[rows] & (a.neurons.factor[own] > 0)
            unseen = forward.unseen[rows], backward.unseen[theirs]
            spread = spreads[place][j]
            forward.candidates[rows].take(spread, width, unseen, allowed_b, theirs.start, axis=1)
            backward.candidates[theirs].take(
                spread, width, unseen[::-1], allowed_a, own.start, axis=0
            )
            ahead, back = _rotated_best(spread.mean, rotated_a[place], rotated_b)
            for side, where, found in ((forward, rows, ahead), (backward, theirs, back)):
                here = side.baseline[:, where]
                np.maximum(here, found, out=here)
    return Screens(forward, backward, sampled)


def _rotations(baseline: Baseline, layer: int) -> list[torch.Tensor]:
    """A layer's rotations, in bfloat16 where the processor multiplies that.

    Its products are four times as fast as float32's. They round every number by 0.4 % at most, up
    or down, which a maximum over rotated neurons hardly notices; what is left the audit corrects.
    """
    import torch

    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    dtype = torch.bfloat16 if native else torch.float32
    return [torch.from_numpy(matrix).to(dtype) for matrix in baseline.matrices(layer)]


def _rotated_best(
    corr: NDArray[np.float32], rotated_a: Sequence[torch.Tensor], rotated_b: Sequence[torch.Tensor]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Like `rotations.rotated_best`, in the rotations' precision."""
    import torch

    tile = torch.from_numpy(corr).to(rotated_a[0].dtype)
    forward = torch.stack([torch.mm(tile, matrix.t()).amax(1) for matrix in rotated_b])
    backward = torch.stack([torch.mm(matrix, tile).amax(0) for matrix in rotated_a])
    return forward.double().numpy(), backward.double().numpy()


def _width(tail: float, sampled: int, n_tokens: int) -> float:
    """Half of an interval, in units of the root of the summed squares of a `Spread`.

    Student's quantile times the standard error of the mean over groups, with the correction for a
    finite population.
    """
    finite = max(0.0, 1 - sampled / n_tokens)
    return scipy.stats.t.isf(tail, GROUPS - 1) * np.sqrt(finite / (GROUPS - 1) / sampled)


def _on_sample(
    a: Side, b: Side, layers: Sequence[int], groups: Sequence[Sequence[Piece]], kernel: str
) -> tuple[list[list[Spread]], NDArray[np.float64], NDArray[np.float64]]:
    """Correlations of layers with all of `b` over the groups; both's mean squares per group."""
    d_a, d_b = [a.neurons.d_mlp[i] for i in layers], b.neurons.d_mlp
    scratch = zeros(max(d_a), max(d_b), a.stores[0].encoding)
    spreads = [[Spread(rows, columns) for columns in d_b] for rows in d_a]
    energy_a, energy_b = np.zeros((len(groups), sum(d_a))), np.zeros((len(groups), sum(d_b)))
    own, other = [(GroupReader(groups), layer) for layer in layers], GroupReader(groups)

    def mine(group: Sequence[Piece]) -> list[tuple[Codes, GroupSums]]:
        return [_summed(read, a, layer, group) for read, layer in own]

    theirs = [partial(_summed, other, b, j) for j in range(len(d_b))]
    g = -1
    for _, j, of_a, (codes_b, sums_b) in paired(groups, mine, theirs, "groups of the sample"):
        if j == 0:
            g += 1
            energy_a[g] = np.concatenate([sums.energy for _, sums in of_a])
        energy_b[g, b.neurons.layers[j]] = sums_b.energy
        for (codes_a, sums_a), row in zip(of_a, spreads, strict=True):
            room = part(scratch, row[j].mean.shape)
            products = block_products(codes_a, codes_b, kernel, room)
            row[j].update(products, len(codes_a), sums_a, sums_b)
    return spreads, energy_a, energy_b


def _summed(
    read: GroupReader, model: Side, layer: int, group: Sequence[Piece]
) -> tuple[Codes, GroupSums]:
    """Codes of a layer in a group, and what standardising their products takes."""
    codes = read(model.stores, layer, group)
    return codes, GroupSums.of(codes, model.neurons, model.neurons.layers[layer])


def screen_pair(
    a: Captured,
    b: Captured,
    layers: Sequence[int],
    sampling: Sampling,
    documents: Documents,
    *,
    rotations: str | Path,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Store what the sample says of some layers of one model and all of another.

    Parameters
    ----------
    a, b
        The two models, with all their activations and their spread under the rotations.
    layers, sampling, documents
        See `screen`.
    rotations
        The run's.
    path
        Store to make; see `candidates.Screens`.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the stores are not of one run, or of another corpus.
    """
    same = check_same_run([*a.paths(), *b.paths(), rotations])
    documents.check(same["corpus_sha256"], a.moments[0])
    sides = Side.read(a, rotations), Side.read(b, rotations)
    found = screen(*sides, layers, sampling, documents)
    found.write(path, layers, {**attributes, **same})
