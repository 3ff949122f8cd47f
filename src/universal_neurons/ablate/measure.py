"""Measure what replacing sets of neurons does to a model's loss and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.ablate.passes import Passes
from universal_neurons.ablate.replay import frozen, known_outputs, record, replay, with_written
from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.models.load import Model
from universal_neurons.prepare.reading import HeldOut

# Held-out tokens whose activations stand for a neuron's distribution when resampling: 150 MB for
# GPT-2 Small in float32.
RESAMPLE_TOKENS = 1024


NO_EFFECT = dict.fromkeys(
    (
        *("ablated_loss", "delta_loss", "delta_loss_se", "kl", "top1_change", "energy"),
        *("delta_loss_later", "energy_later"),
    ),
    np.nan,
)


NO_CONTRAST = dict.fromkeys(
    (
        *("difference", "difference_se", "energy_ratio"),
        *("adjusted_difference", "adjusted_difference_se"),
    ),
    np.nan,
)

# Columns of `_by_sequence`: means over all positions, and over those after the first.
LOSS, KL, TOP1, ENERGY, LOSS_LATER, ENERGY_LATER = range(6)


@dataclass(frozen=True)
class Measured:
    """What clean and ablated predictions of every held-out sequence are.

    Attributes
    ----------
    how
        How the model was run.
    documents
        Document of every sequence, shape (sequences,), which standard errors are over.
    clean, clean_later
        Mean loss of every sequence in nats per token, shape (sequences,): of all predictions, and
        without the one that is made at position 0.
    delta, delta_later
        Of every run and sequence: change of the loss, alike; shape (runs, sequences), float64.
    kl, top1
        KL(clean ‖ ablated), and share of positions whose likeliest token changes.
    energy, energy_later
        Squared length of the change of what the MLPs write, summed over layers, mean over
        positions, all of them and those after position 0. What is changed is the clean model's.
    """

    how: Passes
    documents: NDArray[np.int64]
    clean: NDArray[np.float64]
    clean_later: NDArray[np.float64]
    delta: NDArray[np.float64]
    delta_later: NDArray[np.float64]
    kl: NDArray[np.float64]
    top1: NDArray[np.float64]
    energy: NDArray[np.float64]
    energy_later: NDArray[np.float64]

    def run_with(self, text: HeldOut) -> dict[str, Any]:
        """How much of a text it is measured on, what is predicted, and how."""
        return {
            "heldout_tokens": text.sequences.shape[1] * len(self.documents),
            "loss_kind": text.loss_kind,
            "dtype": self.how.dtype,
            "dtype_error": self.how.error,
        }

    def effect(self, run: int | None) -> dict[str, float]:
        """The columns of one run; NaN without one."""
        if run is None:
            return NO_EFFECT
        return {
            "ablated_loss": (self.clean + self.delta[run]).mean(),
            "delta_loss": self.delta[run].mean(),
            "delta_loss_se": standard_error(self.delta[run], self.documents),
            "kl": self.kl[run].mean(),
            "top1_change": self.top1[run].mean(),
            "energy": self.energy[run].mean(),
            "delta_loss_later": self.delta_later[run].mean(),
            "energy_later": self.energy_later[run].mean(),
        }

    def contrast(self, run: int | None, controls: Sequence[int]) -> dict[str, float]:
        """A run against its control runs; NaN without either.

        Adjusted, the controls' change of the loss is scaled to the energy of the run.
        """
        if run is None or not controls:
            return NO_CONTRAST
        others = self.delta[list(controls)].mean(0)
        energy = self.energy[list(controls)].mean()
        ratio = self.energy[run].mean() / energy if energy > 0 else np.nan
        difference, adjusted = self.delta[run] - others, self.delta[run] - ratio * others
        return {
            "difference": difference.mean(),
            "difference_se": standard_error(difference, self.documents),
            "energy_ratio": ratio,
            "adjusted_difference": adjusted.mean(),
            "adjusted_difference_se": standard_error(adjusted, self.documents),
        }

    def permutation_p(self, run: int, controls: Sequence[int]) -> float:
        """(1 + control runs that change the loss by as much or more) / (1 + control runs)."""
        as_large = (self.delta[list(controls)].mean(1) >= self.delta[run].mean()).sum()
        return float((1 + as_large) / (1 + len(controls)))


def standard_error(values: NDArray[np.float64], documents: NDArray[np.int64]) -> float:
    """Of the mean over sequences, of which those of one document are alike; NaN for one document.

    With n sequences of D documents, √(D / (D − 1) Σ_d (Σ_{s in d} (x_s − mean))²) / n: the
    cluster-robust error of a mean (Liang and Zeger 1986; D / (D − 1) as Cameron and Miller 2015,
    section VI.B). If every sequence is a document, it is sd / √n.
    """
    _, place = np.unique(documents, return_inverse=True)
    sums = np.bincount(place, values - values.mean())
    n = len(sums)
    return float(np.sqrt(n / (n - 1) * (sums**2).sum()) / len(values)) if n > 1 else np.nan


def measure(
    model: Model,
    text: HeldOut,
    runs: Sequence[Run],
    replacement: Replacement,
    *,
    name: str,
    batch_tokens: int = 1024,
    how: Passes | None = None,
    enough: Callable[[Measured], bool] = lambda _: False,
) -> Measured:
    """Run the model over all sequences, clean and with every ablation.

    Parameters
    ----------
    model, text, batch_tokens
        See `ablate`.
    runs
        What is ablated, how.
    replacement
        The values that take the place of the clean ones.
    name
        Of the model, for messages.
    how
        How the model is run, see `precision.choose`; as it is if None.
    enough
        Whether what is measured of the first sequences is known well enough: the others are left
        out.

    Raises
    ------
    UserError
        If a token id is beyond the model's vocabulary, or a prediction is not finite.
    """
    check_text(model, text)
    # Row 0 is the clean pass.
    sums = np.empty((1 + len(runs), 6, len(text.sequences)))
    parts = list(batches(text.sequences, batch_tokens))
    how = how or Passes(model)
    measured: list[Measured] = []

    def until_enough() -> Iterator[tuple[int, slice, NDArray[np.float64]]]:
        for rows in parts:
            yield from passes(model, text, rows, runs, replacement, how)
            measured[:] = [_measured(how, sums[:, :, : rows.stop], text.documents[: rows.stop])]
            if enough(measured[0]):
                return

    for i, rows, values in progress(until_enough(), "forward passes", total=len(parts) * len(sums)):
        if not np.isfinite(values[LOSS]).all():
            what = f"with neurons of layer {runs[i - 1].neurons.layer} replaced" if i else "clean"
            raise UserError(f"{name}: predictions are NaN or infinite ({what})")
        sums[i, :, rows] = values
    return measured[0]


def _measured(how: Passes, sums: NDArray[np.float64], documents: NDArray[np.int64]) -> Measured:
    """Of the means of `_by_sequence`, shape (1 + runs, 6, sequences)."""
    clean, later, ablated = sums[0, LOSS], sums[0, LOSS_LATER], sums[1:]
    return Measured(
        how=how,
        documents=documents,
        clean=clean,
        clean_later=later,
        delta=ablated[:, LOSS] - clean,
        delta_later=ablated[:, LOSS_LATER] - later,
        kl=ablated[:, KL],
        top1=ablated[:, TOP1],
        energy=ablated[:, ENERGY],
        energy_later=ablated[:, ENERGY_LATER],
    )


def check_text(model: Model, text: HeldOut) -> None:
    """Refuse text that a model can't read, or that asks of it what it does not predict."""
    sequences = text.sequences
    if text.loss_kind != model.places.loss_kind:
        raise UserError(
            f"corpus.json: made for models whose loss is {text.loss_kind}, and this one's is "
            f"{model.places.loss_kind}; encoders and decoders can't share a run"
        )
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


