"""CorALS, a library of largest correlations, beside int8 codes and beside float32 products.

Two layers of GPT-2 Small's width in memory (`accuracy.planted`), until every neuron's best match is
known: the rate of what a correlation of all with all takes, everything else that a way does counted
with it; and the best matches that are other than float64's. CorALS wants NumPy < 2, so it gets an
environment of its own for the time of the measurement.

    python benchmarks/corals_top.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

REQUIREMENTS = ("corals==0.1.7", "numpy<2")
N_TOKENS, WIDTH = 16_384, 3072
# Its search takes the largest |ρ| of a whole matrix: so many per neuron, of every sixth neuron, as
# all would take minutes.
PAIRS, EVERY = 8, 6


def theirs(where: Path) -> None:
    """In CorALS' environment: all correlations and an argmax; and its search of the largest."""
    from corals.threads import set_threads_for_external_libraries

    threads = os.cpu_count() or 1
    set_threads_for_external_libraries(n_threads=threads)
    from corals.correlation.full.default import cor_full
    from corals.correlation.topk.default import cor_topk

    xs = [np.load(where / f"{name}.npy") for name in "ab"]
    some = [np.ascontiguousarray(x[:, ::EVERY]) for x in xs]
    cor_full(*some)  # warms up
    start = time.perf_counter()
    best = cor_full(*xs).argmax(1)
    middle = time.perf_counter()
    corr, (first, second) = cor_topk(*some, k=PAIRS * some[0].shape[1], n_jobs=threads)
    searched = time.perf_counter() - middle
    # Of every neuron the largest that is among the pairs; -1 if none is.
    order = np.argsort(corr, kind="stable")
    found = np.full(some[0].shape[1], -1)
    found[first[order]] = second[order]
    np.savez(where / "found.npz", all=best, top=found)
    print(json.dumps({"corals_all": middle - start, "corals_top": searched}))


def in_own_environment(where: Path) -> dict[str, float]:
    """Install CorALS under `where` and run `theirs` there: seconds by way."""
    venv.create(where / "venv", with_pip=True)
    python = where / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-qq", *REQUIREMENTS], check=True)
    command = [python, __file__, where]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def ours(xs: list) -> NDArray[np.intp]:
    """Best matches by int8 codes, whose ranges the first half fixes."""
    import torch
    from accuracy import CPU, calibration_of

    from universal_neurons.activations.kernels import add_products
    from universal_neurons.activations.rounding import Dither
    from universal_neurons.capture.layer_pass import LayerPass

    codes, n = [], len(xs[0])
    for name, x in zip("ab", xs, strict=True):
        calibration = calibration_of(x[: n // 2])
        layer = LayerPass(calibration, Dither(name, 0, 0, x.shape[1], CPU), "int8", CPU)
        codes.append(layer.add(x, torch.arange(n), np.arange(n)))
    sums = add_products(np.zeros((xs[0].shape[1], xs[1].shape[1]), np.int64), *codes, "int8")
    one, other = (code.whole() for code in codes)
    means = [x.mean(0, dtype=np.float64) for x in (one, other)]
    # Deviations of the own model don't change which is best.
    corr = (sums / n - np.outer(*means)) / other.std(0, dtype=np.float64)
    return corr.argmax(1)


def against_corals() -> dict[str, float]:
    """G operations per second by way, and the best matches that are other than float64's."""
    from accuracy import by_hand, planted

    xs = planted(N_TOKENS, WIDTH)
    corr = np.corrcoef(*(x.double().numpy().T for x in xs))[:WIDTH, WIDTH:]
    truth = {"corals_top": corr[::EVERY, ::EVERY].argmax(1)}
    best = {"codes": ours(xs)}
    by_hand([x[:, ::EVERY] for x in xs])  # warms up
    start = time.perf_counter()
    best["by_hand"] = by_hand(xs).argmax(1)
    took = {"by_hand": time.perf_counter() - start}
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        for name, x in zip("ab", xs, strict=True):
            np.save(where / f"{name}.npy", x.numpy())
        try:
            took |= in_own_environment(where)
        except subprocess.CalledProcessError as error:
            print(f"CorALS is not compared: {error}", file=sys.stderr)
        else:
            with np.load(where / "found.npz") as found:
                best |= {"corals_all": found["all"], "corals_top": found["top"]}
    wrong = {name: index != truth.get(name, corr.argmax(1)) for name, index in best.items()}
    return {
        **{f"{name}_gops": 2e-9 * N_TOKENS * len(best[name]) ** 2 / took[name] for name in took},
        **{f"{name}_wrong": int(of.sum()) for name, of in wrong.items()},
    }


if __name__ == "__main__":
    if len(sys.argv) == 2:
        theirs(Path(sys.argv[1]))
    else:
        for name, value in against_corals().items():
            print(f"{name:28} {value:.4g}")
