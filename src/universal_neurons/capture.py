"""Run a model over tokens and store every MLP neuron's activations, with exact moments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons import corpus, hub
from universal_neurons import encoding as enc
from universal_neurons.activations import Activations
from universal_neurons.calibration import Calibration, read_calibration, write_calibration
from universal_neurons.codes import Codes, Escapes
from universal_neurons.errors import UserError
from universal_neurons.jobs import logger, progress
from universal_neurons.models import Model, load
from universal_neurons.one_pass import LayerPass
from universal_neurons.power_sums import SampleSums
from universal_neurons.products import within_sums
from universal_neurons.rounding import Dither, bits
from universal_neurons.store import (
    RowWriter,
    create_array,
    new_store,
    provenance,
    read_json,
    write_arrays,
)
from universal_neurons.subsets import Subsets

# A neuron that escapes in more of a shard's tokens than this is told of.
OFTEN = 0.01

# Escapes of a layer that a job holds: 16 bytes each.
MOST_ESCAPES = 1 << 26


def forward(
    model: Model, sequences: NDArray[np.integer], batch_tokens: int
) -> Iterator[NDArray[np.integer]]:
    """Run the model batch by batch, yielding each batch of sequences before it is run.

    The network stops before the unembedding, since only activations are wanted.

    Raises
    ------
    UserError
        If a token id is beyond the vocabulary, or the sequences exceed the model's context.
    """
    length = sequences.shape[1]
    limit = getattr(model.module.config, "max_position_embeddings", length)
    if length > limit:
        raise UserError(f"corpus.context_length: {length} is more than the model's {limit}")
    size = max(1, batch_tokens // length)
    starts = range(0, len(sequences), size)
    for start in progress(starts, "tokens", each=size * length):
        batch = sequences[start : start + size]
        if batch.min() < 0 or batch.max() >= model.vocab_size:
            raise UserError(
                f"corpus.path: token id {batch.max()} is beyond the model's vocabulary of "
                f"{model.vocab_size}: the corpus was made with another tokenizer"
            )
        yield batch
        with torch.inference_mode():
            ids = torch.from_numpy(batch.astype(np.int64)).to(model.device)
            model.module.base_model(input_ids=ids, use_cache=False)


def scored(sequences: NDArray[np.integer], exclude: Sequence[int]) -> NDArray[np.bool_]:
    """Which token positions count, shape (sequences, context length)."""
    return ~np.isin(sequences, np.asarray(exclude, dtype=np.int64))


def calibrate(
    model: Model,
    sequences: NDArray[np.integer],
    *,
    seed: str,
    step: int,
    exclude: Sequence[int],
    encoding: str,
    headroom: float,
    batch_tokens: int,
) -> list[Calibration]:
    """Fix every layer's codes from a sample of sequences.

    Parameters
    ----------
    sequences
        Token ids, shape (sequences, context length).
    seed, step
        The model's names, for messages.
    exclude
        Token ids that are not scored.
    encoding, headroom
        See `encoding.ranges`.
    batch_tokens
        Tokens per forward pass.

    Raises
    ------
    UserError
        If no token of the sample is scored, or an activation is not finite.
    """
    n_tokens = int(scored(sequences, exclude).sum())
    if n_tokens == 0:
        raise UserError("corpus.exclude_token_ids: no token of the calibration sample is scored")
    sums = [SampleSums(d_mlp, n_tokens, model.device) for d_mlp in model.d_mlp]

    def on_layer(layer: int, x: torch.Tensor) -> None:
        if not sums[layer].update(x.reshape(-1, x.shape[-1])[mask]):
            raise _not_finite(f"seed {seed}, step {step}", layer)

    with model.tap(on_layer):
        for batch in forward(model, sequences, batch_tokens):
            mask = torch.from_numpy(scored(batch, exclude).ravel()).to(model.device)
    samples = [layer.sample() for layer in sums]
    return [
        Calibration(enc.ranges(sample, encoding=encoding, headroom=headroom), sample.mean)
        for sample in samples
    ]


def capture(
    model: Model,
    tokens: NDArray[np.integer],
    *,
    seed: str,
    step: int,
    start: int,
    stop: int,
    exclude: Sequence[int],
    calibration: Sequence[Calibration],
    encoding: str,
    batch_tokens: int,
    activations: str | Path,
    moments: str | Path | None,
    attributes: Mapping[str, Any],
    subsets: Subsets | None = None,
) -> None:
    """Store the activations and power sums of one shard of the corpus.

    Memory does not grow with the number of tokens: every layer buffers one chunk.

    Parameters
    ----------
    model
        Whose neurons are captured.
    tokens
        The whole corpus, shape (sequences, context length); may be a memory map.
    seed, step
        The model's names; they seed the stochastic rounding.
    start, stop
        The shard: sequences start to stop - 1.
    exclude
        Token ids that are not scored.
    calibration
        Per layer.
    encoding
        One of `encoding.ENCODINGS`.
    batch_tokens
        Tokens per forward pass.
    activations
        Store to make, with, per layer i, ``layer{i}`` of shape (scored tokens, d_mlp), ``scale{i}``
        and ``offset{i}``, and what escaped: ``escape_row{i}``, ``escape_neuron{i}``,
        ``escape_code{i}`` (see `codes.Escapes`); and ``token_id``, ``token_index`` of shape
        (scored tokens,).
    moments
        Store to make, unless None: the parts that `moments.merge` takes.
    attributes
        Recorded with both.
    subsets
        Of the corpus, to take sums of each.

    Raises
    ------
    UserError
        If an activation is NaN or infinite (naming seed, step and layer), or a token is beyond the
        vocabulary, or the calibration is of another model or of a sample unlike the shard.
    """
    sequences = tokens[start:stop]
    n_tokens = sum(int(scored(part, exclude).sum()) for part in _blocks(sequences))
    attributes = {
        **attributes,
        **shard_attributes(
            model, seed, step, start, stop, exclude=exclude, encoding=encoding, n_tokens=n_tokens
        ),
    }
    with (
        new_store(activations, attributes) as group,
        ThreadPoolExecutor(2 * torch.get_num_threads()) as threads,
    ):
        dtype = {"int8": np.int8, "bfloat16": np.uint16, "float32": np.float32}[encoding]
        layers = layer_passes(model, calibration, encoding, seed=seed, step=step, subsets=subsets)
        writers = []
        for i, (d_mlp, codes) in enumerate(zip(model.d_mlp, calibration, strict=True)):
            array = create_array(group, f"layer{i}", (n_tokens, d_mlp), dtype)
            create_array(group, f"scale{i}", (d_mlp,), np.float32)[:] = codes.ranges.scale
            create_array(group, f"offset{i}", (d_mlp,), np.float32)[:] = codes.ranges.offset
            writers.append(RowWriter(array))
        token_ids = RowWriter(create_array(group, "token_id", (n_tokens,), np.int32))
        token_index = RowWriter(create_array(group, "token_index", (n_tokens,), np.int64))

        escapes = [EscapeList(d_mlp) for d_mlp in model.d_mlp]

        def on_values(layer: int, codes: Codes) -> None:
            writers[layer].append(bits(codes.dense))
            escapes[layer].append(codes)

        batches = values(
            model,
            sequences,
            layers,
            on_values,
            start=start,
            exclude=exclude,
            batch_tokens=batch_tokens,
            name=f"seed {seed}, step {step}",
            subsets=subsets,
        )
        for ids, index in batches:
            token_ids.append(ids)
            token_index.append(index)
            RowWriter.write_full(writers, threads)
        RowWriter.close([token_ids, token_index, *writers], threads)
        for i, found in enumerate(map(EscapeList.joined, escapes)):
            for part, values_of in vars(found).items():
                name = f"escape_{part}{i}"
                create_array(group, name, values_of.shape, values_of.dtype)[:] = values_of
        sums = moment_arrays(layers, n_tokens)
        warn_of_escapes(f"seed {seed}, step {step}", sums, model.d_mlp)
        if moments is not None:
            write_arrays(moments, sums.items(), attributes)


class EscapeList:
    """A layer's escapes, batch after batch.

    Parameters
    ----------
    d_mlp
        Number of neurons of the layer.
    """

    def __init__(self, d_mlp: int) -> None:
        self._parts: list[Escapes] = []
        self._d_mlp, self._rows, self._n = d_mlp, 0, 0

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
        if self._n > MOST_ESCAPES:
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
                "of the tokens (neuron %d in %.0f %%): they were silent in the first "
                "capture.calibration_tokens. Nothing is cut: what they do is kept exactly, in more "
                "room",
                *(name, layer, many.sum(), d, 100 * OFTEN, own.argmax(), 100 * own.max()),
            )


def shard_attributes(
    model: Model,
    seed: str,
    step: int,
    start: int,
    stop: int,
    *,
    exclude: Sequence[int],
    encoding: str,
    n_tokens: int,
) -> dict[str, Any]:
    """What a shard's stores say of themselves; readers compare it."""
    return {
        "seed": seed,
        "step": step,
        "sequences": [start, stop],
        "exclude": list(exclude),
        "encoding": encoding,
        "n_tokens": n_tokens,
        "d_mlp": list(model.d_mlp),
    }


