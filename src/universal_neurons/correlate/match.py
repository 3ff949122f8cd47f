"""Best matches between two models' neurons, and their rotated baseline, from added sums.

Partial sums of products of codes are made per shard (`products`); they add up exactly. Everything
else, the correlations, the best matches and the baseline, comes from the added sums without a
second pass over the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.products import tile_name
from universal_neurons.correlate.budget import Budget, shard_ranges
from universal_neurons.correlate.given import GivenSearch, each_its_own, read_given
from universal_neurons.correlate.matches import Matches, PairMatches
from universal_neurons.correlate.neurons import Captured, Neurons, part, standardised
from universal_neurons.correlate.rotations import Baseline
from universal_neurons.correlate.search import Search
from universal_neurons.jobs import progress
from universal_neurons.store.arrays import Added
from universal_neurons.store.same_run import check_same_run


def match(
    products: Mapping[str, NDArray],
    a: Neurons,
    b: Neurons,
    layers: Sequence[int],
    *,
    baseline_a: Baseline,
    baseline_b: Baseline,
    budget: Budget | None = None,
    given: Sequence[GivenSearch] = (),
) -> tuple[Matches, Matches]:
    """Best matches between some layers of one model and all layers of another, both ways.

    The baseline of neuron i of one model rotates the neurons of the other within each layer:
    corr(i, (R m)_j) = (C Rᵀ)_ij / (σ_i √((R S Rᵀ)_jj)), with C the cross-covariance and S the
    other model's covariance within the layer (2401.12181, section 3, made with a random
    orthogonal R). `Rotating` says what standardised neurons change.

    Parameters
    ----------
    products
        Summed products of codes by `tile_name`.
    a, b
        The two models.
    layers
        Layers of `a`.
    baseline_a, baseline_b
        Their rotations.
    budget
        Reads the products and scores a sample of the neurons on fewer tokens meanwhile.
    given
        Find the best matches given classes of tokens meanwhile.

    Returns
    -------
    forward
        Of the neurons of those layers of `a`, in order, among all neurons of `b`.
    backward
        Of all neurons of `b` among those of the given layers of `a` only: `Matches.update` joins
        the results of all layers.
    """
    search = Search(a, b, layers, baseline_a, baseline_b)
    # Fresh memory for every tile would cost more than what is done with it.
    double = np.empty((max(a.d_mlp), max(b.d_mlp)))
    for j, b_slice in enumerate(progress(b.layers, "layers of the other seed")):
        search.turn_to(j)
        for one in given:
            one.turn_to(j)
        for place, i in enumerate(layers):
            total = (
                budget.total(i, j, search.rotated_a[place][0], search.rotated_b[0])
                if budget
                else products[tile_name(i, j)]
            )
            room = part(double, (a.d_mlp[i], b.d_mlp[j]))
            corr = standardised(total, a, a.layers[i], b, b_slice, room)
            search.take(corr, place, j)
            for one, own in each_its_own(given, corr):
                one.take(own, place, j)
    return search.found()


def match_pair(
    sums: Sequence[str | Path],
    a: Captured,
    b: Captured,
    layers: Sequence[int],
    *,
    rotations: str | Path,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Find the best matches between some layers of one model and all of another, and store them.

    Parameters
    ----------
    sums
        Their partial sums, of all shards; see `products.cross_sums`.
    a, b
        The two models, with their spread under the rotations; where both have it, also with what
        `given.write_given` stores: then there are best matches given classes of tokens, too.
    layers
        Layers of `a`.
    rotations
        The run's; see `rotations.write_rotations`.
    path
        Store to make; see `matches.PairMatches`. With two shards or more it also has the scores of
        a sample of neurons on fewer tokens.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the stores are not of one run.
    """
    same = check_same_run([*sums, *a.paths(), *b.paths(), rotations])
    added, ranges = Added(sums), shard_ranges(len(sums))
    one, *one_parts = Neurons.read_parts(a.moments, a.calibration, ranges)
    other, *other_parts = Neurons.read_parts(b.moments, b.calibration, ranges)
    budget = Budget(added, ranges, one_parts, other_parts) if ranges else None
    both = read_given([(a.given, one), (b.given, other)], rotations)
    given = {kind: GivenSearch(*models, layers) for kind, models in both.items()}
    forward, backward = match(
        added,
        one,
        other,
        layers,
        baseline_a=Baseline.read(one, rotations, a.rotated),
        baseline_b=Baseline.read(other, rotations, b.rotated),
        budget=budget,
        given=[*given.values()],
    )
    PairMatches(
        a.seed,
        b.seed,
        layers,
        one.d_mlp,
        other.d_mlp,
        forward,
        backward,
        "exact",
        budget.points() if budget else None,
        given={kind: search.found() for kind, search in given.items()},
    ).write(path, {**attributes, **same})
