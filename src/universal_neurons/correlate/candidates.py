"""The neurons of another model that a sample leaves as candidates for a neuron's best match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.correlate.largest import take_bounds_of_columns, take_bounds_of_rows
from universal_neurons.correlate.sample import Spread, rare
from universal_neurons.store.arrays import attributes_of, read_arrays, write_arrays

# The arrays of `Candidates`, by which a store has them.
FIELDS = ("index", "bound", "rest", "floor", "lowest", "lowest_index")

# Candidates per neuron that are refined however low their bounds: what an assignment one to one
# chooses from.
LEAST = 4


@dataclass
class Candidates:
    """The neurons with the largest bounds, of every neuron of a direction.

    Attributes
    ----------
    index
        int64, shape (n, k): which neurons; −1 where there are fewer.
    bound
        Their upper bounds, float32, descending, shape (n, k).
    rest
        Largest bound of all others, float32, shape (n,).
    floor
        Largest lower bound of all, as far below the mean as the upper one is above, float32,
        shape (n,).
    lowest, lowest_index
        Smallest correlation in the sample, float32, and whose, int64; shape (n,).
    """

    index: NDArray[np.int64]
    bound: NDArray[np.float32]
    rest: NDArray[np.float32]
    floor: NDArray[np.float32]
    lowest: NDArray[np.float32]
    lowest_index: NDArray[np.int64]

    @classmethod
    def nothing(cls, n: int, k: int) -> Candidates:
        """Of n neurons, with room for k each."""
        return cls(
            np.full((n, k), -1, np.int64),
            np.full((n, k), -np.inf, np.float32),
            np.full(n, -np.inf, np.float32),
            np.full(n, -np.inf, np.float32),
            np.full(n, np.inf, np.float32),
            np.full(n, -1, np.int64),
        )

    def __getitem__(self, rows: slice) -> Candidates:
        """Those of some neurons, sharing memory."""
        return Candidates(*(getattr(self, name)[rows] for name in FIELDS))

    def take(
        self,
        spread: Spread,
        width: float,
        unseen: tuple[NDArray[np.float64], NDArray[np.float64]],
        allowed: NDArray[np.bool_],
        first: int,
        *,
        axis: int,
    ) -> None:
        """Take in a tile.

        Parameters
        ----------
        spread
            Of its correlations: bounds are the means, plus `width` times the root of the summed
            squares, plus the product of the two neurons' `unseen`.
        width
            See `screen`.
        unseen
            Of these neurons and of the tile's others, see `Screened.unseen`.
        allowed
            Which of the others may be candidates.
        first
            Number of the first of the others.
        axis
            1 if the others are the tile's columns, 0 if they are its rows.
        """
        step = take_bounds_of_rows if axis == 1 else take_bounds_of_columns
        step(
            spread.mean,
            spread.squares,
            width,
            *unseen,
            allowed,
            first,
            self.index,
            self.bound,
            self.rest,
            self.floor,
            self.lowest,
            self.lowest_index,
        )

    def refined(self) -> NDArray[np.bool_]:
        """Which to refine, shape (n, k): the first `LEAST`, and whose bound reaches the floor."""
        early = np.arange(self.index.shape[1]) < LEAST
        return (self.index >= 0) & (early | (self.bound >= self.floor[:, None]))

    def limit(self) -> NDArray[np.float32]:
        """Largest bound of all that are not refined, shape (n,)."""
        others = np.where(self.refined(), -np.inf, self.bound).max(1)
        return np.maximum(self.rest, others).astype(np.float32)

    def join(self, other: Candidates) -> None:
        """Take in candidates among further neurons."""
        k = self.index.shape[1]
        index = np.hstack([self.index, other.index])
        bound = np.hstack([self.bound, other.bound])
        order = np.argsort(-bound, axis=1, kind="stable")
        dropped = np.take_along_axis(bound, order[:, k:], 1).max(1)
        self.index = np.take_along_axis(index, order[:, :k], 1)
        self.bound = np.take_along_axis(bound, order[:, :k], 1)
        self.rest = np.maximum(np.maximum(self.rest, other.rest), dropped)
        self.floor = np.maximum(self.floor, other.floor)
        lower = other.lowest < self.lowest
        self.lowest = np.where(lower, other.lowest, self.lowest)
        self.lowest_index = np.where(lower, other.lowest_index, self.lowest_index)


@dataclass(frozen=True)
class Screened:
    """What was found on the sample, of one direction.

    Attributes
    ----------
    candidates
        Of every neuron.
    baseline
        Largest correlation with rotated neurons per draw, float64, shape (draws, n), with the
        standard deviations of all tokens; `own_baseline` has the sample's.
    rare
        Which neurons the sample can't speak for, bool, shape (n,).
    energy
        Mean square in the sample, in units of the variance over all tokens, float64, shape (n,).
    """

    candidates: Candidates
    baseline: NDArray[np.float64]
    rare: NDArray[np.bool_]
    energy: NDArray[np.float64]

    @classmethod
    def nothing(cls, n: int, k: int, draws: int) -> Screened:
        """Of n neurons, before anything is found."""
        nothing = np.full((draws, n), -np.inf)
        return cls(Candidates.nothing(n, k), nothing, np.zeros(n, bool), np.zeros(n))

    def take_energy(
        self, rows: slice, energy: NDArray[np.float64], sizes: NDArray[np.int64]
    ) -> None:
        """Take in the mean squares of some neurons per group, and the groups' numbers of tokens."""
        self.rare[rows] = rare(energy)
        self.energy[rows] = sizes @ energy / sizes.sum()

    @property
    def unseen(self) -> NDArray[np.float64]:
        """Root of the share of every neuron's variance that the sample lacks, shape (n,).

        Two neurons' product bounds what tokens of a kind that is not in the sample can add to their
        correlation (docs/method.md).
        """
        return np.sqrt(np.maximum(0, 1 - self.energy))

    @property
    def own_baseline(self) -> NDArray[np.float64]:
        """The baseline with the neurons' standard deviations in the sample; at most 1."""
        spread = np.sqrt(self.energy)
        found = np.divide(self.baseline, spread, out=np.zeros_like(self.baseline), where=spread > 0)
        return np.minimum(found, 1)

    def arrays(self) -> dict[str, NDArray]:
        """By the names in a store; `of` reads them."""
        found = {name: getattr(self.candidates, name) for name in FIELDS}
        return {**found, "baseline": self.baseline, "rare": self.rare, "energy": self.energy}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray]) -> Screened:
        """From what `arrays` returned."""
        candidates = Candidates(**{name: arrays[name] for name in FIELDS})
        return cls(candidates, arrays["baseline"], arrays["rare"], arrays["energy"])


