"""Matrices and changes in int8, and what is made of their products, compiled by numba.

A row keeps a scale of its own, so that its largest entry is 127. Before that a matrix's columns are
brought to one root mean square, and changes are multiplied with what that was: in trained models a
few entries are far larger than all others, and their columns smaller.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.ablate.fused import REGROUPED, exp

LIMIT = 127

# A sum above this had a term that float32 may not hold.
OVERFLOWN = 1e30


def equalised(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix with columns of one root mean square, and what that was, shape (columns,)."""
    columns = matrix.square().mean(0).sqrt()
    columns[columns == 0] = 1
    return matrix / columns, columns


def multiply(codes: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Product of int8 codes, in int32; fast where `matrix` is contiguous."""
    # torch 2.13's int8 product is wrong for a single row.
    one = len(codes) == 1
    return codes.int() @ matrix.int() if one else torch._int_mm(codes, matrix)


class Int8Map:
    """A linear map of changes, whose matrix has shape (outputs, inputs)."""

    def __init__(self, matrix: torch.Tensor) -> None:
        rows, self._columns = equalised(matrix)
        codes, self._scales = to_int8(rows)
        self._codes = codes.T.contiguous()

    def changed(self, taken: torch.Tensor, returned: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What is returned for `x`, where for what was `taken` in the clean pass it was `returned`.

        All of these are float32, shape (…, inputs) or (…, outputs).
        """
        codes, scales = to_int8(((x - taken) * self._columns).flatten(0, -2))
        found = torch.empty_like(returned, memory_format=torch.contiguous_format)
        _add_products(
            multiply(codes, self._codes).numpy(),
            scales.numpy(),
            self._scales.numpy(),
            returned.flatten(0, -2).contiguous().numpy(),
            found.flatten(0, -2).numpy(),
        )
        return found


def to_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of a float32 tensor's rows, shapes (rows, columns) and (rows,)."""
    codes, scales = np.empty(x.shape, np.int8), np.empty(len(x), np.float32)
    _round(x.contiguous().numpy(), codes, scales)
    return torch.from_numpy(codes), torch.from_numpy(scales)


@numba.njit(parallel=True, cache=True, fastmath=REGROUPED)
def _round(x: NDArray, codes: NDArray, scales: NDArray) -> None:
    for i in numba.prange(x.shape[0]):
        # As integers, of which a maximum is found in vectors.
        largest = np.int32(0)
        for j in range(x.shape[1]):
            largest = max(largest, np.float32(abs(x[i, j])).view(np.int32))
        scales[i] = np.int32(largest).view(np.float32) / np.float32(LIMIT)
        inverse = np.float32(1) / scales[i] if largest > 0 else np.float32(0)
        for j in range(x.shape[1]):
            codes[i, j] = np.int8(np.floor(x[i, j] * inverse + np.float32(0.5)))


@numba.njit(parallel=True, cache=True, fastmath=REGROUPED)
def _add_products(
    products: NDArray, scales: NDArray, column_scales: NDArray, clean: NDArray, found: NDArray
) -> None:
    for t in numba.prange(products.shape[0]):
        for v in range(products.shape[1]):
            change = np.float32(products[t, v]) * (scales[t] * column_scales[v])
            found[t, v] = clean[t, v] + change


def add_softmax(
    log_p: torch.Tensor,
    products: torch.Tensor,
    scales: torch.Tensor,
    column_scales: torch.Tensor,
    threshold: torch.Tensor,
    reference: torch.Tensor,
    total: torch.Tensor,
    above: torch.Tensor,
) -> None:
    """Add to `total` Σ_v e**(u_tv − reference_t), and to `above` the number of u_tv > threshold_t.

    u_tv = log_p_tv + products_tv scales_t column_scales_v. Where a term may be more than float32
    holds, the reference is raised, and the total goes by it.

    Parameters
    ----------
    log_p, products
        Shape (tokens, words).
    scales, threshold, reference, total, above
        Shape (tokens,).
    column_scales
        Shape (words,).
    """
    arrays = log_p, products, scales, column_scales, threshold, reference, total, above
    if log_p.device.type == "cpu":
        _add_softmax(*(one.numpy() for one in arrays))
    else:
        _add_softmax_on_device(*arrays)


def _add_softmax_on_device(
    log_p: torch.Tensor,
    products: torch.Tensor,
    scales: torch.Tensor,
    column_scales: torch.Tensor,
    threshold: torch.Tensor,
    reference: torch.Tensor,
    total: torch.Tensor,
    above: torch.Tensor,
) -> None:
    u = log_p + products * (scales[:, None] * column_scales)
    highest = torch.maximum(reference, u.amax(1))
    total.mul_((reference - highest).exp()).add_((u - highest[:, None]).exp().sum(1))
    reference.copy_(highest)
    above.add_((u > threshold[:, None]).sum(1))


@numba.njit(parallel=True, cache=True, fastmath=REGROUPED)
def _add_softmax(
    log_p: NDArray,
    products: NDArray,
    scales: NDArray,
    column_scales: NDArray,
    threshold: NDArray,
    reference: NDArray,
    total: NDArray,
    above: NDArray,
) -> None:
    for t in numba.prange(log_p.shape[0]):
        own, least = reference[t], threshold[t]
        terms, more, highest = np.float32(0), np.float32(0), np.float32(-np.inf)
        for v in range(log_p.shape[1]):
            u = log_p[t, v] + np.float32(products[t, v]) * (scales[t] * column_scales[v])
            terms += exp(u - own)
            more += np.float32(1) if u > least else np.float32(0)
        if terms > OVERFLOWN:
            for v in range(log_p.shape[1]):
                u = log_p[t, v] + np.float32(products[t, v]) * (scales[t] * column_scales[v])
                highest = max(highest, u)
            reference[t] = highest
            total[t] *= exp(own - highest)
            terms = np.float32(0)
            for v in range(log_p.shape[1]):
                u = log_p[t, v] + np.float32(products[t, v]) * (scales[t] * column_scales[v])
                terms += exp(u - highest)
        total[t] += terms
        above[t] += more
