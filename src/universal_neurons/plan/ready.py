"""Whether a run can begin: what its files say, as far as it can be seen before any job.

What is refused here would otherwise end a job, hours later.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.models.shape import read_vocabulary
from universal_neurons.models.weights import find_weights
from universal_neurons.plan.counts import counts
from universal_neurons.plan.grid import (
    Grid,
    model_directory,
    tokenizer_directories,
    tokenizer_directory,
)
from universal_neurons.plan.sizes import Sizes
from universal_neurons.plan.units import in_bytes
from universal_neurons.prepare import corpus
from universal_neurons.prepare.aligned import require_own
from universal_neurons.prepare.speech import require_spacy
from universal_neurons.prepare.tokenizer import has_tokenizer, require_same, require_tokenizer
from universal_neurons.store.columns.score import LEAST_SAMPLE

# Snakemake plans about a thousand jobs in a second, and holds them all in memory.
MOST_JOBS = 200_000


def ready_grid(config: Mapping[str, Any]) -> Grid:
    """The grid of a resolved configuration (`config.resolve`) whose files are fit to be run.

    Raises
    ------
    UserError
        If files are missing, unreadable or do not fit each other, or the grid is too large.
    """
    corpus.check_length(config["corpus"])
    corpus.check_fields(config["corpus"])
    if braced := [file for file in corpus.source_files(config["corpus"]) if set("{}") & set(file)]:
        raise UserError(
            f"corpus.path: {braced[0]} has braces in its name; Snakemake would take them for its "
            "own: rename it"
        )
    grid = Grid.of(config)
    if grid.loss_kind == "masked" and grid.config.corpus.align != "none":
        raise UserError(
            "corpus.align: bytes is for models that predict the next token; encoders need "
            "tokenizers that are the same: use none"
        )
    if (jobs := counts(grid).total()) > MOST_JOBS:
        raise UserError(
            f"models.seeds, models.steps, corpus.shards: the grid has {jobs:,} jobs, more than the "
            f"{MOST_JOBS:,} that can be planned; take fewer of them"
        )
    if config["families"]["speech"] is not None:
        require_spacy()
    if config["models"]["source"] == "local":
        for directory in _local_models(config):
            find_weights(directory)
    if config["models"]["tokenizer"] is not None:
        require_tokenizer(tokenizer_directory(config))
    if _own_tokenizers(config):
        _check_tokenizers(config)
    return grid


def _local_models(config: Mapping[str, Any]) -> list[Path]:
    cells = product(config["models"]["seeds"], config["models"]["steps"])
    return [Path(model_directory(config, seed, step)) for seed, step in cells]


def _own_tokenizers(config: Mapping[str, Any]) -> bool:
    """Whether the text is tokenised with the tokenizers that local models have beside them."""
    models, source = config["models"], config["corpus"]["source"]
    return models["source"] == "local" and models["tokenizer"] is None and source != "tokens"


def _check_tokenizers(config: Mapping[str, Any]) -> None:
    if config["corpus"]["align"] != "none":
        require_own(tokenizer_directories(config))
        return
    tokenizer = tokenizer_directory(config)
    require_tokenizer(tokenizer)
    vocabulary = read_vocabulary(tokenizer)
    for directory in _local_models(config):
        if not has_tokenizer(directory) and read_vocabulary(directory) != vocabulary:
            raise UserError(
                f"models.path: {directory} has no tokenizer and another vocab_size in config.json "
                f"than {tokenizer}; if it has that one's tokenizer, name it as models.tokenizer"
            )
    seeds, step = config["models"]["seeds"], config["models"]["steps"][0]
    require_same((Path(model_directory(config, seed, step)) for seed in seeds), tokenizer)


def notes(config: Mapping[str, Any]) -> list[str]:
    """What a user should know of a resolved configuration before it is run; sentences.

    Parameters
    ----------
    config
        One that is ready (`ready_grid`).
    """
    return [*_on_tokenizers(config), *_on_sample(config)]


def classes_note(grid: Grid) -> list[str]:
    """A sentence where nothing will be known given classes of tokens."""
    sizes, memory = Sizes(grid), grid.config.correlate.memory_gb
    if sizes.has_classes:
        return []
    return [
        f"correlate.memory_gb: sums by token take {in_bytes(sizes.all_classes)} of memory, more "
        f"than {memory:g} GB, and are not made: nothing will be known given the token."
    ]


def _on_sample(config: Mapping[str, Any]) -> list[str]:
    sampled = int(config["correlate"]["sample"] * config["corpus"]["tokens"])
    if config["correlate"]["mode"] != "screened" or sampled >= LEAST_SAMPLE:
        return []
    return [
        f"WARNING: correlate.sample asks for {sampled:,} tokens. Baselines estimated from fewer "
        f"than {LEAST_SAMPLE:,} can change the number of universal neurons by more than 2 % "
        "(docs/method.md): raise it, or use correlate.mode: exact."
    ]


def _on_tokenizers(config: Mapping[str, Any]) -> list[str]:
    shared = _own_tokenizers(config) and config["corpus"]["align"] == "none"
    models = _local_models(config) if shared else []
    without = [model for model in models if not has_tokenizer(model)]
    if not without:
        return []
    return [
        f"{len(without)} of {len(models)} models have no tokenizer of their own, such as "
        f"{without[0]}: they are taken to have that of {tokenizer_directory(config)} "
        "(models.tokenizer says so without this note)."
    ]
