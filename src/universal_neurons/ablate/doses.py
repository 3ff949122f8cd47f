"""How the loss grows with the number of neurons taken out, and with how much that changes.

A threshold makes two groups of what is a matter of degree. Here the k neurons of a model with the
largest excess correlation are ablated, for several k, beside controls matched as in `ablation`.

Where no other neurons change as much, matched controls say nothing. Sets of other neurons, of many
sizes, then say what the loss is at any energy; `report.response` sets named sets beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.ablate.controls import generator, is_comparable
from universal_neurons.ablate.measure import NO_CONTRAST, Measured, NeuronSet, Run
from universal_neurons.ablate.precision import AS_GIVEN, Accuracy, measure_as_asked
from universal_neurons.ablate.subject import Subject
from universal_neurons.prepare.reading import HeldOut
from universal_neurons.store.columns.ablate import DOSES as TABLE
from universal_neurons.store.columns.declare import ALL_LAYERS

# Fractions of all neurons, the same for all models and steps, whatever the threshold.
DOSES = (0.01, 0.03, 0.1)

# Control sets per dose: every one costs a pass through the whole model.
CONTROLS = 3

# Fractions of all neurons that sets of others have, and how many there are of each. Their energies
# are to span those of sets whose neurons are several times larger.
OTHERS, OTHERS_DRAWS = (0.005, 0.02, 0.07, 0.25, 0.8), 2


# Columns of `universality` whose neurons are replaced as a set.
NAMED = ("universal", "universal_given_token")


@dataclass(frozen=True)
class _Set:
    """Neurons to replace, what they are a dose of, and how like them their controls are."""

    dose: float
    neurons: NeuronSet
    overlap: float = np.nan


def doses(
    subject: Subject,
    text: HeldOut,
    scores: pd.DataFrame,
    accuracy: Accuracy = AS_GIVEN,
    *,
    named: Sequence[str] = NAMED,
    kind: str = "mean",
    random_seed: int = 0,
    batch_tokens: int = 1024,
) -> pd.DataFrame:
    """Measure the loss with the top of all neurons by excess correlation replaced, and with others.

    Parameters
    ----------
    subject, text, random_seed, batch_tokens
        See `ablation.ablate`.
    scores
        Of the model's neurons by layer, then neuron: ``excess_corr``, and the columns `named`.
    accuracy
        Text is read until the standard errors of the doses' loss changes, and of their differences
        from their controls, are as asked for.
    named
        Columns that say of every neuron whether it is of a set that is replaced too; null is no. A
        set without neurons has no row. `OTHERS` are drawn outside of these and of the largest dose.
    kind
        One of `ablation.KINDS`.

    Returns
    -------
    DataFrame
        `columns.ablate.DOSES`; without rows where the model has no head.

    Raises
    ------
    UserError
        As `ablation.ablate` does.
    """
    if not subject.model.has_head:
        return subject.no_rows(TABLE)
    order = np.argsort(-scores["excess_corr"].to_numpy(), kind="stable")
    tops = {dose: np.sort(order[: max(1, round(dose * len(order)))]) for dose in DOSES}
    # Every one of them is held against what is none of them.
    apart = np.isin(np.arange(len(order)), tops[max(DOSES)])
    sets = list(_tops(subject, tops, kind, random_seed))
    for name in named:
        chosen = scores[name].astype("boolean").fillna(False).to_numpy(bool)
        apart = apart | chosen
        whole = NeuronSet(ALL_LAYERS, name, -1, np.flatnonzero(chosen))
        sets.append(_Set(float(chosen.mean()), whole))
    sets += _others(subject, apart, random_seed)
    sets = [one for one in sets if len(one.neurons.neurons)]
    runs = [Run(one.neurons, kind) for one in sets]
    replacement = subject.replacement(
        text.inputs, [kind], random_seed=random_seed, batch_tokens=batch_tokens
    )
    measured = measure_as_asked(
        accuracy,
        subject,
        text,
        runs,
        replacement,
        batch_tokens=batch_tokens,
        enough=accuracy.reached("top", lambda found: _rows(subject, kind, sets, found)),
    )
    rows = pd.DataFrame(_rows(subject, kind, sets, measured))
    return rows.assign(**measured.run_with(text))


def _rows(
    subject: Subject, kind: str, sets: Sequence[_Set], measured: Measured
) -> Iterator[dict[str, Any]]:
    """One per set; columns of `columns.ablate.DOSES`."""
    names = [(one.dose, one.neurons.name) for one in sets]
    for i, one in enumerate(sets):
        against = [j for j, other in enumerate(names) if other == (one.dose, "control")]
        matched = one.neurons.name in ("top", "control")
        first = names.index((one.dose, "top")) if matched else None
        contrast = measured.contrast(first, against)
        effect = measured.effect(i)
        yield {
            "step": subject.step,
            "seed": subject.seed,
            "kind": kind,
            "dose": one.dose,
            "neuron_set": one.neurons.name,
            "draw": one.neurons.draw,
            "n_neurons": len(one.neurons.neurons),
            **{c: effect[c] for c in ("delta_loss", "delta_loss_se", "kl", "top1_change")},
            **{c: effect[c] for c in ("energy", "delta_loss_later", "energy_later")},
            **(contrast if one.neurons.name == "top" else NO_CONTRAST),
            "overlap": one.overlap if one.neurons.name == "top" else np.nan,
            "comparable": is_comparable(one.overlap, contrast["energy_ratio"]),
        }


def _tops(
    subject: Subject, tops: Mapping[float, NDArray[np.int64]], kind: str, random_seed: int
) -> Iterator[_Set]:
    """Every dose with its control sets."""
    for dose, top in tops.items():
        chosen = np.isin(np.arange(len(subject.mean)), top)
        drawn = subject.controls(chosen, kind, CONTROLS, random_seed)
        named = [("top", -1, top), *(("control", i, one) for i, one in enumerate(drawn.sets))]
        for one in named:
            yield _Set(dose, NeuronSet(ALL_LAYERS, *one), drawn.least_overlap)


def _others(subject: Subject, apart: NDArray[np.bool_], random_seed: int) -> Iterator[_Set]:
    """Random sets of all sizes of neurons that are not `apart`, in its shares of the layers."""
    layers, count = np.unique(subject.layer[apart], return_counts=True)
    pools = [np.flatnonzero(~apart & (subject.layer == layer)) for layer in layers]
    most = min(len(pool) / n for pool, n in zip(pools, count, strict=True))
    seen: set[bytes] = set()
    for size in OTHERS:
        share = min(most, size * len(apart) / count.sum())
        for draw in range(OTHERS_DRAWS):
            rng = generator(random_seed, subject.seed, subject.step, "others", size, draw)
            drawn = [
                rng.choice(pool, round(share * n), replace=False)
                for pool, n in zip(pools, count.tolist(), strict=True)
            ]
            own = np.sort(np.concatenate(drawn))
            if own.tobytes() not in seen:
                seen.add(own.tobytes())
                yield _Set(size, NeuronSet(ALL_LAYERS, "others", draw, own))
