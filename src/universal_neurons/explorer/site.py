"""The folder of the explorer: the pages, which are the same for every run, and a run's data."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import universal_neurons
from universal_neurons.explorer.numbers import (
    NAMES,
    Rows,
    Run,
    Sources,
    listed,
    numbers,
    rows_of,
)
from universal_neurons.explorer.pages import PER_SHARD, Facts, Shard, chosen_rows, shards
from universal_neurons.explorer.partners import of_all
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
        run = Run(sources, seeds, steps, _rows(sources, seeds, steps), {})
        names = _names(sources)
        found = _write_lists(data, run, names)
        vocabulary = read_table(sources.vocabulary, ["token_id", "text"])
        texts = dict(zip(vocabulary["token_id"], vocabulary["text"], strict=True))
        used = _write_neurons(data, run, found, texts)
        _write_vocabulary(data, used, texts)
        write_shard(data, "run", _about(run, names, corpus, config))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    logger.info("the explorer of %d seeds takes %.1f MB", len(seeds), size / 1e6)


def _copy_pages(folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files("universal_neurons.explorer").joinpath("static").iterdir():
        if file.is_file():
            with file.open("rb") as stream, (folder / file.name).open("wb") as copy:
                shutil.copyfileobj(stream, copy)


def _rows(sources: Sources, seeds: Sequence[str], steps: Sequence[int]) -> dict[str, Rows]:
    return {seed: rows_of(sources, seed, steps[-1]) for seed in seeds}


def _names(sources: Sources) -> dict[str, list[str]]:
    """All roles and families that occur, in order."""
    tables = {"role": sources.roles, "family": sources.families}
    found = {name: read_table(tables[name], [name])[name].dropna() for name in NAMES}
    return {name: sorted(map(str, values.unique())) for name, values in found.items()}


def _write_lists(
    data: Path, run: Run, names: Mapping[str, Sequence[str]]
) -> dict[str, dict[int, pd.DataFrame]]:
    """Write what there is of all neurons, by model; returns all numbers of the chosen neurons.

    Fills the run's `extremes`.
    """
    found: dict[str, dict[int, pd.DataFrame]] = {seed: {} for seed in run.seeds}
    extremes: dict[tuple[str, int], Any] = run.extremes  # type: ignore[assignment]
    for i, seed in enumerate(run.seeds):
        chosen = chosen_rows(run, seed)
        for j, step in enumerate(run.steps):
            of_model = numbers(run.sources, run.rows[seed], seed, step)
            largest = of_model[["min", "max"]].abs().max(axis=1)
            extremes[seed, step] = largest.fillna(0).to_numpy(np.float32)
            write_shard(data, f"list-{i}-{j}", *listed(of_model, names))
            found[seed][step] = of_model.loc[chosen]
        write_shard(data, f"rest-{i}", *of_all(run, seed))
    return found


def _write_neurons(
    data: Path,
    run: Run,
    found: Mapping[str, Mapping[int, pd.DataFrame]],
    texts: Mapping[int, str],
) -> set[int]:
    """Write the shards of the chosen neurons and what they are found by; returns their tokens."""
    tokens: set[int] = set()
    for i, seed in enumerate(run.seeds):
        sought: list[Facts] = []
        for n, shard in enumerate(shards(run, seed, found[seed], tokens)):
            write_shard(data, f"neurons-{i}-{n}", shard.facts, shard.arrays)
            sought += _sought(shard, texts)
        write_shard(data, f"search-{i}", {"neurons": sought})
    return tokens


def _sought(shard: Shard, texts: Mapping[int, str]) -> list[Facts]:
    """What the neurons of a shard are found by: tokens, and the text of their top contexts."""
    sought, at = [], 0
    ids = shard.arrays["tokens"]
    for facts in shard.facts["neurons"]:
        lists = (facts.get(name) or [] for name in ("activating", "promoted"))
        named = [texts.get(each[0], f"#{each[0]}") for part in lists for each in part]
        contexts = []
        for band, *_, length in facts["contexts"]:
            if BANDS[band] == "top":
                window = ids[at : at + length].tolist()
                contexts.append("".join(texts.get(token, f"#{token}") for token in window))
            at += length
        sought.append({"row": facts["row"], "tokens": named, "contexts": contexts})
    return sought


def _write_vocabulary(data: Path, used: set[int], texts: Mapping[int, str]) -> None:
    ids = sorted(used)
    named = [texts.get(token, f"#{token}") for token in ids]
    write_shard(data, "vocabulary", {"texts": named}, {"ids": np.array(ids, np.uint32)})


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
