"""Partial sums straight from the models: several seeds run side by side and nothing is stored.

For a device whose products are faster than any disk, and for corpora whose activations no disk
would hold. The codes are those of `capture`, so the sums have the same bits as those of stored
activations on the same device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons import capture
from universal_neurons.calibration import Calibration
from universal_neurons.codes import Codes
from universal_neurons.kernels import add_products, choose_kernel
from universal_neurons.models import Model
from universal_neurons.products import tile_name
from universal_neurons.store import write_arrays
from universal_neurons.subsets import Subsets

# Tokens whose codes are multiplied at a time; five GPT-2 Small have 1.5 GB of them.
BLOCK_TOKENS = 8192

Pair = tuple[str, str]


class _Codes:
    """Codes of one model's layers, until there are enough for a product."""

    def __init__(
        self, model: Model, calibration: Sequence[Calibration], encoding: str, tokens: int
    ) -> None:
        self._encoding = encoding
        dtype = torch.int8 if encoding == "int8" else torch.float32
        self._offset = [
            torch.from_numpy(layer.ranges.offset).to(model.device) for layer in calibration
        ]
        self._layers = [
            torch.empty(tokens, d_mlp, dtype=dtype, device=model.device) for d_mlp in model.d_mlp
        ]
        self._d_mlp = model.d_mlp
        self.clear()

    def clear(self) -> None:
        """Forget what was taken."""
        self.filled = 0
        self._escapes = [capture.EscapeList(d_mlp) for d_mlp in self._d_mlp]

    def take(self, layer: int, codes: Codes) -> None:
        """Take a layer's batch, see `LayerPass.add`; the last layer's completes the batch."""
        dense = codes.dense
        stop = self.filled + len(dense)
        self._layers[layer][self.filled : stop] = (
            dense if self._encoding == "int8" else dense.float() - self._offset[layer]
        )
        self._escapes[layer].append(codes)
        if layer == len(self._layers) - 1:
            self.filled = stop

    def __getitem__(self, layer: int) -> Codes:
        return Codes(self._layers[layer][: self.filled], self._escapes[layer].joined())


def direct_sums(
    models: Mapping[str, Model],
    tokens: NDArray[np.integer],
    *,
    step: int,
    start: int,
    stop: int,
    exclude: Sequence[int],
    calibrations: Mapping[str, Sequence[Calibration]],
    encoding: str,
    batch_tokens: int,
    pairs: Sequence[Pair],
    layers: Sequence[int],
    within: bool,
    kernel: str = "auto",
    subsets: Subsets | None = None,
) -> tuple[
    dict[Pair, dict[str, NDArray]], dict[str, dict[str, NDArray]], dict[str, dict[str, NDArray]]
]:
    """Run several models over one shard and add up the products of their codes.

    All sums are held on the models' device.

    Parameters
    ----------
    models
        By seed, on one device.
    tokens
        The whole corpus, shape (sequences, context length).
    step
        The models' step.
    start, stop
        The shard: sequences start to stop - 1.
    exclude
        Token ids that are not scored.
    calibrations
        By seed, one per layer.
    encoding
        One of `encoding.ENCODINGS`.
    batch_tokens
        Tokens per forward pass of one model.
    pairs
        Pairs of seeds to correlate.
    layers
        Layers of each pair's first seed; all layers of the second.
    within
        Also make the within-layer sums.
    kernel
        See `kernels.choose_kernel`.
    subsets
        Of the corpus, to take sums of each.

    Returns
    -------
    cross
        Per pair the arrays of `products.cross_sums`, by name.
    within
        Per seed those of `products.within_sums`; empty unless asked for.
    moments
        Per seed the parts that `moments.merge` takes.

    Raises
    ------
    UserError
        See `capture.capture`.
    """
    sequences = tokens[start:stop]
    device = next(iter(models.values())).device
    codes = {
        seed: _Codes(model, calibrations[seed], encoding, BLOCK_TOKENS + batch_tokens)
        for seed, model in models.items()
    }
    passes = {
        seed: capture.layer_passes(
            model, calibrations[seed], encoding, seed=seed, step=step, subsets=subsets
        )
        for seed, model in models.items()
    }
    kinds = [(a, b, i, j) for a, b in pairs for i in layers for j in range(len(models[b].d_mlp))]
    if within:
        kinds += [(seed, seed, i, i) for seed in models for i in range(len(models[seed].d_mlp))]
    dtype = torch.int64 if encoding == "int8" else torch.float64
    sums = {
        (a, b, i, j): torch.zeros(
            models[a].d_mlp[i], models[b].d_mlp[j], dtype=dtype, device=device
        )
        for a, b, i, j in kinds
    }
    operations = 2 * sequences.size * sum(total.numel() for total in sums.values())
    kernel = choose_kernel(kernel, operations, device.type)

    def multiply() -> None:
        blocks = {
            (seed, i): own[i] for seed, own in codes.items() for i in range(len(models[seed].d_mlp))
        }
        for (a, b, i, j), total in sums.items():
            sums[a, b, i, j] = add_products(total, blocks[a, i], blocks[b, j], kernel)
        for buffer in codes.values():
            buffer.clear()

    runs = [
        capture.values(
            model,
            sequences,
            passes[seed],
            codes[seed].take,
            start=start,
            exclude=exclude,
            batch_tokens=batch_tokens,
            name=f"seed {seed}, step {step}",
            subsets=subsets,
        )
        for seed, model in models.items()
    ]
    n_tokens = 0
    for batch in zip(*runs, strict=True):
        n_tokens += len(batch[0][0])
        if next(iter(codes.values())).filled >= BLOCK_TOKENS:
            multiply()
    multiply()

    found = {seed: capture.moment_arrays(layers_of, n_tokens) for seed, layers_of in passes.items()}
    for seed, own in found.items():
        capture.warn_of_escapes(f"seed {seed}, step {step}", own, models[seed].d_mlp)

    def arrays(a: str, b: str) -> dict[str, NDArray]:
        return {
            tile_name(i, j): total.cpu().numpy()
            for (one, other, i, j), total in sums.items()
            if (one, other) == (a, b)
        }

    return (
        {(a, b): arrays(a, b) for a, b in pairs},
        {seed: arrays(seed, seed) for seed in models} if within else {},
        found,
    )


