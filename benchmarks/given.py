"""What correlations given the token take of a pair of layers, beside the sums of its products.

Two layers with as many identities of tokens as GPT-2 has, as frequent as words among 5 million
tokens; class means of heavy tails, two thirds of them of what both models have in common. Timed in
processor seconds is what `match` does for them (`given.GivenSearch`: reading sums, rounding, the
product, two rotations either way, best matches) with all scores multiplied in float32 and as they
are now; and int8 products of codes, of as many tokens as fit, in proportion. Errors are those of
the correlations that class means make, against float64.

    python benchmarks/given.py [WIDTH] [CLASSES]       # one thread, 5 GB
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes
from universal_neurons.activations.kernels import add_products
from universal_neurons.correlate import class_scores
from universal_neurons.correlate.given import DRAWS, Given, GivenSearch
from universal_neurons.correlate.neurons import Neurons
from universal_neurons.correlate.rotations import write_rotations
from universal_neurons.jobs import keep_memory
from universal_neurons.store.arrays import write_arrays

WIDTH, CLASSES, TOKENS, LAYERS = 3072, 50257, 5_000_000, 3
# A neuron's standard deviation in codes, and the tokens of the products that are timed.
SPREAD, TIMED = 15.0, 65536


def counts(classes: int) -> NDArray[np.int64]:
    """Of every identity, in no order."""
    weight = 1 / (np.arange(classes) + 2.7)
    found = np.maximum(1, np.round(TOKENS * weight / weight.sum())).astype(np.int64)
    return np.random.default_rng(0).permutation(found)


def sums(count: NDArray[np.int64], width: int, seed: int) -> NDArray[np.int32]:
    """Summed codes of the classes: Student's t of three degrees of freedom, and noise."""
    shared, own = np.random.default_rng(1), np.random.default_rng(seed)
    found = np.empty((len(count), width), np.int32)
    for row, n in zip(found, count, strict=True):
        means = 2 * shared.standard_t(3, width) + own.standard_t(3, width)
        row[:] = np.rint(4 * (n * means + np.sqrt(n) * own.standard_normal(width)))
    return found


def model(where: Path, count: NDArray[np.int64], width: int, seed: int) -> Given:
    """One layer with its sums over classes, as `given.write_given` stores them."""
    total, std = sums(count, width, seed), np.full(width, SPREAD)
    about = {"seed": str(seed), "encoding": "int8", "standardise": False}
    arrays = {"std": 0.7 * std, "rotated_std": np.full((DRAWS, width), 0.7 * SPREAD, np.float32)}
    path = where / f"{seed}.zarr"
    write_arrays(path, {**arrays, "count": count, "sums0": total}.items(), about)
    neurons = Neurons([width], int(count.sum()), total.sum(0), np.ones(width), std)
    return Given(path, neurons, where / "rotations.zarr")


def seconds(do: Callable[[], object]) -> float:
    """Of the processor."""
    start = time.process_time()
    do()
    return time.process_time() - start


def timed(a: Given, b: Given, width: int) -> dict[str, float]:
    """A layer of one model, and what it takes for each that it is held against."""
    found: list[GivenSearch] = []
    start = seconds(lambda: found.append(GivenSearch(a, b, [0])))
    turn = seconds(lambda: found[0].turn_to(0))
    corr = np.random.default_rng(2).normal(0, 0.01, (width, width))
    take = seconds(lambda: found[0].take(corr, 0, 0))
    # As many layers of one model are held at a time against each of the other's twelve.
    return {"ready": start / 12 + turn / LAYERS, "take": take}


def worst(a: Given, b: Given) -> tuple[float, float]:
    """Largest and root mean square error of some neurons' products, against float64."""
    some = slice(0, 256)
    exact = a.scores(0)[:, some].T.astype(np.float64) @ b.scores(0)
    error = a.to_multiply(0).product(b.to_multiply(0))[some] - exact
    return float(np.abs(error).max()), float(np.sqrt((error**2).mean()))


def main(width: int = WIDTH, classes: int = CLASSES) -> None:
    """Print a table."""
    keep_memory()
    torch.set_num_threads(1)
    rng, count = np.random.default_rng(0), counts(classes)
    codes = [Codes.of(rng.integers(-127, 128, (TIMED, width), dtype=np.int8)) for _ in range(2)]
    total = np.zeros((width, width), np.int64)
    products = seconds(lambda: add_products(total, *codes, "int8")) * TOKENS / TIMED
    print(f"int8 products of {TOKENS:,} tokens: {products:.1f} s")
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        write_rotations(where / "rotations.zarr", [(width, 0)], draws=DRAWS, seed=0, attributes={})
        a, b = (model(where, count, width, seed) for seed in (3, 4))
        for what, frequent in (("float32", classes), ("now", class_scores.FREQUENT)):
            class_scores.FREQUENT = frequent
            timed(a, b, width)  # warms up
            found = timed(a, b, width)
            whole = sum(found.values())
            parts = ", ".join(f"{part} {own:.2f}" for part, own in found.items())
            print(f"{what}: {whole:.2f} s ({parts}), {whole / products:.1%} of the products;"
                  " largest error {:.1e}, rms {:.1e}".format(*worst(a, b)))  # fmt: skip
        escaped = len(b.to_multiply(0).coarse.escapes) / (classes - class_scores.FREQUENT) / width
        print(f"escaped: {escaped:.1e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
