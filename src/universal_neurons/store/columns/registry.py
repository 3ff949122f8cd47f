"""All declared tables by name."""

from __future__ import annotations

from universal_neurons.store.columns.ablate import ABLATION, DOSES, EFFECTS, MEDIATION, SINGLE
from universal_neurons.store.columns.describe import MODELS, NEURONS, SUBSETS
from universal_neurons.store.columns.examples import (
    ACTIVATING_TOKENS,
    CONTEXTS,
    EXAMPLES,
    HISTOGRAMS,
    VOCABULARY,
)
from universal_neurons.store.columns.fractions import FRACTIONS
from universal_neurons.store.columns.persist import PERSISTENCE, TRACE, TRAJECTORIES
from universal_neurons.store.columns.roles import FAMILIES, ROLES
from universal_neurons.store.columns.score import (
    GROUPS,
    MATCHES,
    NULLS,
    SCREENING,
    SIMILARITY,
    TOKEN_BUDGET,
    UNIVERSALITY,
    UNTRAINED,
)

TABLES = {
    table.name: table
    for table in (
        *(UNIVERSALITY, MATCHES, FRACTIONS, NULLS, UNTRAINED, GROUPS, TOKEN_BUDGET),
        *(SCREENING, SIMILARITY),
        *(ABLATION, DOSES, EFFECTS, MEDIATION, SINGLE, PERSISTENCE, TRAJECTORIES, TRACE),
        *(NEURONS, SUBSETS, MODELS),
        *(ROLES, FAMILIES),
        *(EXAMPLES, CONTEXTS, HISTOGRAMS, ACTIVATING_TOKENS, VOCABULARY),
    )
}
