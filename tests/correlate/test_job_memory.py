"""How much memory a job takes that compares two models, against what it is told to take."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from memory import PEAK
from pipeline import gpt2, random_tokens, run_capture
from planning import grid

from universal_neurons.activations.products import sum_pair
from universal_neurons.models.shape import Shape
from universal_neurons.store.arrays import create_array, new_store, read_arrays

# Two blocks of the size that products read, so that one is read while another is multiplied.
SHAPE, TOKENS = Shape(2, 1024), 2 << 16

JOB = f"""{PEAK}
import sys
from universal_neurons.activations.products import cross_sums
from universal_neurons.activations.reader import Activations
from universal_neurons.jobs import keep_memory

keep_memory()
a, b = (Activations(sys.argv[1]) for _ in "ab")
for _ in cross_sums(a, b, list(range(int(sys.argv[2]))), "int8"):
    pass
print(peak())
"""


def test_a_job_holds_no_more_than_it_is_told_to(tmp_path):
    memory_gb = 0.9
    about = {"d_mlp": [SHAPE.d_mlp] * SHAPE.n_layers, "n_tokens": TOKENS, "encoding": "int8"}
    for name in ("corpus_sha256", "sequences", "exclude", "exclude_positions"):
        about[name] = ""
    with new_store(tmp_path / "a.zarr", about) as group:
        for layer in range(SHAPE.n_layers):
            create_array(group, f"layer{layer}", (TOKENS, SHAPE.d_mlp), np.int8)[:] = 1
            for name, dtype in (("row", np.int64), ("neuron", np.int32), ("code", np.float32)):
                create_array(group, f"escape_{name}{layer}", (0,), dtype)
    sections = {"correlate": {"memory_gb": memory_gb}}
    layers = grid(SHAPE, seeds="01", sections=sections).layers_of_job("0", "1")
    assert layers == 2
    command = [sys.executable, "-c", JOB, str(tmp_path / "a.zarr"), str(layers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    peak = int(done.stdout.split()[-1])
    assert 0.6e9 < peak <= memory_gb * 1e9


def test_sums_are_the_same_however_many_layers_are_held_at_a_time(tmp_path):
    models = {"a": gpt2(1, layers=3), "b": gpt2(2, d_mlp=24)}
    a, b = (
        run_capture(model, random_tokens(40, 16), tmp_path / seed, seed=seed)[0]
        for seed, model in models.items()
    )
    found = {}
    for at_once in (None, 1, 2):
        path = tmp_path / f"sums{at_once}.zarr"
        stores = a / "activations.zarr", b / "activations.zarr"
        sum_pair(*stores, [0, 1, 2], "auto", at_once, path=path, attributes={})
        found[at_once] = read_arrays(path)
    assert len(found[None]) == 6
    for sums in found.values():
        assert list(sums) == list(found[None])
        assert all((sums[name] == values).all() for name, values in found[None].items())
