"""Best matches on all tokens, of what `screen` left open: candidates, and whole rows of neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.correlate import audit
from universal_neurons.correlate.audit import Screening
from universal_neurons.correlate.candidates import Screened, Screens
from universal_neurons.correlate.exact_sums import Wanted, exact_sums
from universal_neurons.correlate.given import each_its_own, read_given
from universal_neurons.correlate.given_refined import GivenRefined
from universal_neurons.correlate.matches import Matches, PairMatches
from universal_neurons.correlate.neurons import Captured, Neurons, standardised
from universal_neurons.correlate.screen import Side
from universal_neurons.jobs import logger
from universal_neurons.store.same_run import check_same_run

# Sums of whole rows that are held at a time.
EXACT_BYTES = 1 << 30

_Rows = tuple[NDArray[np.int64], NDArray[np.int64]]
_NO_PAIRS = np.zeros(0, np.int64), np.zeros(0, np.int64)


def refine(
    a: Side,
    b: Side,
    screens: Screens,
    kernel: str = "auto",
    given: Sequence[GivenRefined] = (),
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
        Find the best matches given classes of tokens meanwhile.

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
    sides = (
        _Side(a.neurons, screens.forward, Matches.nothing(len(a.neurons.std), b.baseline.draws)),
        _Side(b.neurons, screens.backward, Matches.nothing(len(b.neurons.std), a.baseline.draws)),
    )
    pair = _Pair(a, b, sides, kernel, given)
    pair.complete((np.flatnonzero(sides[0].rare), np.flatnonzero(sides[1].rare)))
    # What is audited is chosen before anything is certified: its sums then take no second reading.
    early = audit.choose(sides[0].asked), audit.choose(sides[1].asked)
    wanted = Wanted(early, *_pairs(sides))
    rows, sums = exact_sums(a.stores, b.stores, wanted, kernel)
    pair.take_pairs(wanted, sums)
    # Both before either is completed: an audit must not mend what the other one is to find.
    certified = [side.certify(some) for side, some in zip(sides, early, strict=True)]
    pair.take_rows(early, rows)
    left, other_left = (
        np.setdiff1d(np.union1d(found.undecided, found.audited), some)
        for found, some in zip(certified, early, strict=True)
    )
    pair.complete((left, other_left))
    one, other = (
        side.finish(found, screens.sampled) for side, found in zip(sides, certified, strict=True)
    )
    for number, (side, found) in enumerate(zip(sides, certified, strict=True)):
        for each in given:
            sampled = side.screened.own_baseline
            each.finish(number, side.matches.certified, found.audited, sampled)
    _log_operations(one, other, len(wanted.first), pair.sizes)
    return (sides[0].matches, sides[1].matches), (one, other)


@dataclass(frozen=True)
class _Pair:
    """Two models whose neurons are matched, by what `exact_sums` finds."""

    a: Side
    b: Side
    sides: tuple[_Side, _Side]
    kernel: str
    given: Sequence[GivenRefined]

    @property
    def sizes(self) -> list[int]:
        return [len(self.a.neurons.std), len(self.b.neurons.std)]

    def complete(self, rows: _Rows) -> None:
        """Compare some neurons of either model with all of the other."""
        for some in _batches(rows, self.sizes):
            wanted = Wanted(some, *_NO_PAIRS)
            self.take_rows(some, exact_sums(self.a.stores, self.b.stores, wanted, self.kernel)[0])

    def take_rows(self, rows: _Rows, sums: tuple[NDArray, NDArray]) -> None:
        """Take in the sums of some neurons of either model with all of the other."""
        a, b = self.a.neurons, self.b.neurons
        # Always first model by second, for the same rounding as in the exact mode.
        if len(rows[0]):
            self._take(0, rows[0], standardised(sums[0], a, rows[0], b, slice(None)))
        if len(rows[1]):
            self._take(1, rows[1], standardised(sums[1].T, a, slice(None), b, rows[1]).T)

    def _take(self, side: int, chosen: NDArray[np.int64], corr: NDArray[np.float64]) -> None:
        mine, theirs = self.sides[side].matches, self.sides[1 - side].matches
        everyone = np.arange(corr.shape[1])
        mine.take(corr, chosen, everyone)
        theirs.take(corr.T, everyone, chosen)
        mine.baseline[:, chosen] = (self.b, self.a)[side].baseline.best(corr)
        for one, own in each_its_own(self.given, corr):
            one.take_rows(side, own, chosen)

    def take_pairs(self, wanted: Wanted, sums: NDArray) -> None:
        """Take in the sums of single pairs."""
        a, b, first, second = self.a.neurons, self.b.neurons, wanted.first, wanted.second
        corr = a.code_sum[first] * (b.code_sum[second] / -a.n_tokens)
        corr += sums
        corr *= a.factor[first] / a.n_tokens
        corr *= b.factor[second]
        self.sides[0].matches.take_pairs(first, second, corr)
        self.sides[1].matches.take_pairs(second, first, corr)
        for one in self.given:
            one.take_pairs(first, second, corr)


def _batches(rows: _Rows, sizes: Sequence[int]) -> Iterator[_Rows]:
    """Neurons of either model in parts whose sums with all of the other fit in `EXACT_BYTES`."""
    number = sum(8 * len(own) * n for own, n in zip(rows, sizes[::-1], strict=True))
    if number:
        parts = -(-number // EXACT_BYTES)
        yield from zip(*(np.array_split(own, parts) for own in rows), strict=True)


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

    @property
    def asked(self) -> NDArray[np.bool_]:
        """Which neurons the sample may speak for."""
        return self.live & ~self.screened.rare

    def certify(self, early: NDArray[np.int64]) -> _Certified:
        """Which best matches no other neuron's bound exceeds, and which of them are audited."""
        best, index = self.matches.best.copy(), self.matches.index.copy()
        found = self.asked & (self.screened.candidates.limit() <= best)
        undecided = np.flatnonzero(self.asked & ~found)
        return _Certified(found, index, best, undecided, audit.among(found, early))

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
        wanted = np.column_stack([found.refined(), found.lowest_index >= 0]) & side.asked[:, None]
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
    both = read_given([(a.given, one.neurons), (b.given, other.neurons)], rotations)
    given = {kind: GivenRefined(*models) for kind, models in both.items()}
    matches, screening = refine(one, other, Screens.read(screens), kernel, [*given.values()])
    PairMatches(
        a.seed,
        b.seed,
        range(len(one.neurons.d_mlp)),
        one.neurons.d_mlp,
        other.neurons.d_mlp,
        *matches,
        "screened",
        screening=screening,
        given={kind: refined.found() for kind, refined in given.items()},
    ).write(path, {**attributes, **same})
