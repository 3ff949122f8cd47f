"""How the loss grows with the number of neurons taken out, from the highest excess downwards.

A threshold makes two groups of what is a matter of degree. Here the k neurons of a model with the
largest excess correlation are ablated, for several k, beside controls matched as in `ablation`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.ablate.measure import NeuronSet, Run, measure
from universal_neurons.ablate.subject import Subject
from universal_neurons.store.columns.declare import ALL_LAYERS

# Fractions of all neurons, the same for all models and steps, whatever the threshold.
DOSES = (0.01, 0.03, 0.1)

# Control sets per dose: every one costs a pass through the whole model.
CONTROLS = 3


def doses(
    subject: Subject,
    sequences: NDArray[np.integer],
    excess: NDArray[np.float64],
    *,
    kind: str = "mean",
    random_seed: int = 0,
    batch_tokens: int = 1024,
) -> pd.DataFrame:
    """Measure the loss with the top of all neurons by excess correlation replaced.

    Parameters
    ----------
    subject, sequences, random_seed, batch_tokens
        See `ablation.ablate`.
    excess
        Excess correlation, shape (N,), over the model's neurons by layer, then neuron.
    kind
        One of `ablation.KINDS`.

    Returns
    -------
    DataFrame
        `columns.ablate.DOSES`.

    Raises
    ------
    UserError
        As `ablation.ablate` does.
    """
    order = np.argsort(-excess, kind="stable")
    sets: list[tuple[float, NeuronSet]] = []
    for dose in DOSES:
        top = np.sort(order[: max(1, round(dose * len(excess)))])
        sets.append((dose, NeuronSet(ALL_LAYERS, "top", -1, top)))
        chosen = np.isin(np.arange(len(excess)), top)
        controls = subject.controls(chosen, CONTROLS, random_seed)
        sets += [(dose, NeuronSet(ALL_LAYERS, "control", i, c)) for i, c in enumerate(controls)]
    sets = [(dose, one) for dose, one in sets if len(one.neurons)]
    measured = measure(
        subject.model,
        sequences,
        [Run(one, kind) for _, one in sets],
        subject.replacement(sequences, [kind], random_seed=random_seed, batch_tokens=batch_tokens),
        name=subject.name,
        batch_tokens=batch_tokens,
    )
    rows = []
    for i, (dose, one) in enumerate(sets):
        against = [j for j, (d, s) in enumerate(sets) if d == dose and s.name == "control"]
        effect = measured.effect(i)
        contrast = measured.contrast(i, against if one.name == "top" else [])
        rows.append(
            {
                "step": subject.step,
                "seed": subject.seed,
                "kind": kind,
                "dose": dose,
                "neuron_set": one.name,
                "draw": one.draw,
                "n_neurons": len(one.neurons),
                **{c: effect[c] for c in ("delta_loss", "delta_loss_se", "kl", "top1_change")},
                **{c: contrast[c] for c in ("difference", "difference_se")},
            }
        )
    return pd.DataFrame(rows)
