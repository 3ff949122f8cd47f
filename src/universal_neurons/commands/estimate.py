"""What a configuration costs, the whole grid and what of it is still to do: ``make estimate``.

Jobs, operations, bytes stored and time on this machine.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from universal_neurons.commands.plans import has_workflow, remaining
from universal_neurons.plan.config import load_config
from universal_neurons.plan.counts import counts
from universal_neurons.plan.disk import AT_ONCE, most_held, shards_note
from universal_neurons.plan.grid import Grid
from universal_neurons.plan.ready import classes_note, notes, ready_grid
from universal_neurons.plan.shares import Share, shares
from universal_neurons.plan.units import in_bytes, in_time

NO_SHARE = Share(0, {}, 0.0, 0.0)


def rates() -> dict[str, float]:
    """Operations per second of this machine, by a measurement of some seconds.

    A model reaches about 0.6 of what its large products do, ablated passes in bfloat16 about half
    (docs/performance.md).
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
    narrow = square.bfloat16()
    float32 = 2 * size**3 / best(lambda: square @ square)
    bfloat16 = 2 * size**3 / best(lambda: narrow @ narrow)
    return {
        "int8": 0.8 * int8,
        "float32": 0.9 * float32,
        "model": 0.6 * float32,
        # Where it would take longer, ablated passes are in float32 too.
        "differences": max(0.6 * float32, 0.8 * bfloat16),
    }


def table(
    whole: Mapping[str, Share], left: Mapping[str, Share] | None, speed: Mapping[str, float]
) -> str:
    """The estimate as text, one line per rule.

    Parameters
    ----------
    whole
        What all jobs of the grid take, by rule, as `shares.shares` gives it.
    left
        What the jobs take that are still to do; None if that is not known.
    speed
        As `rates` measures it.
    """
    parts = [whole] if left is None else [whole, left]
    heads = f"{'jobs':>7} {'operations':>11} {'stored':>8} {'time':>8}"
    titles = [f"{title:>{len(heads)}}" for title in ("the whole grid", "still to do")]
    lines = [f"{'':17} {'   '.join(text)}" for text in (titles[: len(parts)], [heads] * len(parts))]
    for rule in dict.fromkeys(rule for part in parts for rule in part):
        cells = (_cells([part.get(rule, NO_SHARE)], speed) for part in parts)
        lines.append(f"{rule:17} {'   '.join(cells)}")
    totals = "   ".join(_cells(part.values(), speed) for part in parts)
    return "\n".join([*lines, f"{'total':17} {totals}"])


def _cells(found: Iterable[Share], speed: Mapping[str, float]) -> str:
    """Columns of some rules together."""
    found = list(found)
    operations, stored = sum(f.operations for f in found), sum(f.stored for f in found)
    jobs, seconds = sum(f.jobs for f in found), sum(f.seconds(speed) for f in found)
    shown = f"{operations:.1e}" if operations else "-"
    return (
        f"{jobs:7,} {shown:>11} {in_bytes(stored) if stored else '-':>8} "
        f"{in_time(seconds) if seconds else '-':>8}"
    )


def most(grid: Grid) -> str:
    """The room that a run takes when it takes the most, in a sentence."""
    room = most_held(grid)
    return (
        f"At most {in_bytes(room.bytes)} lie on the disk at a time ({AT_ONCE} jobs side by side): "
        f"activations {in_bytes(room.activations)}, partial sums {in_bytes(room.sums)}, "
        f"all else {in_bytes(room.rest)}."
    )


def page(path: str | Path, snakefile: Path | None = None) -> str:
    """The estimate for a configuration file.

    Parameters
    ----------
    path
        Of the configuration.
    snakefile
        Of the workflow, which says what is still to do; where Snakemake looks for it if None. What
        the whole grid costs takes none.

    Raises
    ------
    UserError
        If the configuration is wrong or the run can't be planned.
    """
    config = load_config(path)
    grid = ready_grid(config)
    whole = shares(grid, counts(grid))
    said = [*shards_note(grid), *classes_note(grid), *notes(config)]
    if snakefile is None and not has_workflow(None):
        unknown = "What is still to do is not known: no Snakefile in this folder (--snakefile)."
        return "\n".join([table(whole, None, rates()), most(grid), unknown, *said])
    left = Counter(job.rule for job in remaining(path, snakefile))
    return "\n".join([table(whole, shares(grid, left), rates()), most(grid), *said])
