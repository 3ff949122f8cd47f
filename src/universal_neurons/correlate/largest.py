"""Every neuron's largest values, kept in order while tiles of them go by: compiled.

All that is compiled around `_insert` is in this file, whose time says when Numba's cache is out of
date.
"""

import numba
import numpy as np


@numba.njit(cache=True)
def _insert(x, other, row, numbers, largest):  # pragma: no cover - compiled
    """Put a value in its place among a neuron's largest, equal ones by number; what falls out."""
    k = largest.shape[1]
    last = largest[row, k - 1]
    if x < last or (x == last and other > numbers[row, k - 1] >= 0):
        return x
    for place in range(k):
        if numbers[row, place] == other:
            return -np.inf
    place = k - 1
    while place > 0 and (
        largest[row, place - 1] < x
        or (largest[row, place - 1] == x and numbers[row, place - 1] > other)
    ):
        largest[row, place] = largest[row, place - 1]
        numbers[row, place] = numbers[row, place - 1]
        place -= 1
    largest[row, place] = x
    numbers[row, place] = other
    return last


@numba.njit(parallel=True, cache=True)
def take_tile(corr, rows, others, numbers, largest, lowest):  # pragma: no cover - compiled
    """Take in correlations of the neurons `rows` with `others`."""
    # Blocks of rows: near in memory in either order of the array.
    last = largest.shape[1] - 1
    for block in numba.prange((len(rows) + 63) // 64):
        stop = min(len(rows), block * 64 + 64)
        for j in range(len(others)):
            for i in range(block * 64, stop):
                x, row = corr[i, j], rows[i]
                if x >= largest[row, last]:  # few are: spares the call
                    _insert(x, others[j], row, numbers, largest)
                lowest[row] = min(lowest[row], x)


@numba.njit(cache=True)
def take_pairs(rows, others, corr, numbers, largest, lowest):  # pragma: no cover - compiled
    """Take in correlations of single pairs."""
    for i in range(len(rows)):
        _insert(corr[i], others[i], rows[i], numbers, largest)
        lowest[rows[i]] = min(lowest[rows[i]], corr[i])


@numba.njit(parallel=True, cache=True)
def take_bounds_of_rows(
    mean, squares, width, unseen, others, allowed, first, numbers, largest, rest, floor, lowest, at
):  # pragma: no cover - compiled
    """Take in bounds of a tile's rows: its columns are the neurons from `first` on."""
    for i in numba.prange(mean.shape[0]):
        for j in range(mean.shape[1]):
            if allowed[j]:
                margin = width * np.sqrt(squares[i, j]) + unseen[i] * others[j]
                x = np.float32(mean[i, j] + margin)
                rest[i] = max(rest[i], _insert(x, first + j, i, numbers, largest))
                floor[i] = max(floor[i], np.float32(mean[i, j] - margin))
            if mean[i, j] < lowest[i]:
                lowest[i] = mean[i, j]
                at[i] = first + j


@numba.njit(parallel=True, cache=True)
def take_bounds_of_columns(
    mean, squares, width, unseen, others, allowed, first, numbers, largest, rest, floor, lowest, at
):  # pragma: no cover - compiled
    """Take in bounds of a tile's columns: its rows are the neurons from `first` on."""
    for block in numba.prange((mean.shape[1] + 63) // 64):
        for i in range(mean.shape[0]):
            for j in range(block * 64, min(mean.shape[1], block * 64 + 64)):
                if allowed[i]:
                    margin = width * np.sqrt(squares[i, j]) + unseen[j] * others[i]
                    x = np.float32(mean[i, j] + margin)
                    rest[j] = max(rest[j], _insert(x, first + i, j, numbers, largest))
                    floor[j] = max(floor[j], np.float32(mean[i, j] - margin))
                if mean[i, j] < lowest[j]:
                    lowest[j] = mean[i, j]
                    at[j] = first + i
