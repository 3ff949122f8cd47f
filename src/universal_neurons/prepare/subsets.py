"""What neurons do in each part of a mixed corpus (code, law, web pages, …): `corpus.subset_key`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.store.files import again


@dataclass(frozen=True)
class Subsets:
    """The subsets of a corpus.

    Attributes
    ----------
    names
        Of the subsets.
    labels
        Which of them every token belongs to, int16, of the shape of the tokens.
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
