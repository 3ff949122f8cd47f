"""How long Snakemake takes to plan a study of GPT-2 Small: five seeds, five or twenty steps.

Models are a ``config.json`` and a name of weights, as a plan reads no more of them. Times are
processor seconds of ``snakemake --dry-run`` with nothing made yet, medians of three.

    python benchmarks/planning.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONTEXT, SEQUENCES, HELD_OUT = 512, 9765, 100
SHAPE = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "vocab_size": 50257}


def make(where: Path, seeds: int, steps: int) -> None:
    """Write what planning reads of such a study: models' sizes, tokens and the configuration."""
    config: dict[str, Any] = {
        "run": "planning",
        "models": {
            "source": "local",
            "seeds": list(range(seeds)),
            "steps": list(range(1, steps + 1)),
            "path": "models/{seed}/{step}",
        },
        "corpus": {
            "source": "tokens",
            "path": "tokens.npy",
            "tokens": SEQUENCES * CONTEXT,
            "heldout_tokens": HELD_OUT * CONTEXT,
            "context_length": CONTEXT,
            "exclude_token_ids": [],
            "shards": 8,
        },
    }
    for seed in config["models"]["seeds"]:
        for step in config["models"]["steps"]:
            model = where / f"models/{seed}/{step}"
            model.mkdir(parents=True)
            (model / "config.json").write_text(json.dumps(SHAPE))
            (model / "model.safetensors").write_bytes(b"no weights")
    np.save(where / "tokens.npy", np.zeros((SEQUENCES + HELD_OUT, CONTEXT), np.uint16))
    (where / "config.yaml").write_text(yaml.safe_dump(config))


def plan(where: Path) -> tuple[int, float]:
    """Jobs and processor seconds of one plan."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "8"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml"]
    before = os.times()
    done = subprocess.run(command, cwd=where, check=True, capture_output=True, text=True)
    after = os.times()
    seconds = after.children_user + after.children_system
    seconds -= before.children_user + before.children_system
    return int(done.stdout.partition("\ntotal")[2].split()[0]), seconds


def plan_seconds(steps: int = 5, repeats: int = 3) -> dict[str, float]:
    """Jobs of five seeds at so many steps, and the median time of planning them."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), 5, steps)
        jobs, seconds = zip(*(plan(Path(folder)) for _ in range(repeats)), strict=True)
    return {"plan_jobs": jobs[0], "plan_seconds": median(seconds)}


if __name__ == "__main__":
    for steps in (5, 20):
        print(f"5 seeds, {steps} steps:", plan_seconds(steps), flush=True)
