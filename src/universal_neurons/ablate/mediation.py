"""By which way a neuron's effect on the loss goes: the final norm, or how frequent tokens are.

Entropy neurons write what hardly moves any logit, but lengthens the residual stream, which the
final norm divides by; token-frequency neurons move logits along the tokens' frequencies (Stolfo et
al. 2406.16254). So neurons are replaced by their means once more with the norm's scale, or with the
logits along that direction, kept as they were: what is then missing of the effect went that way.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from universal_neurons.ablate.controls import generator
from universal_neurons.ablate.measure import (
    Replacement,
    batches,
    check_text,
    edit_of,
    logits,
    neurons_by_layer,
    standard_error,
    token_tensor,
)
from universal_neurons.ablate.predictions import Predictions
from universal_neurons.ablate.replay import known_outputs, record, replay
from universal_neurons.ablate.subject import Subject
from universal_neurons.jobs import progress
from universal_neurons.models.load import Model
from universal_neurons.models.residual import Residual
from universal_neurons.prepare.frequency import log_frequency, token_counts
from universal_neurons.prepare.reading import HeldOut
from universal_neurons.store.columns.ablate import MEDIATION
from universal_neurons.store.tables import read_table

# Roles that say by which way a neuron acts, and neurons of each, those with the largest output
# weights first; as many others are drawn from the same layers. Each costs a pass.
ROLES, NEURONS = ("entropy", "token frequency"), 8


def mediation(
    subject: Subject,
    text: HeldOut,
    roles: str | Path,
    corpus: NDArray[np.integer],
    *,
    tokens: int,
    random_seed: int = 0,
    batch_tokens: int = 1024,
) -> pd.DataFrame:
    """Measure by which way neurons of `ROLES`, and others beside them, change the loss.

    Parameters
    ----------
    subject, text, random_seed, batch_tokens
        See `ablation.ablate`.
    roles
        Table of the model's neurons, by layer, then neuron.
    corpus
        Token ids, shape (sequences, context length), in which frequencies are counted.
    tokens
        Read the first sequences of the text only, as many as have so many tokens, one at least.

    Returns
    -------
    DataFrame
        `columns.ablate.MEDIATION`; no row if no neuron has such a role.

    Raises
    ------
    UserError
        As `ablation.ablate` does.
    """
    known = read_table(roles, ["role", "w_out_norm"])
    rng = generator(random_seed, subject.seed, subject.step, "mediation")
    chosen = _chosen(known, subject.layer, rng)
    if not len(chosen):
        return pd.DataFrame(columns=MEDIATION.names)
    check_text(subject.model, text)
    n = max(1, min(len(text.sequences), tokens // text.sequences.shape[1]))
    frequency = log_frequency(token_counts(corpus, subject.model.vocab_size))
    losses = _losses(subject, text, n, chosen, frequency, batch_tokens)
    clean, (total, norm_kept, frequency_kept) = losses[0, 0], losses[1:].transpose(1, 0, 2)
    changes = {
        "delta_loss": total - clean,
        "through_norm": total - norm_kept,
        "through_frequency": total - frequency_kept,
    }
    found: dict[str, Any] = {
        "step": subject.step,
        "seed": subject.seed,
        "layer": subject.layer[chosen],
        "neuron": chosen - np.searchsorted(subject.layer, subject.layer[chosen]),
        "role": known["role"].to_numpy(object)[chosen],
        "loss_kind": text.loss_kind,
    }
    for name, change in changes.items():
        found[name] = change.mean(1)
        found[f"{name}_se"] = [standard_error(one, text.documents[:n]) for one in change]
    return pd.DataFrame(found)


def _chosen(
    roles: pd.DataFrame, layer: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The neurons to replace, ascending."""
    role, norm = roles["role"].to_numpy(object), roles["w_out_norm"].to_numpy()
    chosen: list[int] = []
    for name in ROLES:
        having = np.flatnonzero(role == name)
        chosen += having[np.argsort(-norm[having], kind="stable")][:NEURONS].tolist()
    others = np.flatnonzero(np.isin(layer, layer[chosen]) & ~np.isin(role, ROLES))
    beside = rng.choice(others, min(len(chosen), len(others)), replace=False)
    return np.sort(np.concatenate([np.array(chosen, np.int64), beside]))


@torch.inference_mode()
def _losses(
    subject: Subject,
    text: HeldOut,
    n: int,
    chosen: NDArray[np.int64],
    frequency: NDArray[np.float64],
    batch_tokens: int,
) -> NDArray[np.float64]:
    """Mean loss of the first `n` sequences, shape (1 + neurons, 3, n), the clean one first.

    As it is, with the final norm's scale kept (NaN without such a norm), and with the logits kept
    along the tokens' frequencies.
    """
    model = subject.model
    residual, replacement = Residual(model), Replacement(model, subject.mean)
    losses = np.full((1 + len(chosen), 3, n), np.nan)
    for rows in progress(list(batches(text.sequences[:n], batch_tokens)), "batches"):
        targets = token_tensor(text.targets[rows], model)
        predicted = partial(_logits, model, text, rows)
        with record(model) as calls, residual.final_scale() as scale:
            found = predicted()
        clean, known = Predictions(found, targets.flatten()), known_outputs(model, calls)
        along = torch.from_numpy(frequency).to(found)
        before = found @ along
        losses[0, :, rows] = _by_sequence(clean.loss, targets)
        for i, neuron in enumerate(chosen, start=1):
            where = neurons_by_layer(np.array([neuron]), model)
            edit = edit_of("mean", where, replacement, rows)
            with replay(known[min(where)]), model.tap(edit):
                ablated = predicted()
                with residual.final_scale(kept=scale[0] if scale else None):
                    norm_kept = predicted() if scale else None
            losses[i, 0, rows] = _by_sequence(clean.compare(ablated)[0], targets)
            if norm_kept is not None:
                losses[i, 1, rows] = _by_sequence(clean.compare(norm_kept)[0], targets)
            ablated = ablated + torch.outer(before - ablated @ along, along)
            losses[i, 2, rows] = _by_sequence(clean.compare(ablated)[0], targets)
    return losses


def _logits(model: Model, text: HeldOut, rows: slice) -> torch.Tensor:
    return logits(model, text, rows).flatten(0, 1)


def _by_sequence(loss: torch.Tensor, targets: torch.Tensor) -> NDArray[np.float64]:
    return loss.double().view(targets.shape).mean(-1).cpu().numpy()