def neurons_by_layer(neurons: NDArray[np.int64], model: Model) -> dict[int, torch.Tensor]:
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
        self, inputs: NDArray[np.integer], batch_tokens: int, rng: np.random.Generator
    ) -> None:
        """Record the activations of some tokens and draw one of these for every position."""
        shape = inputs.shape
        n_tokens = min(RESAMPLE_TOKENS, inputs.size)
        chosen = np.zeros(inputs.shape, bool)
        chosen.flat[rng.choice(inputs.size, n_tokens, replace=False)] = True
        # Most of a long corpus is passed over: only sequences with a chosen token are run.
        used = chosen.any(1)
        inputs, chosen = inputs[used], chosen[used]
        parts: list[list[torch.Tensor]] = [[] for _ in self._model.d_mlp]

        def keep(layer: int, x: torch.Tensor) -> None:
            parts[layer].append(x.reshape(-1, x.shape[-1])[taken])

        with self._model.tap(keep), torch.inference_mode():
            for rows in batches(inputs, batch_tokens):
                taken = torch.from_numpy(chosen[rows].ravel()).to(self._model.device)
                self._model.read(token_tensor(inputs[rows], self._model))
        self._sampled = [torch.cat(part) for part in parts]
        donor = rng.integers(n_tokens, size=shape)
        self._donor = torch.from_numpy(donor).to(self._model.device)

    def values(
        self, kind: str, layer: int, neurons: torch.Tensor, rows: slice, x: torch.Tensor
    ) -> torch.Tensor:
        """What `neurons` of a layer take for the sequences `rows`, to broadcast over `x`'s."""
        if kind == "mean":
            return self._mean[layer][neurons]
        if kind == "zero":
            return self._zero
        sampled = self._sampled[layer][:, neurons][self._donor[rows].flatten()]
        return sampled.reshape(*x.shape[:-1], -1)

    def __call__(
        self, kind: str, layer: int, neurons: torch.Tensor, rows: slice, x: torch.Tensor
    ) -> torch.Tensor:
        """A layer's activations `x` for the sequences `rows`, those of `neurons` replaced."""
        values = self.values(kind, layer, neurons, rows, x)
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
def passes(
    model: Model,
    text: HeldOut,
    rows: slice,
    runs: Sequence[Run],
    replacement: Replacement,
    how: Passes,
) -> Iterator[tuple[int, slice, NDArray[np.float64]]]:
    """Run the model over a batch of sequences, clean and with every ablation.

    Yields
    ------
    run, rows, values
        0 for the clean pass, 1 + the number of the run otherwise; the sequences; the means of
        `_by_sequence`. The energy of a direct run, that of the total one, is not computed again.
    """
    targets = token_tensor(text.targets[rows], model).flatten()
    activations: dict[int, torch.Tensor] = {}
    with record(model) as calls, model.tap(activations.__setitem__), how.recording():
        clean = how.predictions(logits(model, text, rows), targets)
    known = known_outputs(model, calls)
    nothing = torch.zeros_like(clean.loss)
    yield 0, rows, _by_sequence((clean.loss, nothing, nothing, nothing), text, rows)
    for i, run in enumerate(runs, start=1):
        by_layer = neurons_by_layer(run.neurons.neurons, model)
        sure = how.known_layers(run.direct, list(by_layer))
        written = {}
        if sure or not run.direct:
            written = _written(model, run.kind, by_layer, replacement, rows, activations)
        outputs = with_written(model, calls, known, {layer: written[layer] for layer in sure})
        unchanged = (
            frozen(model, list(by_layer), calls, outputs)
            if run.direct
            else replay(outputs[min(by_layer)])
        )
        edited = {layer: own for layer, own in by_layer.items() if layer not in sure}
        edit = edit_of(run.kind, edited, replacement, rows)
        with how.running(), unchanged, model.tap(edit):
            ablated = logits(model, text, rows).flatten(0, 1)
        squares = (change.square().sum(-1).flatten() for change in written.values())
        energy = nothing if run.direct else sum(squares, torch.zeros((), device=model.device))
        yield i, rows, _by_sequence((*clean.compare(ablated), energy), text, rows)


