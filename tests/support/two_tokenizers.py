"""One model behind two tokenizers: the same neurons, at tokens of one and of two letters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from numpy.typing import NDArray
from pipeline import gpt2
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LETTERS = [*"abcdefghij ", "é", "🙂"]
PAIRS = ["ab", "cd", "ef", "gé", "h ", "i🙂"]
END = "<end>"
D_MLP, LAYERS = 24, 2


def _fast(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def of_letters() -> PreTrainedTokenizerFast:
    """A token for every letter."""
    vocabulary = {token: i for i, token in enumerate([END, *LETTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return _fast(backend)


def of_pairs() -> PreTrainedTokenizerFast:
    """A token for every letter and for some pairs, with other ids."""
    vocabulary = {token: i for i, token in enumerate([*PAIRS, *reversed(LETTERS), END])}
    merges = [(pair[0], pair[1:]) for pair in PAIRS]
    return _fast(Tokenizer(models.BPE(vocabulary, merges)))


def model_of(tokenizer: PreTrainedTokenizerFast, order: NDArray[np.int64]) -> torch.nn.Module:
    """A GPT-2 whose activations follow from the last letter of the token alone.

    Those of all tokenizers have the same neurons, each layer's in the `order` given.
    """
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    module = gpt2(7, d_mlp=D_MLP, layers=LAYERS, vocab_size=len(names)).module
    letters = np.random.default_rng(3).standard_normal((1 + len(LETTERS), 16))
    of_name = [0 if name == END else 1 + LETTERS.index(name[-1]) for name in names]
    with torch.no_grad():
        body = module.transformer
        body.wte.weight.copy_(torch.from_numpy(letters[of_name]))
        body.wpe.weight.zero_()
        for block in body.h:
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
            # Drawn after embeddings whose number differs.
            rng = np.random.default_rng(5)
            for linear in (block.mlp.c_fc, block.mlp.c_proj):
                drawn = 0.4 * rng.standard_normal(tuple(linear.weight.shape))
                linear.weight.copy_(torch.from_numpy(drawn))
            block.mlp.c_fc.weight.copy_(block.mlp.c_fc.weight[:, order])
            block.mlp.c_fc.bias.copy_(block.mlp.c_fc.bias[order])
            block.mlp.c_proj.weight.copy_(block.mlp.c_proj.weight[order])
    return module


def order_of(seed: str) -> NDArray[np.int64]:
    """Which of the neurons every neuron of a seed's layers is."""
    return np.random.default_rng(ord(seed)).permutation(D_MLP)


def text(n_documents: int = 60, length: int = 400) -> list[str]:
    """Documents of random letters, with the pairs among them."""
    rng = np.random.default_rng(0)
    return ["".join(rng.choice([*LETTERS, *PAIRS], length)) for _ in range(n_documents)]


def make(where: Path, steps: Sequence[int] = (10,)) -> dict[str, Any]:
    """Write models, text and a config.yaml to `where`; returns the configuration.

    Seeds a and b have one tokenizer, c has the other.
    """
    for seed in "abc":
        tokenizer = of_pairs() if seed == "c" else of_letters()
        for step in steps:
            directory = where / f"models/{seed}/{step}"
            model_of(tokenizer, order_of(seed)).save_pretrained(directory)
            tokenizer.save_pretrained(directory)
    (where / "text.jsonl").write_text("".join(f'{{"text": "{one}"}}\n' for one in text()))
    config = {
        "run": "aligned",
        "models": {
            "source": "local",
            "seeds": [*"abc"],
            "steps": list(steps),
            "path": "models/{seed}/{step}",
        },
        "corpus": {
            "source": "text",
            "path": "text.jsonl",
            "align": "bytes",
            "tokens": 100 * tiny.CONTEXT,
            "heldout_tokens": 40 * tiny.CONTEXT,
            "context_length": tiny.CONTEXT,
            "shards": 2,
        },
    }
    tiny.configure(where, config)
    return config
