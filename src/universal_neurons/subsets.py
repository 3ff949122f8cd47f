"""What neurons do in each part of a mixed corpus (code, law, web pages, …): `corpus.subset_key`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.store import again


@dataclass(frozen=True)
class Subsets:
    """The subsets of a corpus.

    Attributes
    ----------
    names
        Of the subsets.
    labels
        Which of them every token belongs to, int16, shape (sequences, context length).
    """

    names: Sequence[str]
    labels: NDArray[np.int16]

    @classmethod
    def read(cls, path: str | Path, names: Sequence[str], shape: tuple[int, ...]) -> Subsets:
        """Map the labels of a corpus of that shape into memory.

        Raises
        ------
        UserError
            If the file is not of this corpus.
        """
        try:
            labels = np.load(path, mmap_mode="r")
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{path}: can't be read ({error}); {again(path)}") from error
        if labels.shape != shape or labels.min() < 0 or labels.max() >= len(names):
            raise UserError(f"{path}: damaged, or of another corpus; {again(path)}")
        return cls(names, labels)


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
        # A product with indicators sums all subsets at once. In float32 over one batch: the sums of
        # batches are added in float64.
        where = torch.from_numpy(labels.astype(np.int64)).to(x.device)
        one_hot = torch.nn.functional.one_hot(where, self._powers.shape[1]).float().T
        x = x.float()
        self._tokens += torch.bincount(where, minlength=len(self._tokens))
        self._positive += (one_hot @ (x > 0).float()).long()
        d = x - self._centre
        self._powers[0] += one_hot @ d
        self._powers[1] += one_hot @ d.square_()

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