def _written(
    model: Model,
    kind: str,
    by_layer: Mapping[int, torch.Tensor],
    replacement: Replacement,
    rows: slice,
    activations: Mapping[int, torch.Tensor],
) -> dict[int, torch.Tensor]:
    """Change of what each layer's MLP writes at every position, of clean activations."""
    found = {}
    for layer, neurons in by_layer.items():
        x = activations[layer]
        change = replacement.values(kind, layer, neurons, rows, x) - x[..., neurons]
        found[layer] = change.float() @ model.output_weight(layer)[neurons].float()
    return found


def edit_of(
    kind: str, by_layer: Mapping[int, torch.Tensor], replacement: Replacement, rows: slice
) -> Callable[[int, torch.Tensor], torch.Tensor | None]:
    """What `Model.tap` is to let the activations of the sequences `rows` be."""

    def on_layer(layer: int, x: torch.Tensor) -> torch.Tensor | None:
        if layer not in by_layer:
            return None
        return replacement(kind, layer, by_layer[layer], rows, x)

    return on_layer


def logits(model: Model, text: HeldOut, rows: slice) -> torch.Tensor:
    """Predictions for some sequences' targets, shape (sequences, predictions, vocabulary)."""
    found = model.logits(token_tensor(text.inputs[rows], model))
    if text.masking is None:
        return found
    where = torch.from_numpy(text.masking.where[rows]).to(found.device)
    return found[torch.arange(len(found), device=found.device)[:, None], where]


def _by_sequence(
    measures: Sequence[torch.Tensor], text: HeldOut, rows: slice
) -> NDArray[np.float64]:
    """Means over each sequence's positions, in float64, shape (6, sequences).

    Of loss, KL and changed predictions over all predictions and of energy over all positions, then
    of loss and energy without position 0, of which a sequence of two tokens has none (NaN). Masked
    tokens are never at position 0.
    """
    by_token = [each.double().view(rows.stop - rows.start, -1) for each in measures]
    first = 1 if text.masking is None else 0
    later = by_token[LOSS][:, first:], by_token[ENERGY][:, 1:]
    return torch.stack([each.mean(-1) for each in (*by_token, *later)]).cpu().numpy()
