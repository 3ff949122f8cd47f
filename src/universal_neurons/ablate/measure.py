"""Measure what replacing sets of neurons does to a model's loss and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.ablate.predictions import Predictions
from universal_neurons.ablate.replay import frozen, known_outputs, record, replay
from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.models.load import Model

# Held-out tokens whose activations stand for a neuron's distribution when resampling: 150 MB for
# GPT-2 Small in float32.
RESAMPLE_TOKENS = 1024


NO_EFFECT = dict.fromkeys(
    ("ablated_loss", "delta_loss", "delta_loss_se", "kl", "top1_change"), np.nan
)


NO_CONTRAST = dict.fromkeys(("difference", "difference_se", "permutation_p"), np.nan)


@dataclass(frozen=True)
class Measured:
    """What clean and ablated predictions of every held-out sequence are.

    Attributes
    ----------
    clean
        Mean loss of every sequence in nats per token, shape (sequences,).
    delta, kl, top1
        Of every run and sequence: change of the loss, KL(clean ‖ ablated), share of positions whose
        likeliest token changes; shape (runs, sequences), float64.
    """

    clean: NDArray[np.float64]
    delta: NDArray[np.float64]
    kl: NDArray[np.float64]
    top1: NDArray[np.float64]

    def effect(self, run: int | None) -> dict[str, float]:
        """The columns of one run; NaN without one."""
        if run is None:
            return NO_EFFECT
        return {
            "ablated_loss": (self.clean + self.delta[run]).mean(),
            "delta_loss": self.delta[run].mean(),
            "delta_loss_se": standard_error(self.delta[run]),
            "kl": self.kl[run].mean(),
            "top1_change": self.top1[run].mean(),
        }

    def contrast(self, run: int | None, controls: Sequence[int]) -> dict[str, float]:
        """A run against its control runs; NaN without either."""
        if run is None or not controls:
            return NO_CONTRAST
        difference = self.delta[run] - self.delta[list(controls)].mean(0)
        as_large = (self.delta[list(controls)].mean(1) >= self.delta[run].mean()).sum()
        return {
            "difference": difference.mean(),
            "difference_se": standard_error(difference),
            "permutation_p": (1 + as_large) / (1 + len(controls)),
        }


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean over sequences; NaN for one."""
    n = len(values)
    return values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan


def measure(
    model: Model,
    sequences: NDArray[np.integer],
    runs: Sequence[Run],
    replacement: Replacement,
    *,
    name: str,
    batch_tokens: int = 1024,
) -> Measured:
    """Run the model over all sequences, clean and with every ablation.

    Parameters
    ----------
    model, sequences, batch_tokens
        See `ablate`.
    runs
        What is ablated, how.
    replacement
        The values that take the place of the clean ones.
    name
        Of the model, for messages.

    Raises
    ------
    UserError
        If a token id is beyond the model's vocabulary, or a prediction is not finite.
    """
    check_tokens(model, sequences)
    # Loss, divergence and changed predictions; row 0 is the clean pass.
    sums = np.empty((1 + len(runs), 3, len(sequences)))
    parts = list(batches(sequences, batch_tokens))
    passes = (one for rows in parts for one in _passes(model, sequences, rows, runs, replacement))
    for i, rows, values in progress(passes, "forward passes", total=len(parts) * len(sums)):
        if not np.isfinite(values[0]).all():
            what = f"with neurons of layer {runs[i - 1].neurons.layer} replaced" if i else "clean"
            raise UserError(f"{name}: predictions are NaN or infinite ({what})")
        sums[i, :, rows] = values
    clean = sums[0, 0]
    return Measured(clean, sums[1:, 0] - clean, sums[1:, 1], sums[1:, 2])


def check_tokens(model: Model, sequences: NDArray[np.integer]) -> None:
    if sequences.min() < 0 or sequences.max() >= model.vocab_size:
        raise UserError(
            f"held-out token ids go from {sequences.min()} to {sequences.max()}, but the model's "
            f"vocabulary has {model.vocab_size}: the corpus was made with another tokenizer"
        )


@dataclass(frozen=True, eq=False)
class NeuronSet:
    """Neurons (sorted indices among the model's N) that are replaced together."""

    layer: int
    name: str
    draw: int
    neurons: NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """One ablation: which neurons, how, and whether all later blocks are frozen."""

    neurons: NeuronSet
    kind: str
    direct: bool = False


def _by_layer(neurons: NDArray[np.int64], model: Model) -> dict[int, torch.Tensor]:
    """Indices within each layer that has any of `neurons`."""
    edges = np.cumsum([0, *model.d_mlp])
    parts = np.split(neurons, np.searchsorted(neurons, edges[1:-1]))
    return {
        layer: torch.from_numpy(part - edges[layer]).to(model.device)
        for layer, part in enumerate(parts)
        if len(part)
    }


