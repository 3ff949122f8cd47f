"""Accumulate the moments of a layer on the model's device, of a shard or of the calibration."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.activations.encoding import TAIL, Sample


class PowerSums:
    """Accumulate one layer's sums over tokens.

    Parameters
    ----------
    centre
        float64, shape (d_mlp,): the point the powers are taken about.
    """

    def __init__(self, centre: torch.Tensor) -> None:
        d_mlp, device = centre.shape[0], centre.device
        self.centre = centre
        self.powers = torch.zeros(4, d_mlp, dtype=torch.float64, device=device)
        self.low = torch.full((d_mlp,), torch.inf, dtype=torch.float32, device=device)
        self.high = -self.low
        self.positive = torch.zeros(d_mlp, dtype=torch.int64, device=device)

    def update(self, x: torch.Tensor) -> bool:
        """Add activations of shape (tokens, d_mlp); False if one of them is not finite."""
        if not len(x):
            return True
        x = x.to(torch.float32)
        self.low = torch.minimum(self.low, x.amin(0))
        self.high = torch.maximum(self.high, x.amax(0))
        self.positive += (x > 0).sum(0)
        d = x.to(torch.float64).sub_(self.centre)
        square = d * d
        self.powers[0] += d.sum(0)
        self.powers[1] += square.sum(0)
        self.powers[2] += d.mul_(square).sum(0)
        self.powers[3] += square.mul_(square).sum(0)
        return self.finite()

    def finite(self) -> bool:
        """Whether all activations so far were finite."""
        return bool(torch.isfinite(self.powers[0]).all())

    def arrays(self) -> dict[str, NDArray]:
        """The sums as NumPy arrays, for `merge`."""
        return {
            "centre": self.centre.cpu().numpy(),
            "powers": self.powers.cpu().numpy(),
            "low": self.low.cpu().numpy(),
            "high": self.high.cpu().numpy(),
            "positive": self.positive.cpu().numpy(),
        }


class SampleSums:
    """Accumulate what `encoding.ranges` asks of one layer's calibration sample.

    Parameters
    ----------
    d_mlp
        Number of neurons.
    n_tokens
        Number of tokens of the whole sample.
    device
        Where the activations are.
    """

    def __init__(self, d_mlp: int, n_tokens: int, device: torch.device) -> None:
        self._n_tokens = n_tokens
        self._sums: PowerSums | None = None
        # Largest and smallest activations, one more than may lie beyond the tails.
        self._kept = 1 + int(TAIL * n_tokens)
        self._largest = torch.empty(d_mlp, 0, device=device)
        self._smallest = torch.empty(d_mlp, 0, device=device)

    def update(self, x: torch.Tensor) -> bool:
        """Add activations of shape (tokens, d_mlp); False if one of them is not finite."""
        if not len(x):
            return True
        if self._sums is None:
            # Near the mean, so that the spread of a neuron far from 0 loses no digits.
            self._sums = PowerSums(x.double().mean(0).nan_to_num(0.0, 0.0, 0.0))
        by_neuron = x.float().T.contiguous()
        self._largest = self._extreme(self._largest, by_neuron, largest=True)
        self._smallest = self._extreme(self._smallest, by_neuron, largest=False)
        return self._sums.update(x)

    def _extreme(self, kept: torch.Tensor, more: torch.Tensor, *, largest: bool) -> torch.Tensor:
        found = torch.cat([kept, more], 1)
        return found.topk(min(self._kept, found.shape[1]), 1, largest).values

    def sample(self) -> Sample:
        """Statistics of all that was added."""
        assert self._sums is not None, "no token of the sample is scored"
        arrays = self._sums.arrays()
        first, square = arrays["powers"][:2] / self._n_tokens
        low, high = arrays["low"].astype(np.float64), arrays["high"].astype(np.float64)
        return Sample(
            low=low,
            high=high,
            low_tail=self._smallest.amax(1).double().cpu().numpy(),
            high_tail=self._largest.amin(1).double().cpu().numpy(),
            mean=arrays["centre"] + first,
            std=np.where(low == high, 0.0, np.sqrt(np.maximum(square - first**2, 0))),
        )


class FirstSums:
    """Accumulate one layer's sums over the tokens at position 0 of their sequences.

    Parameters
    ----------
    centre
        float64, shape (d_mlp,): the point the powers are taken about.
    """

    def __init__(self, centre: torch.Tensor) -> None:
        self._centre = centre
        self._powers = torch.zeros(2, len(centre), dtype=torch.float64, device=centre.device)
        self._tokens = 0

    def update(self, x: torch.Tensor) -> None:
        """Add activations of shape (tokens, d_mlp)."""
        d = x.double() - self._centre
        self._powers += torch.stack([d.sum(0), (d * d).sum(0)])
        self._tokens += len(x)

    def arrays(self) -> dict[str, NDArray]:
        """``first_powers`` (2, d_mlp) and ``first_tokens`` (d_mlp,), the same for all neurons."""
        tokens = np.full(len(self._centre), self._tokens, np.int64)
        return {"first_powers": self._powers.cpu().numpy(), "first_tokens": tokens}


class SubsetSums:
    """Accumulate one layer's sums over the tokens of every subset.

    Parameters
    ----------
    centre
        float64, shape (d_mlp,): the point the powers are taken about.
    n_subsets
        Number of subsets S.
    """

    def __init__(self, centre: torch.Tensor, n_subsets: int) -> None:
        self._centre = centre.float()
        shape, device = (n_subsets, len(centre)), centre.device
        self._powers = torch.zeros(2, *shape, dtype=torch.float64, device=device)
        self._positive = torch.zeros(shape, dtype=torch.int64, device=device)
        self._tokens = torch.zeros(n_subsets, dtype=torch.int64, device=device)

    def update(self, x: torch.Tensor, labels: NDArray[np.integer]) -> None:
        """Add activations of shape (tokens, d_mlp), each token's subset in `labels`."""
        if not len(x):
            return
        # A product with indicators sums all subsets at once. In float32 over one batch: the sums of
        # batches are added in float64, whose squares reach as far as the activations.
        where = torch.from_numpy(labels.astype(np.int64)).to(x.device)
        one_hot = torch.nn.functional.one_hot(where, self._powers.shape[1]).float().T
        x = x.float()
        self._tokens += torch.bincount(where, minlength=len(self._tokens))
        self._positive += (one_hot @ (x > 0).float()).long()
        d = x - self._centre
        unit = torch.frexp(d.abs().amax(0)).exponent.clamp(min=-126)
        d = torch.ldexp(d, -unit)
        self._powers[0] += torch.ldexp((one_hot @ d).double(), unit)
        self._powers[1] += torch.ldexp((one_hot @ d.square_()).double(), 2 * unit)

    def arrays(self) -> dict[str, NDArray]:
        """``subset_powers`` (2, S, d_mlp); ``subset_positive``, ``subset_tokens`` (S, d_mlp).

        The numbers of tokens are the same for all neurons: so all sums join along the neurons.
        """
        tokens = self._tokens[:, None].expand(self._positive.shape)
        return {
            "subset_tokens": tokens.cpu().numpy(),
            "subset_powers": self._powers.cpu().numpy(),
            "subset_positive": self._positive.cpu().numpy(),
        }
