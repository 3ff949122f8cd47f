"""Reading weights takes the memory of the model itself, and less than twice its size at most."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

CODE = """
import resource, sys
from pathlib import Path
import safetensors.torch, torch
from universal_neurons.models import hub
from universal_neurons.models.load import load

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

folder, what = Path(sys.argv[1]), sys.argv[2]
load(folder / "small")
before = peak()
if what == "convert":
    hub._convert(hub.Name("a", "b"), folder / "pytorch_model.bin", folder / "converted")
else:
    load(folder)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pickled weights of 200 MB, tied ones under both names, and a small model."""
    where = tmp_path_factory.mktemp("large")
    options = {"n_head": 4, "n_positions": 64, "vocab_size": 5000, "bos_token_id": 0}
    for name, layers, width in (("small", 1, 16), ("", 4, 1024)):
        config = GPT2Config(n_layer=layers, n_embd=width, eos_token_id=0, **options)
        module = GPT2LMHeadModel(config)
        module.save_pretrained(where / name)
    (where / "model.safetensors").unlink()
    torch.save(module.state_dict(), where / "pytorch_model.bin")
    return where


@pytest.mark.slow
@pytest.mark.parametrize("what", ["convert", "load"])
def test_weights_are_read_within_one_and_a_half_times_their_size(folder, what):
    command = [sys.executable, "-c", CODE, str(folder), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert int(done.stdout) < 1.5 * (folder / "pytorch_model.bin").stat().st_size
