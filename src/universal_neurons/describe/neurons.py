"""Roles and families of a model's neurons."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.describe.examples import Text
from universal_neurons.describe.families import FamilyCutoffs, families
from universal_neurons.describe.roles import RoleCutoffs, roles
from universal_neurons.models.load import Model
from universal_neurons.prepare.frequency import token_counts
from universal_neurons.store.tables import read_table

logger = logging.getLogger(__name__)


def neurons(
    model: Model,
    sequences: NDArray[np.integer],
    text: Text,
    vocabulary: str | Path,
    cutoffs: Mapping[str, Mapping[str, Any]],
    name: Mapping[str, Any],
) -> dict[str, pd.DataFrame]:
    """Describe all neurons of a model.

    Parameters
    ----------
    model
        The model.
    sequences
        The corpus, in which frequencies of tokens are counted.
    text
        What of it the model is run over.
    vocabulary
        Table of the tokens' texts.
    cutoffs
        Sections ``roles`` and ``families`` of the configuration: what makes either.
    name
        ``seed`` and ``step`` of the model.

    Returns
    -------
    dict
        `columns.roles.ROLES` and `columns.roles.FAMILIES`, by name.
    """
    if not model.has_head:
        logger.warning(
            "seed %s, step %s: the weights have no head to predict tokens with: what roles.parquet "
            "says of logits is null",
            *(name["seed"], name["step"]),
        )
    counts = token_counts(sequences, model.vocab_size)
    of_role, of_family = RoleCutoffs(**cutoffs["roles"]), FamilyCutoffs(**cutoffs["families"])
    found = {
        "roles": roles(model, np.ma.getdata(sequences), counts, of_role),
        "families": families(model, text, _texts(vocabulary)[text.first_id :], of_family),
    }
    for column in ("promoted_ids", "suppressed_ids"):
        found["roles"][column] = [ids + text.first_id for ids in found["roles"][column]]
    return {table: rows.assign(**name) for table, rows in found.items()}


def _texts(vocabulary: str | Path) -> list[str]:
    """Of every token id; none where all are named by their numbers, as without a tokenizer."""
    texts = read_table(vocabulary, ["text"])["text"].tolist()
    return [] if all(text == f"#{i}" for i, text in enumerate(texts)) else texts
