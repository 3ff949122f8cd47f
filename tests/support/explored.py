"""Made-up tables of everything that the explorer shows, on top of `synthetic`, of any size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import synthetic
from numpy.typing import NDArray

from universal_neurons.explorer.numbers import COLUMNS
from universal_neurons.explorer.site import write_explorer
from universal_neurons.plan.config import resolve

BANDS = {"top": 20, "0.99-0.999": 5, "0.9-0.99": 5, "0.5-0.9": 5, "0-0.5": 5, "random": 10}
WIDTH, PEAK = 16, 10
WORDS = [
    " the",
    " of",
    " and",
    " to",
    " in",
    ",",
    ".",
    " we",
    " our",
    " that",
    " it",
    " is",
    " a",
    " for",
    " be",
    " will",
    " people",
    " government",
    " America",
    " war",
    " peace",
    " nation",
    "ing",
    "ed",
    "s",
    "'s",
    " law",
    " justice",
    " every",
    " must",
    " not",
    " no",
    " 1",
    "9",
    "4",
]
# What a page must show and never run.
HOSTILE = [
    "</script><script>window.hurt=1</script>",
    "<img src=x onerror=window.hurt=1>",
    "\"'`${window.hurt=1}{{7*7}}",
    "\u202eright to left\u200f",
    "\u2028\u0000&lt;b&gt;",
]


@dataclass(frozen=True)
class Size:
    """Of a made-up run."""

    seeds: Sequence[str] = ("0", "1", "2")
    steps: Sequence[int] = (0, 100, 400)
    n_layers: int = 2
    d_mlp: int = 64
    chosen: int = 12
    vocabulary: int = 500
    promoted: int = 10


def explored(folder: Path, size: Size, name: str = "made-up", words: Sequence[str] = ()) -> Path:
    """Write all tables and the explorer of a made-up run; returns its ``index.html``.

    Parameters
    ----------
    folder
        Of the run.
    size
        How large it is.
    name
        Of the run.
    words
        First tokens of the vocabulary; the others are of `WORDS`.
    """
    paths = write_tables(folder, size, words)
    models = {"source": "train", "seeds": [0, 1], "steps": [1]}
    corpus = {"source": "bundled", "tokens": 1280, "context_length": 64, "heldout_tokens": 128}
    config = resolve({"run": "made-up", "models": models, "corpus": corpus})
    # Any, also what the schema refuses.
    config["run"] = name
    config["models"] |= {"seeds": [*size.seeds], "steps": [*size.steps]}
    index = folder / "explorer/index.html"
    write_explorer(index, paths, folder / "corpus.json", config)
    return index


def write_tables(folder: Path, size: Size, words: Sequence[str] = ()) -> list[Path]:
    """Write the tables of a made-up run, and ``corpus.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = {"n_layers": size.n_layers, "d_mlp": size.d_mlp}
    made: dict[str, Any] = synthetic.tables(seeds=size.seeds, steps=size.steps, **shape)
    rng = np.random.default_rng(1)
    grid = made["universality"][["step", "seed", "layer", "neuron"]]
    made["roles"] = _roles(grid, size, rng)
    made["families"] = _families(grid, rng)
    made["vocabulary"] = _vocabulary(size, words)
    chosen = _chosen(grid, size, made["universality"])
    made["examples"] = _examples(chosen, size, rng)
    made["contexts"] = _contexts(made["examples"], made["matches"], size, rng)
    made["histograms"] = _histograms(chosen, rng)
    made["activating_tokens"] = _activating(chosen, size, rng)
    for name in ("universality", "effects", "neurons"):
        lacking = [column for column in COLUMNS[name] if column not in made[name]]
        made[name] = made[name].assign(**{column: rng.random(len(grid)) for column in lacking})
    made["matches"] = made["matches"].assign(best_corr_se=0.012)
    paths = []
    for name, rows in made.items():
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows)
        paths.append(folder / f"{name}.parquet")
        pq.write_table(table, paths[-1], compression="zstd")
    (folder / "corpus.json").write_text(json.dumps({"sha256": "ab" * 32}))
    return paths


