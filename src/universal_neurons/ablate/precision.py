"""Choose how ablated models run: in bfloat16 where that is faster and changes no result.

What is allowed is measured in the job itself: of a few of its ablations, on the first sequences,
the change of the loss in float32 and by `differences.Differences`. Their difference must be below
a tenth of the standard error that the change of the loss has over all sequences.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from universal_neurons.ablate.measure import Measured, Replacement, Run, measure
from universal_neurons.ablate.passes import Passes
from universal_neurons.ablate.subject import Subject
from universal_neurons.errors import UserError
from universal_neurons.prepare.reading import HeldOut

logger = logging.getLogger(__name__)

# Ablations and held-out tokens of the check: less than 1 % of what a job of GPT-2 Small takes.
CHECKED, CHECKED_TOKENS = 5, 4096

# Largest difference of a loss change, in its standard errors.
TOLERANCE = 0.1

# Weights per block from which `auto` tries bfloat16: GPT-2 Small's have 7 million. Below, passes
# take no time worth it, and results are the same to the bit on all machines.
LEAST_WEIGHTS = 1_000_000

# Groups of documents from which a standard error is trusted to say that it is small enough.
LEAST_DOCUMENTS = 30

# Of float32's time, from which `auto` takes bfloat16, and of bfloat16's, from which int8 is tried.
FASTER = 0.7


@dataclass(frozen=True)
class Accuracy:
    """How well loss changes are to be known.

    Attributes
    ----------
    dtype
        See `choose`.
    target_se
        Standard error in nats per token at which no more held-out text is read; None reads all.
    """

    dtype: str = "auto"
    target_se: float | None = None

    def reached(
        self, named: str, rows: Callable[[Measured], Iterable[Mapping[str, Any]]]
    ) -> Callable[[Measured], bool]:
        """Whether what is measured says enough of the sets `named`, of a table's `rows`."""

        def enough(measured: Measured) -> bool:
            few = len(np.unique(measured.documents)) < LEAST_DOCUMENTS
            if self.target_se is None or few:
                return False
            own = [row for row in rows(measured) if row["neuron_set"] == named]
            errors = [row[name] for row in own for name in ("delta_loss_se", "difference_se")]
            # Of an empty set, or one without controls, there is none.
            return not any(error > self.target_se for error in errors)

        return enough


AS_GIVEN = Accuracy()


def measure_as_asked(
    accuracy: Accuracy,
    subject: Subject,
    text: HeldOut,
    runs: Sequence[Run],
    replacement: Replacement,
    *,
    batch_tokens: int,
    enough: Callable[[Measured], bool] = lambda _: False,
) -> Measured:
    """As `measure.measure`, in the dtype that `choose` takes."""
    how = choose(accuracy.dtype, subject, text, runs, replacement, batch_tokens=batch_tokens)
    return measure(
        subject.model,
        text,
        runs,
        replacement,
        name=subject.name,
        batch_tokens=batch_tokens,
        how=how,
        enough=enough,
    )


def choose(
    dtype: str,
    subject: Subject,
    text: HeldOut,
    runs: Sequence[Run],
    replacement: Replacement,
    *,
    batch_tokens: int,
) -> Passes:
    """How to run a model for `measure.measure`, whose other parameters these are.

    Parameters
    ----------
    dtype
        ``float32``: as the model is loaded. ``bfloat16``: matrices multiply differences from the
        clean pass in bfloat16, some in int8 if that is faster and passes the check, too. ``auto``:
        that where it is faster on this machine and passes the check, for models that take time. A
        model that was loaded in another type than float32 runs as it is.

    Raises
    ------
    UserError
        If ``bfloat16`` is asked for and does not pass the check.
    """
    model = subject.model
    exact = Passes(model)
    weights = sum(one.numel() for one in model.blocks[0].parameters())
    small = dtype == "auto" and weights < LEAST_WEIGHTS
    headless = model.module.get_output_embeddings() is None
    if dtype == "float32" or exact.dtype != "float32" or small or headless or not len(runs):
        return exact
    seconds = _seconds(model.output_weight(0))
    if dtype == "auto" and seconds["bfloat16"] > FASTER * seconds["float32"]:
        logger.info("%s: bfloat16 is no faster here", subject.name)
        return exact
    # Numba comes with it, which small models have no use for.
    from universal_neurons.ablate.differences import Differences

    for int8 in (True, False):
        if int8 and seconds["int8"] > FASTER * seconds["bfloat16"]:
            continue
        found = Differences(model, int8=int8)
        found.error = _error(found, subject, text, runs, replacement, batch_tokens)
        name = "bfloat16, int8 where that may be," if int8 else "bfloat16"
        said = f"{name} changes losses by {found.error:.2g} of their standard errors"
        logger.info("%s: %s", subject.name, said)
        if found.error <= TOLERANCE:
            return found
    if dtype == "auto":
        return exact
    raise UserError(
        f"ablation.dtype: {subject.name}: {said}, more than {TOLERANCE:g}: use auto or float32"
    )


def _error(
    how: Passes,
    subject: Subject,
    text: HeldOut,
    runs: Sequence[Run],
    replacement: Replacement,
    batch_tokens: int,
) -> float:
    """Largest difference of a loss change, in its standard errors over all sequences."""
    n_all, length = text.sequences.shape
    # Of all kinds that there are: of all layers and of one, direct and total.
    chosen = [runs[i] for i in np.linspace(0, len(runs) - 1, min(CHECKED, len(runs))).astype(int)]
    deltas = [
        measure(
            subject.model,
            text,
            chosen,
            replacement,
            name=subject.name,
            batch_tokens=batch_tokens,
            how=one,
            enough=lambda found: length * len(found.documents) >= CHECKED_TOKENS,
        ).delta
        for one in (Passes(subject.model), how)
    ]
    # Sequences of one document are alike, which makes the standard error larger yet.
    error = deltas[0].std(1, ddof=1) / np.sqrt(n_all) if deltas[0].shape[1] > 1 else np.nan
    difference = np.abs((deltas[1] - deltas[0]).mean(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(difference == 0, 0, difference / error)))


def _seconds(weight: torch.Tensor) -> dict[str, float]:
    """Time that this machine takes for a product with a model's matrix, by type.

    Of int8 on a CPU only.
    """
    x = torch.ones(1024, weight.shape[1], device=weight.device)
    pairs = {"float32": (x, weight.T), "bfloat16": (x.bfloat16(), weight.bfloat16().T)}
    if weight.device.type == "cpu":
        pairs["int8"] = x.to(torch.int8), weight.T.contiguous().to(torch.int8)
    found = dict.fromkeys(("float32", "bfloat16", "int8"), math.inf)
    for _ in range(5):
        for name, pair in pairs.items():
            multiply = torch._int_mm if name == "int8" else torch.mm
            start = time.perf_counter()
            multiply(*pair).sum().item()
            found[name] = min(found[name], time.perf_counter() - start)
    return found
