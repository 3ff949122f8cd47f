"""How the loss grows with the number of neurons taken out, from the highest excess downwards.

A threshold makes two groups of what is a matter of degree. Here the k neurons of a model with the
largest excess correlation are ablated, for several k, beside controls matched as in `ablation`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.ablate.controls import is_comparable
from universal_neurons.ablate.measure import NO_CONTRAST, NeuronSet, Run, measure
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
    sets: list[tuple[float, float, NeuronSet]] = []
    for dose in DOSES:
        top = np.sort(order[: max(1, round(dose * len(excess)))])
        chosen = np.isin(np.arange(len(excess)), top)
        drawn = subject.controls(chosen, kind, CONTROLS, random_seed)
        named = [("top", -1, top), *(("control", i, one) for i, one in enumerate(drawn.sets))]
        sets += [(dose, drawn.least_overlap, NeuronSet(ALL_LAYERS, *one)) for one in named]
    sets = [one for one in sets if len(one[-1].neurons)]
    measured = measure(
        subject.model,
        sequences,
        [Run(one, kind) for *_, one in sets],
        subject.replacement(sequences, [kind], random_seed=random_seed, batch_tokens=batch_tokens),
        name=subject.name,
        batch_tokens=batch_tokens,
    )
    rows = []
    for i, (dose, overlap, one) in enumerate(sets):
        against = [j for j, (d, _, s) in enumerate(sets) if d == dose and s.name == "control"]
        first = next(j for j, (d, _, s) in enumerate(sets) if d == dose and s.name == "top")
        contrast = measured.contrast(first, against)
        effect = measured.effect(i)
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
                **{c: effect[c] for c in ("energy", "delta_loss_later", "energy_later")},
                **(contrast if one.name == "top" else NO_CONTRAST),
                "overlap": overlap if one.name == "top" else np.nan,
                "comparable": is_comparable(overlap, contrast["energy_ratio"]),
            }
        )
    return pd.DataFrame(rows)
