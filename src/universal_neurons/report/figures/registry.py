"""Which figures there are, and the result tables that each is drawn from.

Every figure is named here once: the workflow, the drawing and the report all follow this list. It
imports nothing, so that planning a run and writing the report do without matplotlib.
"""

from __future__ import annotations

from typing import NamedTuple


class Spec(NamedTuple):
    """A figure, drawn by the function of its name.

    Attributes
    ----------
    title
        Its heading in the report.
    module
        The module of this package that has the function.
    tables
        The result tables it needs.
    """

    title: str
    module: str
    tables: tuple[str, ...]


# In the order of the report.
FIGURES = {
    "emergence": Spec("Universal neurons by step", "universality", ("universality", "fractions")),
    "emergence_kinds": Spec("Universal, and beyond what", "universality", ("fractions",)),
    "excess_histogram": Spec(
        "Distribution of excess correlation", "universality", ("universality", "nulls")
    ),
    "threshold_curve": Spec(
        "Universal neurons at every threshold", "universality", ("universality", "nulls")
    ),
    "best_match_layers": Spec("Layer of the best match", "universality", ("matches",)),
    "functions": Spec(
        "What universal neurons do", "functions", ("universality", "roles", "families")
    ),
    "functions_by_step": Spec(
        "When each kind emerges", "functions", ("universality", "roles", "families")
    ),
    "similarity": Spec("Neuron or subspace", "similarity", ("similarity", "universality")),
    "token_budget": Spec("Token noise", "universality", ("token_budget",)),
    "persistence": Spec("Persistence between steps", "persistence", ("persistence",)),
    "persistence_layers": Spec("Persistence by layer", "persistence", ("persistence",)),
    "survival": Spec("Survival of universal neurons", "persistence", ("trajectories",)),
    "emergence_layers": Spec("Emergence by layer", "persistence", ("trajectories",)),
    "moved": Spec("Does the function move to another index?", "persistence", ("trajectories",)),
    "ablation": Spec("Ablation of universal neurons", "ablation", ("ablation",)),
    "ablation_layers": Spec("Ablation by layer and step", "ablation", ("ablation",)),
    "dose_curve": Spec("Ablation of the top of all neurons", "ablation", ("doses",)),
    "energy_response": Spec("Ablation at equal perturbation", "response", ("doses",)),
    "single_effects": Spec("Effect of single neurons", "ablation", ("effects",)),
    "loss": Spec("Held-out loss by step", "ablation", ("models",)),
}

# Every table that some figure needs.
TABLES = tuple(dict.fromkeys(table for spec in FIGURES.values() for table in spec.tables))
