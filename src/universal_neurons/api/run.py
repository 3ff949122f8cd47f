"""A run as an object: its tables, neurons, activations and models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from universal_neurons.api.neuron import Neuron
from universal_neurons.api.stored import StoredLayers, stored_layers
from universal_neurons.api.tables import Tables
from universal_neurons.errors import UserError
from universal_neurons.models.facts import read_facts

if TYPE_CHECKING:
    from universal_neurons.models.load import Model


def open_run(path: str | Path) -> Run:
    """Open the results of a run.

    Parameters
    ----------
    path
        Folder ``results/<run>``.

    Returns
    -------
    Run
        Nothing is read before it is asked for.

    Raises
    ------
    UserError
        If the folder has no results of a run.
    """
    return Run(path)


class Run(Tables):
    """The results of a run: its tables, see `Tables`, and what they are of.

    Parameters
    ----------
    path
        Folder ``results/<run>``.

    Raises
    ------
    UserError
        If the folder has no results of a run.
    """

    def matches(self, seed: str, other_seed: str, *, step: int) -> pd.DataFrame:
        """Best matches of a seed's neurons in another seed, one row per neuron.

        Raises
        ------
        UserError
            If the run has no such seed or step, or both seeds are one.
        """
        if seed == other_seed:
            raise UserError(f"{self.path}: matches are with another seed than {seed}")
        return self.rows("matches", step=step, seed=seed, other_seed=other_seed)

    def match_matrix(self, seed: str, other_seed: str, *, step: int) -> sparse.csr_array:
        """Best matches as a matrix: the correlation at (neuron, its best match), else nothing.

        Returns
        -------
        csr_array
            Shape (N of `seed`, N of `other_seed`), neurons counted through the layers.
        """
        found = self.matches(seed, other_seed, step=step)
        start = {s: np.cumsum([0, *self.d_mlp(s, step)]) for s in (seed, other_seed)}
        live = found[found["best_layer"] >= 0]
        own, other = live[["layer", "neuron"]], live[["best_layer", "best_neuron"]]
        row, column = (
            start[s][of.iloc[:, 0].to_numpy()] + of.iloc[:, 1].to_numpy()
            for s, of in ((seed, own), (other_seed, other))
        )
        shape = int(start[seed][-1]), int(start[other_seed][-1])
        return sparse.csr_array((live["best_corr"].to_numpy(), (row, column)), shape=shape)

    def d_mlp(self, seed: str, step: int) -> list[int]:
        """Number of neurons of every layer of a model."""
        of = self.universality
        of = of[(of["step"] == step) & (of["seed"] == seed)]
        return [int(n) for n in of.groupby("layer").size()]

    def neuron(self, *, seed: str, step: int, layer: int, neuron: int) -> Neuron:
        """A neuron.

        Raises
        ------
        UserError
            If the run has none of that seed, step, layer and index.
        """
        self.check({"seed": seed, "step": step})
        d_mlp = self.d_mlp(seed, step)
        if not 0 <= layer < len(d_mlp) or not 0 <= neuron < d_mlp[layer]:
            sizes = sorted(set(d_mlp))
            raise UserError(
                f"{self.path}: no neuron {layer}.{neuron}; layers go from 0 to {len(d_mlp) - 1}, "
                f"and neurons from 0 to {' or '.join(str(size - 1) for size in sizes)}"
            )
        return Neuron(self, seed, step, layer, neuron)

    def neuron_at(self, address: str) -> Neuron:
        """A neuron by its address ``seed/step/layer/neuron``, as ``0/400/1/86``.

        Raises
        ------
        UserError
            If that is no address, or of `neuron`.
        """
        found = re.fullmatch(r"(.+)/(\d+)/(\d+)/(\d+)", address)
        if not found:
            raise UserError(f"{address}: an address is seed/step/layer/neuron, as 0/400/1/86")
        step, layer, neuron = map(int, found.groups()[1:])
        return self.neuron(seed=found[1], step=step, layer=layer, neuron=neuron)

    def activations(self, seed: str, step: int) -> StoredLayers:
        """The stored activations of a model: ``run.activations("0", 400)[layer]``.

        Raises
        ------
        UserError
            If they were not stored, or dropped since.
        """
        self.check({"seed": seed, "step": step})
        return stored_layers(self.path, seed, step)

    def model(
        self, seed: str, step: int, *, directory: str | Path | None = None, device: str = "cpu"
    ) -> Model:
        """Load a model of the run, and check that it is the one that was captured.

        Parameters
        ----------
        seed, step
            Which.
        directory
            Where it is, if it has moved since.
        device
            See `devices.device_of`.

        Raises
        ------
        UserError
            If it isn't there, or its weights are not those that were captured.
        """
        from universal_neurons.models.load import load

        self.check({"seed": seed, "step": step})
        path = self.path / "calibration" / f"seed{seed}" / f"step{step}.json"
        facts = read_facts(path)
        if directory is None and "directory" not in facts:
            raise UserError(
                f"{path}: does not say where the model is (made by an earlier version); give its "
                "directory: run.model(seed, step, directory=…)"
            )
        # As the workflow's paths are: from the folder that `results` is in.
        there = Path(directory or self.path.absolute().parents[1] / facts["directory"])
        model = load(there, dtype=facts.get("dtype", "float32"), device=device)
        if model.digest() != facts["sha256"]:
            raise UserError(f"{there}: not the weights that seed {seed} at step {step} had")
        return model

    def __repr__(self) -> str:
        return f"<run {self.name}: {len(self.seeds)} seeds, {len(self.steps)} steps, {self.path}>"
