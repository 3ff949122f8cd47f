"""Append rows to an array, whole chunks at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from universal_neurons.store.chunks import StoredArray


def _to_disk(path: Path) -> None:
    """Wait until a file is on the disk, and give back the memory that holds a copy of it.

    A shard is larger than that memory or soon pushes other files out of it, and taking fresh memory
    for every chunk costs more than compressing it (docs/performance.md).
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class RowWriter:
    """Append rows to an array, writing whole chunks in order.

    Full chunks wait for `write_full`, which compresses those of many writers side by side. Threads
    that compress while a model runs would cost more: they hold up the model's threads, which wait
    for each other after every operation.

    Parameters
    ----------
    array
        As made by `create_array`.
    """

    def __init__(self, array: StoredArray) -> None:
        self._array = array
        self._spare: list[NDArray] = []
        self._full: list[tuple[int, NDArray]] = []
        self._buffer = np.empty((array.chunk_rows, *array.shape[1:]), array.dtype)
        self._filled = self._start = 0

    def append(self, rows: NDArray) -> None:
        """Add rows after those already there; they are copied."""
        while len(rows):
            n = min(len(rows), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + n] = rows[:n]
            self._filled += n
            rows = rows[n:]
            if self._filled == len(self._buffer):
                self._next()

    def _next(self) -> None:
        self._full.append((self._start, self._buffer[: self._filled]))
        self._start, self._filled = self._start + self._filled, 0
        self._buffer = self._spare.pop() if self._spare else np.empty_like(self._buffer)

    def _write(self, start: int, rows: NDArray) -> None:
        self._array[start : start + len(rows)] = rows
        if len(rows) == len(self._buffer):
            self._spare.append(rows)
            _to_disk(self._array.chunk_file(start // len(rows)))

    @staticmethod
    def write_full(writers: Sequence[RowWriter], threads: Executor) -> None:
        """Write the full chunks of several arrays."""
        waiting = [(writer, *chunk) for writer in writers for chunk in writer._full]
        for writer in writers:
            writer._full.clear()
        for future in [threads.submit(w._write, start, rows) for w, start, rows in waiting]:
            future.result()

    @staticmethod
    def close(writers: Sequence[RowWriter], threads: Executor) -> None:
        """Write what is left.

        Raises
        ------
        ValueError
            If fewer rows were appended than an array has.
        """
        for writer in writers:
            if writer._filled:
                writer._next()
            if writer._start != writer._array.shape[0]:
                raise ValueError(
                    f"{writer._array.name}: {writer._start} rows instead of "
                    f"{writer._array.shape[0]}"
                )
        RowWriter.write_full(writers, threads)
