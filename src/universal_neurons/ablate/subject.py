"""A model to intervene on, and what is known of its neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.ablate.controls import (
    Controls,
    generator,
    matched_controls,
    output_norms,
)
from universal_neurons.ablate.measure import Replacement
from universal_neurons.activations import moments
from universal_neurons.jobs import logger
from universal_neurons.models.load import Model, load_captured
from universal_neurons.store.columns.declare import Table
from universal_neurons.store.files import reading
from universal_neurons.store.same_run import check_same_run
from universal_neurons.store.tables import read_table


@dataclass(frozen=True)
class Subject:
    """A model with what its neurons do over the scored tokens.

    Attributes
    ----------
    model
        The model of `seed` at `step`.
    seed, step
        Its names; with other numbers they seed what is drawn at random.
    mean, std, sparsity
        Shape (N,), over its neurons by layer, then neuron: mean and standard deviation of the
        activation, and the fraction of tokens at which it is above 0.
    """

    model: Model
    seed: str
    step: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    sparsity: NDArray[np.float64]

    @classmethod
    def read(
        cls,
        directory: str | Path,
        stores: Sequence[str | Path],
        seed: str,
        step: int,
        load_options: Mapping[str, str],
    ) -> Subject:
        """Load a model and the moments of its activations, from the stores of all shards.

        Raises
        ------
        UserError
            If the stores are not of one run, or see `models.load.load_captured`, with
            `load_options`.
        """
        with reading(stores[0]):
            captured = check_same_run(stores)["models"][f"{seed}/{step}"]
        _, sums = moments.read(stores)[step, seed]
        facts = moments.moments(sums)
        model = load_captured(directory, captured, stores[0], load_options)
        return cls(model, seed, step, facts["mean"], facts["std"], facts["sparsity"])

    def no_rows(self, table: Table) -> pd.DataFrame:
        """What there is of a table of losses where the weights have no head; says so."""
        logger.warning(
            "%s: the weights have no head to predict tokens with: no rows in %s, and a held-out "
            "loss of null",
            *(self.name, table.name),
        )
        return pd.DataFrame(columns=table.names)

    def scores(self, universality: str | Path) -> pd.DataFrame:
        """Its rows of the table of its step, by layer, then neuron."""
        own = read_table(universality, filters=[("seed", "==", self.seed)])
        return own.sort_values(["layer", "neuron"], ignore_index=True)

    @property
    def name(self) -> str:
        """For messages."""
        return f"seed {self.seed}, step {self.step}"

    @cached_property
    def layer(self) -> NDArray[np.int64]:
        """Layer of every neuron."""
        return np.repeat(np.arange(len(self.model.d_mlp)), self.model.d_mlp)

    @cached_property
    def norm(self) -> NDArray[np.float64]:
        """Root mean square activation of every neuron."""
        return np.hypot(self.mean, self.std)

    @cached_property
    def output_norm(self) -> NDArray[np.float64]:
        """‖w_out‖ of every neuron."""
        return output_norms(self.model)

    @property
    def contribution(self) -> NDArray[np.float64]:
        """Root mean square length of what every neuron adds to its MLP's output."""
        return self.norm * self.output_norm

    def perturbation(self, kind: str) -> NDArray[np.float64]:
        """Root mean square length of what ablating every neuron alone changes in that.

        Replaced by its mean μ a neuron changes by σ, by zero by √(μ² + σ²), and by an independent
        value of its own by √2 σ, each times ‖w_out‖.
        """
        changes = {"mean": self.std, "zero": self.norm, "resample": np.sqrt(2) * self.std}
        return changes[kind] * self.output_norm

    def controls(
        self, chosen: NDArray[np.bool_], kind: str, draws: int, random_seed: int
    ) -> Controls:
        """Sets of other neurons like the chosen ones, see `controls.matched_controls`."""
        return matched_controls(
            chosen,
            self.perturbation(kind),
            self.sparsity,
            self.layer,
            draws=draws,
            seed=self.seed,
            step=self.step,
            random_seed=random_seed,
        )

    def replacement(
        self,
        inputs: NDArray[np.integer],
        kinds: Sequence[str],
        *,
        random_seed: int,
        batch_tokens: int,
    ) -> Replacement:
        """What takes the place of activations, drawn from held-out `inputs` where asked for."""
        found = Replacement(self.model, self.mean)
        if "resample" in kinds:
            rng = generator(random_seed, self.seed, self.step, "resample")
            found.sample(inputs, batch_tokens, rng)
        return found