def values(
    model: Model,
    sequences: NDArray[np.integer],
    layers: Sequence[LayerPass],
    on_values: Callable[[int, Codes], None],
    *,
    start: int,
    exclude: Sequence[int],
    batch_tokens: int,
    name: str,
    subsets: Subsets | None = None,
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int64]]]:
    """Run a model over sequences, encoding and measuring every layer's scored activations.

    Parameters
    ----------
    model, sequences, batch_tokens
        See `forward`.
    layers
        From `layer_passes`.
    on_values
        Called with a layer and its batch's codes, see `LayerPass.add`.
    start
        Place of the first sequence in the corpus.
    exclude
        Token ids that are not scored.
    name
        Of the model, for messages.
    subsets
        Of the corpus, to take sums of each.

    Yields
    ------
    token_id, token_index
        Of every batch's scored tokens, after its layers were handed over.

    Raises
    ------
    UserError
        If an activation is not finite, or see `forward`.
    """

    def on_layer(layer: int, x: torch.Tensor) -> None:
        taken = layers[layer].add(x.reshape(-1, x.shape[-1]), rows, index, labels)
        if taken is None:
            raise _not_finite(name, layer)
        on_values(layer, taken)

    context = sequences.shape[1]
    done: tuple[NDArray[np.integer], NDArray[np.int64]] | None = None
    with model.tap(on_layer):
        # `forward` runs a batch when the next one is asked for.
        for batch in forward(model, sequences, batch_tokens):
            if done is not None:
                yield done
            keep = scored(batch, exclude)
            place = np.flatnonzero(keep)
            rows = torch.from_numpy(place).to(model.device)
            index = place + start * context
            labels = None if subsets is None else subsets.labels.reshape(-1)[index]
            start += len(batch)
            done = batch[keep], index
    if done is not None:
        yield done


