"""How many jobs of every rule a grid has.

The same numbers as a dry run of a run that has nothing yet; tests hold them together.
"""

from __future__ import annotations

from collections import Counter

from universal_neurons.plan.grid import Grid
from universal_neurons.plan.sizes import Sizes


def counts(grid: Grid) -> Counter[str]:
    """Jobs by rule of the whole grid, in the order of the stages; rules without jobs are left out.

    Parameters
    ----------
    grid
        Of the run.
    """
    stored = grid.config.capture.store
    screened = grid.config.correlate.mode == "screened"
    found = {
        **_prepare(grid),
        **(_capture(grid) if stored else _direct(grid)),
        **_correlate(grid, stored, screened),
        **_by_step(grid, stored),
        **_joins(grid),
    }
    return Counter({rule: jobs for rule, jobs in found.items() if jobs})


def _prepare(grid: Grid) -> dict[str, int]:
    source = grid.config.models.source
    own = grid.config.corpus.align != "none"
    tokenizers = len(grid.seeds) if own else int(grid.config.models.tokenizer is None)
    return {
        "fetch": (source == "hub") * Sizes(grid).models,
        "fetch_tokenizer": tokenizers if source == "hub" else 0,
        "tokenizer": int(source == "train"),
        "corpus": 1,
        # Of what is ablated.
        "selection": int(bool(grid.config.ablation.kinds)),
        "train": (source == "train") * len(grid.seeds),
    }


def _capture(grid: Grid) -> dict[str, int]:
    models, more = Sizes(grid).models, len(grid.shards) - 1
    return {"capture_first": models, "capture": models * more}


def _direct(grid: Grid) -> dict[str, int]:
    steps, shards = len(grid.steps), len(grid.shards)
    more = Sizes(grid).blocks_of(*grid.pairs[0]) - 1
    return {
        "direct_first": steps,
        "direct": steps * (shards - 1),
        "direct_more": steps * shards * more,
    }


def _correlate(grid: Grid, stored: bool, screened: bool) -> dict[str, int]:
    sizes = Sizes(grid)
    return {
        "rotations": 1,
        "rotated_std": sizes.models,
        "given": sizes.has_classes * sizes.models,
        "screen": screened * sizes.blocks,
        "refine": screened * sizes.pairs,
        "correlate": (stored and not screened) * sizes.sum_blocks * len(grid.shards),
        "match": (not screened) * sizes.blocks,
        "similarity": (not screened and grid.config.correlate.similarity) * sizes.pairs,
    }


def _by_step(grid: Grid, stored: bool) -> dict[str, int]:
    sizes, steps, kinds = Sizes(grid), len(grid.steps), len(grid.config.ablation.kinds)
    ablated = sizes.models if kinds else 0
    return {
        "influence": stored * steps,
        "permuted": stored * sizes.pairs,
        "untrained": int(0 not in grid.steps),
        "random_directions": bool(grid.config.nulls.random_directions.draws) * steps,
        "score": steps,
        "ablate": ablated * kinds,
        "doses": ablated,
        "effects": ablated,
        "mediate": ablated,
        "trace": len(grid.seeds) * len(grid.traced_steps),
        "describe": sizes.models,
        "examples": len(grid.seeds),
        "contexts": sizes.models,
        "vocabulary": 1,
    }


def _joins(grid: Grid) -> dict[str, int]:
    joins = (
        *("persistence", "trajectories", "concatenate", "concatenate_ablation"),
        *("concatenate_doses", "join_effects", "neurons"),
        *("concatenate_described", "concatenate_examples", "concatenate_contexts"),
        *("subsets",) * grid.config.corpus.has_subsets,
        *("models", "figures", "report", "explorer", "all"),
    )
    return dict.fromkeys(joins, 1)
