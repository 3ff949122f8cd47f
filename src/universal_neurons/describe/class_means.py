"""Sums of a model's activations over classes of tokens, and what the classes explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.describe.features import Features, Places


class ClassSums:
    """Sums of activations, and numbers of positive ones, over classes of scored tokens.

    Sums are of activations less a constant of their neuron, about its mean, which changes none of
    what classes explain. Those of a batch are added up in float32 and then added to those of all,
    so that their relative error is that of a few hundred additions.

    Parameters
    ----------
    features
        What the classes are.
    d_mlp
        Neurons of every layer.
    device
        Where activations are.
    """

    def __init__(self, features: Features, d_mlp: Sequence[int], device: torch.device) -> None:
        frequent = len(features.frequent) + 1
        classes = {"token": frequent, "previous": frequent, "position": features.context_length}
        self.n_classes, self.device = classes, device
        self.sums = {
            name: [torch.zeros(k, d, device=device) for d in d_mlp] for name, k in classes.items()
        }
        self.fired = {name: self._like(self.sums[name]) for name in ("token", "position")}
        k = len(features.explanations)
        self.dense = [torch.zeros(k, d, dtype=torch.float64, device=device) for d in d_mlp]
        self.squares = [torch.zeros(d, dtype=torch.float64, device=device) for d in d_mlp]
        self.shifts: list[torch.Tensor | None] = [None] * len(d_mlp)
        self.counts = {name: np.zeros(k, np.int64) for name, k in classes.items()}
        self.dense_counts = np.zeros(k, np.int64)

    @staticmethod
    def _like(sums: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.zeros_like(each) for each in sums]

    @property
    def n_tokens(self) -> int:
        """Tokens added."""
        return int(self.counts["position"].sum())

    def begin(self, places: Places) -> None:
        """Take the labels of the batch whose activations are added next."""
        self._labels = {}
        for name, label in places.labels().items():
            own, of_token = label.unique(return_inverse=True)
            self._labels[name] = own.to(self.device), of_token.to(self.device)
            self.counts[name] += np.bincount(label.numpy(), minlength=self.n_classes[name])
        self.dense_counts += places.dense.sum(0).astype(np.int64)
        self._dense = torch.from_numpy(places.dense).to(self.device)

    def add(self, layer: int, x: torch.Tensor) -> None:
        """Add a layer's activations at the batch's scored tokens, float32, (tokens, d_mlp)."""
        positive = (x > 0).float()
        shift = self.shifts[layer]
        if shift is None:
            self.shifts[layer] = shift = x.mean(0)
        x = x - shift
        for name, (own, of_token) in self._labels.items():
            kinds = [(self.sums, x), (self.fired, positive)][: 1 + (name in self.fired)]
            for totals, values in kinds:
                local = x.new_zeros(len(own), x.shape[1]).index_add_(0, of_token, values)
                totals[name][layer].index_add_(0, own, local)
        self.dense[layer] += self._dense.T @ x
        self.squares[layer] += torch.linalg.vector_norm(x, dim=0).double().square()

    def layer(self, layer: int) -> LayerMeans:
        """What is known of a layer."""
        shift, n = self.shifts[layer], max(self.n_tokens, 1)
        assert shift is not None, "nothing was added"
        mean = self.sums["position"][layer].double().sum(0) / n
        variance = self.squares[layer] / n - mean.square()
        # What rounding leaves of a constant neuron's.
        varies = variance > 1e-10 * shift.double().square()
        varies &= variance > 0
        found = mean, torch.where(varies, variance, 0)
        return LayerMeans(n, *(each.cpu().numpy() for each in found))


@dataclass(frozen=True)
class LayerMeans:
    """Moments of a layer's neurons.

    Attributes
    ----------
    n_tokens
        Scored tokens.
    mean, variance
        Of what `ClassSums` sums up, float64, shape (d_mlp,); the variance of a constant neuron is
        0.
    """

    n_tokens: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def reduction(
        self, sums: NDArray[np.floating], counts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Share of the variance that it takes to know whether a token is of a class.

        It is 1 − [(1 − p) σ₀² + p σ₁²] / σ² = p (1 − p) (m₁ − m₀)² / σ² of a class that has a
        share p of the tokens, with mean m₁ there and m₀ elsewhere.

        Parameters
        ----------
        sums
            Of activations, shape (classes, d_mlp).
        counts
            Of tokens, shape (classes,).

        Returns
        -------
        ndarray
            float64, shape (classes, d_mlp); 0 for empty and whole classes and constant neurons.
        """
        n, p = counts[:, None].astype(np.float64), counts[:, None] / self.n_tokens
        below = n * (1 - p) * self.n_tokens * self.variance
        above = np.square(sums - n * self.mean)
        return np.divide(above, below, out=np.zeros_like(above), where=below > 0)

    def partition(
        self, sums: NDArray[np.floating], counts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Share of the variance between the classes of a partition, adjusted for their number.

        Of noise it is 0 on average: 1 − (1 − η²)(n − 1)/(n − k) with the correlation ratio η².

        Parameters
        ----------
        sums, counts
            As of `reduction`, of all tokens.
        """
        used = counts > 0
        n, k = counts[used, None].astype(np.float64), int(used.sum())
        between = (np.square(sums[used] - n * self.mean) / n).sum(0) / self.n_tokens
        share = np.divide(
            between, self.variance, out=np.zeros_like(between), where=self.variance > 0
        )
        left = (self.n_tokens - 1) / max(self.n_tokens - k, 1)
        return np.where(self.variance > 0, 1 - (1 - share) * left, 0)
