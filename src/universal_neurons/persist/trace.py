"""Where a neuron's function is at the next step: its best match in the same seed, in activations.

A neuron that keeps its index may change what it does, and its function may move to another index.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.models.forward import forward, scored
from universal_neurons.models.load import Model

# Of the forward passes; results depend on it only by rounding.
BATCH_TOKENS = 4096


def standardised_activations(
    model: Model,
    sequences: NDArray[np.integer],
    exclude: Sequence[int],
    positions: Sequence[int] = (),
) -> list[torch.Tensor]:
    """Activations of the scored tokens, with mean 0 and sum of squares 1 per neuron.

    Parameters
    ----------
    sequences
        Token ids, shape (sequences, context length).
    exclude, positions
        Token ids and positions that are not scored.

    Returns
    -------
    list
        Per layer a float32 tensor of shape (scored tokens, d_mlp); a dead neuron is 0 throughout.
    """
    parts: list[list[torch.Tensor]] = [[] for _ in model.d_mlp]

    def keep(layer: int, x: torch.Tensor) -> None:
        parts[layer].append(x.flatten(0, -2)[rows].float())

    with model.tap(keep):
        for batch in forward(model, sequences, BATCH_TOKENS):
            rows = torch.from_numpy(scored(batch, exclude, positions).ravel()).to(model.device)
    layers = []
    for part in parts:
        x = torch.cat(part)
        # In units near their largest value, powers of two: float32 holds squares of 1e-19 to 1e19.
        unit = torch.frexp(x.abs().amax(0)).exponent.clamp(min=-126)
        x = torch.ldexp(x, -unit)
        x -= x.mean(0)
        length = torch.linalg.vector_norm(x, dim=0)
        # A constant neuron differs from its mean by rounding alone.
        dead = (x == x[:1]).all(0) | (length == 0)
        layers.append(torch.where(dead, 0, x / length))
    return layers


def trace(
    model: Model,
    later: Model,
    sequences: NDArray[np.integer],
    exclude: Sequence[int] = (),
    positions: Sequence[int] = (),
) -> pd.DataFrame:
    """Best match of every neuron of a model among those of the same seed at a later step.

    Parameters
    ----------
    model, later
        The same seed at two steps.
    sequences, exclude, positions
        See `standardised_activations`.

    Returns
    -------
    DataFrame
        `columns.persist.TRACE` without seed and step. All layers are searched for the best match.

    Raises
    ------
    UserError
        If no token is scored.
    """
    if not scored(sequences, exclude, positions).any():
        raise UserError("persistence.trace_tokens: no token of the sample is scored; use more")
    before, after = (
        standardised_activations(m, sequences, exclude, positions) for m in (model, later)
    )
    tables = []
    for layer, x in enumerate(before):
        best = torch.full((x.shape[1],), -torch.inf, device=x.device)
        place = torch.zeros(2, x.shape[1], dtype=torch.int64, device=x.device)
        for other, y in enumerate(after):
            corr, index = (x.T @ y).max(1)
            better = corr > best
            best = torch.where(better, corr, best)
            place[0, better], place[1, better] = other, index[better]
        dead = (x == 0).all(0)
        best[dead], place[:, dead] = 0.0, -1
        own = torch.linalg.vecdot(x, after[layer], dim=0)
        tables.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "neuron": np.arange(x.shape[1]),
                    "next_layer": place[0].cpu().numpy(),
                    "next_neuron": place[1].cpu().numpy(),
                    "next_corr": best.double().cpu().numpy().clip(-1, 1),
                    "self_corr": own.double().cpu().numpy().clip(-1, 1),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
