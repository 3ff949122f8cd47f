"""Best matches between two models' neurons: kept while pairs are compared, stored and read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.class_sums import TOKEN
from universal_neurons.correlate.audit import Screening
from universal_neurons.correlate.budget import BudgetPoints
from universal_neurons.correlate.largest import take_pairs, take_tile
from universal_neurons.store.arrays import attributes_of, read_arrays, write_arrays

# Best matches kept per neuron and direction, for a one-to-one assignment (`notions`).
CANDIDATES = 8

# The arrays of `Matches`, by which a store has them.
FIELDS = ("candidates", "candidate_corr", "lowest", "baseline", "other_baseline", "certified")


@dataclass
class Matches:
    """Best matches of some neurons among (part of) another model's.

    Attributes
    ----------
    candidates
        The neurons (of all the other model's, counted through its layers) with the largest
        correlations, int64, shape (n, `CANDIDATES`), best first, of equal ones the first; −1 where
        fewer are known.
    candidate_corr
        Their correlations, float64, shape (n, `CANDIDATES`).
    lowest
        Smallest correlation found, float64, shape (n,).
    baseline
        Largest correlation with rotated neurons per draw, float64, shape (draws, n).
    other_baseline
        The same by `rotations.Rotating.other`: with the first rotation, of neurons standardised
        where the baseline's are not and the reverse. Shape (1, n), or (0, n) where it wasn't asked
        for.
    certified
        Whether the best match rests on a certificate (`refine`) instead of a comparison with all
        neurons, bool, shape (n,).
    """

    candidates: NDArray[np.int64]
    candidate_corr: NDArray[np.float64]
    lowest: NDArray[np.float64]
    baseline: NDArray[np.float64]
    other_baseline: NDArray[np.float64]
    certified: NDArray[np.bool_]

    @classmethod
    def nothing(cls, n: int, draws: int, *, compared: bool = False) -> Matches:
        """The neutral element of `update`; `compared`: with the other choice of the baseline."""
        return cls(
            np.full((n, CANDIDATES), -1, np.int64),
            np.full((n, CANDIDATES), -np.inf),
            np.full(n, np.inf),
            np.full((draws, n), -np.inf),
            np.full((int(compared), n), -np.inf),
            np.zeros(n, bool),
        )

    @property
    def best(self) -> NDArray[np.float64]:
        """Largest correlation found, float64, shape (n,)."""
        return self.candidate_corr[:, 0]

    @property
    def index(self) -> NDArray[np.int64]:
        """Whose it is, int64, shape (n,)."""
        return self.candidates[:, 0]

    def take(
        self, corr: NDArray[np.float64], rows: NDArray[np.int64], others: NDArray[np.int64]
    ) -> None:
        """Take in correlations of the neurons `rows` with the neurons `others` of the other model.

        Parameters
        ----------
        corr
            float64, shape (rows, others), in C or Fortran order.
        rows, others
            Numbers of neurons, each at most once; a pair may be taken in repeatedly.
        """
        take_tile(corr, rows, others, self.candidates, self.candidate_corr, self.lowest)

    def take_pairs(
        self, rows: NDArray[np.int64], others: NDArray[np.int64], corr: NDArray[np.float64]
    ) -> None:
        """Take in correlations of single pairs of neurons, three arrays of the same length."""
        take_pairs(rows, others, corr, self.candidates, self.candidate_corr, self.lowest)

    def take_baseline(self, found: NDArray[np.float64], rows: slice) -> None:
        """Take in largest correlations of the neurons `rows` with rotated neurons.

        Parameters
        ----------
        found
            Per draw, those of `other_baseline` last; shape (draws + others, rows).
        rows
            The neurons.
        """
        draws = len(self.baseline)
        for kept, new in ((self.baseline, found[:draws]), (self.other_baseline, found[draws:])):
            np.maximum(kept[:, rows], new, out=kept[:, rows])

    def update(self, other: Matches, rows: slice = slice(None)) -> None:
        """Take in matches of the neurons `rows` among further neurons of the other model."""
        better = other.best > self.best[rows]
        self.certified[rows] = np.where(better, other.certified, self.certified[rows])
        here = np.arange(len(self.lowest))[rows]
        known = other.candidates >= 0
        self.take_pairs(
            np.broadcast_to(here[:, None], known.shape)[known],
            other.candidates[known],
            other.candidate_corr[known],
        )
        # A dead neuron has no candidate and the correlation 0.
        best, none = self.candidate_corr[rows], (self.candidates[rows] < 0) & ~known
        np.maximum(best, other.candidate_corr, out=best, where=none)
        self.lowest[rows] = np.minimum(self.lowest[rows], other.lowest)
        self.take_baseline(np.vstack([other.baseline, other.other_baseline]), rows)

    def clear(self, dead: NDArray[np.bool_]) -> None:
        """Leave neurons without a match: correlation 0, number −1."""
        self.candidates[dead] = -1
        self.candidate_corr[dead] = self.lowest[dead] = 0


def layer_and_neuron(d_mlp: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Layer and index within it of a model's neurons in order, each of shape (sum of d_mlp,)."""
    layer = np.repeat(np.arange(len(d_mlp), dtype=np.int32), d_mlp)
    neuron = np.concatenate([np.arange(d, dtype=np.int32) for d in d_mlp])
    return layer, neuron


@dataclass(frozen=True)
class PairMatches:
    """What was found of a pair of seeds, or of some layers of its first seed.

    Attributes
    ----------
    seed, other_seed
        The pair.
    layers
        Layers of `seed` whose neurons were compared, with all of `other_seed`.
    d_mlp, other_d_mlp
        Number of neurons of every layer of either.
    forward
        Matches of the neurons of those layers among all of the other seed.
    backward
        Matches of all neurons of the other seed among those of the layers.
    mode
        ``exact`` or ``screened``.
    budget
        The same of a sample of neurons on fewer tokens, where that was asked for.
    screening
        In the screened mode how the matches were found, forward and backward.
    given
        Matches given classes of tokens, forward and backward, by `class_sums.KINDS` that are known.
    """

    seed: str
    other_seed: str
    layers: Sequence[int]
    d_mlp: Sequence[int]
    other_d_mlp: Sequence[int]
    forward: Matches
    backward: Matches
    mode: str
    budget: BudgetPoints | None = None
    screening: tuple[Screening, Screening] | None = None
    given: Mapping[str, tuple[Matches, Matches]] = field(default_factory=dict)

    def write(self, path: str | Path, attributes: Mapping[str, Any]) -> None:
        """Store it; `read` reads it."""
        arrays = {
            f"{way}_{name}": getattr(matches, name)
            for kind, both in ((None, (self.forward, self.backward)), *self.given.items())
            for way, matches in zip(_ways(kind), both, strict=True)
            for name in FIELDS
        }
        about = {
            "seed": self.seed,
            "other_seed": self.other_seed,
            "layers": list(self.layers),
            "d_mlp": list(self.d_mlp),
            "other_d_mlp": list(self.other_d_mlp),
            "mode": self.mode,
            "given": list(self.given),
        }
        if self.budget:
            arrays |= {
                "forward_budget": self.budget.forward,
                "backward_budget": self.budget.backward,
            }
            about["budget_shards"] = [list(shards) for shards in self.budget.shards]
            about["budget_tokens"] = list(self.budget.tokens)
        if self.screening:
            about["screening"] = list(map(asdict, self.screening))
        write_arrays(path, arrays.items(), {**attributes, **about})

    @classmethod
    def read(cls, path: str | Path) -> PairMatches:
        """Read what `write` stored."""
        about, arrays = attributes_of(path), read_arrays(path)
        budget = None
        if "budget_shards" in about:
            budget = BudgetPoints(
                [(start, stop) for start, stop in about["budget_shards"]],
                about["budget_tokens"],
                arrays["forward_budget"],
                arrays["backward_budget"],
            )
        screening = None
        if "screening" in about:
            ahead, back = (Screening(**found) for found in about["screening"])
            screening = ahead, back
        names = ("seed", "other_seed", "layers", "d_mlp", "other_d_mlp", "mode")
        # Stores of before there were other kinds say whether they have those given the token.
        kinds = about["given"] if isinstance(about["given"], list) else [TOKEN] * about["given"]

        def both(kind: str | None = None) -> tuple[Matches, Matches]:
            ahead, back = (
                Matches(**{name: arrays[f"{way}_{name}"] for name in FIELDS}) for way in _ways(kind)
            )
            return ahead, back

        forward, backward = both()
        return cls(
            **{name: about[name] for name in names},
            forward=forward,
            backward=backward,
            budget=budget,
            screening=screening,
            given={kind: both(kind) for kind in kinds},
        )


def _ways(given: str | None) -> tuple[str, str]:
    """What names of arrays start with, forward and backward: of all tokens, or given a class."""
    end = "" if given is None else "_given" if given == TOKEN else f"_given_{given}"
    return f"forward{end}", f"backward{end}"


@dataclass(frozen=True)
class StepMatches:
    """The matches of all pairs of seeds at one step.

    Attributes
    ----------
    found
        By (seed, other seed), sorted, both ways of every pair: those of all neurons.
    d_mlp
        Number of neurons of every layer, by seed.
    screenings
        By (seed, other seed), in the screened mode: how they were found.
    budgets
        Of every pair (seed, other seed), by the parts they were read from, where there are any.
    given
        As `found`, given classes of tokens, by `class_sums.KINDS` that are known.
    """

    found: dict[tuple[str, str], Matches]
    d_mlp: dict[str, Sequence[int]]
    screenings: dict[tuple[str, str], Screening]
    budgets: list[tuple[str, str, BudgetPoints]]
    given: dict[str, dict[tuple[str, str], Matches]] = field(default_factory=dict)

    @classmethod
    def read(cls, parts: Iterable[str | Path]) -> StepMatches:
        """Join the stores of pairs.

        Parameters
        ----------
        parts
            As `PairMatches.write` makes them: for every pair all layers of its first seed, in any
            grouping.
        """
        found: dict[tuple[str, str], Matches] = {}
        given: dict[str, dict[tuple[str, str], Matches]] = {}
        d_mlp: dict[str, Sequence[int]] = {}
        screenings: dict[tuple[str, str], Screening] = {}
        budgets = []
        for part in map(PairMatches.read, parts):
            a, b = part.seed, part.other_seed
            d_mlp |= {a: part.d_mlp, b: part.other_d_mlp}
            if part.screening:
                screenings[a, b], screenings[b, a] = part.screening
            if part.budget:
                budgets.append((a, b, part.budget))
            layer, _ = layer_and_neuron(part.d_mlp)
            rows = np.flatnonzero(np.isin(layer, part.layers))
            here = slice(int(rows[0]), int(rows[-1]) + 1)
            for joined, (ahead, back) in (
                (found, (part.forward, part.backward)),
                *((given.setdefault(kind, {}), both) for kind, both in part.given.items()),
            ):
                _join(joined, (a, b), ahead, here, sum(part.d_mlp))
                _join(joined, (b, a), back, slice(None), sum(part.other_d_mlp))
        within = {kind: dict(sorted(own.items())) for kind, own in given.items()}
        by_pair = dict(sorted(found.items())), d_mlp, dict(sorted(screenings.items()))
        return cls(*by_pair, budgets, within)


def _join(
    joined: dict[tuple[str, str], Matches],
    key: tuple[str, str],
    matches: Matches,
    where: slice,
    n: int,
) -> None:
    """Take some matches into those of all `n` neurons of a pair's first seed."""
    compared = len(matches.other_baseline) > 0
    nothing = Matches.nothing(n, len(matches.baseline), compared=compared)
    joined.setdefault(key, nothing).update(matches, where)
