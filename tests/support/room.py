"""A run of which activations are most, and how much of the disk it takes at its worst moment."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from universal_neurons.plan.config import resolve
from universal_neurons.plan.disk import most_held
from universal_neurons.plan.ready import ready_grid

CONTEXT, SCORED, HELD_OUT, VOCABULARY = 64, 2400, 20, 256
SEEDS, STEPS = ("a", "b", "c"), (10, 20)


def make(where: Path, **sections: Any) -> dict[str, Any]:
    """Write models of 2 × 512 neurons, their tokens and the configuration, which is returned."""
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_inner": 512, "n_positions": CONTEXT}
    # Weights so wide that the nonlinearity is one, and activations as compressible as others.
    shape = GPT2Config(vocab_size=VOCABULARY, initializer_range=0.2, **sizes)
    for i, seed in enumerate(SEEDS):
        for step in STEPS:
            torch.manual_seed(1000 * i + step)
            GPT2LMHeadModel(shape).save_pretrained(where / f"models/{seed}/{step}")
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (SCORED + HELD_OUT, CONTEXT))
    np.save(where / "tokens.npy", ids)
    config = {
        "run": "room",
        "models": {
            "source": "local",
            "seeds": list(SEEDS),
            "steps": list(STEPS),
            "path": "models/{seed}/{step}",
        },
        "corpus": {
            "source": "tokens",
            "path": "tokens.npy",
            "tokens": SCORED * CONTEXT,
            "heldout_tokens": HELD_OUT * CONTEXT,
            "context_length": CONTEXT,
            "exclude_token_ids": [],
            "shards": 2,
        },
        # Jobs that take long here, and next to no room.
        "nulls": {"random_directions": {"draws": 0}},
        "persistence": {"trace_tokens": 0},
        "ablation": {"kinds": []},
        "explorer": {"neurons": 10},
        **sections,
    }
    tiny.configure(where, config)
    return config


def bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder that a run is at work in."""
    found = 0
    for name, _, files in os.walk(folder):
        for file in files:
            try:
                found += os.stat(os.path.join(name, file)).st_size
            except FileNotFoundError:
                continue
    return found


def most_bytes(where: Path) -> int:
    """Run the workflow to its end; the most bytes that its results took meanwhile."""
    command = tiny.command("--cores", "2")
    most = 0
    with open(where / "said", "w") as said:
        run = subprocess.Popen(
            command, cwd=where, env=tiny.environment(), stdout=said, stderr=subprocess.STDOUT
        )
        while run.poll() is None:
            most = max(most, bytes_in(where / "results/room"))
            time.sleep(0.1)
    if run.returncode:
        raise RuntimeError((where / "said").read_text())
    return most


def peak_disk_ratio(where: Path) -> float:
    """Simulated by measured peak of a run whose activations and sums are temporary."""
    config = make(where, capture={"keep": False}, correlate={"keep_sums": False})
    here = Path.cwd()
    os.chdir(where)
    try:
        simulated = most_held(ready_grid(resolve(config)), at_once=2)
    finally:
        os.chdir(here)
    return simulated.bytes / most_bytes(where)
