"""What a model's predictions lose when its universal neurons are taken out.

Neurons of one layer, or of all layers, are replaced during the forward pass over held-out
sequences, and the loss is compared with the clean one. The same is done with control sets:
non-universal neurons of the same layers and counts with similar activation norms (arXiv 2508.00903
ablates by the mean; 2401.12181 by zero and mean).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from universal_neurons import moments
from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.models import Model, load
from universal_neurons.store import attributes_of, read_arrays

logger = logging.getLogger(__name__)

KINDS = ("mean", "zero", "resample")
ALL_LAYERS = -1

# A control neuron is drawn from this many neighbours in activation norm: few enough to be similar,
# enough for 20 draws to differ even for one universal neuron.
NEIGHBOURS = 20

# Held-out tokens whose activations stand for a neuron's distribution when resampling: 150 MB for
# GPT-2 Small in float32.
RESAMPLE_TOKENS = 1024

# Logits turned into losses at a time. Temporaries above some 10 MB are handed back to the system
# after every use, and faulting their pages in again costs four times the arithmetic.
LOSS_BLOCK = 2**21


def matched_controls(
    universal: NDArray[np.bool_],
    norm: NDArray[np.float64],
    layer: NDArray[np.integer],
    *,
    draws: int,
    seed: str,
    step: int,
    random_seed: int = 0,
) -> list[NDArray[np.int64]]:
    """Draw sets of non-universal neurons like the universal ones in layer, count and norm.

    In every layer, each universal neuron (in random order) gets one of the `NEIGHBOURS`
    non-universal neurons nearest to it in log norm, without replacement within a draw. Neurons
    that are never active (norm 0) are drawn only where a layer has too few others.

    Parameters
    ----------
    universal, norm, layer
        Shape (N,), over the neurons of one model: whether it is universal, the root mean square
        of its activation over the scored tokens, and its layer.
    draws
        Number of control sets.
    seed, step
        The model; with `random_seed`, the layer and the draw they fix the random numbers.

    Returns
    -------
    list
        Per draw the sorted indices (int64) of the controls, all layers together. Where a layer has
        fewer non-universal than universal neurons, all of them are taken and a warning is logged.
    """
    floor = np.finfo(np.float64).tiny
    log_norm = np.log(np.maximum(norm, floor))
    drawn: list[list[NDArray[np.int64]]] = [[] for _ in range(draws)]
    for one in np.unique(layer):
        own = np.flatnonzero(universal & (layer == one))
        pool = np.flatnonzero(~universal & (layer == one))
        active = pool[norm[pool] > 0]
        if len(active) >= len(own):
            pool = active
        if draws and len(pool) < len(own):
            logger.warning(
                "seed %s, step %d, layer %d: %d of %d neurons are universal, so its control sets "
                "have only %d neurons",
                *(seed, step, one, len(own), len(own) + len(pool), len(pool)),
            )
        pool = pool[np.argsort(log_norm[pool], kind="stable")]
        for draw, parts in enumerate(drawn):
            rng = _generator(random_seed, seed, step, one, draw)
            parts.append(_draw_matched(log_norm, own, pool, rng))
    return [np.sort(np.concatenate(parts)) for parts in drawn]


def _draw_matched(
    log_norm: NDArray[np.float64],
    own: NDArray[np.int64],
    pool: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """One control for each of `own` from `pool`, which is sorted by log norm."""
    chosen = []
    free, free_norm = pool, log_norm[pool]
    for neuron in rng.permutation(own)[: len(pool)]:
        place = np.searchsorted(free_norm, log_norm[neuron])
        first = max(0, place - NEIGHBOURS)
        distance = np.abs(free_norm[first : place + NEIGHBOURS] - log_norm[neuron])
        nearest = np.argsort(distance, kind="stable")[:NEIGHBOURS]
        pick = first + rng.choice(nearest)
        chosen.append(free[pick])
        free, free_norm = np.delete(free, pick), np.delete(free_norm, pick)
    return np.asarray(chosen, np.int64)


def _generator(*key: object) -> np.random.Generator:
    """Random numbers fixed by the words and numbers of `key`, the same in every process."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def ablate(
    model: Model,
    sequences: NDArray[np.integer],
    *,
    seed: str,
    step: int,
    universal: NDArray[np.bool_],
    mean: NDArray[np.float64],
    norm: NDArray[np.float64],
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
    universal, mean, norm
        Shape (N,), over the model's neurons by layer, then neuron: whether it is universal, the
        mean and the root mean square of its activation over the scored tokens.
    kinds
        What a neuron's activation is replaced with: ``mean`` its mean, ``zero`` zero, ``resample``
        its own clean activation at another held-out token. For the latter, `RESAMPLE_TOKENS`
        held-out tokens are drawn once, and every token position takes the values of one of them;
        all neuron sets share the draw, so that they can be compared, and the batch size has no
        part in it.
    controls
        Number of control sets, see `matched_controls`.
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
        - ``n_neurons``, ``mean_norm`` (the mean of the set's activation norms);
        - ``clean_loss``, ``ablated_loss``, ``delta_loss``: cross-entropy in nats per token over
          every next-token position;
        - ``delta_loss_se``: standard error of ``delta_loss`` over sequences, from the paired
          differences (NaN for one sequence);
        - ``kl``: KL(clean ‖ ablated) of the predictions, mean over the same positions, in nats.

        A layer without universal neurons has, for each kind, one row with ``n_neurons`` 0, the
        clean loss and otherwise NaN; no control sets. An empty control set has no row.

    Raises
    ------
    UserError
        If a token id is beyond the model's vocabulary, or a prediction is not finite.
    """
    n_neurons = sum(model.d_mlp)
    if not len(universal) == len(mean) == len(norm) == n_neurons:
        raise ValueError(f"universal, mean and norm must have the model's {n_neurons} neurons")
    if unknown := set(kinds).difference(KINDS):
        raise ValueError(f"unknown kinds {sorted(unknown)}; known are {', '.join(KINDS)}")
    _check_tokens(model, sequences)

    layer = np.repeat(np.arange(len(model.d_mlp)), model.d_mlp)
    drawn = matched_controls(
        universal, norm, layer, draws=controls, seed=seed, step=step, random_seed=random_seed
    )
    sets = list(_neuron_sets(universal, drawn, layer))
    replacement = _Replacement(model, mean)
    if "resample" in kinds and universal.any():
        replacement.sample(sequences, batch_tokens, _generator(random_seed, seed, step, "resample"))
    runs = [
        _Run(s, kind, _by_layer(s.neurons, model)) for s in sets for kind in kinds if len(s.neurons)
    ]

    # Row 0 is the clean pass.
    loss = np.empty((1 + len(runs), len(sequences)))
    kl = np.empty_like(loss)
    batches = list(_batches(sequences, batch_tokens))
    passes = (one for rows in batches for one in _passes(model, sequences, rows, runs, replacement))
    total = len(batches) * len(loss)
    for i, rows, batch_loss, batch_kl in progress(passes, "forward passes", total=total):
        if not np.isfinite(batch_loss).all():
            what = f"with neurons of layer {runs[i - 1].neurons.layer} replaced" if i else "clean"
            raise UserError(f"seed {seed}, step {step}: predictions are NaN or infinite ({what})")
        loss[i, rows], kl[i, rows] = batch_loss, batch_kl

    effects = {
        (run.neurons, run.kind): _effect(loss[0], loss[1 + i], kl[1 + i])
        for i, run in enumerate(runs)
    }
    return pd.DataFrame(
        {
            "step": step,
            "seed": seed,
            "layer": s.layer,
            "kind": kind,
            "neuron_set": s.name,
            "draw": s.draw,
            "n_neurons": len(s.neurons),
            "mean_norm": norm[s.neurons].mean() if len(s.neurons) else np.nan,
            "clean_loss": loss[0].mean(),
            **effects.get((s, kind), NO_EFFECT),
        }
        for s in sets
        for kind in kinds
    )


NO_EFFECT = dict.fromkeys(("ablated_loss", "delta_loss", "delta_loss_se", "kl"), np.nan)


def _effect(
    clean: NDArray[np.float64], ablated: NDArray[np.float64], kl: NDArray[np.float64]
) -> dict[str, float]:
    """Columns of one row from the losses and divergences of every sequence."""
    delta = ablated - clean
    n = len(delta)
    return {
        "ablated_loss": ablated.mean(),
        "delta_loss": delta.mean(),
        "delta_loss_se": delta.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan,
        "kl": kl.mean(),
    }


def _check_tokens(model: Model, sequences: NDArray[np.integer]) -> None:
    if sequences.min() < 0 or sequences.max() >= model.vocab_size:
        raise UserError(
            f"held-out token ids go from {sequences.min()} to {sequences.max()}, but the model's "
            f"vocabulary has {model.vocab_size}: the corpus was made with another tokenizer"
        )


@dataclass(frozen=True, eq=False)
class _NeuronSet:
    """Neurons (sorted indices among the model's N) that are replaced together."""

    layer: int
    name: str
    draw: int
    neurons: NDArray[np.int64]


@dataclass(frozen=True)
class _Run:
    """One ablation: which neurons, how, and their indices within each layer that has any."""

    neurons: _NeuronSet
    kind: str
    by_layer: Mapping[int, torch.Tensor]


def _neuron_sets(
    universal: NDArray[np.bool_],
    controls: Sequence[NDArray[np.int64]],
    layer: NDArray[np.integer],
) -> Iterator[_NeuronSet]:
    """The universal neurons and their controls, of all layers and of each."""
    for one in (ALL_LAYERS, *np.unique(layer).tolist()):
        here = np.full(len(layer), True) if one == ALL_LAYERS else layer == one
        own = np.flatnonzero(universal & here)
        yield _NeuronSet(one, "universal", -1, own)
        for draw, control in enumerate(controls):
            if here[control].any():
                yield _NeuronSet(one, "control", draw, control[here[control]])


def _by_layer(neurons: NDArray[np.int64], model: Model) -> dict[int, torch.Tensor]:
    """Indices within each layer that has any of `neurons`."""
    edges = np.cumsum([0, *model.d_mlp])
    parts = np.split(neurons, np.searchsorted(neurons, edges[1:-1]))
    return {
        layer: torch.from_numpy(part - edges[layer]).to(model.device)
        for layer, part in enumerate(parts)
        if len(part)
    }


class _Replacement:
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
            for rows in _batches(inputs, batch_tokens):
                taken = torch.from_numpy(chosen[rows].ravel()).to(self._model.device)
                base(input_ids=_ids(inputs[rows], self._model), use_cache=False)
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


def _batches(sequences: NDArray[np.integer], batch_tokens: int) -> Iterator[slice]:
    size = max(1, batch_tokens // sequences.shape[1])
    for start in range(0, len(sequences), size):
        yield slice(start, min(start + size, len(sequences)))


def _ids(batch: NDArray[np.integer], model: Model) -> torch.Tensor:
    return torch.from_numpy(batch.astype(np.int64)).to(model.device)


@torch.inference_mode()
def _passes(
    model: Model,
    sequences: NDArray[np.integer],
    rows: slice,
    runs: Sequence[_Run],
    replacement: _Replacement,
) -> Iterator[tuple[int, slice, NDArray[np.float64], NDArray[np.float64]]]:
    """Run the model over a batch of sequences, clean and with every ablation.

    Yields
    ------
    run, rows, loss, kl
        0 for the clean pass, 1 + the number of the run otherwise; the sequences; the mean loss and
        KL divergence of each.
    """
    tokens = _ids(sequences[rows], model)
    # The last token predicts nothing that could be checked.
    inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
    with _record(model) as calls:
        clean = _Predictions(_logits(model, inputs), targets)
    known = _known_outputs(model, calls)
    yield 0, rows, *_by_sequence(clean.loss, torch.zeros_like(clean.loss), inputs)
    for i, run in enumerate(runs, start=1):
        with _replay(known[min(run.by_layer)]), model.tap(_edit(run, replacement, rows)):
            logits = _logits(model, inputs)
        yield i, rows, *_by_sequence(*clean.compare(logits), inputs)


def _edit(
    run: _Run, replacement: _Replacement, rows: slice
) -> Callable[[int, torch.Tensor], torch.Tensor | None]:
    def on_layer(layer: int, x: torch.Tensor) -> torch.Tensor | None:
        if layer not in run.by_layer:
            return None
        return replacement(run.kind, layer, run.by_layer[layer], rows, x)

    return on_layer


def _logits(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """Logits of all positions, shape (tokens, vocabulary)."""
    return model.module(input_ids=inputs, use_cache=False).logits.flatten(0, 1)


def _by_sequence(
    loss: torch.Tensor, kl: torch.Tensor, inputs: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means over each sequence's tokens, in float64."""
    means = torch.stack((loss, kl)).double().view(2, *inputs.shape).mean(-1).cpu().numpy()
    return means[0], means[1]


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
        for rows, log_q in _log_softmax(logits):
            torch.exp(log_q, out=self._p[rows])
            self._negentropy[rows] = torch.linalg.vecdot(self._p[rows], log_q)
            self.loss[rows] = self._losses(rows, log_q)

    def compare(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy, and KL(clean ‖ ablated) = Σ p ln p − Σ p ln q, of every token."""
        loss, kl = torch.empty_like(self.loss), torch.empty_like(self.loss)
        for rows, log_q in _log_softmax(logits):
            cross = torch.linalg.vecdot(self._p[rows], log_q)
            kl[rows] = self._negentropy[rows] - cross
            loss[rows] = self._losses(rows, log_q)
        return loss, kl

    def _losses(self, rows: slice, log_q: torch.Tensor) -> torch.Tensor:
        return -log_q.gather(1, self._targets[rows, None])[:, 0]


def _log_softmax(logits: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    size = max(1, LOSS_BLOCK // logits.shape[1])
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        yield rows, torch.log_softmax(logits[rows].float(), -1)


def ablate_models(
    directories: Mapping[str, str | Path],
    sequences: NDArray[np.integer],
    *,
    step: int,
    universality: pd.DataFrame,
    moment_stores: Sequence[str | Path],
    load_options: Mapping[str, str],
    options: Mapping[str, Any],
) -> pd.DataFrame:
    """Run `ablate` on the models of several seeds at one step, one after the other.

    Parameters
    ----------
    directories
        Model directory of every seed.
    sequences
        See `ablate`.
    step
        The step they were saved at.
    universality
        With ``seed, layer, neuron, universal`` at that step.
    moment_stores
        Moments of all shards of the models, as `capture.capture` writes them.
    load_options
        See `models.load`.
    options
        The resolved section ``ablation`` of the configuration.

    Returns
    -------
    DataFrame
        See `ablate`.
    """
    parts: dict[str, list[dict[str, NDArray]]] = {seed: [] for seed in directories}
    for store in moment_stores:
        parts[attributes_of(store)["seed"]].append(read_arrays(store))
    tables = []
    for seed, directory in directories.items():
        logger.info("seed %s, step %d", seed, step)
        sums = moments.merge(parts[seed])
        own = universality[universality.seed == seed].sort_values(["layer", "neuron"])
        table = ablate(
            load(directory, **load_options),
            sequences,
            seed=seed,
            step=step,
            universal=own.universal.to_numpy(),
            mean=moments.moments(sums)["mean"],
            norm=moments.rms(sums),
            kinds=options["kinds"],
            controls=options["controls"],
            random_seed=options["seed"],
        )
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
