"""Steps between the products of ablated passes on a CPU, each in one reading, compiled by numba.

In torch each is two or three readings of arrays that no cache holds. bfloat16 is by its bits here,
which numba has no type for.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray

# Compilers may regroup sums, as vectors need.
REGROUPED = {"reassoc", "contract", "nsz", "arcp", "nnan"}

# 2**f for f in [-½, ½], to 2e-7 of it: coefficients of f⁶ to f⁰, fitted at Chebyshev's nodes.
_nodes = 0.5 * np.cos(np.pi * (np.arange(7) + 0.5) / 7)
_C6, _C5, _C4, _C3, _C2, _C1, _C0 = np.polyfit(_nodes, 2.0**_nodes, 6).astype(np.float32)


def bits(x: torch.Tensor) -> NDArray[np.int16]:
    """A bfloat16 tensor's bits, in its memory."""
    return x.view(torch.int16).numpy()


def narrow_difference(x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """`x` - `clean`, both float32, in bfloat16."""
    found = torch.empty(x.shape, dtype=torch.bfloat16)
    _narrow_difference(x.contiguous().numpy(), clean.contiguous().numpy(), bits(found))
    return found


def wide_sum(x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """`x`, in bfloat16, + `clean`, in float32."""
    found = torch.empty(x.shape)
    _wide_sum(bits(x.contiguous()), clean.contiguous().numpy(), found.numpy())
    return found


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), as GPT-2 has it, of float32."""
    found = torch.empty(x.shape)
    _gelu(x.contiguous().numpy(), found.numpy())
    return found


@numba.njit(inline="always")
def exp(x: np.float32) -> np.float32:
    """e**x from about 1e-38 to 1e38, and these beyond: numba's own exp is none of vectors."""
    y = min(max(x * np.float32(1.4426950408889634), np.float32(-126)), np.float32(127))
    n = np.floor(y + np.float32(0.5))
    f = y - n
    p = (((((_C6 * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f + _C0
    exponent = np.int32(np.int32(n) << np.int32(23))
    return np.int32(np.float32(p).view(np.int32) + exponent).view(np.float32)


@numba.njit(inline="always")
def wide(x: np.int16) -> np.float32:
    """A bfloat16 in float32."""
    return np.int32(np.int32(x) << np.int32(16)).view(np.float32)


@numba.njit(inline="always")
def narrow(x: np.float32) -> np.int16:
    """The nearest bfloat16, of two the even one."""
    whole = np.float32(x).view(np.int32)
    half = np.int32(0x7FFF) + np.int32(np.int32(whole >> np.int32(16)) & np.int32(1))
    return np.int16(np.int32(whole + half) >> np.int32(16))


@numba.njit(parallel=True, cache=True, fastmath=REGROUPED)
def _narrow_difference(x: NDArray, clean: NDArray, found: NDArray) -> None:
    x, clean, found = x.ravel(), clean.ravel(), found.ravel()
    for i in numba.prange(len(x)):
        found[i] = narrow(x[i] - clean[i])


@numba.njit(parallel=True, cache=True, fastmath=REGROUPED)
def _wide_sum(x: NDArray, clean: NDArray, found: NDArray) -> None:
    x, clean, found = x.ravel(), clean.ravel(), found.ravel()
    for i in numba.prange(len(x)):
        found[i] = wide(x[i]) + clean[i]


@numba.njit(parallel=True, cache=True, fastmath=REGROUPED)
def _gelu(x: NDArray, found: NDArray) -> None:
    x, found = x.ravel(), found.ravel()
    for i in numba.prange(len(x)):
        y = x[i]
        # 2 √(2/π), and that of the cube.
        z = y * (np.float32(1.5957691216) + np.float32(0.0713548163) * (y * y))
        found[i] = y / (np.float32(1) + exp(-z))
