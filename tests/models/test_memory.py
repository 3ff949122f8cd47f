"""Reading weights takes little more memory than the weights themselves."""

from __future__ import annotations

import pytest
import torch
from memory import taken
from transformers import GPT2Config, GPT2LMHeadModel

PREPARATION = """
import sys
from pathlib import Path
import safetensors.torch, torch
from universal_neurons.models import hub
from universal_neurons.models.load import load
folder = Path(sys.argv[1])
load(folder / "small")
"""
CODE = {
    "load": "load(folder)",
    "convert": "hub._convert(hub.Name('a', 'b'), folder / 'pytorch_model.bin', folder / 'new')",
}


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
@pytest.mark.parametrize("what", CODE)
def test_weights_are_read_within_one_and_a_half_times_their_size(folder, what):
    size = (folder / "pytorch_model.bin").stat().st_size
    assert taken(PREPARATION, CODE[what], folder) < 1.5 * size
