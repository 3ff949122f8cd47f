"""What a pair of models of Pythia 1.4B's shape takes: planned, and the sums of a layer for real.

The plan is of five seeds at five steps of 5 million tokens. A layer of 8,192 neurons is compared
with as many layers of the other model as are asked for (24 take 14 GB), on few tokens, whose
number memory does not depend on; codes are random.

    python benchmarks/bigger.py [LAYERS]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
from planning import grid  # noqa: E402

from universal_neurons.activations.products import cross_sums  # noqa: E402
from universal_neurons.activations.reader import Activations  # noqa: E402
from universal_neurons.jobs import keep_memory  # noqa: E402
from universal_neurons.models.shape import Shape  # noqa: E402
from universal_neurons.plan.cost import cost  # noqa: E402
from universal_neurons.plan.counts import counts  # noqa: E402
from universal_neurons.plan.disk import most_held  # noqa: E402
from universal_neurons.plan.grid import PROCESS_BYTES  # noqa: E402
from universal_neurons.store.arrays import create_array, new_store  # noqa: E402

WIDTH, LAYERS, TOKENS = 8192, 24, 16384


def planned() -> dict[str, float]:
    """Jobs, memory and room of the study."""
    seeds = list("abcde")
    sections = {"models": {"seeds": seeds, "steps": [1, 2, 3, 4, 5]}}
    corpus = {"tokens": 5_000_000, "heldout_tokens": 51200, "context_length": 512, "shards": 8}
    study = grid(Shape(LAYERS, WIDTH), seeds=seeds, sections=sections, **corpus)
    found = {"jobs": counts(study).total(), "most_tb": most_held(study).bytes / 1e12}
    return found | {f"{rule}_mb": cost(study, rule).mem_mb for rule in ("correlate", "match")}


def write(path: Path, layers: int) -> None:
    """Random codes of a model, as captured."""
    rng = np.random.default_rng(layers)
    about = {"d_mlp": [WIDTH] * layers, "n_tokens": TOKENS, "encoding": "int8"}
    about |= dict.fromkeys(("corpus_sha256", "sequences", "exclude", "exclude_positions"), "")
    with new_store(path, about) as group:
        for layer in range(layers):
            codes = rng.integers(-127, 128, (TOKENS, WIDTH), dtype=np.int8)
            create_array(group, f"layer{layer}", codes.shape, np.int8)[:] = codes
            for name, dtype in (("row", np.int64), ("neuron", np.int32), ("code", np.float32)):
                create_array(group, f"escape_{name}{layer}", (0,), dtype)


def sums(one: str, other: str) -> None:
    """In a process of its own: the sums of a layer, and the memory that they took."""
    keep_memory()
    for _ in cross_sums(Activations(one), Activations(other), [0], "int8"):
        pass
    status = Path("/proc/self/status").read_text()
    print(json.dumps({"peak_gb": int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9}))


def measured(layers: int) -> dict[str, float]:
    """Memory of a job that compares a layer with so many, predicted and as it was."""
    of_a_job = cost(
        grid(Shape(layers, WIDTH), sections={"correlate": {"memory_gb": 0.1}}), "correlate"
    )
    predicted = (of_a_job.memory + PROCESS_BYTES) / 1e9
    with tempfile.TemporaryDirectory() as folder:
        stores = [Path(folder, f"{n}.zarr") for n in (1, layers)]
        for path, n in zip(stores, (1, layers), strict=True):
            write(path, n)
        command = [sys.executable, __file__, *map(str, stores)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    peak = json.loads(done.stdout.splitlines()[-1])["peak_gb"]
    return {"layers": layers, "predicted_gb": predicted, "peak_gb": peak, "ratio": peak / predicted}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sums(*sys.argv[1:])
    else:
        print(planned(), flush=True)
        print(measured(int(sys.argv[1]) if sys.argv[1:] else LAYERS))
