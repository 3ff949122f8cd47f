"""The tiny runs that tests share: exact, screened, without storing activations, and of subsets.

``python tests/support/grids.py FOLDER`` makes and runs them in FOLDER and prints the digests of
their tables (digest.py); with ``--real`` every job is a process of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from digest import digests
from pipeline import VOCABULARY, gpt2
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from universal_neurons.forks.scripts import FORKS

SEEDS, STEPS = ["a", "b-x21", "1"], [10, 20]
MODES: dict[str, dict[str, Any]] = {
    "exact": {},
    "screened": {"correlate": {"mode": "screened"}},
    "direct": {"capture": {"store": False}},
}


def make(where: Path) -> dict[str, Any]:
    """Write models, token ids and the configuration of the exact run, which is returned.

    There are models of one seed and one step more than the run has. Seed 1 has the same weights at
    all steps, as some published revisions do.
    """
    for i, seed in enumerate([*SEEDS, "late"]):
        for step in [*STEPS, 30]:
            number = 100 * i + (10 if seed == "1" else step)
            gpt2(number).module.save_pretrained(where / f"my models/{seed}/{step}")
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (120, tiny.CONTEXT))
    np.save(where / "tokens.npy", ids)
    config = {
        "run": "exact",
        "models": {
            "source": "local",
            "seeds": ["a", "b-x21", 1],
            "steps": STEPS,
            "path": "my models/{seed}/{step}",
        },
        "corpus": {
            "source": "tokens",
            "path": "tokens.npy",
            "tokens": 61 * tiny.CONTEXT,
            "heldout_tokens": 20 * tiny.CONTEXT,
            "context_length": tiny.CONTEXT,
            "exclude_token_ids": [3, 7],
            "shards": 2,
        },
        "universality": {"excess_threshold": 0.0},
        "ablation": {"kinds": ["mean", "zero", "resample"]},
    }
    tiny.configure(where, config)
    return config


def run(where: Path, config: dict[str, Any], mode: str = "exact", **options: Any) -> Path:
    """Run a mode of the grid in its folder to the end; returns the folder of its results."""
    tiny.configure(where, {**config, "run": mode, **MODES[mode]})
    try:
        tiny.finish(where, **options)
    finally:
        tiny.configure(where, config)
    return where / "results" / mode


def tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """One token per word."""
    vocabulary = {word: i for i, word in enumerate(["<eos>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def run_subsets(where: Path, **options: Any) -> Path:
    """Make and run a grid of two corpora; returns the folder of its results."""
    config = tiny.make(where)
    rng = np.random.default_rng(0)
    words = [chr(ord("a") + i) for i in range(26)]
    for name in ("one", "two"):
        (where / f"{name}.txt").write_text(" ".join(rng.choice(words, 3000)))
    for model in where.glob("models/*/*"):
        tokenizer(words).save_pretrained(model)
    config["run"] = "subsets"
    config["corpus"].update(source="text", path={"x": "one.txt", "y": "two.txt"})
    tiny.configure(where, config)
    tiny.finish(where, **options)
    return where / "results/subsets"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new one")
    parser.add_argument("--real", action="store_true", help="every job a process of its own")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    config = make(options.folder)
    alone = {"real": True, FORKS: "0"} if options.real else {}
    runs = [run(options.folder, config, mode, **alone) for mode in MODES]
    runs.append(run_subsets(options.folder / "subsets", **alone))
    for results in runs:
        for name, value in digests(results).items():
            print(value, f"{results.name}/{name}.parquet", flush=True)


if __name__ == "__main__":
    main()
