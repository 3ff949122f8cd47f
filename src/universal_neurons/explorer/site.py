"""The folder of the explorer: the pages, which are the same for every run, and a run's data."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import universal_neurons
from universal_neurons.explorer.known import Seed, chosen_rows, groups, read_seed
from universal_neurons.explorer.numbers import (
    NAMES,
    Run,
    Sources,
    extremes,
    listed,
    rows_of,
)
from universal_neurons.explorer.pages import PER_SHARD, Facts, Shard, shards
from universal_neurons.explorer.rest import rest
from universal_neurons.explorer.shards import write_shard
from universal_neurons.explorer.windows import BANDS, FOLLOWED, LEVELS, UNKNOWN
from universal_neurons.store.files import read_record, replacing
from universal_neurons.store.provenance import config_hash
from universal_neurons.store.tables import read_table, records

logger = logging.getLogger(__name__)

DATA = "data"


def write_explorer(
    out: str | Path,
    tables: Sequence[str | Path],
    about: str | Path,
    config: Mapping[str, Any],
) -> None:
    """Write the explorer of a run; its folder appears when it is whole.

    Parameters
    ----------
    out
        ``index.html`` of the folder, which is replaced with all that is in it.
    tables
        Those that `numbers.Sources` lists, in any order and among any others.
    about
        What is known of the corpus (``corpus.json``).
    config
        The resolved configuration.

    Raises
    ------
    UserError
        If a table is missing, damaged or lacks a column.
    """
    sources = Sources.of(tables)
    seeds = [str(seed) for seed in config["models"]["seeds"]]
    steps = sorted(int(step) for step in config["models"]["steps"])
    corpus = read_record(about, {"sha256": str})
    with replacing(Path(out).parent) as folder:
        _copy_pages(folder)
        data = folder / DATA
        data.mkdir()
        rows = {seed: rows_of(sources, seed, steps[-1]) for seed in seeds}
        run = Run(sources, seeds, steps, rows, extremes(sources, rows))
        names = _names(sources)
        vocabulary = read_table(sources.vocabulary, ["token_id", "text"])
        texts = vocabulary.sort_values("token_id")["text"].tolist()
        write_shard(data, "vocabulary", {"texts": texts})
        of_seeds = groups(run)
        for place, seed in enumerate(seeds):
            _write_seed(data, run, place, read_seed(run, seed, of_seeds[seed]), names, texts)
        write_shard(data, "run", _about(run, names, corpus, config))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    logger.info("the explorer of %d seeds takes %.1f MB", len(seeds), size / 1e6)


def _copy_pages(folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files("universal_neurons.explorer").joinpath("static").iterdir():
        if file.is_file():
            with file.open("rb") as stream, (folder / file.name).open("wb") as copy:
                shutil.copyfileobj(stream, copy)


def _names(sources: Sources) -> dict[str, list[str]]:
    """All roles and families that occur, in order."""
    tables = {"role": sources.roles, "family": sources.families}
    found = {name: read_table(tables[name], [name])[name].dropna() for name in NAMES}
    return {name: sorted(map(str, values.unique())) for name, values in found.items()}


def _write_seed(
    data: Path,
    run: Run,
    place: int,
    seed: Seed,
    names: Mapping[str, Sequence[str]],
    texts: Sequence[str],
) -> None:
    """Write the shards of a seed: lists, neurons' pages, and what these are found by."""
    for step, of_model in enumerate(seed.numbers.values()):
        write_shard(data, f"list-{place}-{step}", *listed(of_model, names))
    for layer, of_layer in enumerate(rest(run, seed)):
        write_shard(data, f"rest-{place}-{layer}", *of_layer)
    sought: list[Facts] = []
    for n, shard in enumerate(shards(run, seed)):
        write_shard(data, f"neurons-{place}-{n}", shard.facts, shard.arrays)
        sought += _sought(shard, texts)
    write_shard(data, f"search-{place}", {"neurons": sought})


def _sought(shard: Shard, texts: Sequence[str]) -> list[Facts]:
    """What the neurons of a shard are found by: tokens, and the text of their top contexts."""
    sought, at = [], 0
    tokens = shard.arrays["tokens"]
    for facts in shard.facts["neurons"]:
        lists = (facts.get(name) or [] for name in ("activating", "promoted"))
        ids = (each[0] for part in lists for each in part)
        # An output layer may have rows that are no token's.
        named = [texts[token] for token in ids if token < len(texts)]
        contexts = []
        for band, *_, length in facts["contexts"]:
            if BANDS[band] == "top":
                window = tokens[at : at + length].tolist()
                contexts.append("".join(texts[token] for token in window))
            at += length
        sought.append({"row": facts["row"], "tokens": named, "contexts": contexts})
    return sought


def _about(
    run: Run, names: Mapping[str, Sequence[str]], corpus: Facts, config: Mapping[str, Any]
) -> Facts:
    """What every page knows of the run."""
    models = read_table(run.sources.models, ["seed", "step", "revision", "sha256"])
    digests = {
        (str(model["seed"]), int(model["step"])): [
            model["revision"] if isinstance(model["revision"], str) else None,
            model["sha256"],
        ]
        for model in records(models)
    }
    return {
        "run": config["run"],
        "seeds": list(run.seeds),
        "steps": list(run.steps),
        "widths": [list(map(int, run.rows[seed].widths)) for seed in run.seeds],
        "chosen": [chosen_rows(run, seed).tolist() for seed in run.seeds],
        "perShard": PER_SHARD,
        "bands": list(BANDS),
        "followed": list(FOLLOWED),
        "levels": LEVELS,
        "unknown": UNKNOWN,
        "names": {name: list(values) for name, values in names.items()},
        "threshold": config["universality"]["excess_threshold"],
        "criterion": config["universality"]["criterion"],
        "randomDirections": bool(config["nulls"]["random_directions"]["draws"]),
        "models": [[digests.get((seed, step)) for step in run.steps] for seed in run.seeds],
        "tokens": corpus["sha256"],
        "configuration": config_hash(config),
        "version": universal_neurons.__version__,
    }
