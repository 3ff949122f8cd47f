"""Run a model over tokens and store every MLP neuron's activations, with exact moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.activations import encoding as enc
from universal_neurons.activations.calibration import Calibration
from universal_neurons.activations.codes import Codes, Escapes
from universal_neurons.activations.rounding import Dither, bits
from universal_neurons.capture.layer_pass import LayerPass
from universal_neurons.capture.power_sums import SampleSums
from universal_neurons.errors import UserError
from universal_neurons.jobs import logger
from universal_neurons.models.forward import forward, parts_of, scored
from universal_neurons.models.load import Model
from universal_neurons.prepare.subsets import Subsets
from universal_neurons.store.arrays import create_array, new_store, write_arrays
from universal_neurons.store.rows import RowWriter

# A neuron that escapes in more of a shard's tokens than this is told of.
OFTEN = 0.01

# Escapes that a job holds of all layers: 16 bytes each.
MOST_ESCAPES = 1 << 27


def calibrate(
    model: Model,
    sequences: NDArray[np.integer],
    *,
    name: str,
    exclude: Sequence[int],
    encoding: str,
    headroom: float,
    batch_tokens: int,
    positions: Sequence[int] = (),
) -> list[Calibration]:
    """Fix every layer's codes from a sample of sequences.

    Parameters
    ----------
    sequences
        Token ids, shape (sequences, context length).
    name
        The model's, for messages.
    exclude
        Token ids that are not scored.
    encoding, headroom
        See `encoding.ranges`.
    batch_tokens
        Tokens per forward pass.
    positions
        Positions that are not scored.

    Raises
    ------
    UserError
        If no token of the sample is scored, or an activation is not finite.
    """
    n_tokens = int(scored(sequences, exclude, positions).sum())
    if n_tokens == 0:
        raise UserError("corpus.exclude_token_ids: no token of the calibration sample is scored")
    sums = [SampleSums(d_mlp, n_tokens, model.device) for d_mlp in model.d_mlp]

    def on_layer(layer: int, x: torch.Tensor) -> None:
        if not sums[layer].update(x.reshape(-1, x.shape[-1])[mask]):
            raise _not_finite(name, layer)

    with model.tap(on_layer):
        for batch in forward(model, sequences, batch_tokens):
            mask = torch.from_numpy(scored(batch, exclude, positions).ravel()).to(model.device)
    samples = [layer.sample() for layer in sums]
    return [
        Calibration(enc.ranges(sample, encoding=encoding, headroom=headroom), sample.mean)
        for sample in samples
    ]


@dataclass(frozen=True)
class Encoder:
    """How a model's activations become codes.

    Attributes
    ----------
    seed, step
        The model's names; they seed the stochastic rounding.
    calibration
        Per layer.
    encoding
        One of `encoding.ENCODINGS`.
    exclude
        Token ids that are not scored.
    batch_tokens
        Tokens per forward pass.
    subsets
        Of the corpus, to take sums of each.
    positions
        Positions in a sequence that are not scored.
    first_id
        Number of its tokenizer's first token among those of the run (`describe.vocabulary`).
    """

    seed: str
    step: int
    calibration: Sequence[Calibration]
    encoding: str
    exclude: Sequence[int]
    batch_tokens: int
    subsets: Subsets | None = None
    positions: Sequence[int] = ()
    first_id: int = 0

    @property
    def name(self) -> str:
        """Of the model, for messages."""
        return f"seed {self.seed}, step {self.step}"

    def passes(self, model: Model) -> list[LayerPass]:
        """What encodes and measures every layer of the model.

        Raises
        ------
        UserError
            If the calibration is of another model.
        """
        if tuple(len(layer.centre) for layer in self.calibration) != model.d_mlp:
            raise UserError(f"{self.name}: the calibration is of another model")
        n_subsets = len(self.subsets.names) if self.subsets else 0
        return [
            LayerPass(
                codes,
                Dither(self.seed, self.step, i, d_mlp, model.device),
                self.encoding,
                model.device,
                n_subsets,
            )
            for i, (d_mlp, codes) in enumerate(zip(model.d_mlp, self.calibration, strict=True))
        ]

    def attributes(self, model: Model, sequences: tuple[int, int], n_tokens: int) -> dict[str, Any]:
        """What a shard's stores say of themselves; readers compare it."""
        return {
            "seed": self.seed,
            "step": self.step,
            "sequences": list(sequences),
            "exclude": list(self.exclude),
            "exclude_positions": list(self.positions),
            "encoding": self.encoding,
            "n_tokens": n_tokens,
            "d_mlp": list(model.d_mlp),
        }

    def run(
        self,
        model: Model,
        tokens: NDArray[np.integer],
        sequences: tuple[int, int],
        layers: Sequence[LayerPass],
        on_codes: Callable[[int, Codes], None],
    ) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int64]]]:
        """Run a model over a shard, encoding and measuring every layer's scored activations.

        Parameters
        ----------
        model
            The model.
        tokens
            The whole corpus, shape (sequences, context length); may be a memory map.
        sequences
            First sequence of the shard and the one after its last.
        layers
            From `passes`.
        on_codes
            Called with a layer and its batch's codes, see `LayerPass.add`.

        Yields
        ------
        token_id, token_index
            Of every batch's scored tokens, after its layers were handed over.

        Raises
        ------
        UserError
            If an activation is not finite, or see `forward.forward`.
        """

        def on_layer(layer: int, x: torch.Tensor) -> None:
            try:
                taken = layers[layer].add(x.reshape(-1, x.shape[-1]), rows, index, labels, first)
            except OverflowError as error:
                raise UserError(
                    f"{self.name}, layer {layer}: {error}; raise capture.calibration_tokens"
                ) from error
            if taken is None:
                raise _not_finite(self.name, layer)
            on_codes(layer, taken)

        start, context = sequences[0], tokens.shape[1]
        done: tuple[NDArray[np.integer], NDArray[np.int64]] | None = None
        with model.tap(on_layer):
            # `forward` runs a batch when the next one is asked for.
            for batch in forward(model, tokens[slice(*sequences)], self.batch_tokens):
                if done is not None:
                    yield done
                keep = scored(batch, self.exclude, self.positions)
                place = np.flatnonzero(keep)
                rows = torch.from_numpy(place).to(model.device)
                first = rows[rows % context == 0]
                index = place + start * context
                labels = None
                if self.subsets is not None:
                    labels = self.subsets.labels[index // context, index % context]
                start += len(batch)
                done = np.ma.getdata(batch)[keep] + self.first_id, index
        if done is not None:
            yield done


def capture(
    model: Model,
    tokens: NDArray[np.integer],
    sequences: tuple[int, int],
    encoder: Encoder,
    activations: str | Path,
    moments: str | Path = "",
    *,
    attributes: Mapping[str, Any],
) -> dict[str, NDArray]:
    """Store the activations and power sums of one shard of the corpus.

    Memory does not grow with the number of tokens: every layer buffers one chunk.

    Parameters
    ----------
    model, tokens, sequences
        See `Encoder.run`.
    encoder
        Of the model.
    activations
        Store to make, with, per layer i, ``layer{i}`` of shape (scored tokens, d_mlp), ``scale{i}``
        and ``offset{i}``, and what escaped: ``escape_row{i}``, ``escape_neuron{i}``,
        ``escape_code{i}`` (see `codes.Escapes`); and ``token_id``, ``token_index`` of shape
        (scored tokens,).
    moments
        Store to make, if named: the parts that `moments.merge` takes.
    attributes
        Recorded with both.

    Returns
    -------
    dict
        The power sums.

    Raises
    ------
    UserError
        If an activation is NaN or infinite (naming seed, step and layer), or a token is beyond the
        vocabulary, or the calibration is of another model or of a sample unlike the shard.
    """
    parts = parts_of(tokens[slice(*sequences)])
    n_tokens = sum(int(scored(part, encoder.exclude, encoder.positions).sum()) for part in parts)
    attributes = {**attributes, **encoder.attributes(model, sequences, n_tokens)}
    layers = encoder.passes(model)
    with (
        new_store(activations, attributes) as store,
        ThreadPoolExecutor(2 * torch.get_num_threads()) as threads,
    ):
        writers = _layer_writers(store, model, encoder, n_tokens)
        token_ids = RowWriter(create_array(store, "token_id", (n_tokens,), np.int32))
        token_index = RowWriter(create_array(store, "token_index", (n_tokens,), np.int64))
        escapes = [EscapeList(d_mlp, len(model.d_mlp)) for d_mlp in model.d_mlp]

        def on_codes(layer: int, codes: Codes) -> None:
            writers[layer].append(bits(codes.dense))
            escapes[layer].append(codes)

        for ids, index in encoder.run(model, tokens, sequences, layers, on_codes):
            token_ids.append(ids)
            token_index.append(index)
            RowWriter.write_full(writers, threads)
        RowWriter.close([token_ids, token_index, *writers], threads)
        for i, found in enumerate(map(EscapeList.joined, escapes)):
            for name, values in found.arrays().items():
                create_array(store, f"{name}{i}", values.shape, values.dtype)[:] = values
        sums = moment_arrays(layers, n_tokens)
        if moments:
            write_arrays(moments, sums.items(), attributes)
    return sums


def _layer_writers(store: Path, model: Model, encoder: Encoder, n_tokens: int) -> list[RowWriter]:
    dtype = {"int8": np.int8, "bfloat16": np.uint16, "float32": np.float32}[encoder.encoding]
    writers = []
    for i, (d_mlp, codes) in enumerate(zip(model.d_mlp, encoder.calibration, strict=True)):
        array = create_array(store, f"layer{i}", (n_tokens, d_mlp), dtype)
        create_array(store, f"scale{i}", (d_mlp,), np.float32)[:] = codes.ranges.scale
        create_array(store, f"offset{i}", (d_mlp,), np.float32)[:] = codes.ranges.offset
        writers.append(RowWriter(array))
    return writers


class EscapeList:
    """A layer's escapes, batch after batch.

    Parameters
    ----------
    d_mlp
        Number of neurons of the layer.
    n_layers
        Number of layers that share the memory.
    """

    def __init__(self, d_mlp: int, n_layers: int) -> None:
        self._parts: list[Escapes] = []
        self._d_mlp, self._rows, self._n = d_mlp, 0, 0
        self._most = MOST_ESCAPES // n_layers

    def append(self, codes: Codes) -> None:
        """Take the codes of further tokens.

        Raises
        ------
        UserError
            If there are so many that they would fill the memory.
        """
        self._parts.append(codes.escapes.moved(self._rows))
        self._rows += len(codes)
        self._n += len(codes.escapes)
        if self._n > self._most:
            share = self._n / (self._rows * self._d_mlp)
            raise UserError(
                f"capture.calibration_tokens: the sample is unlike the corpus: {share:.0%} of a "
                "layer's activations lie beyond its int8 ranges; raise the key until the sample "
                "has what the corpus has, or use capture.encoding: bfloat16"
            )

    def joined(self) -> Escapes:
        """All of them."""
        return Escapes.join(self._parts)


def warn_of_escapes(name: str, sums: Mapping[str, NDArray], d_mlp: Sequence[int]) -> None:
    """Say which layers have neurons that the calibration's sample says little of.

    Their sums are exact all the same: it only takes more room and time.
    """
    share = sums["escapes"] / max(1, int(sums["n_tokens"][0]))
    first = 0
    for layer, d in enumerate(d_mlp):
        own = share[first : first + d]
        first += d
        if (many := own > OFTEN).any():
            logger.warning(
                "%s, layer %d: %d of %d neurons lie beyond their int8 range in more than %.0f %% "
                "of the tokens (neuron %d in %.0f %%): the first capture.calibration_tokens say "
                "little of them. Nothing is cut: what they do is kept whole, in more room and time",
                *(name, layer, many.sum(), d, 100 * OFTEN, own.argmax(), 100 * own.max()),
            )


def _not_finite(name: str, layer: int) -> UserError:
    return UserError(f"{name}, layer {layer}: NaN or infinite activations")


def moment_arrays(layers: Sequence[LayerPass], n_tokens: int) -> dict[str, NDArray]:
    """Join the layers' sums along the neurons of the model."""
    parts = [layer.arrays() for layer in layers]
    joined = {key: np.concatenate([part[key] for part in parts], axis=-1) for key in parts[0]}
    return {**joined, "n_tokens": np.array([n_tokens])}
