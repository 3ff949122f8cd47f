"""One job that compares two models, in a process of its own: its time and its memory.

python benchmarks/pair_job.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from universal_neurons.activations import kernels, products
from universal_neurons.activations.reader import Activations
from universal_neurons.jobs import keep_memory


def main(where: Path) -> None:
    """All layers of ``some.zarr`` against all of ``all.zarr``, twice; the same from memory.

    A job sums several times as many layers as it holds, one part after the other: the first part
    finds memory that was never touched, the others that of the one before.
    """
    a, b = Activations(where / "some.zarr"), Activations(where / "all.zarr")
    keep_memory()
    took = [_seconds(a, b) for _ in range(2)]
    # getrusage would count the parent's memory too.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
    block = a.row_blocks(products.block_tokens(max(a.d_mlp)))[0]
    mine, theirs = a.codes(0, block), b.codes(0, block)
    totals = [np.ones((a.d_mlp[0], b.d_mlp[0]), np.int64) for _ in range(12)]
    start = time.perf_counter()
    for total in totals:
        kernels.add_products(total, mine, theirs, "int8")
    each = (time.perf_counter() - start) / len(totals) / len(mine)
    from_memory = each * a.n_tokens * len(a.d_mlp) * len(b.d_mlp)
    found = {"first": took[0], "further": took[1], "from_memory": from_memory, "peak_gb": peak}
    print(json.dumps(found))


def _seconds(a: Activations, b: Activations) -> float:
    """One part, from files that are not in the page cache."""
    for store in (a, b):
        for file in store.path.rglob("c/*/*"):
            with open(file, "rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    for _ in products.cross_sums(a, b, list(range(len(a.d_mlp))), "int8"):
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    main(Path(sys.argv[1]))
