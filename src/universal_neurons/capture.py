"""Run a model over tokens and store every MLP neuron's activations, with exact moments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons import corpus, hub
from universal_neurons import encoding as enc
from universal_neurons.activations import Activations
from universal_neurons.calibration import Calibration, read_calibration, write_calibration
from universal_neurons.correlation import within_sums
from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.models import Model, load
from universal_neurons.power_sums import PowerSums
from universal_neurons.rounding import Dither, encode_int8, stored
from universal_neurons.store import RowWriter, create_array, new_store, provenance, write_arrays


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
    for start in progress(starts, f"batches of {size * length} tokens"):
        batch = sequences[start : start + size]
        if batch.min() < 0 or batch.max() >= model.vocab_size:
            raise UserError(
                f"token id {batch.max()} is beyond the model's vocabulary of {model.vocab_size}: "
                "the corpus was made with another tokenizer"
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
    zeros = [torch.zeros(d, dtype=torch.float64, device=model.device) for d in model.d_mlp]
    sums = [PowerSums(zero) for zero in zeros]

    def on_layer(layer: int, x: torch.Tensor) -> None:
        selected = x.reshape(-1, x.shape[-1])[mask]
        if not sums[layer].update(selected):
            raise _not_finite(seed, step, layer)

    with model.tap(on_layer):
        for batch in forward(model, sequences, batch_tokens):
            mask = torch.from_numpy(scored(batch, exclude).ravel()).to(model.device)
    result = []
    for layer in sums:
        arrays = layer.arrays()
        mean = arrays["powers"][0] / n_tokens
        result.append(
            Calibration(
                enc.ranges(
                    arrays["low"], arrays["high"], mean, encoding=encoding, headroom=headroom
                ),
                mean,
            )
        )
    return result


class _LayerCapture:
    """Encode, measure and store one layer, batch by batch."""

    def __init__(
        self,
        calibration: Calibration,
        dither: Dither | None,
        encoding: str,
        writer: RowWriter,
        device: torch.device,
    ) -> None:
        self._encoding = encoding
        self._dither = dither
        self.writer = writer
        self._scale = torch.from_numpy(calibration.ranges.scale).to(device)
        self._offset = torch.from_numpy(calibration.ranges.offset).to(device)
        self.sums = PowerSums(torch.from_numpy(calibration.centre).to(device))
        d_mlp = len(calibration.centre)
        self.clipped = torch.zeros(d_mlp, dtype=torch.int64, device=device)
        self.code_sum = np.zeros(d_mlp, np.int64 if dither else np.float64)

    def add(self, x: torch.Tensor, token_index: NDArray[np.int64]) -> bool:
        """Take activations of shape (tokens, d_mlp); False if one of them is not finite."""
        if not self.sums.update(x):
            return False
        if self._dither is not None:
            code, clipped = encode_int8(x, self._scale, self._offset, self._dither(token_index))
            self.clipped += clipped
            rows = code.cpu().numpy()
        else:
            rows = stored(x, self._encoding)
        codes = enc.codes(rows, self._encoding, self._offset.cpu().numpy())
        self.code_sum += codes.sum(0, dtype=self.code_sum.dtype)
        self.writer.append(rows)
        return True


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
    moments: str | Path,
    attributes: Mapping[str, Any],
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
        and ``offset{i}``; and ``token_id``, ``token_index`` of shape (scored tokens,).
    moments
        Store to make: the parts that `moments.merge` takes.
    attributes
        Recorded with both.

    Raises
    ------
    UserError
        If an activation is NaN or infinite (naming seed, step and layer), or a token is beyond the
        vocabulary, or the calibration is of another model.
    """
    if tuple(len(layer.centre) for layer in calibration) != model.d_mlp:
        raise UserError(f"seed {seed}, step {step}: the calibration is of another model")
    sequences = tokens[start:stop]
    context = sequences.shape[1]
    n_tokens = sum(int(scored(part, exclude).sum()) for part in _blocks(sequences))
    attributes = {
        **attributes,
        "seed": seed,
        "step": step,
        "sequences": [start, stop],
        "exclude": list(exclude),
        "encoding": encoding,
        "n_tokens": n_tokens,
        "d_mlp": list(model.d_mlp),
    }
    with new_store(activations, attributes) as group:
        layers = []
        for i, (d_mlp, codes) in enumerate(zip(model.d_mlp, calibration, strict=True)):
            dtype = {"int8": np.int8, "bfloat16": np.uint16, "float32": np.float32}[encoding]
            array = create_array(group, f"layer{i}", (n_tokens, d_mlp), dtype)
            create_array(group, f"scale{i}", (d_mlp,), np.float32)[:] = codes.ranges.scale
            create_array(group, f"offset{i}", (d_mlp,), np.float32)[:] = codes.ranges.offset
            dither = Dither(seed, step, i, d_mlp, model.device) if encoding == "int8" else None
            layers.append(_LayerCapture(codes, dither, encoding, RowWriter(array), model.device))
        token_ids = RowWriter(create_array(group, "token_id", (n_tokens,), np.int32))
        token_index = RowWriter(create_array(group, "token_index", (n_tokens,), np.int64))

        def on_layer(layer: int, x: torch.Tensor) -> None:
            if not layers[layer].add(x.reshape(-1, x.shape[-1])[mask], batch_index):
                raise _not_finite(seed, step, layer)

        row = start
        with model.tap(on_layer):
            for batch in forward(model, sequences, batch_tokens):
                keep = scored(batch, exclude)
                mask = torch.from_numpy(keep.ravel()).to(model.device)
                batch_index = np.flatnonzero(keep) + row * context
                token_ids.append(batch[keep])
                token_index.append(batch_index)
                row += len(batch)
        for writer in (token_ids, token_index, *(layer.writer for layer in layers)):
            writer.close()
        write_arrays(moments, _moment_arrays(layers, n_tokens).items(), attributes)


