"""The workflow's computation on small models, as functions: what tests of several modules need."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GPT2Config, GPT2LMHeadModel

from universal_neurons import capture, correlation, models, products, rotations
from universal_neurons.activations import Activations
from universal_neurons.budget import Budget, shard_ranges
from universal_neurons.store import Added, write_arrays

VOCABULARY = 61
EXCLUDED = (0, 7)


def gpt2(seed: int, *, d_mlp: int = 40, layers: int = 2, **options: Any) -> models.Model:
    """A random GPT-2, with weights large enough for its neurons to vary."""
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=layers,
        n_embd=16,
        n_inner=d_mlp,
        n_head=2,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        **{"initializer_range": 0.3, "vocab_size": VOCABULARY, **options},
    )
    return wrap(GPT2LMHeadModel(config))


def wrap(module: GPT2LMHeadModel) -> models.Model:
    """A GPT-2 made in a test, as `models.load` would return it."""
    module = module.eval().requires_grad_(False)
    blocks = tuple(module.transformer.h)
    projections = tuple(block.mlp.c_proj for block in blocks)
    return models.Model(module, blocks, projections, torch.device("cpu"))


def random_tokens(n_sequences: int = 64, context: int = 16, seed: int = 0) -> NDArray[np.int64]:
    """Token ids, some of them excluded ones."""
    return np.random.default_rng(seed).integers(0, VOCABULARY, (n_sequences, context))


def run_capture(
    model: models.Model,
    tokens: NDArray[np.integer],
    where: Path,
    *,
    seed: str,
    splits: Sequence[int] = (),
    encoding: str = "int8",
    exclude: Sequence[int] = EXCLUDED,
    batch_tokens: int = 128,
    sample: int = 200,
) -> list[Path]:
    """Capture all tokens in shards cut at `splits`; returns the shards' directories."""
    options: dict[str, Any] = {"exclude": exclude, "encoding": encoding}
    calibration = capture.calibrate(
        model,
        tokens[:sample],
        seed=seed,
        step=3,
        headroom=0.5,
        batch_tokens=batch_tokens,
        **options,
    )
    capture.write_calibration(where / "calibration.zarr", calibration, {})
    edges = [0, *splits, len(tokens)]
    shards = []
    for start, stop in pairwise(edges):
        shard = where / f"{start}-{stop}"
        capture.capture(
            model,
            tokens,
            seed=seed,
            step=3,
            start=start,
            stop=stop,
            calibration=calibration,
            activations=shard / "activations.zarr",
            moments=shard / "moments.zarr",
            attributes={"corpus_sha256": "x"},
            batch_tokens=batch_tokens,
            **options,
        )
        within = products.within_sums(Activations(shard / "activations.zarr"))
        write_arrays(shard / "within.zarr", within, {})
        shards.append(shard)
    return shards


def neurons(shards: Sequence[Path]) -> correlation.Neurons:
    """The statistics of a captured model."""
    return neurons_of_parts(shards, [])[0]


def neurons_of_parts(
    shards: Sequence[Path], ranges: Sequence[tuple[int, int]]
) -> list[correlation.Neurons]:
    """The statistics of a captured model over all shards and over ranges of them."""
    return correlation.Neurons.read_parts(
        [shard / "moments.zarr" for shard in shards], shards[0].parent / "calibration.zarr", ranges
    )


def baseline(shards: Sequence[Path], draws: int) -> correlation.Baseline:
    """The rotations of a captured model, made from seed 0."""
    where = shards[0].parent
    model = neurons(shards)
    rotations.write_rotations(
        where / "rotations.zarr",
        [(d_mlp, i) for i, d_mlp in enumerate(model.d_mlp)],
        draws=draws,
        seed=0,
        attributes={},
    )
    rotations.write_rotated_std(
        where / "rotated.zarr",
        sums=[shard / "moments.zarr" for shard in shards],
        within=[shard / "within.zarr" for shard in shards],
        calibration=where / "calibration.zarr",
        rotations=where / "rotations.zarr",
        draws=draws,
        attributes={},
    )
    return correlation.Baseline.read(model, where / "rotations.zarr", where / "rotated.zarr")


def run_match(
    a: Sequence[Path],
    b: Sequence[Path],
    where: Path,
    *,
    blocks: Sequence[Sequence[int]] = ((0, 1),),
    draws: int = 2,
    kernel: str = "auto",
    names: tuple[str, str] = ("a", "b"),
) -> list[Path]:
    """Partial sums, merge and matches of a pair; returns the stores of every block of layers."""
    stores = []
    for block in blocks:
        sums = []
        for i, (shard_a, shard_b) in enumerate(zip(a, b, strict=True)):
            tiles = products.cross_sums(
                Activations(shard_a / "activations.zarr"),
                Activations(shard_b / "activations.zarr"),
                block,
                kernel,
            )
            sums.append(where / f"sums{block}{i}.zarr")
            write_arrays(sums[-1], tiles, {})
        added, ranges = Added(sums), shard_ranges(len(sums))
        one, *one_parts = neurons_of_parts(a, ranges)
        two, *two_parts = neurons_of_parts(b, ranges)
        budget = Budget(added, ranges, one_parts, two_parts) if ranges else None
        found = correlation.match(
            added,
            one,
            two,
            block,
            baseline_a=baseline(a, draws),
            baseline_b=baseline(b, draws),
            budget=budget,
        )
        stores.append(where / f"matches{block}.zarr")
        correlation.write_matches(
            stores[-1],
            *found,
            seed=names[0],
            other_seed=names[1],
            layers=block,
            d_mlp=one.d_mlp,
            other_d_mlp=two.d_mlp,
            attributes={"mode": "exact"},
            budget=budget,
        )
    return stores


def module_activations(
    model: models.Model, tokens: NDArray[np.integer], exclude: Sequence[int] = EXCLUDED
) -> list[NDArray[np.float64]]:
    """Scored activations per layer in float64, computed from the blocks' own parts.

    Independent of hooks: the output of each MLP's activation function is recomputed from the
    hidden states that the Hugging Face model itself returns.
    """
    scored = ~np.isin(tokens, exclude).ravel()
    with torch.inference_mode():
        hidden = model.module(torch.from_numpy(tokens), output_hidden_states=True).hidden_states
        result = []
        for block, before in zip(model.blocks, hidden, strict=False):
            attended = before + block.attn(block.ln_1(before))[0]
            x = block.mlp.act(block.mlp.c_fc(block.ln_2(attended)))
            result.append(x.flatten(0, 1).numpy().astype(np.float64)[scored])
    return result


def corr(x: NDArray, y: NDArray) -> NDArray[np.float64]:
    """Pearson correlation of all columns, float64; 0 for a constant one."""
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.outer(np.linalg.norm(x, axis=0), np.linalg.norm(y, axis=0))
    return np.divide(x.T @ y, norm, out=np.zeros_like(norm), where=norm > 1e-9)
