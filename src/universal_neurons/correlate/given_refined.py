"""Best matches given a class of tokens in the screened mode: of the pairs that are refined."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from universal_neurons.correlate import audit
from universal_neurons.correlate.given import Given
from universal_neurons.correlate.matches import Matches

# Audited neurons that a line through their baselines takes.
LEAST = 3

# Pairs whose scores are multiplied at a time.
_PAIRS = 512


class GivenRefined:
    """What `refine` finds given the class of a token, from the correlations that it makes.

    Parameters
    ----------
    a, b
        The two models, of the same tokens.
    """

    def __init__(self, a: Given, b: Given) -> None:
        self._models = a, b
        self._matches = tuple(
            Matches.nothing(len(own.within.std), other.baseline.draws)
            for own, other in ((a, b), (b, a))
        )

    def take_rows(self, side: int, corr: NDArray[np.float64], chosen: NDArray[np.int64]) -> None:
        """Take in whole rows, and their baselines.

        Parameters
        ----------
        side
            0 for neurons of `a` among all of `b`, 1 for the reverse.
        corr
            Correlations over all tokens, shape (chosen, N); changed in place.
        chosen
            The neurons, ascending.
        """
        own, other = self._models[side], self._models[1 - side]
        edges = [layer.start for layer in own.within.layers]
        mine = np.hstack(
            [
                own.scores(layer)[:, chosen[(chosen >= place.start) & (chosen < place.stop)] - edge]
                for layer, (place, edge) in enumerate(zip(own.within.layers, edges, strict=True))
            ]
        )
        for layer, place in enumerate(other.within.layers):
            corr[:, place] -= mine.T @ other.scores(layer)
            corr[:, place] *= other.stretch(place)
        corr *= own.stretch(slice(None))[chosen, None]
        everyone = np.arange(corr.shape[1])
        self._matches[side].take(corr, chosen, everyone)
        self._matches[1 - side].take(corr.T, everyone, chosen)
        self._matches[side].baseline[:, chosen] = other.baseline.best(corr)

    def take_pairs(
        self, first: NDArray[np.int64], second: NDArray[np.int64], corr: NDArray[np.float64]
    ) -> None:
        """Take in single pairs: neurons of `a` and of `b`, and their correlations."""
        a, b = self._models
        left = corr.copy()
        for i, own in enumerate(a.within.layers):
            here = (first >= own.start) & (first < own.stop)
            mine = np.ascontiguousarray(a.scores(i).T)
            for j, other in enumerate(b.within.layers):
                pairs = np.flatnonzero(here & (second >= other.start) & (second < other.stop))
                theirs = np.ascontiguousarray(b.scores(j).T)
                for start in range(0, len(pairs), _PAIRS):
                    some = pairs[start : start + _PAIRS]
                    x, y = mine[first[some] - own.start], theirs[second[some] - other.start]
                    left[some] -= np.einsum("pv,pv->p", x, y)
        left *= a.stretch(slice(None))[first]
        left *= b.stretch(slice(None))[second]
        self._matches[0].take_pairs(first, second, left)
        self._matches[1].take_pairs(second, first, left)

    def finish(
        self,
        side: int,
        certified: NDArray[np.bool_],
        audited: NDArray[np.int64],
        sampled: NDArray[np.float64],
    ) -> None:
        """Estimate the baselines of certified neurons, and clear those of which nothing is left.

        The line through the audited neurons is from the sampled baselines over all tokens to the
        exact ones given the class; they are not known with fewer than `LEAST` of these.

        Parameters
        ----------
        side
            As of `take_rows`.
        certified
            Which neurons were not compared with all, shape (n,).
        audited
            Those that were although they had a certificate.
        sampled
            Baselines over all tokens that rest on the sample, shape (draws, n).
        """
        matches = self._matches[side]
        matches.certified[:] = certified
        dead = self._models[side].within.std == 0
        if certified.any():
            known = audited[~dead[audited]]
            estimate = np.full_like(matches.baseline, np.nan)
            if len(known) >= LEAST:
                exact = matches.baseline[:, known]
                estimate, _ = audit.correct(sampled[: len(estimate)], exact, known)
            matches.baseline = np.where(certified, estimate, matches.baseline)
        matches.baseline[:, dead] = 0
        matches.clear(dead)

    def found(self) -> tuple[Matches, Matches]:
        """Of all neurons of `a`, and of `b`."""
        forward, backward = self._matches
        return forward, backward
