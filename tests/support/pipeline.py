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

from universal_neurons.activations import products
from universal_neurons.activations.calibration import write_calibration
from universal_neurons.activations.reader import Activations
from universal_neurons.capture import capture
from universal_neurons.correlate import rotations
from universal_neurons.correlate.match import match_pair
from universal_neurons.correlate.neurons import Captured, Neurons
from universal_neurons.correlate.rotations import Baseline, Rotating
from universal_neurons.models import load as models
from universal_neurons.store.arrays import write_arrays

VOCABULARY = 61
EXCLUDED = (0, 7)


def gpt2(seed: int, *, d_mlp: int = 40, layers: int = 2, **options: Any) -> models.Model:
    """A random GPT-2, with weights large enough for its neurons to vary."""
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=layers,
        n_inner=d_mlp,
        n_head=2,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        **{"n_embd": 16, "initializer_range": 0.3, "vocab_size": VOCABULARY, **options},
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
    positions: Sequence[int] = (),
) -> list[Path]:
    """Capture all tokens in shards cut at `splits`; returns the shards' directories."""
    calibration = capture.calibrate(
        model,
        tokens[:sample],
        name=f"seed {seed}, step 3",
        headroom=0.5,
        batch_tokens=batch_tokens,
        exclude=exclude,
        encoding=encoding,
        positions=positions,
    )
    write_calibration(where / "calibration.zarr", calibration, {})
    encoder = capture.Encoder(
        seed, 3, calibration, encoding, exclude, batch_tokens, positions=positions
    )
    edges = [0, *splits, len(tokens)]
    shards = []
    for start, stop in pairwise(edges):
        shard = where / f"{start}-{stop}"
        capture.capture(
            model,
            tokens,
            (start, stop),
            encoder,
            shard / "activations.zarr",
            shard / "moments.zarr",
            attributes={"corpus_sha256": "x"},
        )
        within = products.within_sums(Activations(shard / "activations.zarr"))
        write_arrays(shard / "within.zarr", within, {})
        shards.append(shard)
    return shards


def neurons(shards: Sequence[Path]) -> Neurons:
    """The statistics of a captured model."""
    return neurons_of_parts(shards, [])[0]


def neurons_of_parts(shards: Sequence[Path], ranges: Sequence[tuple[int, int]]) -> list[Neurons]:
    """The statistics of a captured model over all shards and over ranges of them."""
    return Neurons.read_parts(
        [shard / "moments.zarr" for shard in shards], shards[0].parent / "calibration.zarr", ranges
    )


def write_rotations(path: Path, models: Sequence[Sequence[Path]], draws: int) -> None:
    """Store the rotations of captured models, made from seed 0."""
    kinds = {(d_mlp, i) for shards in models for i, d_mlp in enumerate(neurons(shards).d_mlp)}
    rotations.write_rotations(path, kinds, draws=draws, seed=0, attributes={})


def write_rotated(
    path: Path, shards: Sequence[Path], rotations_path: Path, rotating: Rotating
) -> None:
    """Store a captured model's spread under rotations."""
    rotations.write_rotated_std(
        path,
        sums=[shard / "moments.zarr" for shard in shards],
        within=[shard / "within.zarr" for shard in shards],
        calibration=shards[0].parent / "calibration.zarr",
        rotations=rotations_path,
        rotating=rotating,
        attributes={},
    )


def baseline(shards: Sequence[Path], draws: int) -> Baseline:
    """The rotations of a captured model, made from seed 0."""
    where = shards[0].parent
    write_rotations(where / "rotations.zarr", [shards], draws)
    write_rotated(where / "rotated.zarr", shards, where / "rotations.zarr", Rotating(draws))
    return Baseline.read(neurons(shards), where / "rotations.zarr", where / "rotated.zarr")


def run_match(
    a: Sequence[Path],
    b: Sequence[Path],
    where: Path,
    *,
    blocks: Sequence[Sequence[int]] = ((0, 1),),
    draws: int = 2,
    standardise: bool = False,
    kernel: str = "auto",
) -> list[Path]:
    """Partial sums, merge and matches of a pair; returns the stores of every block of layers."""
    write_rotations(where / "rotations.zarr", (a, b), draws)
    models = []
    for name, shards in (("a", a), ("b", b)):
        rotated = where / f"rotated_{name}.zarr"
        write_rotated(rotated, shards, where / "rotations.zarr", Rotating(draws, standardise))
        moments = [shard / "moments.zarr" for shard in shards]
        models.append(Captured(moments, shards[0].parent / "calibration.zarr", rotated=rotated))
    stores = []
    for block in blocks:
        sums = []
        for i, pair in enumerate(zip(a, b, strict=True)):
            sums.append(where / f"sums{block}{i}.zarr")
            one, other = (shard / "activations.zarr" for shard in pair)
            products.sum_pair(one, other, block, kernel, path=sums[-1], attributes={})
        stores.append(where / f"matches{block}.zarr")
        match_pair(
            sums,
            *models,
            block,
            rotations=where / "rotations.zarr",
            path=stores[-1],
            attributes={},
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
