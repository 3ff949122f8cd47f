"""Accumulate the moments of a layer on the model's device; `moments` merges and reads them."""

from __future__ import annotations

import torch
from numpy.typing import NDArray


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
