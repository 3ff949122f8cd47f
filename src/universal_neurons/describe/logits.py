"""What directions of the residual stream do to the logits of all tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.models.residual import Residual
from universal_neurons.prepare.frequency import log_frequency

# Values of cosines that are held at a time.
BLOCK = 1 << 24

# Singular values below this share of the largest, and cosines of this size, are rounding.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Logits:
    """How tokens read the residual stream.

    Attributes
    ----------
    weight
        What every token's logit reads, float64, shape (vocabulary, d_model), see
        `Residual.unembedding`.
    frequency
        Logarithm of every token's frequency, with mean 0 and length 1, float64, shape
        (vocabulary,).
    centred
        See `Residual.centred`.
    """

    weight: torch.Tensor
    frequency: torch.Tensor
    centred: bool

    @classmethod
    def of(cls, residual: Residual, counts: NDArray[np.int64]) -> Logits:
        """Of a model and the number of times that every token id is in the corpus."""
        weight = residual.unembedding()
        padded = np.zeros(len(weight), np.int64)
        padded[: len(counts)] = counts[: len(weight)]
        frequency = torch.from_numpy(log_frequency(padded)).to(weight.device)
        return cls(weight, frequency, residual.centred)

    @cached_property
    def _norm(self) -> torch.Tensor:
        """Of every token's row, float32, shape (vocabulary, 1)."""
        return torch.linalg.vector_norm(self.weight, dim=1, keepdim=True).float()

    @cached_property
    def _unit(self) -> torch.Tensor:
        """Rows of length 1, or 0, float32, shape (vocabulary, d_model)."""
        return torch.nn.functional.normalize(self.weight, dim=1).float()

    def null_space(self, share: float) -> torch.Tensor:
        """Directions that change logits least, orthonormal, float64, shape (d_model, k).

        They are the last right singular vectors of the unembedding: `share` of all, one at least,
        and all that change nothing. Where layer norms take the mean out, its direction is none.
        Without tokens it is unknown, NaN of shape (d_model, 1).

        Parameters
        ----------
        share
            Of the dimensions.
        """
        if not len(self.weight):
            return self.weight.new_full((self.weight.shape[1], 1), torch.nan)
        gram = self.weight.T @ self.weight
        width = len(gram)
        if self.centred:
            # The mean's direction is moved from the last place to the first.
            gram = gram + 2 * gram.diagonal().sum() / width * torch.ones_like(gram)
        values, vectors = torch.linalg.eigh(gram)
        nothing = int((values < ROUNDING**2 * values[-1]).sum())
        return vectors[:, : max(1, round(share * width), nothing)]

    def moments(self, directions: torch.Tensor) -> dict[str, NDArray[np.float64]]:
        """Moments over the vocabulary of what directions do to the logits.

        Parameters
        ----------
        directions
            Shape (n, d_model).

        Returns
        -------
        dict
            Of shape (n,): ``vocab_mean, vocab_var, vocab_skew, vocab_kurt`` of the cosines with
            what the tokens' logits read, ``logit_var`` of what a unit adds to the logits, and
            ``frequency_cos``, the cosine of the latter with the logarithm of the frequencies. NaN
            where nothing varies.
        """
        parts: list[dict[str, torch.Tensor]] = []
        for length, cosine in self._cosines(directions):
            mean = cosine.mean(0)
            logits = cosine * self._norm
            logits -= logits.mean(0)
            spread = torch.linalg.vector_norm(logits, dim=0)
            along = self.frequency.float() @ logits
            centred = cosine - mean
            square = centred.square()
            var = square.mean(0)
            known = torch.where(var > ROUNDING**2, var, torch.nan)
            part = {
                "vocab_mean": mean,
                "vocab_var": var,
                "vocab_skew": (square * centred).mean(0) / known**1.5,
                "vocab_kurt": square.square().mean(0) / known**2,
                "logit_var": length.float().square() * spread.square() / len(cosine),
                "frequency_cos": torch.where(known.isnan(), torch.nan, along / spread),
            }
            parts.append(part)
        return {k: torch.cat([p[k] for p in parts]).double().cpu().numpy() for k in parts[0]}

    def extremes(self, directions: torch.Tensor, number: int) -> dict[str, NDArray]:
        """The tokens whose logits directions raise and lower most.

        Parameters
        ----------
        directions
            Shape (n, d_model).
        number
            Of tokens; all if there are fewer.

        Returns
        -------
        dict
            ``promoted_ids`` and ``suppressed_ids``, int32, the largest change first, and
            ``promoted_cos`` and ``suppressed_cos``, float32, the cosines with what their logits
            read; shape (n, tokens).
        """
        number = min(number, len(self.weight))
        parts: list[dict[str, torch.Tensor]] = []
        for _, cosine in self._cosines(directions):
            logits, part = cosine * self._norm, {}
            for name, largest in (("promoted", True), ("suppressed", False)):
                ids = logits.topk(number, dim=0, largest=largest).indices
                part[f"{name}_ids"] = ids.T.int()
                part[f"{name}_cos"] = cosine.gather(0, ids).T
            parts.append(part)
        return {k: torch.cat([p[k] for p in parts]).cpu().numpy() for k in parts[0]}

    def _cosines(self, directions: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Lengths of some directions, and their cosines with all tokens, (vocabulary, some)."""
        size = max(1, BLOCK // max(1, len(self._unit)))
        for some in directions.to(self._unit.device).split(size):
            length = torch.linalg.vector_norm(some, dim=1)
            unit = torch.nn.functional.normalize(some, dim=1).float()
            yield length, self._unit @ unit.T