def _blocks(sequences: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    """Parts of a corpus small enough to work on in memory."""
    for i in range(0, len(sequences), 4096):
        yield sequences[i : i + 4096]


def _not_finite(seed: str, step: int, layer: int) -> UserError:
    return UserError(f"seed {seed}, step {step}, layer {layer}: NaN or infinite activations")


def _moment_arrays(layers: Sequence[_LayerCapture], n_tokens: int) -> dict[str, NDArray]:
    """Join the layers' sums along the neurons of the model."""
    parts = [
        {
            **layer.sums.arrays(),
            "clipped": layer.clipped.cpu().numpy(),
            "code_sum": layer.code_sum,
        }
        for layer in layers
    ]
    joined = {key: np.concatenate([part[key] for part in parts], axis=-1) for key in parts[0]}
    return {**joined, "n_tokens": np.array([n_tokens])}


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
        them) and, for all but the first shard, ``calibration``.
    outputs
        Paths to make: ``activations``, ``moments``, ``within`` and, for the first shard,
        ``calibration`` and ``model`` (JSON: digest and size of the model).
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
        See `capture`, `calibrate` and `models.load`.
    """
    about = json.loads(Path(inputs["about"]).read_text())
    tokens = np.load(inputs["tokens"], mmap_mode="r")
    exclude = options["exclude_token_ids"]
    exclude = about["special_token_ids"] if exclude == "auto" else exclude
    corpus.select(about, **corpus.selection_options(config))
    corpus.check_tokenizer(Path(inputs["model"]), about)
    model = load(inputs["model"], dtype=options["dtype"], device=options["device"])
    attributes = provenance(config, corpus_sha256=about["sha256"], model_sha256=model.digest())
    common = {
        "exclude": exclude,
        "encoding": options["encoding"],
        "batch_tokens": options["batch_tokens"],
    }
    if "calibration" in outputs:
        n_sample = -(-options["calibration_tokens"] // tokens.shape[1])
        layers = calibrate(
            model,
            tokens[:n_sample],
            seed=seed,
            step=step,
            headroom=options["headroom"],
            **common,
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
    else:
        layers = read_calibration(inputs["calibration"])
    capture(
        model,
        tokens,
        seed=seed,
        step=step,
        start=sequences[0],
        stop=sequences[1],
        calibration=layers,
        activations=outputs["activations"],
        moments=outputs["moments"],
        attributes=attributes,
        **common,
    )
    write_arrays(outputs["within"], within_sums(Activations(outputs["activations"])), attributes)
