"""Measure what ablation takes beside the correlations, of the grid of five seeds of GPT-2 Small.

    python benchmarks/ablation.py

A model of GPT-2 Small's shape with random weights is ablated in float32 and by differences in
bfloat16, and int8 products are multiplied, in turns. Times are of the processor, so that other work
on the machine counts for little; of every kind of work the least of its turns. Hours are those of
the ablated passes and of the clean one, of which there is one for all sets.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from universal_neurons.ablate.ablation import DIRECT_CONTROLS
from universal_neurons.ablate.differences import Differences
from universal_neurons.ablate.measure import KL, LOSS, NeuronSet, Replacement, Run, passes
from universal_neurons.ablate.passes import Passes
from universal_neurons.activations.codes import Codes
from universal_neurons.activations.kernels import add_products
from universal_neurons.jobs import keep_memory
from universal_neurons.models.load import Model
from universal_neurons.prepare.reading import HeldOut

LAYERS, WIDTH, LENGTH = 12, 3072, 512
# The grid of arXiv 2508.00903, as in configs/gpt2-small-crfm.yaml.
MODELS, PAIRS, TOKENS, HELDOUT, CONTROLS = 25, 50, 5_000_000, 51_200, 20
# Neurons of a layer that are universal: 2 %.
UNIVERSAL = 60
# Layers whose sets are measured, between which the time is taken as linear.
MEASURED = (0, 6, 11)
TURNS = 3


def model() -> Model:
    """GPT-2 Small's shape, weights drawn at random."""
    torch.manual_seed(0)
    module = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    blocks = tuple(module.transformer.h)
    projections = tuple(block.mlp.c_proj for block in blocks)
    return Model(module, blocks, projections, torch.device("cpu"))


def products(rng: np.random.Generator) -> Callable[[], float]:
    """Multiply a block of a layer's codes with another's, returning operations per second."""
    tokens = 16384
    a, b = (
        Codes.of(torch.from_numpy(rng.integers(-127, 128, (tokens, WIDTH), np.int8))) for _ in "ab"
    )
    total = torch.zeros(WIDTH, WIDTH, dtype=torch.int64)
    return lambda: 2 * tokens * WIDTH**2 / seconds(lambda: add_products(total, a, b, "int8"))


def seconds(work: Callable[[], object]) -> float:
    """Processor time of some work, over the threads that share it."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / torch.get_num_threads()


def runs(rng: np.random.Generator) -> dict[str, Run]:
    """One of every kind: all layers and some, in total and directly."""
    layers = {str(layer): [layer] for layer in MEASURED} | {"all": list(range(LAYERS))}
    found = {}
    for name, own in layers.items():
        drawn = [layer * WIDTH + rng.choice(WIDTH, UNIVERSAL, replace=False) for layer in own]
        one = NeuronSet(own[0] if len(own) == 1 else -1, "universal", -1, np.sort(np.hstack(drawn)))
        found |= {name: Run(one, "mean"), f"{name} direct": Run(one, "mean", direct=True)}
    return found


def per_token(taken: dict[str, float]) -> float:
    """Seconds per held-out token and model, of all sets, by the seconds of each kind."""
    layers = np.arange(LAYERS)
    total, direct = (
        np.interp(layers, MEASURED, [taken[f"{layer}{kind}"] for layer in MEASURED]).sum()
        for kind in ("", " direct")
    )
    sets, directly = 1 + CONTROLS, 1 + DIRECT_CONTROLS
    ablated = sets * (total + taken["all"]) + directly * (direct + taken["all direct"])
    return taken["clean"] + ablated


def compare() -> dict[str, float]:
    """Hours of ablation and of correlations' products, and how far the loss changes differ."""
    rng = np.random.default_rng(0)
    subject, multiply = model(), products(rng)
    text = HeldOut(rng.integers(0, 50257, (2 * TURNS, LENGTH)), np.arange(2 * TURNS))
    replacement = Replacement(subject, np.full(LAYERS * WIDTH, 0.1))
    ways = {"float32": Passes(subject), "bfloat16": Differences(subject, int8=True)}
    times: dict[str, dict[str, float]] = {way: {} for way in ways}
    rate = 0.0
    changes: dict[str, list[np.ndarray]] = {}
    for turn in range(TURNS):
        rate = max(rate, multiply())
        for way, how in ways.items():
            kinds = runs(np.random.default_rng(1))
            rows = slice(2 * turn, 2 * turn + 2)
            made = passes(subject, text, rows, list(kinds.values()), replacement, how)
            for name in ("clean", *kinds):
                found: list = []
                taken = seconds(lambda: found.append(next(made))) / (2 * LENGTH - 2)  # noqa: B023
                times[way][name] = min(taken, times[way].get(name, np.inf))
                if name == "clean":
                    clean = found[0][2]
                else:
                    changes.setdefault(name, []).append(found[0][2] - clean)
    error = 0.0
    for turns in changes.values():
        # Of every turn in float32, then in bfloat16.
        exact, narrow = (np.hstack(turns[i::2]) for i in range(2))
        # Of a loss change of KL k the standard deviation is about √(2 k).
        spread = np.sqrt(2 * exact[KL].mean() / HELDOUT)
        error = max(error, abs((narrow - exact)[LOSS].mean()) / spread)
    hours = {way: MODELS * HELDOUT * per_token(taken) / 3600 for way, taken in times.items()}
    products_alone = PAIRS * 2 * TOKENS * (LAYERS * WIDTH) ** 2 / rate / 3600
    per_set = {
        f"ablation_us_{way}_{name.replace(' ', '_')}": 1e6 * taken
        for way, found in times.items()
        for name, taken in found.items()
    }
    return {
        "int8_kernel_gops": rate / 1e9,
        "product_hours": products_alone,
        "ablation_hours_float32": hours["float32"],
        "ablation_hours": hours["bfloat16"],
        "ablation_speedup": hours["float32"] / hours["bfloat16"],
        "ablation_product_ratio": hours["bfloat16"] / products_alone,
        "ablation_error": error,
        **per_set,
    }


if __name__ == "__main__":
    keep_memory()
    print(json.dumps({key: float(f"{value:.3g}") for key, value in compare().items()}, indent=1))
