"""What a pair of models of Pythia 1.4B's shape takes: planned, and the sums of a layer for real.

The plan is of five seeds at five steps of 5 million tokens. A layer of 8,192 neurons is compared
with as many layers of the other model as are asked for (24 take 14 GB), on few tokens, whose
number memory does not depend on; codes are random. `match` is of one layer with one, all tokens
different, with a rotation that is a permutation with signs, which takes no decomposition.

    python benchmarks/bigger.py [LAYERS]
    python benchmarks/bigger.py match [WIDTH]       # 9 GB
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
import classes  # noqa: E402
import planted  # noqa: E402
from pipeline import run_capture  # noqa: E402
from planning import grid  # noqa: E402

from universal_neurons.activations.products import cross_sums  # noqa: E402
from universal_neurons.activations.reader import Activations  # noqa: E402
from universal_neurons.correlate import match, rotations  # noqa: E402
from universal_neurons.jobs import keep_memory  # noqa: E402
from universal_neurons.models.shape import Shape  # noqa: E402
from universal_neurons.plan.cost import cost  # noqa: E402
from universal_neurons.plan.counts import counts  # noqa: E402
from universal_neurons.plan.disk import most_held  # noqa: E402
from universal_neurons.plan.grid import PROCESS_BYTES  # noqa: E402
from universal_neurons.store.arrays import create_array, new_store  # noqa: E402

WIDTH, LAYERS, TOKENS = 8192, 24, 16384
# Of `match`, of as many identities.
MATCHED = 4000


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
    print_peak()


def print_peak() -> None:
    """Of this process."""
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
    print(json.dumps({"peak_gb": peak}), flush=True)


def permutation(seed: int, layer: int, draw: int, d_mlp: int) -> np.ndarray:
    """In place of `rotations.rotation`."""
    rng = np.random.default_rng([seed, layer, draw])
    signs = rng.choice(np.array([-1, 1], np.float32), d_mlp)
    return np.diag(signs)[rng.permutation(d_mlp)]


def in_a_process(*given: Any, **named: Any) -> None:
    """`match.match_pair` in a process of its own, which prints its peak memory."""
    with tempfile.NamedTemporaryFile() as file:
        pickle.dump((given, named), file)
        file.flush()
        subprocess.run([sys.executable, __file__, "match-job", file.name], check=True)


def match_job(path: str) -> None:
    """In that process."""
    keep_memory()
    given, named = pickle.loads(Path(path).read_bytes())
    match.match_pair(*given, **named)
    print_peak()


def matched(width: int) -> dict[str, float]:
    """Memory of a `match` job of a layer with a layer, asked for and as it was."""
    sections = {"baseline": {"draws": 1, "seed": 0, "standardise": False}}
    asked = cost(grid(Shape(1, width), sections=sections, tokens=MATCHED, shards=1), "match")
    command = [sys.executable, __file__, "match-pair", str(width)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    peak = json.loads(done.stdout.splitlines()[-1])["peak_gb"]
    return {"width": width, "asked_gb": asked.mem_mb / 1000, "peak_gb": peak}


def match_pair(width: int) -> None:
    """Capture and match two models of one layer, as the tests do."""
    classes.match_pair = in_a_process
    classes.StepMatches = SimpleNamespace(read=lambda _: None)
    rotations.rotation = permutation
    ids = np.arange(MATCHED).reshape(-1, planted.CONTEXT)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        models = [
            run_capture(
                planted.model([rng.standard_normal((MATCHED, width), dtype=np.float32)]),
                ids, Path(folder, name), seed=name, exclude=(), sample=10,
            )
            for name in "ab"
        ]  # fmt: skip
        classes.match_given(models, ids, np.arange(len(ids)) % 2, Path(folder), draws=1)


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
    first, *rest = sys.argv[1:] or [str(LAYERS)]
    if first == "match":
        print(matched(int(*rest or [WIDTH])))
    elif first == "match-pair":
        match_pair(int(*rest))
    elif first == "match-job":
        match_job(*rest)
    elif rest:
        sums(first, *rest)
    else:
        print(planned(), flush=True)
        print(measured(int(first)))
