"""What a model's predictions lose when its universal neurons are taken out.

Neurons of one layer, or of all layers, are replaced during the forward pass over held-out
sequences, and the loss is compared with the clean one. The same is done with control sets (see
`controls`; arXiv 2508.00903 ablates by the mean, 2401.12181 by zero and mean). Beside this total
effect, the direct one leaves out what later blocks make of the change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.ablate.controls import Controls, is_comparable
from universal_neurons.ablate.measure import NO_CONTRAST, Measured, NeuronSet, Run
from universal_neurons.ablate.precision import AS_GIVEN, Accuracy, measure_as_asked
from universal_neurons.ablate.subject import Subject
from universal_neurons.prepare.reading import HeldOut
from universal_neurons.store.columns.ablate import ABLATION
from universal_neurons.store.columns.declare import ALL_LAYERS

KINDS = ("mean", "zero", "resample")

# Control sets whose direct effect is measured too: of all sets it would cost half as much again as
# the total effects do.
DIRECT_CONTROLS = 4


def ablate(
    subject: Subject,
    text: HeldOut,
    universal: NDArray[np.bool_],
    accuracy: Accuracy = AS_GIVEN,
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
    text
        Sequences of at least two tokens.
    universal
        Whether a neuron is universal, shape (N,).
    accuracy
        Text is read until the standard errors of all universal sets' loss changes, and of their
        differences from their controls, are as asked for: all sets are measured on the same.
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
        measured for the first `DIRECT_CONTROLS` draws. An empty control set has no row, nor has a
        model without a head any.

    Raises
    ------
    UserError
        If a token id is beyond the model's vocabulary, or a prediction is not finite.
    """
    if len(universal) != len(subject.mean):
        raise ValueError(f"all facts must be about the model's {len(subject.mean)} neurons")
    if unknown := set(kinds).difference(KINDS):
        raise ValueError(f"unknown kinds {sorted(unknown)}; known are {', '.join(KINDS)}")
    if not subject.model.has_head:
        return subject.no_rows(ABLATION)
    cells: list[_Cell] = []
    for kind in kinds:
        drawn = subject.controls(universal, kind, controls, random_seed)
        cells += _cells(kind, universal, drawn, subject.layer)
    replacement = subject.replacement(
        text.inputs, kinds, random_seed=random_seed, batch_tokens=batch_tokens
    )
    runs = [run for cell in cells for run in cell.runs()]
    places = {run: i for i, run in enumerate(runs)}

    def rows(found: Measured) -> list[dict[str, Any]]:
        return [row for cell in cells for row in cell.rows(subject, found, places)]

    measured = measure_as_asked(
        accuracy,
        subject,
        text,
        runs,
        replacement,
        batch_tokens=batch_tokens,
        enough=accuracy.reached("universal", rows),
    )
    return pd.DataFrame(rows(measured)).assign(**measured.run_with(text))


@dataclass(frozen=True)
class _Cell:
    """The universal neurons of a layer, or of all, and their controls, for one kind of ablation.

    Attributes
    ----------
    overlap
        Of `Controls.overlap`, of all layers the least of theirs; NaN without universal neurons.
    """

    kind: str
    universal: NeuronSet
    controls: Sequence[NeuronSet]
    overlap: float

    def runs(self) -> Iterator[Run]:
        """All that is measured of them."""
        for one in (self.universal, *self.controls):
            if len(one.neurons):
                yield Run(one, self.kind)
                if one.draw < DIRECT_CONTROLS:
                    yield Run(one, self.kind, direct=True)

    def rows(
        self, subject: Subject, measured: Measured, places: Mapping[Run, int]
    ) -> Iterator[dict[str, Any]]:
        """One per set; columns of `columns.ablate.ABLATION`."""
        own = places.get(Run(self.universal, self.kind))
        # Few universal neurons have few sets of partners: one drawn again is no further evidence.
        distinct = {one.neurons.tobytes(): one for one in reversed(self.controls)}
        others = [places[Run(one, self.kind)] for one in distinct.values()]
        contrast = measured.contrast(own, others)
        comparable = is_comparable(self.overlap, contrast["energy_ratio"])
        p = measured.permutation_p(own, others) if comparable and own is not None else np.nan
        yield {
            **self._row(subject, self.universal, measured, places),
            **contrast,
            "permutation_p": p,
            "overlap": self.overlap,
            "comparable": comparable,
        }
        for one in self.controls:
            yield {
                **self._row(subject, one, measured, places),
                **NO_CONTRAST,
                "permutation_p": np.nan,
                "overlap": np.nan,
                "comparable": comparable,
            }

    def _row(
        self, subject: Subject, one: NeuronSet, measured: Measured, places: Mapping[Run, int]
    ) -> dict[str, Any]:
        direct = places.get(Run(one, self.kind, direct=True))
        facts = {
            "norm": subject.norm,
            "contribution": subject.contribution,
            "perturbation": subject.perturbation(self.kind),
            "sparsity": subject.sparsity,
        }
        own = one.neurons
        return {
            "step": subject.step,
            "seed": subject.seed,
            "layer": one.layer,
            "kind": self.kind,
            "neuron_set": one.name,
            "draw": one.draw,
            "n_neurons": len(own),
            **{
                f"mean_{name}": values[own].mean() if len(own) else np.nan
                for name, values in facts.items()
            },
            "clean_loss": measured.clean.mean(),
            "clean_loss_later": measured.clean_later.mean(),
            **measured.effect(places.get(Run(one, self.kind))),
            "direct_delta_loss": np.nan if direct is None else measured.delta[direct].mean(),
        }


def _cells(
    kind: str,
    universal: NDArray[np.bool_],
    drawn: Controls,
    layer: NDArray[np.integer],
) -> Iterator[_Cell]:
    """The universal neurons and their controls, of all layers and of each."""
    for one in (ALL_LAYERS, *np.unique(layer).tolist()):
        here = np.full(len(layer), True) if one == ALL_LAYERS else layer == one
        own = NeuronSet(one, "universal", -1, np.flatnonzero(universal & here))
        controls = [
            NeuronSet(one, "control", draw, control[here[control]])
            for draw, control in enumerate(drawn.sets)
            if here[control].any()
        ]
        overlap = drawn.least_overlap if one == ALL_LAYERS else drawn.overlap.get(one, np.nan)
        yield _Cell(kind, own, controls, overlap)