def layer_passes(
    model: Model,
    calibration: Sequence[Calibration],
    encoding: str,
    *,
    seed: str,
    step: int,
    subsets: Subsets | None = None,
) -> list[LayerPass]:
    """What encodes and measures every layer of a model.

    Raises
    ------
    UserError
        If the calibration is of another model.
    """
    if tuple(len(layer.centre) for layer in calibration) != model.d_mlp:
        raise UserError(f"seed {seed}, step {step}: the calibration is of another model")
    return [
        LayerPass(
            codes,
            Dither(seed, step, i, d_mlp, model.device),
            encoding,
            model.device,
            len(subsets.names) if subsets else 0,
        )
        for i, (d_mlp, codes) in enumerate(zip(model.d_mlp, calibration, strict=True))
    ]


def _blocks(sequences: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    """Parts of a corpus small enough to work on in memory."""
    for i in range(0, len(sequences), 4096):
        yield sequences[i : i + 4096]


def _not_finite(name: str, layer: int) -> UserError:
    return UserError(f"{name}, layer {layer}: NaN or infinite activations")


def moment_arrays(layers: Sequence[LayerPass], n_tokens: int) -> dict[str, NDArray]:
    """Join the layers' sums along the neurons of the model."""
    parts = [layer.arrays() for layer in layers]
    joined = {key: np.concatenate([part[key] for part in parts], axis=-1) for key in parts[0]}
    return {**joined, "n_tokens": np.array([n_tokens])}


@dataclass(frozen=True)
class Prepared:
    """A model ready to be captured: what depends on the model and not on the shard."""

    model: Model
    calibration: list[Calibration]
    exclude: list[int]
    subsets: Subsets | None
    attributes: dict[str, Any]


def prepare(
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    tokens: NDArray[np.integer],
    *,
    seed: str,
    step: int,
    options: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Prepared:
    """Load a model, check that the corpus is for it, and calibrate it or read its calibration.

    Parameters
    ----------
    inputs
        Paths: ``model`` (directory), ``about`` (what `corpus.describe` says of the tokens), unless
        it is to be made ``calibration``, and ``subsets`` (.npy) if the corpus has any.
    outputs
        Paths to make, if named: ``calibration`` and ``model`` (JSON: digest and size of the model).
    tokens
        The whole corpus, shape (sequences, context length).
    seed, step, options, config
        See `run`.

    Raises
    ------
    UserError
        See `calibrate` and `models.load`.
    """
    about = read_json(inputs["about"])
    corpus.check_digest(tokens, about)
    exclude = corpus.excluded(options["exclude_token_ids"], about)
    corpus.select(about, **corpus.selection_options(config))
    corpus.check_tokenizer(Path(inputs["model"]), about)
    model = load(inputs["model"], dtype=options["dtype"], device=options["device"])
    attributes = provenance(
        config,
        *("corpus", "capture"),
        seed=seed,
        step=step,
        corpus_sha256=about["sha256"],
        model_sha256=model.digest(),
        exclude=exclude,
        encoding=options["encoding"],
    )
    subsets = None
    if "subsets" in inputs:
        subsets = Subsets.read(inputs["subsets"], about["subsets"], tokens.shape)
    if "calibration" not in outputs:
        layers = read_calibration(inputs["calibration"])
        return Prepared(model, layers, exclude, subsets, attributes)
    layers = calibrate(
        model,
        tokens[: -(-options["calibration_tokens"] // tokens.shape[1])],
        seed=seed,
        step=step,
        exclude=exclude,
        encoding=options["encoding"],
        headroom=options["headroom"],
        batch_tokens=options["batch_tokens"],
    )
    write_calibration(outputs["calibration"], layers, attributes)
    facts = {
        "seed": seed,
        "step": step,
        "source": config["models"]["source"],
        "revision": hub.commit(inputs["model"]),
        "sha256": attributes["model_sha256"],
        "n_layers": len(model.d_mlp),
        "d_mlp": model.d_mlp[0],
    }
    Path(outputs["model"]).write_text(json.dumps(facts))
    return Prepared(model, layers, exclude, subsets, attributes)


def run(
    *,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    seed: str,
    step: int,
    sequences: tuple[int, int],
    options: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    """One capture job: load the model, calibrate if this is the first shard, capture.

    Parameters
    ----------
    inputs
        Paths: ``model`` (directory), ``tokens`` (.npy), ``about`` (what `corpus.describe` says of
        them), for all but the first shard ``calibration``, and ``subsets`` (.npy) if the corpus
        has any.
    outputs
        Paths to make: ``activations``; unless activations are restored ``moments`` and ``within``;
        for the first shard ``calibration`` and ``model`` (JSON: digest and size of the model).
    seed, step
        The model's names.
    sequences
        First sequence of the shard and the one after its last.
    options
        The resolved section ``capture`` with ``exclude_token_ids``.
    config
        The whole configuration, for provenance.

    Raises
    ------
    UserError
        See `capture` and `prepare`.
    """
    tokens = np.load(inputs["tokens"], mmap_mode="r")
    prepared = prepare(
        inputs, outputs, tokens, seed=seed, step=step, options=options, config=config
    )
    capture(
        prepared.model,
        tokens,
        seed=seed,
        step=step,
        start=sequences[0],
        stop=sequences[1],
        exclude=prepared.exclude,
        calibration=prepared.calibration,
        encoding=options["encoding"],
        batch_tokens=options["batch_tokens"],
        activations=outputs["activations"],
        moments=outputs.get("moments"),
        attributes=prepared.attributes,
        subsets=prepared.subsets,
    )
    if "within" in outputs:
        sums = within_sums(Activations(outputs["activations"]))
        write_arrays(outputs["within"], sums, prepared.attributes)
