"""What a configuration will cost: jobs, operations, bytes stored and hours on this machine.

``make estimate`` prints it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from universal_neurons import corpus
from universal_neurons.errors import UserError
from universal_neurons.plan.config import resolve
from universal_neurons.plan.grid import Grid

# Stored bytes per activation and per summed product, after compression; docs/performance.md.
ACTIVATION_BYTES = {"int8": 0.75, "bfloat16": 1.7, "float32": 3.7}
SUM_BYTES = {"int8": 4.0, "bfloat16": 7.7, "float32": 7.7}

# Processor seconds to start a job: with torch and transformers, and without.
START_TORCH, START = 7.0, 2.5


@dataclass(frozen=True)
class Stage:
    """Cost of one rule over the whole grid.

    Attributes
    ----------
    rule
        Its name.
    jobs
        Number of jobs.
    operations
        Multiplications and additions.
    stored
        Bytes that stay on disk.
    kind
        Which rate the operations run at: ``int8``, ``float32`` or ``model``.
    """

    rule: str
    jobs: int
    operations: float
    stored: float
    kind: str

    def hours(self, rates: dict[str, float]) -> float:
        """Time on a machine of these rates (operations per second), its cores all busy."""
        start = START_TORCH if self.kind == "model" else START
        return (
            self.jobs * start / (os.cpu_count() or 1) + self.operations / rates[self.kind]
        ) / 3600


def stages(grid: Grid) -> list[Stage]:
    """Cost of every rule that takes time or room, for the whole grid."""
    config = grid.config
    encoding = config["capture"]["encoding"]
    shape = max(grid.shapes.values(), key=lambda each: each.neurons)
    neurons, square = shape.neurons, shape.d_mlp**2
    scored, shards = config["corpus"]["tokens"], len(grid.shards)
    models, pairs = len(grid.seeds) * len(grid.steps), len(grid.pairs) * len(grid.steps)
    draws = config["baseline"]["draws"]
    tiles = shape.n_layers**2
    blocks = sum(len(grid.layer_blocks(a, b)) for a, b in grid.pairs) * len(grid.steps)
    forward = grid.forward_operations()
    exact = 2.0 * scored * neurons**2
    product = "int8" if encoding == "int8" else "float32"
    sums = SUM_BYTES[encoding] * shards
    within = 2.0 * scored * shape.d_mlp * neurons
    found = []
    if config["models"]["source"] == "train":
        train = config["models"]["train"]
        tokens = train["total_steps"] * train["batch_size"] * config["corpus"]["context_length"]
        weights = 4 * (forward / 2 + train["vocab_size"] * train["width"])
        trained = 3 * (forward + 2 * train["vocab_size"] * train["width"]) * tokens
        found.append(
            Stage("train", len(grid.seeds), len(grid.seeds) * trained, models * weights, "model")
        )
    if config["capture"]["store"]:
        kept = ACTIVATION_BYTES[encoding] * scored * neurons if config["capture"]["keep"] else 0
        found += [
            Stage("capture", models * shards, models * scored * forward, models * kept, "model"),
            Stage("within", 0, models * within, models * sums * shape.d_mlp * neurons, product),
        ]
    else:
        jobs = blocks // len(grid.pairs) * shards
        passes = blocks // pairs
        operations = passes * models * scored * forward
        found += [
            Stage("direct", jobs, operations, 0, "model"),
            Stage(
                "products",
                0,
                pairs * exact + models * within,
                sums * (pairs * neurons**2 + models * shape.d_mlp * neurons),
                product,
            ),
        ]
    kinds = len(grid.layer_kinds)
    found += [
        Stage(
            "rotations",
            1,
            20.0 * draws * kinds * shape.d_mlp**3,
            3.7 * draws * kinds * square,
            "float32",
        ),
        Stage(
            "rotated_std",
            models,
            2.0 * models * draws * shape.n_layers * shape.d_mlp**3,
            0,
            "float32",
        ),
    ]
    baseline = pairs * tiles * 4.0 * draws * shape.d_mlp**3
    if config["correlate"]["mode"] == "screened":
        sample = config["correlate"]["sample"]
        found += [
            Stage("screen", blocks, pairs * sample * exact, 0, product),
            Stage("refine", pairs, 0.1 * pairs * exact, 0, product),
            Stage("baseline", 0, baseline, 0, "float32"),
        ]
    else:
        if config["capture"]["store"]:
            stored = pairs * sums * neurons**2
            found.append(Stage("correlate", blocks * shards, pairs * exact, stored, product))
        found.append(Stage("match", blocks, baseline, 0, "float32"))
    if config["capture"]["store"]:
        summed = len(grid.steps) * grid.operations("influence")
        found.append(Stage("influence", len(grid.steps), summed, 0, "float32"))
        anew = len(grid.steps) * grid.operations("permuted")
        found.append(Stage("permuted", len(grid.steps), anew, 0, product))
    if 0 not in grid.steps:
        found.append(Stage("untrained", 1, grid.operations("untrained"), 0, product))
    ablated = models * grid.ablation_operations()
    found.append(
        Stage("ablate", len(grid.ablation_blocks()) * len(grid.steps), ablated, 0, "model")
    )
    intervals = len(grid.steps) - 1
    if intervals:
        traced = len(grid.seeds) * intervals * grid.trace_operations()
        found.append(Stage("trace", len(grid.ablation_blocks()) * intervals, traced, 0, "float32"))
    return found


def rates() -> dict[str, float]:
    """Operations per second of this machine, by a measurement of some seconds.

    A model reaches about 0.6 of what its large products do (docs/performance.md).
    """
    import torch

    from universal_neurons.codes import Codes
    from universal_neurons.products import add_products, fastest_kernel

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


def summary(grid: Grid) -> str:
    """One line for the start of a run; of the whole grid, whatever is done already."""
    found = stages(grid)
    jobs, operations, stored = (
        sum(getattr(stage, name) for stage in found) for name in ("jobs", "operations", "stored")
    )
    return (
        f"The whole grid takes about {jobs} jobs, {operations:.1e} operations and "
        f"{stored / 1e9:.1f} GB of disk; `make estimate` says how long."
    )


def table(found: list[Stage], speed: dict[str, float]) -> str:
    """The estimate as text, one line per stage."""
    lines = [f"{'':12} {'jobs':>7} {'operations':>11} {'stored':>10} {'hours here':>11}"]
    for stage in found:
        lines.append(
            _line(stage.rule, stage.jobs, stage.operations, stage.stored, stage.hours(speed))
        )
    lines.append(
        _line(
            "all",
            sum(stage.jobs for stage in found),
            sum(stage.operations for stage in found),
            sum(stage.stored for stage in found),
            sum(stage.hours(speed) for stage in found),
        )
    )
    return "\n".join(lines)


def _line(name: str, jobs: float, operations: float, stored: float, hours: float) -> str:
    return f"{name:12} {jobs:7.0f} {operations:11.2e} {stored / 1e9:7.2f} GB {hours:11.2f}"


def main(path: str) -> None:
    """Print the estimate of a configuration file."""
    schema = Path(__file__).parents[3] / "workflow/schemas/config.schema.yaml"
    try:
        config = resolve(yaml.safe_load(Path(path).read_text()), schema)
        corpus.check_length(config["corpus"])
        grid = Grid.of(config)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(table(stages(grid), rates()))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "config.yaml")
