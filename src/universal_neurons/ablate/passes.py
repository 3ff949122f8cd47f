"""Forward passes of ablated models, and what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from universal_neurons.ablate.predictions import Compared, Predictions
from universal_neurons.models.load import Model


class Passes:
    """Forward passes as the model makes them.

    Attributes
    ----------
    dtype
        In which matrices are multiplied.
    error
        Difference of the loss change from that in float32, in its standard errors; NaN where it is
        not measured.
    """

    def __init__(self, model: Model) -> None:
        self.dtype = str(model.module.dtype).removeprefix("torch.")
        self.error = math.nan

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While the clean pass runs."""
        yield

    def predictions(self, logits: torch.Tensor, targets: torch.Tensor) -> Compared:
        """The clean predictions, to compare with what the model returns while `running`."""
        return Predictions(logits.flatten(0, 1), targets)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While an ablated pass runs."""
        yield

    def known_layers(self, direct: bool, layers: Sequence[int]) -> Sequence[int]:
        """Ablated `layers` whose output is the clean one and what other neurons write instead."""
        del direct, layers
        return []
