"""A small BERT as Google saves its own, and a grid of such models with text to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
WORDS = [f"{one}{other}" for one in "bdfgklmnprst" for other in "aeiou"]
PIECES = [".", "##s", "##ed"]
VOCABULARY = [*SPECIAL, *PIECES, *WORDS]
CONTEXT = 16
# Sequences, of enough documents for the screened mode.
SCORED = 420


def wordpiece(folder: Path) -> Path:
    """Save a tokenizer as ``vocab.txt`` beside names of its special tokens, without a class."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).write_text(json.dumps(names))
    return folder


def bert(seed: int, **options: Any) -> BertForPreTraining:
    """A random BERT, with weights large enough for its neurons to vary."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2}
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
        **{**sizes, **options},
    )
    return BertForPreTraining(config)


def save(module: BertForPreTraining, folder: Path) -> None:
    """Save a model as the MultiBERTs are: pickled, with the positions' numbers, beside its text."""
    wordpiece(folder)
    config = {**module.config.to_dict(), "architectures": ["BertForPreTraining"]}
    (folder / "config.json").write_text(json.dumps(config))
    positions = torch.arange(module.config.max_position_embeddings)[None]
    state = {**module.state_dict(), "bert.embeddings.position_ids": positions}
    torch.save(state, folder / "pytorch_model.bin")


def text(path: Path, documents: int = 60, words: int = 80) -> Path:
    """Write documents of random words as .jsonl, in two subsets."""
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"text": " ".join(rng.choice(WORDS, words)) + ".", "set": "xy"[i % 2]}
        for i in range(documents)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def grid(where: Path, seeds: Sequence[str] = ("0", "1"), steps: Sequence[int] = (20, 40)) -> dict:
    """Write models and text of a run to `where`; returns its configuration."""
    for seed in seeds:
        for step in steps:
            save(bert(100 * int(seed) + step), where / f"models/{seed}/{step}")
    text(where / "text.jsonl", documents=200, words=45)
    return {
        "run": "encoders",
        "models": {
            "source": "local",
            "seeds": list(seeds),
            "steps": list(steps),
            "path": "models/{seed}/{step}",
        },
        "corpus": {
            "source": "text",
            "path": "text.jsonl",
            "subset_key": "set",
            "tokens": SCORED * CONTEXT,
            "heldout_tokens": 30 * CONTEXT,
            "context_length": CONTEXT,
        },
        "universality": {"excess_threshold": 0.0},
    }
