"""A dress rehearsal of the MultiBERTs study, at a reduced number of tokens.

Models of BERT-base's exact shape with random weights, saved as Google saved its own (pickled, with
pooler and next-sentence head, and a vocabulary alone) in a repository for each seed and step of a
hub on this machine. The whole workflow runs on them, and what each stage took is printed.

    python benchmarks/rehearsal_multiberts.py FOLDER [LAYERS]       # some 8 GB; resumable

All of its 12 layers take about an hour on 2 cores (4,500 s of a processor); with fewer, all widths
are BERT-base's.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

import torch
from projection import listed
from rehearsal import ROOT, make_text, rehearse
from transformers import BertConfig, BertForPreTraining

sys.path.insert(0, str(ROOT / "tests/support"))
import hub as server

SEEDS, STEPS = [0, 1], [0, 2000]
LAYERS, VOCABULARY = 12, 30522
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
REPO = "google/multiberts-seed_{seed}-step_{step}k"
CONFIG = {
    "run": "multiberts",
    "models": {
        "source": "hub",
        "seeds": SEEDS,
        "steps": STEPS,
        "repo": REPO,
        "revision": "main",
        "prune_cache": True,
    },
    "corpus": {
        "source": "hub",
        "dataset": "local/speeches",
        "tokens": 8 * 512,
        "heldout_tokens": 512,
        "context_length": 512,
    },
    # Of the time, not of the kinds of jobs.
    "baseline": {"draws": 1},
    "nulls": {"random_directions": {"draws": 1, "tokens": 2048}},
    "persistence": {"trace_tokens": 2048},
    "correlate": {"similarity": False},
    # Random models have no neuron above 0.5.
    "universality": {"excess_threshold": 0.05},
}


def make_tokenizer(where: Path, texts: list[str]) -> None:
    """A vocabulary of BERT's size, its special tokens in their places: letters and words."""
    words = Counter(word for text in texts for word in re.findall(r"[a-z]+|[^\w\s]", text.lower()))
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    known = dict.fromkeys([*letters, *(f"##{c}" for c in letters), *map(str, range(10))])
    known |= dict.fromkeys(word for word, _ in words.most_common(VOCABULARY // 2))
    rest = iter([*known, *(f"[unused{i}]" for i in range(VOCABULARY))])
    names = [SPECIAL.get(i) or next(rest) for i in range(VOCABULARY)]
    where.mkdir(parents=True, exist_ok=True)
    (where / "vocab.txt").write_text("\n".join(names) + "\n")
    tokens = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL.values()}
    (where / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, **tokens}))


def make_model(where: Path, seed: int, texts: list[str], layers: int) -> None:
    """One model, whose repository it is."""
    make_tokenizer(where, texts)
    torch.manual_seed(seed)
    module = BertForPreTraining(BertConfig(num_hidden_layers=layers))
    config = {**module.config.to_dict(), "architectures": ["BertForPreTraining"]}
    (where / "config.json").write_text(json.dumps(config))
    state = {**module.state_dict(), "bert.embeddings.position_ids": torch.arange(512)[None]}
    torch.save(state, where / "pytorch_model.bin")


def main() -> None:
    """Make the hub, run the workflow, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("layers", type=int, nargs="?", default=LAYERS)
    given = parser.parse_args()
    where = given.folder.resolve()
    where.mkdir(parents=True, exist_ok=True)
    make_text(where / "text")
    lines = (where / "text/train.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    with server.serving() as hub:
        hub.add("local/speeches", "main", where / "text", "datasets")
        for seed in SEEDS:
            for step in STEPS:
                repo = REPO.format(seed=seed, step=step)
                if not (where / repo / "pytorch_model.bin").exists():
                    make_model(where / repo, 10_000 * seed + step, texts, given.layers)
                hub.add(repo, "main", where / repo)
        print(listed(rehearse(where, hub, CONFIG)))


if __name__ == "__main__":
    main()
