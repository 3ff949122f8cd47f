"""Products of two models' codes: where nearly all arithmetic of a run is.

Sums of int8 codes are integers and exact, so they have the same bits whatever the kernel, the
device, the number of threads, the blocks and the order of the shards.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes
from universal_neurons.activations.encoding import LIMIT
from universal_neurons.devices import device_of
from universal_neurons.errors import UserError
from universal_neurons.jobs import logger

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

KERNELS = ("auto", "int8", "bfloat16", "float32")

# Tokens per product with exact sums: int8 products are added in int32; bfloat16 and float32 ones in
# float32, which holds all integers up to 2**24.
EXACT_TOKENS = {
    "int8": (2**31 - 1) // LIMIT**2,
    "bfloat16": 2**24 // LIMIT**2,
    "float32": 2**24 // LIMIT**2,
}

# Sums of a block that int64 certainly holds, over 30,000 blocks.
LARGE_SUM = 2.0**48

# What the number of tokens of an int8 product is a multiple of on CUDA.
CUDA_TOKENS = 16

# Rows of sums that are added at a time.
ADDED_ROWS = 256

# Escapes whose tokens' codes are gathered at a time on a device.
REST_ROWS = 8192

# Below this many operations NumPy is done before torch is imported.
SMALL = 2e11

# Shape of the codes that kernels are measured with: in jobs that are short themselves, in others,
# and on a GPU, which has done the CPU's measurement before it is under way.
FEW, SOME, MANY = (1024, 256), (4096, 512), (8192, 4096)


def add_products(total: T, a: Codes, b: Codes, kernel: str) -> T:
    """Add aᵀb to `total`, in place if it has room.

    Parameters
    ----------
    total
        Shape (d_a, d_b); int64 for int8 codes (exact), float64 for float32 ones.
    a, b
        Codes of the same tokens, shapes (tokens, d_a) and (tokens, d_b), both int8 or both
        float32; like `total` NumPy arrays, or tensors on one device.
    kernel
        ``int8`` multiplies int8 codes with torch's int8 product; ``bfloat16`` (CUDA only: the
        CPU's rounds its result) and ``float32`` multiply int8 codes in blocks small enough to be
        exact. All give the same bits. float32 codes are always multiplied in float32.

    Returns
    -------
    total
        The same array, or a copy in float64 where int64 might not hold the sums of escaped codes.
    """
    int8 = str(a.dense.dtype).rpartition(".")[2] == "int8"
    total = _roomy(total, a, b) if int8 else total
    escaped = len(a.escapes) or len(b.escapes)
    if int8 and kernel != "float32":
        import torch  # 1 s: not paid by small jobs

        if escaped and kernel == "int8" and _in_one(total, a):
            _add_int8_with_rests(total, a, b)
            return total
        add = {"int8": _add_int8, "bfloat16": _add_bfloat16}[kernel]
        add(*(torch.as_tensor(x) for x in (total, a.dense, b.dense)))
    else:
        _add_float32(total, a.dense, b.dense)
    if escaped:
        _add_rests(total, a, b)
    return total


def block_products(a: Codes, b: Codes, kernel: str, room: NDArray) -> NDArray:
    """aᵀb of one block of tokens, on the CPU: in int32 where that certainly holds all sums.

    Parameters
    ----------
    a, b, kernel
        See `add_products`.
    room
        Where sums go that int32 might not hold: what `zeros` returns, of a's neurons by b's.

    Returns
    -------
    ndarray
        Shape (d_a, d_b), valid until the next products are made.
    """
    int8 = kernel == "int8" and a.dense.dtype == np.int8
    if int8 and _in_one(room, a) and _largest_sum(a, b) < 2.0**31:
        from universal_neurons.activations.rests import add_rests

        found = _int8_products(a, b)
        add_rests(found, a, b)
        return found
    room.fill(0)
    return add_products(room, a, b, kernel)


def _in_one(total: Any, a: Codes) -> bool:
    """Whether one int8 product on the CPU gives all sums."""
    on_cpu = isinstance(total, np.ndarray) or total.device.type == "cpu"
    return on_cpu and len(total) > 1 and 0 < len(a) <= EXACT_TOKENS["int8"]


def _add_int8_with_rests(total: Any, a: Codes, b: Codes) -> None:
    """`_add_int8` and `_add_rests` in one: the sums are taken from memory once."""
    from universal_neurons.activations.rests import add_rests

    add_rests(np.asarray(total), a, b, _int8_products(a, b))


def _int8_products(a: Codes, b: Codes) -> NDArray[np.int32]:
    """Products of dense codes that are `_in_one`, valid until the next are made."""
    import torch

    left, right = torch.as_tensor(a.dense).t(), torch.as_tensor(b.dense)
    found = _scratch(left.shape[0], right.shape[1], torch.device("cpu"))
    return torch._int_mm(left, right, out=found).numpy()


def _roomy(total: Any, a: Codes, b: Codes) -> Any:
    """Sums that can hold further ones.

    A block's sums are at most the product of the codes' norms (Cauchy and Schwarz). Below
    `LARGE_SUM` int64 holds those of 30,000 blocks; where escaped codes are so large that they might
    be beyond, sums go on in float64, which rounds none as long as they have 53 significant bits.
    """
    if "int64" not in str(total.dtype):
        return total
    if _largest_sum(a, b) < LARGE_SUM:
        return total
    return total.astype(np.float64) if isinstance(total, np.ndarray) else total.double()


def _largest_sum(a: Codes, b: Codes) -> float:
    """What no sum of products of a block of int8 codes exceeds: the product of their norms."""
    norms = (LIMIT * len(x) ** 0.5 + float(np.linalg.norm(x.escapes.rest)) for x in (a, b))
    return math.prod(norms)


def _add_rests(total: Any, a: Codes, b: Codes) -> None:
    """Add what the dense codes lack: R_aᵀ B + A'ᵀ R_b, B whole codes and A' dense ones."""
    if isinstance(total, np.ndarray) or total.device.type == "cpu":
        from universal_neurons.activations.rests import add_rests

        add_rests(np.asarray(total), a, b)
        return
    _add_rests_on_device(total, a, b)


def _add_rests_on_device(total: torch.Tensor, a: Codes, b: Codes) -> None:
    import torch

    def parts(codes: Codes) -> Iterator[tuple[torch.Tensor, ...]]:
        # As many as keep the rows gathered for them within some hundred MB.
        for i in range(0, len(codes.escapes), REST_ROWS):
            some = slice(i, i + REST_ROWS)
            found = codes.escapes
            arrays = (found.row[some], found.neuron[some].astype(np.int64), found.rest[some])
            yield tuple(torch.from_numpy(x).to(total.device) for x in arrays)

    for row, neuron, rest in parts(a):
        total.index_add_(0, neuron, (b.dense[row] * rest[:, None]).to(total.dtype))
    for row, neuron, rest in parts(b):
        total.index_add_(1, neuron, (a.dense[row] * rest[:, None]).to(total.dtype).T)
    # Both escape at the same token.
    mine, theirs = a.escapes, b.escapes
    first, last = (np.searchsorted(theirs.row, mine.row, side=side) for side in ("left", "right"))
    one = np.repeat(np.arange(len(mine)), last - first)
    other = np.arange(len(one)) - np.repeat(np.cumsum(last - first) - last, last - first)
    place = mine.neuron[one].astype(np.int64) * total.shape[1] + theirs.neuron[other]
    product = torch.from_numpy(mine.rest[one] * theirs.rest[other]).to(total)
    total.view(-1).index_add_(0, torch.from_numpy(place).to(total.device), product)


def _add_int8(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    import torch

    if total.device.type == "cuda":
        # cuBLASLt wants more than 16 rows and multiples of 8.
        if total.shape[0] <= 16 or total.shape[0] % 8 or total.shape[1] % 8:
            return _add_bfloat16(total, a, b)
        whole = len(a) // CUDA_TOKENS * CUDA_TOKENS
        _add_bfloat16(total, a[whole:], b[whole:])
        a, b = a[:whole], b[:whole]
    elif total.shape[0] == 1:
        # torch 2.13's int8 product is wrong for a single row on the CPU (a test found it).
        return _add_float32(total, a, b)
    tokens = EXACT_TOKENS["int8"]
    scratch = _scratch(*total.shape, total.device)
    for i in range(0, len(a), tokens):
        torch._int_mm(a[i : i + tokens].t(), b[i : i + tokens], out=scratch)
        # torch widens what it adds first: of all at once that would be as large as the sums.
        for rows, more in zip(total.split(ADDED_ROWS), scratch.split(ADDED_ROWS), strict=True):
            rows += more
    return None


@lru_cache(maxsize=1)
def _scratch(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Where int8 products go: fresh memory for each would cost a tenth of the time."""
    import torch

    return torch.empty(rows, columns, dtype=torch.int32, device=device)


