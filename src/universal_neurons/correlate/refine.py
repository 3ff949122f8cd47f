"""Best matches on all tokens, of what `screen` left open: candidates, and whole rows of neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes, Escapes
from universal_neurons.activations.encoding import LIMIT
from universal_neurons.activations.kernels import add_products, choose_kernel, zeros
from universal_neurons.activations.products import ahead, block_tokens
from universal_neurons.activations.reader import Activations
from universal_neurons.activations.rests import RestsByNeuron, add_dots
from universal_neurons.correlate import audit
from universal_neurons.correlate.audit import Screening
from universal_neurons.correlate.candidates import Screened, Screens
from universal_neurons.correlate.given import Given
from universal_neurons.correlate.given_refined import GivenRefined
from universal_neurons.correlate.matches import Matches, PairMatches
from universal_neurons.correlate.neurons import Captured, Neurons, standardised
from universal_neurons.correlate.screen import Side
from universal_neurons.jobs import logger, progress
from universal_neurons.store.same_run import check_same_run

# Tokens of one dot product: its codes then stay in the cache, and int32 can't overflow.
DOT_TOKENS = 4096

# Sums that the exact pass holds at a time.
EXACT_BYTES = 1 << 30


def _by_layer(stores: Sequence[Activations], rows: int) -> list[tuple[int, slice]]:
    return [(s, block) for s, store in enumerate(stores) for block in store.row_blocks(rows)]


@numba.njit(parallel=True, cache=True)
def _transpose(codes, out):  # pragma: no cover - compiled
    n, d = codes.shape
    for block in numba.prange((d + 63) // 64):
        for r0 in range(0, n, 64):
            for j in range(block * 64, min(d, block * 64 + 64)):
                for r in range(r0, min(n, r0 + 64)):
                    out[j, r] = codes[r, j]


@numba.njit(parallel=True, cache=True)
def _dots_int16(a, b, start, n, first, second, sums):  # pragma: no cover - compiled
    for p in numba.prange(len(first)):
        x, y = a[first[p], start : start + n], b[second[p], start : start + n]
        total = np.int32(0)
        for t in range(n):
            total += np.int32(x[t]) * np.int32(y[t])
        sums[p] += total


@numba.njit(parallel=True, cache=True)
def _dots_float(a, b, start, n, first, second, sums):  # pragma: no cover - compiled
    for p in numba.prange(len(first)):
        x, y = a[first[p], start : start + n], b[second[p], start : start + n]
        total = 0.0
        for t in range(n):
            total += np.float64(x[t]) * np.float64(y[t])
        sums[p] += total


def _norm(stores: Sequence[Activations]) -> float:
    """Root of the summed squares of a neuron's codes over all tokens, at most."""
    escaped = [
        np.sqrt(sum(np.square(store.escapes(layer).rest).sum() for store in stores))
        for layer in range(len(stores[0].d_mlp))
    ]
    return LIMIT * np.sqrt(sum(store.n_tokens for store in stores)) + max(escaped)


