"""What every single neuron is worth to the loss: estimated for all, measured for a sample.

Ablating N neurons one by one takes N passes over the text. To first order, one backward pass gives
the effect of every one (attribution patching; Nanda 2023, Syed et al. 2310.10348).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from universal_neurons.ablation import NeuronSet, Replacement, Run, batches, measure, token_tensor
from universal_neurons.controls import generator
from universal_neurons.models import Model

# Neurons per model that are also ablated exactly: half of them those with the largest estimates,
# half drawn from all others. Each costs a pass.
SAMPLE = 16


def attribution(
    model: Model,
    sequences: NDArray[np.integer],
    mean: NDArray[np.float64],
    *,
    batch_tokens: int = 1024,
) -> NDArray[np.float64]:
    """First-order effect of replacing each neuron alone by its mean, in nats per token.

    That is Σ_t (mean_i − x_ti) ∂L/∂x_ti over all positions t, L being the mean cross-entropy over
    all next-token positions and x_ti the clean activation; later layers respond to the change.

    Parameters
    ----------
    model, sequences, mean, batch_tokens
        See `ablation.ablate`.

    Returns
    -------
    array
        Shape (N,), float64, by layer, then neuron.
    """
    inputs, targets = sequences[:, :-1], sequences[:, 1:]
    means = torch.from_numpy(mean).to(model.device, torch.float32).split(model.d_mlp)
    total = [torch.zeros(d, dtype=torch.float64, device=model.device) for d in model.d_mlp]
    seen: dict[int, torch.Tensor] = {}

    def watch(layer: int, x: torch.Tensor) -> torch.Tensor:
        # Weights need no gradient, so the first layer's activations are where the graph begins.
        x = x if x.requires_grad else x.detach().requires_grad_()
        seen[layer] = x
        return x

    with model.tap(watch), torch.enable_grad():
        for rows in batches(inputs, batch_tokens):
            logits = model.module(input_ids=token_tensor(inputs[rows], model), use_cache=False)
            loss = torch.nn.functional.cross_entropy(
                logits.logits.flatten(0, 1).float(),
                token_tensor(targets[rows], model).flatten(),
                reduction="sum",
            )
            layers = sorted(seen)
            gradients = torch.autograd.grad(loss, [seen[layer] for layer in layers])
            for layer, gradient in zip(layers, gradients, strict=True):
                gap = means[layer] - seen[layer].detach().float()
                total[layer] += (gap * gradient.float()).flatten(0, 1).double().sum(0)
            seen.clear()
    return torch.cat(total).cpu().numpy() / targets.size


def effects(
    model: Model,
    sequences: NDArray[np.integer],
    *,
    seed: str,
    step: int,
    excess: NDArray[np.float64],
    mean: NDArray[np.float64],
    random_seed: int = 0,
    batch_tokens: int = 1024,
) -> pd.DataFrame:
    """Estimate every neuron's mean-ablation effect, and measure that of `SAMPLE` neurons.

    Parameters
    ----------
    excess
        Excess correlation, shape (N,), by layer, then neuron.
    model, sequences, seed, step, mean, random_seed, batch_tokens
        See `ablation.ablate`.

    Returns
    -------
    DataFrame
        One row per neuron: ``step, seed, layer, neuron, excess_corr, attributed_delta_loss`` (see
        `attribution`), ``delta_loss, delta_loss_se`` (exact, as in `ablation.ablate`; NaN but for
        the sample) and ``sampled`` (``top``, ``random`` or the empty string).

    Raises
    ------
    UserError
        As `ablation.ablate` does.
    """
    attributed = attribution(model, sequences, mean, batch_tokens=batch_tokens)
    order = np.argsort(-np.abs(attributed), kind="stable")
    n_top = min(SAMPLE // 2, len(order))
    rest = order[n_top:]
    rng = generator(random_seed, seed, step, "effects")
    drawn = rng.choice(rest, min(SAMPLE - n_top, len(rest)), replace=False)
    chosen = np.concatenate([order[:n_top], drawn])
    layer = np.repeat(np.arange(len(model.d_mlp)), model.d_mlp)
    runs = [Run(NeuronSet(int(layer[i]), "single", -1, np.array([i])), "mean") for i in chosen]
    measured = measure(
        model,
        sequences,
        runs,
        Replacement(model, mean),
        name=f"seed {seed}, step {step}",
        batch_tokens=batch_tokens,
    )
    exact = np.full((2, len(order)), np.nan)
    for place, neuron in enumerate(chosen):
        effect = measured.effect(place)
        exact[:, neuron] = effect["delta_loss"], effect["delta_loss_se"]
    sampled = np.full(len(order), "", dtype=object)
    sampled[order[:n_top]], sampled[drawn] = "top", "random"
    return pd.DataFrame(
        {
            "step": step,
            "seed": seed,
            "layer": layer,
            "neuron": np.concatenate([np.arange(d) for d in model.d_mlp]),
            "excess_corr": excess,
            "attributed_delta_loss": attributed,
            "delta_loss": exact[0],
            "delta_loss_se": exact[1],
            "sampled": sampled,
        }
    )