def _add_bfloat16(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    import torch

    tokens = EXACT_TOKENS["bfloat16"]
    for i in range(0, len(a), tokens):
        left, right = (x[i : i + tokens].to(torch.bfloat16) for x in (a, b))
        total += torch.mm(left.t(), right, out_dtype=torch.float32).to(total.dtype)


def _add_float32(total: Any, a: Any, b: Any) -> None:
    tokens = EXACT_TOKENS["float32"]
    for i in range(0, len(a), tokens):
        left, right = a[i : i + tokens], b[i : i + tokens]
        if isinstance(left, np.ndarray):
            product = left.astype(np.float32).T @ right.astype(np.float32)
            np.add(total, product, out=total, casting="unsafe")
        else:
            total += (left.float().T @ right.float()).to(total.dtype)


def empty_codes(tokens: int, d_mlp: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Where codes are put that are to be multiplied, shape (tokens, d_mlp).

    On CUDA the tokens of a neuron lie side by side in memory: the tensor cores' int8 products want
    both sides so (cuBLASLt's "TN"), and with others go by slower kernels or none.
    """
    import torch

    if device.type == "cuda":
        return torch.empty(
            d_mlp, -(-tokens // CUDA_TOKENS) * CUDA_TOKENS, dtype=dtype, device=device
        ).t()[:tokens]
    return torch.empty(tokens, d_mlp, dtype=dtype, device=device)


@cache
def measured_rates(device: str = "cpu", shape: tuple[int, int] = SOME) -> dict[str, float]:
    """Rate of every kernel on a device, in operations per second, by a short measurement.

    Of exact sums, as `add_products` makes them.
    """
    import torch

    where = torch.device(device)
    on_cpu = where.type == "cpu"
    tokens, width = shape if on_cpu else MANY
    rates = {}
    for kernel in ("int8", "float32") if on_cpu else ("int8", "bfloat16", "float32"):
        dense = empty_codes(tokens, width, torch.int8, where)
        a = Codes.of(dense.fill_(1))
        total = torch.zeros(width, width, dtype=torch.int64, device=where)
        seconds = []
        for _ in range(4):  # the first warms up
            start = time.perf_counter()
            add_products(total, a, a, kernel)
            total[0, 0].item()  # waits for the device
            seconds.append(time.perf_counter() - start)
        rates[kernel] = 2 * dense.numel() * width / min(seconds)
    return rates


def fastest_kernel(device: str = "cpu", shape: tuple[int, int] = SOME) -> str:
    """The kernel that multiplies int8 codes fastest on this machine, by a short measurement.

    int8 products are many times faster than float32 ones where the processor has VNNI or AMX, and
    slower where it has neither. On a GPU the same holds of its tensor cores and bfloat16.
    """
    rates = measured_rates(device, shape)
    best = max(rates, key=rates.__getitem__)
    logger.info("%s: %s kernel, %.0f G operations per second", device, best, rates[best] / 1e9)
    return best


def choose_kernel(kernel: str, operations: float, device: str = "cpu") -> str:
    """Resolve the kernel ``auto``: the fastest one, and NumPy's for small jobs without torch.

    Raises
    ------
    UserError
        If the device has no such kernel.
    """
    if kernel == "bfloat16" and device == "cpu":
        raise UserError("correlate.kernel: bfloat16 sums are exact on CUDA devices only; use auto")
    if kernel != "auto":
        return kernel
    if device == "cpu" and operations < SMALL:
        return fastest_kernel(device, FEW) if "torch" in sys.modules else "float32"
    return fastest_kernel(device)


def choose_device(device: str, kernel: str, operations: float) -> str:
    """Where to multiply: the CPU for small jobs, else as `devices.device_of` says.

    Raises
    ------
    UserError
        If the device is not there.
    """
    if device == "cpu" or (kernel == "auto" and operations < SMALL):
        return "cpu"
    return str(device_of(device))


def zeros(d_a: int, d_b: int, encoding: str, device: str = "cpu") -> Any:
    """An empty sum: int64 for int8 codes, float64 for others; on a GPU a tensor."""
    empty = np.zeros((d_a, d_b), np.int64 if encoding == "int8" else np.float64)
    if device == "cpu":
        return empty
    import torch

    return torch.from_numpy(empty).to(device)


def on_device(codes: Codes, device: str) -> Codes:
    """Codes as products on a device want them; the same on the CPU."""
    if device == "cpu":
        return codes
    import torch

    dense = torch.from_numpy(codes.dense).to(device)
    tokens, d_mlp = dense.shape
    placed = empty_codes(tokens, d_mlp, dense.dtype, dense.device)
    return Codes(placed.copy_(dense), codes.escapes)