class Replacement:
    """The activations that take the place of the clean ones.

    Parameters
    ----------
    mean
        Shape (N,).
    """

    def __init__(self, model: Model, mean: NDArray[np.float64]) -> None:
        self._model = model
        dtype = next(model.projections[0].parameters()).dtype
        means = torch.tensor(mean, dtype=dtype, device=model.device)
        self._mean = means.split(model.d_mlp)
        self._zero = torch.zeros((), dtype=dtype, device=model.device)
        self._sampled: list[torch.Tensor] = []
        self._donor = torch.empty(0, dtype=torch.int64)

    def sample(
        self, sequences: NDArray[np.integer], batch_tokens: int, rng: np.random.Generator
    ) -> None:
        """Record the activations of some tokens and draw one of these for every position."""
        inputs = sequences[:, :-1]
        n_tokens = min(RESAMPLE_TOKENS, inputs.size)
        chosen = np.zeros(inputs.shape, bool)
        chosen.flat[rng.choice(inputs.size, n_tokens, replace=False)] = True
        # Most of a long corpus is passed over: only sequences with a chosen token are run.
        used = chosen.any(1)
        inputs, chosen = inputs[used], chosen[used]
        parts: list[list[torch.Tensor]] = [[] for _ in self._model.d_mlp]
        base: Any = self._model.module.base_model  # stops before the unembedding

        def keep(layer: int, x: torch.Tensor) -> None:
            parts[layer].append(x.reshape(-1, x.shape[-1])[taken])

        with self._model.tap(keep), torch.inference_mode():
            for rows in batches(inputs, batch_tokens):
                taken = torch.from_numpy(chosen[rows].ravel()).to(self._model.device)
                base(input_ids=token_tensor(inputs[rows], self._model), use_cache=False)
        self._sampled = [torch.cat(part) for part in parts]
        donor = rng.integers(n_tokens, size=(len(sequences), sequences.shape[1] - 1))
        self._donor = torch.from_numpy(donor).to(self._model.device)

    def __call__(
        self, kind: str, layer: int, neurons: torch.Tensor, rows: slice, x: torch.Tensor
    ) -> torch.Tensor:
        """A layer's activations `x` for the sequences `rows`, those of `neurons` replaced."""
        if kind == "mean":
            values = self._mean[layer][neurons]
        elif kind == "zero":
            values = self._zero
        else:
            values = self._sampled[layer][:, neurons][self._donor[rows].flatten()]
            values = values.reshape(*x.shape[:-1], -1)
        # On a CPU several times faster than torch.where with a mask.
        x = x.clone()
        x[..., neurons] = values
        return x


def batches(sequences: NDArray[np.integer], batch_tokens: int) -> Iterator[slice]:
    """Slices of as many whole sequences as have `batch_tokens`, at least one."""
    size = max(1, batch_tokens // sequences.shape[1])
    for start in range(0, len(sequences), size):
        yield slice(start, min(start + size, len(sequences)))


def token_tensor(batch: NDArray[np.integer], model: Model) -> torch.Tensor:
    """Token ids as the model takes them."""
    return torch.from_numpy(batch.astype(np.int64)).to(model.device)


@torch.inference_mode()
def _passes(
    model: Model,
    sequences: NDArray[np.integer],
    rows: slice,
    runs: Sequence[Run],
    replacement: Replacement,
) -> Iterator[tuple[int, slice, NDArray[np.float64]]]:
    """Run the model over a batch of sequences, clean and with every ablation.

    Yields
    ------
    run, rows, values
        0 for the clean pass, 1 + the number of the run otherwise; the sequences; their mean loss,
        KL divergence and changed predictions, shape (3, sequences).
    """
    tokens = token_tensor(sequences[rows], model)
    # The last token predicts nothing that could be checked.
    inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
    with record(model) as calls:
        clean = Predictions(_logits(model, inputs), targets)
    known = known_outputs(model, calls)
    nothing = torch.zeros_like(clean.loss)
    yield 0, rows, _by_sequence((clean.loss, nothing, nothing), inputs)
    for i, run in enumerate(runs, start=1):
        by_layer = _by_layer(run.neurons.neurons, model)
        unchanged = (
            frozen(model, list(by_layer), calls, known)
            if run.direct
            else replay(known[min(by_layer)])
        )
        with unchanged, model.tap(_edit(run.kind, by_layer, replacement, rows)):
            logits = _logits(model, inputs)
        yield i, rows, _by_sequence(clean.compare(logits), inputs)


def _edit(
    kind: str, by_layer: Mapping[int, torch.Tensor], replacement: Replacement, rows: slice
) -> Callable[[int, torch.Tensor], torch.Tensor | None]:
    def on_layer(layer: int, x: torch.Tensor) -> torch.Tensor | None:
        if layer not in by_layer:
            return None
        return replacement(kind, layer, by_layer[layer], rows, x)

    return on_layer


def _logits(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """Logits of all positions, shape (tokens, vocabulary)."""
    return model.module(input_ids=inputs, use_cache=False).logits.flatten(0, 1)


def _by_sequence(measures: Sequence[torch.Tensor], inputs: torch.Tensor) -> NDArray[np.float64]:
    """Means over each sequence's tokens, in float64, shape (measures, sequences)."""
    by_token = torch.stack(tuple(measures)).double().view(len(measures), *inputs.shape)
    return by_token.mean(-1).cpu().numpy()
