"""The compiled pass over activations does what torch does step by step."""

from __future__ import annotations

import os
import subprocess
import sys

import fork_server
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from universal_neurons.activations.calibration import Calibration
from universal_neurons.activations.encoding import Ranges
from universal_neurons.activations.rounding import Dither, encode_int8
from universal_neurons.capture.layer_pass import LayerPass
from universal_neurons.capture.power_sums import PowerSums
from universal_neurons.forks import server
from universal_neurons.forks.scripts import FORKS

CPU = torch.device("cpu")


def layer_pass(d_mlp, scale, offset):
    calibration = Calibration(
        Ranges(np.full(d_mlp, scale, np.float32), np.full(d_mlp, offset, np.float32)),
        np.full(d_mlp, float(offset)),
    )
    return LayerPass(calibration, Dither("a", 1, 0, d_mlp, CPU), "int8", CPU)


@given(
    tokens=st.integers(1, 60),
    d_mlp=st.integers(1, 600),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=30, deadline=None)
def test_codes_and_sums_are_those_of_separate_tensor_operations(tokens, d_mlp, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(tokens, d_mlp, generator=generator)).to(dtype)
    # Only some tokens are scored, in two batches of one length.
    kept = torch.randperm(tokens, generator=generator)[: tokens // 2 + 1].sort().values
    scale, offset = 0.05, 0.3
    compiled = layer_pass(d_mlp, scale, offset)
    sums = PowerSums(torch.full((d_mlp,), float(np.float32(offset)), dtype=torch.float64))
    dither = Dither("a", 1, 0, d_mlp, CPU)
    code_sum = np.zeros(d_mlp)
    escapes = np.zeros(d_mlp, np.int64)
    for start in (0, 1000):
        place = kept.numpy() + start
        codes = compiled.add(x, kept, place)
        expected = encode_int8(
            x[kept],
            torch.full((d_mlp,), scale),
            torch.full((d_mlp,), offset),
            dither(place),
        )
        # The order of two roundings may differ, on the edge between two codes.
        off = np.abs(codes.whole() - expected.whole())
        assert off.max() <= 1
        assert (off != 0).sum() <= 1 + 1e-4 * off.size
        assert (np.diff(codes.escapes.row) >= 0).all()
        assert codes.dense.abs().max() <= 127
        code_sum += codes.whole().sum(0, dtype=np.float64)
        escapes += np.bincount(expected.escapes.neuron, minlength=d_mlp)
        assert sums.update(x[kept])
    found = compiled.arrays()
    np.testing.assert_array_equal(found["code_sum"], code_sum)
    assert np.abs(found["escapes"] - escapes).sum() <= 2
    assert escapes.sum() > 0 or d_mlp * tokens < 2000
    for name, values in sums.arrays().items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_value_that_is_not_finite_is_noticed(bad, dtype):
    x = torch.zeros(5, 7, dtype=dtype)
    place = np.arange(5)
    assert layer_pass(7, 1.0, 0.0).add(x, torch.arange(5), place) is not None
    x[3, 6] = bad
    assert layer_pass(7, 1.0, 0.0).add(x, torch.arange(5), place) is None
    # Unless the token is not scored.
    others = torch.tensor([0, 1, 2, 4])
    assert layer_pass(7, 1.0, 0.0).add(x, others, others.numpy()) is not None


# Codes and sums of a layer, with the threads that its process has.
CODES = """
import universal_neurons
import hashlib, os, numba, numpy as np, torch
from universal_neurons.activations.calibration import Calibration
from universal_neurons.activations.encoding import Ranges
from universal_neurons.activations.rounding import Dither
from universal_neurons.capture.layer_pass import LayerPass
torch.manual_seed(0)
ranges = Ranges(np.full(700, 0.05, np.float32), np.zeros(700, np.float32))
cpu = torch.device("cpu")
one = LayerPass(Calibration(ranges, np.zeros(700)), Dither("a", 1, 0, 700, cpu), "int8", cpu)
codes = one.add(torch.randn(50, 700), torch.arange(50), np.arange(50)).whole()
sha = hashlib.sha256(codes.tobytes())
for _, values in sorted(one.arrays().items()):
    sha.update(np.ascontiguousarray(values).tobytes())
with open(os.environ["SAID"], "w") as f:
    print(numba.get_num_threads(), torch.get_num_threads(), sha.hexdigest(), file=f)
"""


def test_torch_and_numba_have_the_threads_of_their_job_and_the_number_does_not_matter(tmp_path):
    """In a process and in a fork: Numba, starting, would have torch take all processors."""
    code = tmp_path / "codes.py"
    code.write_text(CODES)
    found = set()
    for threads in "12":
        more = {"OMP_NUM_THREADS": threads, "SAID": str(tmp_path / "said")}
        environment = {**os.environ, **more}
        for run in (_as_process, _as_fork):
            run(code, tmp_path, environment)
            *had, digest = (tmp_path / "said").read_text().split()
            assert had == [threads, threads], run
            found.add(digest)
    assert len(found) == 1


def _as_process(code, folder, environment):
    subprocess.run([sys.executable, str(code)], cwd=folder, env=environment, check=True)


def _as_fork(code, folder, environment):
    address = fork_server.environment(dict(os.environ))[FORKS]
    with server.fork(address, [str(code)], folder, environment) as job:
        assert job.wait().code == 0