def _ids(n: int, vocabulary: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Tokens as frequent as words are, about: the first ones most."""
    return (vocabulary ** rng.random(n) - 1).astype(np.int32)


def _lists(values: NDArray[Any], n: int, width: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(width * np.arange(n + 1, dtype=np.int32), values)


def _roles(grid: pd.DataFrame, size: Size, rng: np.random.Generator) -> pa.Table:
    n = len(grid)
    roles = np.array([None, "prediction", "suppression", "partition", "entropy"], object)
    columns = ("w_in_norm", "w_out_norm", "input_bias", "in_out_cos", "l2_penalty")
    columns += ("vocab_mean", "vocab_var", "vocab_skew", "vocab_kurt", "logit_var", "null_space")
    table = pa.Table.from_pandas(
        grid.assign(
            role=roles[rng.choice(5, n, p=[0.8, 0.08, 0.06, 0.04, 0.02])],
            **{name: rng.gamma(2, 1, n) for name in columns},
        ),
        preserve_index=False,
    )
    for name, sign in (("promoted", 1), ("suppressed", -1)):
        k = size.promoted
        cosines = sign * np.sort(rng.random((n, k)), axis=1)[:, ::-1].astype(np.float32)
        ids = rng.integers(0, size.vocabulary, k * n, np.int32)
        table = table.append_column(f"{name}_ids", _lists(ids, n, k))
        table = table.append_column(f"{name}_cos", _lists(cosines.ravel(), n, k))
    return table


def _families(grid: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    n = len(grid)
    families = np.array([None, "unigram", "letter", "previous token", "position"], object)
    family = families[rng.choice(5, n, p=[0.7, 0.15, 0.05, 0.05, 0.05])]
    explained = np.where(family == None, None, np.array(WORDS, object)[rng.choice(len(WORDS), n)])  # noqa: E711
    return grid.assign(
        family=family,
        explanation=explained,
        variance_reduction=rng.random(n),
        position_mi=rng.random(n) / 9,
    )


def _vocabulary(size: Size, words: Sequence[str]) -> pd.DataFrame:
    texts = [*words, *WORDS, *(f" word{i}" for i in range(size.vocabulary))][: size.vocabulary]
    return pd.DataFrame({"token_id": np.arange(size.vocabulary), "text": texts})


def _chosen(grid: pd.DataFrame, size: Size, universality: pd.DataFrame) -> pd.DataFrame:
    """The largest excess correlations of the last step, as many of every seed."""
    last = universality[universality["step"] == size.steps[-1]]
    best = last.sort_values("excess_corr", ascending=False).groupby("seed", observed=True)
    return grid.loc[best.head(size.chosen).index].sort_index().reset_index(drop=True)


def _activations(n: int, peaks: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
    """Windows of mostly small values around a peak, shape (windows, `WIDTH`)."""
    x = np.maximum(rng.exponential(0.3, (n, WIDTH)) - 0.4, -0.17) + rng.normal(0, 0.02, (n, WIDTH))
    x[:, PEAK] = peaks
    return x.astype(np.float32)


def _examples(chosen: pd.DataFrame, size: Size, rng: np.random.Generator) -> pa.Table:
    bands = [(band, rank) for band, n in BANDS.items() for rank in range(n)]
    heights = {"top": 5.0, "0.99-0.999": 3.0, "0.9-0.99": 1.5, "0.5-0.9": 0.5, "random": 0.1}
    n, each = len(chosen) * len(bands), len(bands)
    rows = chosen.loc[chosen.index.repeat(each)].reset_index(drop=True)
    rows["band"] = np.tile([band for band, _ in bands], len(chosen))
    rows["rank"] = np.tile(np.array([rank for _, rank in bands], np.int32), len(chosen))
    peaks = rows["band"].map(heights).fillna(-0.1) * (1 - 0.01 * rows["rank"])
    rows["sequence"], rows["position"] = rng.integers(0, 9999, n), rng.integers(10, 58, n)
    rows["activation"], rows["start"] = peaks, rows["position"] - PEAK
    windows = _activations(n, peaks.to_numpy(), rng)
    table = pa.Table.from_pandas(rows, preserve_index=False)
    table = table.append_column(
        "token_ids", _lists(_ids(n * WIDTH, size.vocabulary, rng), n, WIDTH)
    )
    return table.append_column("activations", _lists(windows.ravel(), n, WIDTH))


def _contexts(
    examples: pa.Table, matches: pd.DataFrame, size: Size, rng: np.random.Generator
) -> pa.Table:
    """The partners' activations follow the neuron's own, those of earlier steps less and less."""
    windows = examples["activations"].combine_chunks().flatten().to_numpy().reshape(-1, WIDTH)
    keys = examples.select(["step", "seed", "layer", "neuron", "band", "rank"]).to_pandas()
    keys["seed"] = keys["seed"].astype(str)
    last = matches[matches["step"] == size.steps[-1]].rename(
        columns={"best_layer": "other_layer", "best_neuron": "other_neuron"}
    )
    last = last.assign(seed=last["seed"].astype(str), other_seed=last["other_seed"].astype(str))
    best = ["seed", "layer", "neuron", "other_seed", "other_layer", "other_neuron"]
    parts = [keys.reset_index().merge(last[best], on=best[:3]).assign(other_step=size.steps[-1])]
    for step in size.steps[:-1]:
        parts.append(
            keys.reset_index().assign(
                other_seed=keys["seed"],
                other_layer=keys["layer"],
                other_neuron=keys["neuron"],
                other_step=step,
            )
        )
    rows = pd.concat(parts, ignore_index=True)
    share = np.where(rows["other_step"] == size.steps[-1], 0.9, 0.4)[:, None]
    noise = rng.normal(0, 0.05, (len(rows), WIDTH))
    seen = (share * windows[rows.pop("index").to_numpy()] + noise).astype(np.float32)
    table = pa.Table.from_pandas(rows, preserve_index=False)
    return table.append_column("activations", _lists(seen.ravel(), len(rows), WIDTH))


def _histograms(chosen: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    counts = rng.poisson(1e5 * np.exp(-np.arange(256) / 12), (len(chosen), 256))
    return chosen.assign(subset=None, low=-0.2, high=6.0, counts=[*counts])


def _activating(chosen: pd.DataFrame, size: Size, rng: np.random.Generator) -> pd.DataFrame:
    rows = chosen.loc[chosen.index.repeat(20)].reset_index(drop=True)
    return rows.assign(
        rank=np.tile(np.arange(20), len(chosen)),
        token_id=_ids(len(rows), size.vocabulary, rng),
        mean=np.tile(np.linspace(4, 1, 20), len(chosen)),
        count=rng.integers(10, 999, len(rows)),
    )