def run(
    *,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    seeds: Sequence[str],
    pairs: Sequence[Pair],
    step: int,
    layers: Sequence[int],
    sequences: tuple[int, int],
    options: Mapping[str, Any],
    kernel: str,
    config: Mapping[str, Any],
) -> None:
    """One job: load all seeds of a step, calibrate if this is the first shard, add up.

    Parameters
    ----------
    inputs
        ``model``: directories of the seeds; ``tokens``, ``about``; ``calibration`` of the seeds for
        all but the first shard; ``subsets`` if the corpus has any. See `capture.run`.
    outputs
        ``sums``: stores of the pairs; for the first block of layers ``moments`` and ``within`` of
        the seeds; for the first shard also ``calibration`` and ``model`` of the seeds.
    seeds, pairs
        In the order of the paths.
    step, layers, sequences, options, kernel
        See `direct_sums` and `capture.run`.
    config
        The whole configuration, for provenance.

    Raises
    ------
    UserError
        See `capture.run`.
    """
    tokens = np.load(inputs["tokens"], mmap_mode="r")
    prepared = {}
    for i, seed in enumerate(seeds):
        one = {name: outputs[name][i] for name in ("calibration", "model") if name in outputs}
        given = {name: inputs[name] for name in ("about", "subsets") if name in inputs}
        given["model"] = inputs["model"][i]
        if "calibration" in inputs:
            given["calibration"] = inputs["calibration"][i]
        prepared[seed] = capture.prepare(
            given, one, tokens, seed=seed, step=step, options=options, config=config
        )
    first = next(iter(prepared.values()))
    exclude = first.exclude
    cross, within, moments = direct_sums(
        {seed: each.model for seed, each in prepared.items()},
        tokens,
        step=step,
        start=sequences[0],
        stop=sequences[1],
        exclude=exclude,
        calibrations={seed: each.calibration for seed, each in prepared.items()},
        encoding=options["encoding"],
        batch_tokens=options["batch_tokens"],
        pairs=pairs,
        layers=layers,
        within="within" in outputs,
        kernel=kernel,
        subsets=first.subsets,
    )
    attributes = {
        seed: {
            **each.attributes,
            **capture.shard_attributes(
                each.model,
                seed,
                step,
                *sequences,
                exclude=exclude,
                encoding=options["encoding"],
                n_tokens=int(moments[seed]["n_tokens"][0]),
            ),
        }
        for seed, each in prepared.items()
    }
    for pair, path in zip(pairs, outputs["sums"], strict=True):
        both = {f"{seed}/{step}": attributes[seed]["model_sha256"] for seed in pair}
        write_arrays(Path(path), cross[pair].items(), {**attributes[pair[0]], "models": both})
    for name, arrays in (("moments", moments), ("within", within)):
        if name in outputs:
            for seed, path in zip(seeds, outputs[name], strict=True):
                write_arrays(Path(path), arrays[seed].items(), attributes[seed])
