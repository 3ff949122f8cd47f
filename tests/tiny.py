"""A grid so small that its whole workflow can be run many times: random models and token ids."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pipeline import VOCABULARY, gpt2

ROOT = Path(__file__).parent.parent
CONTEXT = 16


def make(
    where: Path, seeds: Sequence[str] = ("a", "b"), steps: Sequence[int] = (10,), shards: int = 1
) -> dict[str, Any]:
    """Write models, token ids and a config.yaml to `where`; returns the configuration."""
    where.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds):
        for step in steps:
            gpt2(100 * i + step).module.save_pretrained(where / f"models/{seed}/{step}")
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (60, CONTEXT))
    np.save(where / "tokens.npy", ids)
    config = {
        "run": "tiny",
        "models": {
            "source": "local",
            "seeds": list(seeds),
            "steps": list(steps),
            "path": "models/{seed}/{step}",
        },
        "corpus": {
            "source": "tokens",
            "path": "tokens.npy",
            "tokens": 40 * CONTEXT,
            "heldout_tokens": 20 * CONTEXT,
            "context_length": CONTEXT,
            "exclude_token_ids": [3, 7],
            "shards": shards,
        },
        "universality": {"excess_threshold": 0.0},
    }
    configure(where, config)
    return config


def configure(where: Path, config: dict[str, Any]) -> None:
    """Write a configuration where `snakemake` finds it."""
    (where / "config.yaml").write_text(yaml.safe_dump(config))


def command(*arguments: str) -> list[str]:
    """The Snakemake command for a folder with a config.yaml."""
    snakefile = str(ROOT / "Snakefile")
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", snakefile),
        *("--configfile", "config.yaml", *arguments),
    ]


def environment(**more: str) -> dict[str, str]:
    """Of Snakemake and its jobs."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", **more}


def snakemake(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `where` to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=where,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        check=False,
    )


def universal_neurons(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the package in `where`, with this workflow's Snakefile."""
    command = [sys.executable, "-m", "universal_neurons.commands", *arguments]
    return subprocess.run(
        [*command, "--snakefile", str(ROOT / "Snakefile")],
        cwd=where,
        text=True,
        capture_output=True,
        env=environment(),
        check=False,
    )
