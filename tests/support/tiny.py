"""A grid so small that its whole workflow can be run many times: random models and token ids."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fork_server
import numpy as np
import yaml
from pipeline import VOCABULARY, gpt2

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]
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
    """The Snakemake command for a folder with a config.yaml; what is given last holds."""
    snakefile = str(ROOT / "Snakefile")
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", snakefile),
        *("--configfile", "config.yaml", *arguments),
    ]


def environment(*, real: bool = False, **more: str) -> dict[str, str]:
    """Of Snakemake and its jobs, without network if `more` does not say so.

    They are forks of one server, or with `real` processes as a user's are.
    """
    given = {**os.environ, "HF_HUB_OFFLINE": "1", **more}
    return given if real else fork_server.environment(given)


def run(where: Path, command: Sequence[str], *, real: bool = False, **more: Any) -> Done:
    """Run a command in `where` to its end; `more` is its environment, or its input."""
    given = more.pop("input", None)
    return subprocess.run(
        command,
        cwd=where,
        input=given,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(real=real, **more),
        check=False,
    )


def universal_neurons(where: Path, *arguments: str) -> Done:
    """Run a command of the package in `where`, with this workflow's Snakefile."""
    command = [sys.executable, "-m", "universal_neurons.commands", *arguments]
    return run(where, [*command, "--snakefile", str(ROOT / "Snakefile")])


def snakemake(where: Path, *arguments: str, real: bool = False, **env: str) -> Done:
    """Run Snakemake in `where` to its end, on two cores if `arguments` do not say otherwise."""
    return run(where, command("--cores", "2", *arguments), real=real, **env)


def finish(where: Path, *arguments: str, real: bool = False, **env: str) -> Done:
    """Run Snakemake in `where`, which must succeed."""
    result = snakemake(where, *arguments, real=real, **env)
    assert result.returncode == 0, result.stdout
    return result


def planned(where: Path, *arguments: str, real: bool = False, **env: str) -> dict[str, int]:
    """Jobs that a dry run lists, by rule."""
    return jobs_in(finish(where, "--dry-run", *arguments, real=real, **env).stdout)


def jobs_in(said: str) -> dict[str, int]:
    """Jobs by rule in what a dry run says."""
    table = said.partition("Job stats:")[2].partition("total")[0]
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE))
    return {rule: int(count) for rule, count in jobs.items() if rule != "all"}
