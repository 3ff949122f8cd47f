"""Attention by how its queries, keys and values differ from the clean pass's.

Let P be the clean weights, D = s (Δq k₀ᵀ + q Δkᵀ) the change of the scores, s their scale, and Δv
that of the values. Then the weights and the output change by

    ΔP = P exp D / (1 + Σ P (exp D − 1)) − P,    Δout = ΔP v + P Δv.

All four products are of a change, and in bfloat16; what softmax makes of D is in float32. Masks
are in P, and where P is rounded it is in all terms alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from universal_neurons.ablate.fused import REGROUPED, bits, exp, narrow, wide

# The name of the attention that is taken by differences, of transformers' models on a CPU.
NAME = "sdpa"

# Queries at a time: of a causal model, later keys are left out.
QUERIES = 128

# Largest difference between the clean output and that of the rounded weights, over the largest
# entry; where a model does more than `_weights` knows it is larger.
ALIKE = 0.02

# Mean |D| from which attention is in float32: rounding errors are in proportion to it, and
# grow with what softmax makes of it.
MOVED = 1.0


@dataclass(frozen=True)
class Clean:
    """A module's attention in the clean pass.

    Attributes
    ----------
    query, key, value
        Float32, shape (sequences, heads, length, head width).
    output
        Float32, shape (sequences, length, heads, head width).
    keys
        s k₀ in bfloat16, and room for s Δk, shape (sequences · heads, length, 2 · head width).
    weights
        P in bfloat16 for every `QUERIES` of all queries, shape (sequences · heads, queries, keys),
        as far as any are above 0.
    scale
        s.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor
    keys: torch.Tensor
    weights: Sequence[torch.Tensor]
    scale: float


class Attention:
    """What attends in a clean pass, to be run again on differences."""

    def __init__(self) -> None:
        self._clean: dict[nn.Module, Clean | None] = {}
        self._attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[NAME]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what is attended to in the clean pass, in place of what was kept."""
        self._clean = {}
        with _instead(self._record):
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add to what was returned what the changes make of it."""
        with _instead(self._change):
            yield

    def _record(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, Any]:
        found = self._attend(module, query, key, value, mask, **options)
        once = module not in self._clean
        clean = _clean(module, query, key, value, mask, found[0], options)
        self._clean[module] = clean if once else None
        return found

    def _change(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, Any]:
        clean = self._clean.get(module)
        if clean is not None:
            found = _attend_again(clean, query, *(_of_heads(x, query) for x in (key, value)))
            if found is not None:
                return found, None
        return self._attend(module, query, key, value, mask, **options)


@contextmanager
def _instead(attend: Callable[..., Any]) -> Iterator[None]:
    """Let transformers' models attend by another function; not nested."""
    ALL_ATTENTION_FUNCTIONS[NAME] = attend
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[NAME]


