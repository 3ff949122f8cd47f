"""What the tables of a run have on one neuron."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.api.stored import stored_layers
from universal_neurons.api.tables import Tables
from universal_neurons.store.tables import records

# Columns that say which neuron a row is of.
KEYS = ("step", "seed", "layer", "neuron")


@dataclass(frozen=True, eq=False)
class NeuronRows:
    """What the tables of a run have on one neuron: its numbers, partners, examples and training.

    What a run has no table for, or no row of this neuron, is empty: examples are of chosen neurons.

    Attributes
    ----------
    run
        Whose.
    seed, step
        The model.
    layer, neuron
        Its place, from 0.
    """

    run: Tables
    seed: str
    step: int
    layer: int
    neuron: int

    @property
    def address(self) -> str:
        """``seed/step/layer/neuron``."""
        return f"{self.seed}/{self.step}/{self.layer}/{self.neuron}"

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Its row of the table ``universality``."""
        return self._row("universality")

    @cached_property
    def moments(self) -> dict[str, Any]:
        """Its row of the table ``neurons``: moments of its activation."""
        return self._row("neurons")

    @cached_property
    def partners(self) -> pd.DataFrame:
        """Its best matches, a row per other seed, see the table ``matches``."""
        found = self.rows("matches").drop(columns=list(KEYS))
        found.insert(1, "excess_corr", found["best_corr"] - found["baseline_corr"])
        return found

    @cached_property
    def group(self) -> pd.DataFrame:
        """The mutual matches that it is one of, see the table ``groups``; empty without."""
        own = self.rows("groups")
        if own.empty:
            return own
        return self.run.rows("groups", step=self.step, group=int(own["group"].iloc[0]))

    @cached_property
    def roles(self) -> dict[str, Any]:
        """Its row of the table ``roles``: what its weights read and write; empty without."""
        return self._row("roles")

    @cached_property
    def family(self) -> dict[str, Any]:
        """Its row of the table ``families``: what explains when it fires; empty without."""
        return self._row("families")

    @cached_property
    def effect(self) -> dict[str, Any]:
        """Its row of the table ``effects``: what ablating it costs; empty without."""
        return self._row("effects")

    @cached_property
    def trajectory(self) -> pd.DataFrame:
        """The same index of the same seed at every step: scores, and where it is then."""
        where = {"seed": self.seed, "layer": self.layer, "neuron": self.neuron}
        scores = self.run.rows("universality", **where)
        columns = ["step", "excess_corr", "excess_se", "max_corr", "baseline_corr", "q_value"]
        found = scores[[*columns, "universal"]].sort_values("step", ignore_index=True)
        if "trajectories" not in self.run.tables:
            return found
        course = self.run.rows("trajectories", **where)
        kept = ["step", "label", "self_corr", "next_layer", "next_neuron", "next_corr"]
        return found.merge(course[kept], on="step", how="left")

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Contexts in which it is active, see the table ``examples``, with ``text``.

        Those of the same seed, layer and index at the run's last step, where they were chosen.
        Empty where the neuron was not chosen.
        """
        step = self.run.steps[-1]
        found = self.rows("examples", step=step)
        if not found.empty:
            found["text"] = [self.run.text(ids) for ids in found["token_ids"]]
        return found.drop(columns=[key for key in KEYS if key in found])

    @property
    def activations(self) -> NDArray[np.float32]:
        """Its activations at all scored tokens, shape (tokens,), of all shards."""
        stored = stored_layers(self.run.path, self.seed, self.step)
        return stored.of_neuron(self.layer, self.neuron)

    def rows(self, table: str, step: int | None = None) -> pd.DataFrame:
        """Its rows of a table; none where the run has no such table.

        Parameters
        ----------
        table
            Name.
        step
            Of the same index at another step.
        """
        if table not in self.run.tables:
            return pd.DataFrame()
        step = self.step if step is None else step
        where = {"seed": self.seed, "layer": self.layer, "neuron": self.neuron}
        return self.run.rows(table, step=step, **where)

    def _row(self, table: str) -> dict[str, Any]:
        rows = self.rows(table)
        if rows.empty:
            return {}
        return records(rows.drop(columns=list(KEYS)))[0]