def pair_sums(
    a_stores: Sequence[Activations],
    b_stores: Sequence[Activations],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> NDArray:
    """Sums of products of codes of some pairs of neurons over all tokens.

    Parameters
    ----------
    a_stores, b_stores
        The two models' shards.
    first, second
        Neurons of `a` and of `b`, counted through the layers, shape (pairs,).

    Returns
    -------
    NDArray
        int64 (exact) or float64, shape (pairs,).
    """
    whole = a_stores[0].encoding == "int8"
    if not len(first):
        return np.zeros(0)
    fits = whole and _norm(a_stores) * _norm(b_stores) < 2.0**62
    sums = np.zeros(len(first), np.int64 if fits else np.float64)
    # Processors multiply and add int16 in one instruction, int8 only by way of int32.
    dtype = np.int16 if whole else np.float32
    blocks = _by_layer(a_stores, DOT_TOKENS)
    rows = max(block.stop - block.start for _, block in blocks)
    by_neuron = [np.empty((sum(stores[0].d_mlp), rows), dtype) for stores in (a_stores, b_stores)]
    starts = [np.cumsum([0, *stores[0].d_mlp]) for stores in (a_stores, b_stores)]
    # Pairs of two layers after each other: their codes stay in the cache.
    layer_a, layer_b = (
        np.searchsorted(edges, index, side="right")
        for edges, index in zip(starts, (first, second), strict=True)
    )
    order = np.lexsort([second, first, layer_a, layer_b])
    sorted_first, sorted_second = first[order], second[order]
    ordered = np.zeros_like(sums)
    dots = _dots_int16 if whole else _dots_float
    for shard, block in progress(blocks, "blocks of candidates"):
        order_of_layers = [
            (side, layer) for side in (0, 1) for layer in range(len(starts[side]) - 1)
        ]
        loads = [
            partial((a_stores, b_stores)[side][shard].codes, layer, block)
            for side, layer in order_of_layers
        ]
        escapes: tuple[list[Escapes], list[Escapes]] = ([], [])
        for (side, layer), codes in zip(order_of_layers, ahead(loads), strict=True):
            place = slice(starts[side][layer], starts[side][layer + 1])
            _transpose(codes.dense, by_neuron[side][place])
            escapes[side].append(codes.escapes)
        # Parts short enough for int32, whatever the chunks.
        n = block.stop - block.start
        for t in range(0, n, DOT_TOKENS):
            dots(*by_neuron, t, min(DOT_TOKENS, n - t), sorted_first, sorted_second, ordered)
        if whole:
            rests_a, rests_b = (
                RestsByNeuron.of(found, stores[0].d_mlp, sums.dtype)
                for found, stores in zip(escapes, (a_stores, b_stores), strict=True)
            )
            a, b = by_neuron
            add_dots(ordered, a, b, rests_a, rests_b, sorted_first, sorted_second)
    sums[order] = ordered
    return sums


def row_sums(
    a_stores: Sequence[Activations],
    b_stores: Sequence[Activations],
    rows: NDArray[np.int64],
    kernel: str = "auto",
) -> Iterator[tuple[NDArray[np.int64], NDArray]]:
    """Sums of products of codes of some neurons of `a` with all of `b` over all tokens.

    Yields
    ------
    rows, sums
        As many of the neurons as `EXACT_BYTES` holds, and their sums, shape (rows, N_b).
    """
    encoding = a_stores[0].encoding
    d_b = b_stores[0].d_mlp
    n_tokens = sum(store.n_tokens for store in a_stores)
    edges_a = np.cumsum([0, *a_stores[0].d_mlp])
    size = max(1, EXACT_BYTES // (8 * sum(d_b)))
    blocks = _by_layer(a_stores, block_tokens(max(a_stores[0].d_mlp + d_b)))
    kernel = choose_kernel(kernel, 2 * n_tokens * len(rows) * sum(d_b))
    for at in range(0, len(rows), size):
        chosen = rows[at : at + size]
        sums = [zeros(len(chosen), d, encoding) for d in d_b]
        for shard, block in progress(blocks, f"blocks of {len(chosen)} neurons"):
            codes_a = Codes.side_by_side(
                [
                    a_stores[shard]
                    .codes(layer, block)
                    .take_neurons(chosen[(chosen >= start) & (chosen < stop)] - start)
                    for layer, (start, stop) in enumerate(pairwise(edges_a))
                ]
            )
            loads = [partial(b_stores[shard].codes, j, block) for j in range(len(d_b))]
            for j, codes in enumerate(ahead(loads)):
                sums[j] = add_products(sums[j], codes_a, codes, kernel)
        yield chosen, np.hstack(sums)


def refine(
    a: Side,
    b: Side,
    screens: Screens,
    kernel: str = "auto",
    given: GivenRefined | None = None,
) -> tuple[tuple[Matches, Matches], tuple[Screening, Screening]]:
    """Best matches of all neurons of two models, from what `screen` found.

    Parameters
    ----------
    a, b
        The two models.
    screens
        What the sample says of all layers of `a`.
    kernel
        See `kernels.choose_kernel`.
    given
        Finds the best matches given the token meanwhile.

    Returns
    -------
    matches
        Of all neurons of `a` among those of `b`, and the other way round. Best matches are those of
        all tokens, to the bit; `Matches.certified` says which rest on the certificate, the others
        on a comparison with all neurons. `lowest` and `baseline` are exact for the latter; for the
        former `lowest` is the correlation, on all tokens, with the neuron that had the lowest one
        in the sample, and `baseline` is estimated from the sample's (`audit.correct`).
    screening
        How they were found, and what the audit says, of either.
    """
    models = a, b
    sides = (
        _Side(a.neurons, screens.forward, Matches.nothing(len(a.neurons.std), b.baseline.draws)),
        _Side(b.neurons, screens.backward, Matches.nothing(len(b.neurons.std), a.baseline.draws)),
    )

    def complete(side: int, rows: NDArray[np.int64]) -> None:
        """Compare some neurons of one model with all of the other, and with these rotated."""
        mine, theirs = sides[side].matches, sides[1 - side].matches
        own, other = models[side], models[1 - side]
        for chosen, sums in row_sums(own.stores, other.stores, rows, kernel):
            # Always first model by second, for the same rounding as in the exact mode.
            if side == 0:
                corr = standardised(sums, a.neurons, chosen, b.neurons, slice(None))
            else:
                corr = standardised(sums.T, a.neurons, slice(None), b.neurons, chosen).T
            mine.take(corr, chosen, np.arange(corr.shape[1]))
            theirs.take(corr.T, np.arange(corr.shape[1]), chosen)
            mine.baseline[:, chosen] = other.baseline.best(corr)
            if given:
                given.take_rows(side, corr, chosen)

    for number, side in enumerate(sides):
        complete(number, np.flatnonzero(side.rare))
    first, second = _pairs(sides)
    corr = a.neurons.code_sum[first] * (b.neurons.code_sum[second] / -a.neurons.n_tokens)
    corr += pair_sums(a.stores, b.stores, first, second)
    corr *= a.neurons.factor[first] / a.neurons.n_tokens
    corr *= b.neurons.factor[second]
    sides[0].matches.take_pairs(first, second, corr)
    sides[1].matches.take_pairs(second, first, corr)
    if given:
        given.take_pairs(first, second, corr)
    # Both before either is completed: an audit must not mend what the other one is to find.
    certified = [side.certify() for side in sides]
    for number, found in enumerate(certified):
        complete(number, np.union1d(found.undecided, found.audited))
    one, other = (
        side.finish(found, screens.sampled) for side, found in zip(sides, certified, strict=True)
    )
    for number, (side, found) in enumerate(zip(sides, certified, strict=True)):
        if given:
            sampled = side.screened.own_baseline
            given.finish(number, side.matches.certified, found.audited, sampled)
    _log_operations(one, other, len(first), [len(model.neurons.std) for model in models])
    return (sides[0].matches, sides[1].matches), (one, other)


def _log_operations(one: Screening, other: Screening, pairs: int, sizes: Sequence[int]) -> None:
    for name, found in (("first seed", one), ("second seed", other)):
        logger.info(
            "%s: %d neurons certified, %d of them compared with all nevertheless: %d certificates "
            "wrong; %d compared with all for lack of a certificate, %d because they are rarely "
            "active",
            *(name, found.certified, found.audited, found.wrong, found.undecided, found.rare),
        )
    completed = sum(found.rare + found.undecided + found.audited for found in (one, other))
    share = (pairs + completed / 2 * sum(sizes)) / np.prod(sizes, dtype=float)
    logger.info("%.3g of the exact mode's operations", one.sampled_tokens / one.n_tokens + share)


@dataclass(frozen=True)
class _Certified:
    """Which neurons have a certificate, by what match; which are compared with all, and why."""

    neurons: NDArray[np.bool_]
    index: NDArray[np.int64]
    best: NDArray[np.float64]
    undecided: NDArray[np.int64]
    audited: NDArray[np.int64]


@dataclass
class _Side:
    """One model's neurons while they are matched."""

    neurons: Neurons
    screened: Screened
    matches: Matches

    @property
    def live(self) -> NDArray[np.bool_]:
        return self.neurons.std > 0

    @property
    def rare(self) -> NDArray[np.bool_]:
        return self.screened.rare & self.live

    def certify(self) -> _Certified:
        """Which best matches no other neuron's bound exceeds."""
        asked = self.live & ~self.rare
        best, index = self.matches.best.copy(), self.matches.index.copy()
        found = asked & (self.screened.candidates.rest <= best)
        return _Certified(found, index, best, np.flatnonzero(asked & ~found), audit.choose(found))

    def finish(self, found: _Certified, sampled_tokens: int) -> Screening:
        """Fill in the baselines that rest on the sample, and what a dead neuron has."""
        audited, matches = found.audited, self.matches
        better = matches.best[audited] > found.best[audited]
        wrong = better & (matches.index[audited] != found.index[audited])
        sampled, exact = self.screened.own_baseline, matches.baseline[:, audited]
        shift = error = None
        matches.certified[:] = found.neurons
        matches.certified[audited] = False
        if matches.certified.any():
            shift = float((exact - sampled[:, audited]).mean())
            estimate, error = audit.correct(sampled, exact, audited)
            matches.baseline = np.where(matches.certified, estimate, matches.baseline)
        matches.baseline[:, ~self.live] = 0
        matches.clear(~self.live)
        return Screening(
            n_tokens=self.neurons.n_tokens,
            sampled_tokens=sampled_tokens,
            rare=int(self.rare.sum()),
            undecided=len(found.undecided),
            certified=int(found.neurons.sum()),
            audited=len(audited),
            wrong=int(wrong.sum()),
            baseline_shift=shift,
            baseline_error=error,
        )


def _pairs(sides: tuple[_Side, _Side]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (neuron of `a`, neuron of `b`) to refine: candidates and the lowest, either way."""
    keys = []
    width = len(sides[1].neurons.std)
    for number, side in enumerate(sides):
        found = side.screened.candidates
        index = np.column_stack([found.index, found.lowest_index])
        mine = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
        wanted = (index >= 0) & (side.live & ~side.rare)[:, None]
        one, other = (mine[wanted], index[wanted])[:: 1 if number == 0 else -1]
        keys.append(one * width + other)
    unique = np.unique(np.concatenate(keys))
    return unique // width, unique % width


def refine_pair(
    a: Captured,
    b: Captured,
    screens: Sequence[str | Path],
    kernel: str,
    *,
    rotations: str | Path,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Store the best matches of all neurons of two models, see `refine`.

    Parameters
    ----------
    a, b
        The two models, with all their activations and their spread under the rotations.
    screens
        Stores of `screen.screen_pair`, of all layers of `a`.
    kernel
        See `kernels.choose_kernel`.
    rotations
        The run's.
    path
        Store to make; see `matches.PairMatches`.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the stores are not of one run.
    """
    same = check_same_run([*screens, *a.paths(), *b.paths(), rotations])
    one, other = (Side.read(x, rotations) for x in (a, b))
    given = None
    if a.given and b.given:
        models = ((a, one), (b, other))
        given = GivenRefined(*(Given(x.given, side.neurons, rotations) for x, side in models))
    matches, screening = refine(one, other, Screens.read(screens), kernel, given)
    PairMatches(
        a.seed,
        b.seed,
        range(len(one.neurons.d_mlp)),
        one.neurons.d_mlp,
        other.neurons.d_mlp,
        *matches,
        "screened",
        screening=screening,
        given=given.found() if given else None,
    ).write(path, {**attributes, **same})