def _of_heads(x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Keys or values of every query's head, where several heads share them."""
    groups = query.shape[1] // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, 1)


def _clean(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    output: torch.Tensor,
    options: dict[str, Any],
) -> Clean | None:
    """None where the output is not that of the weights, or keys are not of the queries' tokens."""
    if query.shape[2] != key.shape[2] or query.shape[3] != value.shape[3]:
        return None
    key, value = (_of_heads(x, query) for x in (key, value))
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    p = _weights(query, key, mask, scale, causal).bfloat16()
    again = (p.float() @ value).transpose(1, 2)
    if not (again - output).abs().max() <= ALIKE * output.abs().max():
        return None
    counted, parts = torch.arange(1, 1 + p.shape[-1]), []
    for rows in p.flatten(0, 1).split(QUERIES, 1):
        used = max(1, int((counted * (rows.amax((0, 1)) > 0)).max()))
        parts.append(rows[:, :, :used].contiguous())
    keys = (key * scale).bfloat16().flatten(0, 1).repeat(1, 1, 2)
    query, key, value, output = (x.contiguous() for x in (query, key, value, output))
    return Clean(query, key, value, output, keys, parts, scale)


def _weights(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    """Shape (sequences, heads, queries, keys); 0 for queries that may attend to nothing."""
    scores = query @ key.transpose(-1, -2) * scale
    if mask is None and causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1).nan_to_num(0)


def _attend_again(
    clean: Clean, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor | None:
    """The output, shape (sequences, length, heads, head width); None if scores change too much."""
    n, heads, length, width = query.shape
    keys = clean.keys
    queries = torch.empty_like(keys)
    changed, whole = torch.empty(2, n * heads, length, width, dtype=torch.bfloat16)
    _round_change(query, clean.query, 1, queries[..., :width])
    _round_change(key, clean.key, clean.scale, keys[..., width:])
    _round_change(value, clean.value, 1, changed)
    queries[..., width:].view(query.shape).copy_(query)
    whole.view(value.shape).copy_(value)
    output = torch.empty_like(clean.output)
    start, moved = 0, 0.0
    for p in clean.weights:
        stop, used = start + p.shape[1], p.shape[2]
        # Contiguous first: of a part of a transposed array torch would transpose a copy.
        change = torch.bmm(queries[:, start:stop], keys[:, :used].contiguous().transpose(1, 2))
        moved += _softmax_change(bits(p), bits(change))
        if moved > MOVED * len(queries) * length:
            return None
        of_weights = torch.bmm(change, whole[:, :used])
        of_values = torch.bmm(p, changed[:, :used])
        _add_outputs(bits(of_weights), bits(of_values), clean.output.numpy(), start, output.numpy())
        start = stop
    return output


def _round_change(x: torch.Tensor, clean: torch.Tensor, scale: float, found: torch.Tensor) -> None:
    """Write `scale` (x - clean) in bfloat16.

    Numba takes no vectors of parts of an array, as `x` and `found` may be. So it gets all of their
    memory, and how far their rows are from each other.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    found = found.view(clean.shape)
    steps = [np.array(one.stride()) for one in (x, found)]
    sizes = [1 + int((own * (np.array(clean.shape) - 1)).sum()) for own in steps]
    x, found = (one.as_strided([n], [1]) for one, n in zip((x, found), sizes, strict=True))
    _round_rows(x.numpy(), steps[0], clean.numpy(), np.float32(scale), bits(found), steps[1])


@numba.njit(parallel=True, cache=True, fastmath=REGROUPED)
def _round_rows(
    x: NDArray,
    x_steps: NDArray,
    clean: NDArray,
    scale: np.float32,
    found: NDArray,
    found_steps: NDArray,
) -> None:
    n, heads, length, width = clean.shape
    for row in numba.prange(n * heads * length):
        i, h, t = row // (heads * length), row // length % heads, row % length
        start = i * x_steps[0] + h * x_steps[1] + t * x_steps[2]
        to = i * found_steps[0] + h * found_steps[1] + t * found_steps[2]
        new, old, target = x[start : start + width], clean[i, h, t], found[to : to + width]
        for d in range(width):
            target[d] = narrow(scale * (new[d] - old[d]))


@numba.njit(parallel=True, cache=True, fastmath=REGROUPED)
def _add_outputs(one: NDArray, other: NDArray, clean: NDArray, start: int, found: NDArray) -> None:
    """Write clean + one + other for the queries of some rows, of which `start` is the first.

    Of bfloat16 by their bits, shape (sequences · heads, queries, width), and float32, shape
    (sequences, length, heads, width).
    """
    n, _, heads, width = clean.shape
    queries = one.shape[1]
    for row in numba.prange(n * queries * heads):
        i, t, h = row // (queries * heads), row // heads % queries, row % heads
        first, second = one[i * heads + h, t], other[i * heads + h, t]
        old, new = clean[i, start + t, h], found[i, start + t, h]
        for d in range(width):
            new[d] = old[d] + (wide(first[d]) + wide(second[d]))


@numba.njit(parallel=True, cache=True, fastmath=REGROUPED)
def _softmax_change(p: NDArray, change: NDArray) -> np.float64:
    """Turn changes of scores into those of the weights `p`, both bfloat16 by their bits.

    Returned is the sum over queries of the mean |D| over the new weights.
    """
    heads, queries, keys = p.shape
    moved = np.float64(0)
    for row in numba.prange(heads * queries):
        head, query = row // queries, row % queries
        total = np.float32(1)
        for k in range(keys):
            own = wide(p[head, query, k])
            total += own * exp(wide(change[head, query, k])) - own
        inverse, far = np.float32(1) / total, np.float32(0)
        for k in range(keys):
            own = wide(p[head, query, k])
            by = wide(change[head, query, k])
            new = own * exp(by) * inverse
            far += new * abs(by)
            change[head, query, k] = narrow(new - own)
        moved += far
    return moved
