"""What a model's predictions lose when its universal neurons are taken out.

Neurons of one layer, or of all layers, are replaced during the forward pass over held-out
sequences, and the loss is compared with the clean one. The same is done with control sets (see
`controls`; arXiv 2508.00903 ablates by the mean, 2401.12181 by zero and mean). Beside this total
effect, the direct one leaves out what later blocks make of the change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from universal_neurons.controls import contribution, generator, matched_controls
from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.models import Model

KINDS = ("mean", "zero", "resample")
ALL_LAYERS = -1

# Control sets whose direct effect is measured too: of all sets it would cost half as much again as
# the total effects do.
DIRECT_CONTROLS = 4

# Held-out tokens whose activations stand for a neuron's distribution when resampling: 150 MB for
# GPT-2 Small in float32.
RESAMPLE_TOKENS = 1024

# Logits turned into losses at a time. Temporaries above some 10 MB are handed back to the system
# after every use, and faulting their pages in again costs four times the arithmetic.
LOSS_BLOCK = 2**21


def ablate(
    model: Model,
    sequences: NDArray[np.integer],
    *,
    seed: str,
    step: int,
    universal: NDArray[np.bool_],
    mean: NDArray[np.float64],
    norm: NDArray[np.float64],
    sparsity: NDArray[np.float64],
    kinds: Sequence[str] = ("mean",),
    controls: int = 20,
    random_seed: int = 0,
    batch_tokens: int = 1024,
) -> pd.DataFrame:
    """Measure the loss with the universal neurons of each layer, and of all layers, replaced.

    Parameters
    ----------
    model
        The model of `seed` at `step`.
    sequences
        Held-out token ids, shape (sequences, context length ≥ 2).
    universal, mean, norm, sparsity
        Shape (N,), over the model's neurons by layer, then neuron: whether it is universal; over
        the scored tokens, the mean and the root mean square of its activation and the fraction of
        tokens at which it is above 0.
    kinds
        What a neuron's activation is replaced with: ``mean`` its mean, ``zero`` zero, ``resample``
        its own clean activation at another held-out token. For the latter, `RESAMPLE_TOKENS`
        held-out tokens are drawn once, and every token position takes the values of one of them;
        all neuron sets share the draw, so that they can be compared, and the batch size has no
        part in it.
    controls
        Number of control sets, see `controls.matched_controls`.
    random_seed
        Of the controls and the resampled tokens, beside `seed` and `step`.
    batch_tokens
        Tokens per forward pass (at least one sequence), about 1 MB of memory each for GPT-2 Small.
        Results depend on it only by rounding.

    Returns
    -------
    DataFrame
        One row per layer (−1 = all layers), kind, neuron set and draw, with the columns

        - ``step, seed, layer, kind``;
        - ``neuron_set`` (``universal`` or ``control``), ``draw`` (−1 for the universal set);
        - ``n_neurons``, and means over the set that show how well controls match: ``mean_norm``,
          ``mean_contribution`` (see `controls.contribution`) and ``mean_sparsity``;
        - ``clean_loss``, ``ablated_loss``, ``delta_loss``: cross-entropy in nats per token over
          every next-token position;
        - ``delta_loss_se``: standard error of ``delta_loss`` over sequences, from the paired
          differences (NaN for one sequence);
        - ``kl``: KL(clean ‖ ablated) of the predictions, mean over the same positions, in nats;
        - ``top1_change``: share of these positions whose likeliest token is another one;
        - ``direct_delta_loss``: ``delta_loss`` with all later blocks frozen: every block sees its
          clean input and the changes of the ablated blocks' outputs are added to the last one's
          (universal sets and the first `DIRECT_CONTROLS` draws; NaN elsewhere);
        - ``difference``, ``difference_se``: of a universal set, ``delta_loss`` less the mean of its
          control sets', and the standard error of that over sequences, from the paired differences
          (the sets are fixed; how controls vary is seen in their rows);
        - ``permutation_p``: of a universal set, (1 + control sets with as large or a larger
          ``delta_loss``) / (1 + control sets): exact if it is exchangeable with its controls.

        The last three are NaN for control sets and without any.

        A layer without universal neurons has, for each kind, one row with ``n_neurons`` 0, the
        clean loss and otherwise NaN; no control sets. An empty control set has no row.

    Raises
    ------
    UserError
        If a token id is beyond the model's vocabulary, or a prediction is not finite.
    """
    n_neurons = sum(model.d_mlp)
    if not len(universal) == len(mean) == len(norm) == len(sparsity) == n_neurons:
        raise ValueError(f"all facts must be about the model's {n_neurons} neurons")
    if unknown := set(kinds).difference(KINDS):
        raise ValueError(f"unknown kinds {sorted(unknown)}; known are {', '.join(KINDS)}")

    layer = np.repeat(np.arange(len(model.d_mlp)), model.d_mlp)
    size = contribution(model, norm)
    drawn = matched_controls(
        universal,
        size,
        sparsity,
        layer,
        draws=controls,
        seed=seed,
        step=step,
        random_seed=random_seed,
    )
    sets = list(_neuron_sets(universal, drawn, layer))
    replacement = Replacement(model, mean)
    if "resample" in kinds and universal.any():
        replacement.sample(sequences, batch_tokens, generator(random_seed, seed, step, "resample"))
    runs = [
        Run(one, kind, direct)
        for one in sets
        for kind in kinds
        for direct in (False, True)
        if len(one.neurons) and not (direct and one.draw >= DIRECT_CONTROLS)
    ]
    measured = measure(
        model,
        sequences,
        runs,
        replacement,
        name=f"seed {seed}, step {step}",
        batch_tokens=batch_tokens,
    )
    total = {(r.neurons, r.kind): i for i, r in enumerate(runs) if not r.direct}
    direct = {(r.neurons, r.kind): measured.delta[i].mean() for i, r in enumerate(runs) if r.direct}
    rows = []
    for one in sets:
        own = one.neurons
        means = {
            name: values[own].mean() if len(own) else np.nan
            for name, values in (("norm", norm), ("contribution", size), ("sparsity", sparsity))
        }
        for kind in kinds:
            effect = measured.effect(total.get((one, kind)))
            against = [
                i
                for (other, with_kind), i in total.items()
                if (other.layer, other.name, with_kind) == (one.layer, "control", kind)
            ]
            rows.append(
                {
                    "step": step,
                    "seed": seed,
                    "layer": one.layer,
                    "kind": kind,
                    "neuron_set": one.name,
                    "draw": one.draw,
                    "n_neurons": len(own),
                    **{f"mean_{name}": value for name, value in means.items()},
                    "clean_loss": measured.clean.mean(),
                    **effect,
                    "direct_delta_loss": direct.get((one, kind), np.nan),
                    **(
                        measured.contrast(total.get((one, kind)), against)
                        if one.name == "universal"
                        else NO_CONTRAST
                    ),
                }
            )
    return pd.DataFrame(rows)


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
            "delta_loss_se": _standard_error(self.delta[run]),
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
            "difference_se": _standard_error(difference),
            "permutation_p": (1 + as_large) / (1 + len(controls)),
        }


def _standard_error(values: NDArray[np.float64]) -> float:
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
    _check_tokens(model, sequences)
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


def _check_tokens(model: Model, sequences: NDArray[np.integer]) -> None:
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


def _neuron_sets(
    universal: NDArray[np.bool_],
    controls: Sequence[NDArray[np.int64]],
    layer: NDArray[np.integer],
) -> Iterator[NeuronSet]:
    """The universal neurons and their controls, of all layers and of each."""
    for one in (ALL_LAYERS, *np.unique(layer).tolist()):
        here = np.full(len(layer), True) if one == ALL_LAYERS else layer == one
        own = np.flatnonzero(universal & here)
        yield NeuronSet(one, "universal", -1, own)
        for draw, control in enumerate(controls):
            if here[control].any():
                yield NeuronSet(one, "control", draw, control[here[control]])


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
    with _record(model) as calls:
        clean = _Predictions(_logits(model, inputs), targets)
    known = _known_outputs(model, calls)
    nothing = torch.zeros_like(clean.loss)
    yield 0, rows, _by_sequence((clean.loss, nothing, nothing), inputs)
    for i, run in enumerate(runs, start=1):
        by_layer = _by_layer(run.neurons.neurons, model)
        unchanged = (
            _frozen(model, list(by_layer), calls, known)
            if run.direct
            else _replay(known[min(by_layer)])
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


Calls = list[tuple[nn.Module, Any]]


def _parts(block: nn.Module, projection: nn.Module) -> list[nn.Module]:
    """The largest modules of a block that don't contain its MLP's output projection, and that."""
    if block is projection:
        return [block]
    if all(module is not projection for module in block.modules()):
        return [block]
    return [part for child in block.children() for part in _parts(child, projection)]


@contextmanager
def _record(model: Model) -> Iterator[Calls]:
    """Collect what every block and every part of a block returns, in the order of the calls."""
    calls: Calls = []

    def keep(module: nn.Module, inputs: tuple, output: Any) -> None:
        calls.append((module, output))

    handles = [
        module.register_forward_hook(keep)
        for block, projection in zip(model.blocks, model.projections, strict=True)
        for module in (block, *_parts(block, projection))
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _known_outputs(model: Model, calls: Calls) -> list[dict[nn.Module, Any]]:
    """What, for each layer, need not be computed again when that layer's neurons are replaced.

    That is the blocks before it, and in its own block whatever ran before the MLP's output
    projection (attention, norms, the MLP's input projection) but for modules that ran twice.
    """
    order = [module for module, _ in calls]
    times = Counter(order)
    known = []
    for layer, projection in enumerate(model.projections):
        start = 1 + order.index(model.blocks[layer - 1]) if layer else 0
        before = calls[start : order.index(projection)]
        known.append(
            {block: calls[order.index(block)][1] for block in model.blocks[:layer]}
            | {part: output for part, output in before if times[part] == 1}
        )
    return known


@contextmanager
def _replay(outputs: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Let modules return known outputs instead of running.

    Embedding, positions, masks, residual sums, final norm and head stay the model's own code,
    whatever its architecture.
    """

    def returning(output: Any) -> Callable:
        return lambda *args, **kwargs: output

    for module, output in outputs.items():
        module.forward = returning(output)  # hides the method of the class
    try:
        yield
    finally:
        for module in outputs:
            del module.forward


@contextmanager
def _frozen(
    model: Model, layers: Sequence[int], calls: Calls, known: Sequence[Mapping[nn.Module, Any]]
) -> Iterator[None]:
    """Let every block see its clean input, and add the changes of `layers` to the last output.

    Blocks other than `layers` don't run. In a model whose blocks add to a residual stream, the last
    output is then what it would be if later blocks made nothing of the change.
    """
    order = [module for module, _ in calls]
    clean = [calls[order.index(block)][1] for block in model.blocks]
    changed = set(layers)
    replayed = {
        block: output
        for layer, (block, output) in enumerate(zip(model.blocks, clean, strict=True))
        if layer not in changed
    }
    blocks = set(model.blocks)
    for layer in changed:
        replayed |= {part: out for part, out in known[layer].items() if part not in blocks}
    changes: list[torch.Tensor] = []

    def collecting(layer: int) -> Callable:
        def hook(_: nn.Module, inputs: tuple, output: Any) -> Any:
            if layer in changed:
                changes.append(_hidden(output) - _hidden(clean[layer]))
            if layer < len(clean) - 1:
                return clean[layer]
            total = _hidden(clean[layer]) + sum(changes)
            return (total, *output[1:]) if isinstance(output, tuple) else total

        return hook

    handles = [
        block.register_forward_hook(collecting(layer)) for layer, block in enumerate(model.blocks)
    ]
    try:
        with _replay(replayed):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _hidden(output: Any) -> torch.Tensor:
    """The residual stream in what a block returns: some also return what they would cache."""
    return output[0] if isinstance(output, tuple) else output


class _Predictions:
    """The clean model's predictions of a batch, to compare ablated ones with.

    Parameters
    ----------
    logits
        Shape (tokens, vocabulary).
    targets
        The tokens to be predicted, shape (tokens,).

    Attributes
    ----------
    loss
        Cross-entropy of every token in nats, float32, shape (tokens,).
    """

    def __init__(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self._targets = targets
        self._p = torch.empty_like(logits, dtype=torch.float32)
        self._negentropy = torch.empty_like(self._p[:, 0])
        self.loss = torch.empty_like(self._negentropy)
        self._likeliest = torch.empty_like(targets)
        for rows, log_q in _log_softmax(logits):
            torch.exp(log_q, out=self._p[rows])
            self._negentropy[rows] = torch.linalg.vecdot(self._p[rows], log_q)
            self.loss[rows] = self._losses(rows, log_q)
            self._likeliest[rows] = log_q.argmax(-1)

    def compare(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of every token: cross-entropy, KL(clean ‖ ablated) = Σ p ln p − Σ p ln q, other top-1.

        The last is 1 where another token than the clean model's likeliest has become likelier.
        """
        loss, kl, other = (torch.empty_like(self.loss) for _ in range(3))
        for rows, log_q in _log_softmax(logits):
            cross = torch.linalg.vecdot(self._p[rows], log_q)
            kl[rows] = self._negentropy[rows] - cross
            loss[rows] = self._losses(rows, log_q)
            # A maximum is found several times faster than where it is.
            before = log_q.gather(1, self._likeliest[rows, None])[:, 0]
            other[rows] = (log_q.amax(-1) > before).float()
        return loss, kl, other

    def _losses(self, rows: slice, log_q: torch.Tensor) -> torch.Tensor:
        return -log_q.gather(1, self._targets[rows, None])[:, 0]


def _log_softmax(logits: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    size = max(1, LOSS_BLOCK // logits.shape[1])
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        yield rows, torch.log_softmax(logits[rows].float(), -1)
