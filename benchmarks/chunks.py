"""Speed and size of activation stores by chunk size: the rows `zstd 1` of the table in
docs/performance.md (those of other codecs are from commit 6cf2797).

Two layers of GPT-2 Small's width; codes as of a GELU network; rates in GB of codes per second,
written and read back by all threads, not from the page cache.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from universal_neurons.activations.reader import Activations
from universal_neurons.jobs import keep_memory
from universal_neurons.store import chunks
from universal_neurons.store.arrays import create_array, new_store
from universal_neurons.store.rows import RowWriter

WIDTH, TOKENS = 3072, 98304


def codes() -> np.ndarray:
    """Codes of GELU activations, shape (8192, WIDTH)."""
    x = torch.nn.functional.gelu(torch.randn(8192, WIDTH) * 0.8 - 0.5)
    half = (x.amax(0) - x.amin(0)) / 2 * 1.5 / 127
    noise = torch.rand(x.shape)
    return ((x - (x.amax(0) + x.amin(0)) / 2) / half + noise).floor().to(torch.int8).numpy()


def measure(where: Path, rows: np.ndarray, chunk_bytes: int) -> tuple[float, ...]:
    """GB/s written and read, and bytes per code."""
    path = where / "s.zarr"
    attributes = {"d_mlp": [WIDTH] * 2, "n_tokens": TOKENS, "encoding": "int8"}
    with (
        new_store(path, attributes) as group,
        ThreadPoolExecutor(torch.get_num_threads()) as threads,
    ):
        chunks.CHUNK_BYTES = chunk_bytes
        writers = [
            RowWriter(create_array(group, f"layer{i}", (TOKENS, WIDTH), np.int8)) for i in range(2)
        ]
        start = time.perf_counter()
        for _ in range(TOKENS // len(rows)):
            for writer in writers:
                writer.append(rows)
            RowWriter.write_full(writers, threads)
        RowWriter.close(writers, threads)
        wrote = 2 * TOKENS * WIDTH / (time.perf_counter() - start) / 1e9
    files = [f for f in path.rglob("c/*/*") if f.is_file()]
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    store = Activations(path)
    buffer = np.zeros((32768, WIDTH), np.int8)
    blocks = store.row_blocks(32768)
    start = time.perf_counter()
    for layer in range(2):
        for block in blocks:
            store.codes(layer, block, buffer)
    read = 2 * TOKENS * WIDTH / (time.perf_counter() - start) / 1e9
    size = sum(f.stat().st_size for f in files) / (2 * TOKENS * WIDTH)
    shutil.rmtree(path)
    return wrote, read, size


def main() -> None:
    """Print the table."""
    keep_memory()
    rows = codes()
    print("| chunk | written GB/s | read GB/s | bytes per code |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=".") as where:
        for mb in (0.5, 1, 2, 4, 8, 16):
            runs = [measure(Path(where), rows, int(mb * 2**20)) for _ in range(3)]
            wrote, read, size = np.median(runs, axis=0)
            print(f"| {mb} MB | {wrote:.2f} | {read:.2f} | {size:.2f} |", flush=True)


if __name__ == "__main__":
    main()
