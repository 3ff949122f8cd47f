"""What a model's predictions lose when its universal neurons are taken out.

Neurons of one layer, or of all layers, are replaced during the forward pass over held-out
sequences, and the loss is compared with the clean one. The same is done with control sets (see
`controls`; arXiv 2508.00903 ablates by the mean, 2401.12181 by zero and mean). Beside this total
effect, the direct one leaves out what later blocks make of the change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.ablate.measure import Measured, NeuronSet, Run, measure
from universal_neurons.ablate.subject import Subject
from universal_neurons.store.columns.declare import ALL_LAYERS

KINDS = ("mean", "zero", "resample")

# Control sets whose direct effect is measured too: of all sets it would cost half as much again as
# the total effects do.
DIRECT_CONTROLS = 4


def ablate(
    subject: Subject,
    sequences: NDArray[np.integer],
    universal: NDArray[np.bool_],
    *,
    kinds: Sequence[str] = ("mean",),
    controls: int = 20,
    random_seed: int = 0,
    batch_tokens: int = 1024,
) -> pd.DataFrame:
    """Measure the loss with the universal neurons of each layer, and of all layers, replaced.

    Parameters
    ----------
    subject
        The model.
    sequences
        Held-out token ids, shape (sequences, context length ≥ 2).
    universal
        Whether a neuron is universal, shape (N,).
    kinds
        What a neuron's activation is replaced with: ``mean`` its mean, ``zero`` zero, ``resample``
        its own clean activation at another held-out token. For the latter, `RESAMPLE_TOKENS`
        held-out tokens are drawn once, and every token position takes the values of one of them;
        all neuron sets share the draw, so that they can be compared, and the batch size has no
        part in it.
    controls
        Number of control sets, see `controls.matched_controls`.
    random_seed
        Of the controls and the resampled tokens, beside the subject's names.
    batch_tokens
        Tokens per forward pass (at least one sequence), about 1 MB of memory each for GPT-2 Small.
        Results depend on it only by rounding.

    Returns
    -------
    DataFrame
        `columns.ablate.ABLATION`. For the direct effect every block sees its clean input, and the
        changes of the ablated blocks' outputs are added to the last one's; of controls it is
        measured for the first `DIRECT_CONTROLS` draws. ``permutation_p`` is exact if the universal
        set is exchangeable with its controls. An empty control set has no row.

    Raises
    ------
    UserError
        If a token id is beyond the model's vocabulary, or a prediction is not finite.
    """
    if len(universal) != len(subject.mean):
        raise ValueError(f"all facts must be about the model's {len(subject.mean)} neurons")
    if unknown := set(kinds).difference(KINDS):
        raise ValueError(f"unknown kinds {sorted(unknown)}; known are {', '.join(KINDS)}")
    drawn = subject.controls(universal, controls, random_seed)
    sets = list(_neuron_sets(universal, drawn, subject.layer))
    replacement = subject.replacement(
        sequences, kinds, random_seed=random_seed, batch_tokens=batch_tokens
    )
    runs = [
        Run(one, kind, direct)
        for one in sets
        for kind in kinds
        for direct in (False, True)
        if len(one.neurons) and not (direct and one.draw >= DIRECT_CONTROLS)
    ]
    measured = measure(
        subject.model,
        sequences,
        runs,
        replacement,
        name=subject.name,
        batch_tokens=batch_tokens,
    )
    return pd.DataFrame(
        [_row(subject, one, kind, runs, measured) for one in sets for kind in kinds]
    )


def _row(
    subject: Subject, one: NeuronSet, kind: str, runs: Sequence[Run], measured: Measured
) -> dict[str, Any]:
    """The row of a neuron set and kind; columns of `columns.ablate.ABLATION`."""
    total = direct = None
    against = []
    for i, run in enumerate(runs):
        if run.kind != kind:
            continue
        if run.neurons is one and run.direct:
            direct = i
        elif run.neurons is one:
            total = i
        elif (run.neurons.layer, run.neurons.name) == (one.layer, "control") and not run.direct:
            against.append(i)
    own = one.neurons
    facts = {
        "norm": subject.norm,
        "contribution": subject.contribution,
        "sparsity": subject.sparsity,
    }
    return {
        "step": subject.step,
        "seed": subject.seed,
        "layer": one.layer,
        "kind": kind,
        "neuron_set": one.name,
        "draw": one.draw,
        "n_neurons": len(own),
        **{
            f"mean_{name}": values[own].mean() if len(own) else np.nan
            for name, values in facts.items()
        },
        "clean_loss": measured.clean.mean(),
        **measured.effect(total),
        "direct_delta_loss": np.nan if direct is None else measured.delta[direct].mean(),
        **measured.contrast(total, against if one.name == "universal" else ()),
    }


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
