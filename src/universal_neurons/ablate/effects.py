"""What every single neuron is worth to the loss: estimated for all, measured for a sample.

Ablating N neurons one by one takes N passes over the text. To first order, one backward pass gives
the effect of every one (attribution patching; Nanda 2023, Syed et al. 2310.10348); another one
gives the second order.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from universal_neurons.ablate.controls import generator
from universal_neurons.ablate.measure import (
    NeuronSet,
    Replacement,
    Run,
    batches,
    check_text,
    logits,
    token_tensor,
)
from universal_neurons.ablate.precision import Accuracy, measure_as_asked
from universal_neurons.ablate.subject import Subject
from universal_neurons.models.load import Model
from universal_neurons.prepare.reading import HeldOut
from universal_neurons.store.columns.ablate import SINGLE

# Neurons per model that are also ablated exactly: half of them those with the largest estimates,
# half drawn from all others. Each costs a pass.
SAMPLE = 16


def attribution(
    model: Model,
    text: HeldOut,
    mean: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    batch_tokens: int = 1024,
) -> NDArray[np.float64]:
    """First- and second-order effect of replacing each neuron alone by its mean.

    With δ_ti = mean_i − x_ti the change at position t and L the cross-entropy summed over the
    predictions of a sequence, the first order is Σ_t δ_ti ∂L/∂x_ti. It all but vanishes
    in a trained model, which is near the minimum of its loss. The second order is ½ (Σ_t δ_ti
    ∂L̂/∂x_ti)², L̂ being the cross-entropy of tokens drawn from the model's own predictions: its
    mean over draws is the Gauss–Newton term, that is, the leading term of KL(clean ‖ ablated). In
    both, later layers respond to the change.

    Parameters
    ----------
    model, text, mean, batch_tokens
        See `ablation.ablate`.
    rng
        Of the drawn tokens.

    Returns
    -------
    array
        The two orders in nats per token, shape (2, N), float64, by layer, then neuron.
    """
    check_text(model, text)
    targets = text.targets
    draws = torch.from_numpy(rng.random(targets.shape, dtype=np.float32)).to(model.device)
    means = torch.from_numpy(mean).to(model.device, torch.float32).split(model.d_mlp)
    total = [torch.zeros(2, d, dtype=torch.float64, device=model.device) for d in model.d_mlp]
    seen: dict[int, torch.Tensor] = {}

    def watch(layer: int, x: torch.Tensor) -> torch.Tensor:
        # Weights need no gradient, so the first layer's activations are where the graph begins.
        x = x if x.requires_grad else x.detach().requires_grad_()
        seen[layer] = x
        return x

    with model.tap(watch), torch.enable_grad():
        for rows in batches(text.inputs, batch_tokens):
            log_p = torch.log_softmax(logits(model, text, rows).float(), -1)
            cumulative = log_p.detach().exp().cumsum(-1)
            drawn = torch.searchsorted(cumulative, draws[rows, :, None])
            drawn = drawn.clamp(max=log_p.shape[-1] - 1)
            true = token_tensor(targets[rows], model)[..., None]
            layers = sorted(seen)
            activations = [seen[layer] for layer in layers]
            orders = [
                torch.autograd.grad(-log_p.gather(-1, labels).sum(), activations, retain_graph=True)
                for labels in (true, drawn)
            ]
            for layer, x, first, second in zip(layers, activations, *orders, strict=True):
                gap = means[layer] - x.detach().float()
                total[layer][0] += (gap * first.float()).flatten(0, 1).double().sum(0)
                by_sequence = (gap * second.float()).double().sum(1)
                total[layer][1] += 0.5 * (by_sequence**2).sum(0)
            seen.clear()
    return torch.cat(total, 1).cpu().numpy() / targets.size


def effects(
    subject: Subject,
    text: HeldOut,
    *,
    random_seed: int = 0,
    batch_tokens: int = 1024,
    dtype: str = "auto",
) -> pd.DataFrame:
    """Estimate every neuron's mean-ablation effect, and measure that of `SAMPLE` neurons.

    Parameters
    ----------
    subject, text, random_seed, batch_tokens
        See `ablation.ablate`.
    dtype
        Of the measured effects, see `precision.choose`.

    Returns
    -------
    DataFrame
        `columns.ablate.SINGLE`: nothing of it depends on the neurons' scores. Without rows where
        the model has no head.

    Raises
    ------
    UserError
        As `ablation.ablate` does.
    """
    if not subject.model.has_head:
        return subject.no_rows(SINGLE)
    model = subject.model
    rng = generator(random_seed, subject.seed, subject.step, "effects")
    orders = attribution(model, text, subject.mean, rng, batch_tokens=batch_tokens)
    attributed = orders.sum(0)
    order = np.argsort(-np.abs(attributed), kind="stable")
    n_top = min(SAMPLE // 2, len(order))
    rest = order[n_top:]
    drawn = rng.choice(rest, min(SAMPLE - n_top, len(rest)), replace=False)
    chosen = np.concatenate([order[:n_top], drawn])
    runs = [
        Run(NeuronSet(int(subject.layer[i]), "single", -1, np.array([i])), "mean") for i in chosen
    ]
    measured = measure_as_asked(
        Accuracy(dtype),
        subject,
        text,
        runs,
        Replacement(model, subject.mean),
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
            "step": subject.step,
            "seed": subject.seed,
            "layer": subject.layer,
            "neuron": np.concatenate([np.arange(d) for d in model.d_mlp]),
            "perturbation": subject.perturbation("mean"),
            "sparsity": subject.sparsity,
            "loss_kind": text.loss_kind,
            "first_order": orders[0],
            "second_order": orders[1],
            "attributed_delta_loss": attributed,
            "delta_loss": exact[0],
            "delta_loss_se": exact[1],
            "sampled": sampled,
            "clean_loss": measured.clean.mean(),
            "clean_loss_later": measured.clean_later.mean(),
        }
    )