@dataclass(frozen=True)
class Screens:
    """What the sample says of some layers of a pair's first model and all of the second.

    Attributes
    ----------
    forward, backward
        Of the neurons of those layers among all of the second model, and the reverse.
    sampled
        Number of sampled tokens.
    """

    forward: Screened
    backward: Screened
    sampled: int

    def write(self, path: str | Path, layers: Sequence[int], attributes: Mapping[str, Any]) -> None:
        """Store it; `read` joins the stores of all layers."""
        arrays = {
            f"{way}_{name}": values
            for way, screened in (("forward", self.forward), ("backward", self.backward))
            for name, values in screened.arrays().items()
        }
        arrays["sampled"] = np.array([self.sampled])
        write_arrays(path, arrays.items(), {**attributes, "layers": list(layers)})

    @classmethod
    def read(cls, paths: Sequence[str | Path]) -> Screens:
        """Join the stores of all layers of a pair."""
        # A job has a run of layers; in their order the rows follow each other.
        paths = sorted(paths, key=lambda path: attributes_of(path)["layers"][0])
        stores = [read_arrays(path) for path in paths]

        def of(way: str) -> list[dict[str, NDArray]]:
            start = f"{way}_"
            return [
                {k.removeprefix(start): v for k, v in store.items() if k.startswith(start)}
                for store in stores
            ]

        ahead = of("forward")
        forward = {
            name: np.concatenate(
                [part[name] for part in ahead], axis=1 if name == "baseline" else 0
            )
            for name in ahead[0]
        }
        first, *others = map(Screened.of, of("backward"))
        for other in others:
            first.candidates.join(other.candidates)
            np.maximum(first.baseline, other.baseline, out=first.baseline)
        return cls(Screened.of(forward), first, int(stores[0]["sampled"][0]))
