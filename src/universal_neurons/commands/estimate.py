"""What a configuration will cost: jobs, operations, bytes stored and hours on this machine.

``make estimate`` prints it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from universal_neurons.plan.config import load_config
from universal_neurons.plan.cost import Cost, planned
from universal_neurons.plan.grid import Grid
from universal_neurons.prepare import corpus


def rates() -> dict[str, float]:
    """Operations per second of this machine, by a measurement of some seconds.

    A model reaches about 0.6 of what its large products do (docs/performance.md).
    """
    import torch

    from universal_neurons.activations.codes import Codes
    from universal_neurons.activations.kernels import add_products, fastest_kernel

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    size, tokens = 2048, 16384
    codes = Codes.of(torch.ones(tokens, size, dtype=torch.int8))
    total = torch.zeros(size, size, dtype=torch.int64)
    kernel = fastest_kernel()
    square = torch.ones(size, size)
    int8 = 2 * tokens * size**2 / best(lambda: add_products(total, codes, codes, kernel))
    float32 = 2 * size**3 / best(lambda: square @ square)
    return {"int8": 0.8 * int8, "float32": 0.9 * float32, "model": 0.6 * float32}


def table(found: Mapping[str, Cost], speed: Mapping[str, float]) -> str:
    """The estimate as text, one line per rule.

    Parameters
    ----------
    found
        Cost by rule, as `cost.planned` gives it.
    speed
        As `rates` measures it.
    """
    costs = found.values()
    rows = [(rule, c.jobs, c.operations, c.stored, c.hours(speed)) for rule, c in found.items()]
    total = (
        *("all", sum(c.jobs for c in costs), sum(c.operations for c in costs)),
        *(sum(c.stored for c in costs), sum(c.hours(speed) for c in costs)),
    )
    lines = [f"{'':12} {'jobs':>7} {'operations':>11} {'stored':>10} {'hours here':>11}"]
    for name, jobs, operations, stored, hours in [*rows, total]:
        lines.append(
            f"{name:12} {jobs:7.0f} {operations:11.2e} {stored / 1e9:7.2f} GB {hours:11.2f}"
        )
    return "\n".join(lines)


def page(path: str | Path) -> str:
    """The estimate for a configuration file.

    Raises
    ------
    UserError
        If the configuration is wrong.
    """
    config = load_config(path)
    corpus.check_length(config["corpus"])
    return table(planned(Grid.of(config)), rates())
