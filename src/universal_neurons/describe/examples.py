"""In which contexts chosen neurons are active, how much, and at which tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from universal_neurons.activations import moments
from universal_neurons.describe.chosen import Found, choose
from universal_neurons.describe.collect import (
    OCCURRENCES,
    TOKENS,
    Batch,
    Contexts,
    Histogram,
    Sample,
    TokenSums,
    Top,
)
from universal_neurons.describe.windows import lists, places, read_neurons
from universal_neurons.errors import UserError
from universal_neurons.models.forward import parts_of, scored
from universal_neurons.models.load import Model, load_captured
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.subsets import Subsets
from universal_neurons.store.files import reading
from universal_neurons.store.same_run import check_same_run

# Of the sample that contexts are drawn from: tokens, and values in memory (1 GB) of all neurons.
SAMPLE_TOKENS, SAMPLE_VALUES = 1 << 16, 1 << 28


@dataclass(frozen=True, eq=False)
class Text:
    """What neurons are described on: the first sequences of a corpus.

    Attributes
    ----------
    sequences
        Token ids, shape (sequences, context length).
    exclude, positions
        Token ids and positions that are not scored: they are in windows, but no window is about
        one, and no count has them.
    subsets
        Of the corpus, if it has any.
    first_id
        Number of the first token of its tokenizer among those of the run (`vocabulary`).
    """

    sequences: NDArray[np.integer]
    exclude: Sequence[int]
    positions: Sequence[int] = ()
    subsets: Subsets | None = None
    first_id: int = 0

    @classmethod
    def of(
        cls, corpus: Corpus, n: int, exclude: Sequence[int] | str, positions: Sequence[int]
    ) -> Text:
        """The first `n` sequences of a corpus."""
        tokens, excluded = corpus.sequences[:n], corpus.excluded(exclude)
        return cls(tokens, excluded, positions, corpus.labels, corpus.first_id)

    def batch(self, first: int, size: int) -> Batch:
        """Some of its sequences."""
        own = slice(first, first + size)
        tokens = self.sequences[own]
        subset = None if self.subsets is None else self.subsets.labels[own]
        counted = scored(tokens, self.exclude, self.positions)
        return Batch(first, np.ma.getdata(tokens), counted, subset)

    @cached_property
    def occurrences(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens that are scored `OCCURRENCES` times or more, ascending, and how often."""
        counts = np.zeros(1 + int(self.sequences.max()), np.int64)
        for part in parts_of(self.sequences):
            counted = np.ma.getdata(part)[scored(part, self.exclude, self.positions)]
            counts += np.bincount(counted, minlength=len(counts))
        frequent = np.flatnonzero(counts >= OCCURRENCES)
        return frequent, counts[frequent]


@dataclass(frozen=True)
class Home:
    """The model whose neurons' contexts are chosen.

    Attributes
    ----------
    model
        The model of `seed` at `step`.
    seed, step
        Its names.
    low, high
        By layer the smallest and largest activation of every neuron over all scored tokens.
    """

    model: Model
    seed: str
    step: int
    low: Sequence[NDArray]
    high: Sequence[NDArray]

    @classmethod
    def read(
        cls,
        directory: str | Path,
        stores: Sequence[str | Path],
        seed: str,
        step: int,
        load_options: Mapping[str, str],
    ) -> Home:
        """Load a model and the ranges of its activations, from the moments of all shards.

        Raises
        ------
        UserError
            If the stores are not of one run, or see `models.load.load_captured`, with
            `load_options`.
        """
        with reading(stores[0]):
            captured = check_same_run(stores)["models"][f"{seed}/{step}"]
        _, sums = moments.read(stores)[step, seed]
        model = load_captured(directory, captured, stores[0], load_options)
        edges = np.cumsum(model.d_mlp)[:-1]
        return cls(model, seed, step, np.split(sums["low"], edges), np.split(sums["high"], edges))


@dataclass(frozen=True)
class Collected:
    """What is collected of the chosen neurons of a layer."""

    top: Top
    histogram: Histogram
    tokens: TokenSums
    sample: Sample

    def add(self, x: NDArray[np.float32], batch: Batch) -> None:
        """Take activations of shape (sequences, context length, neurons)."""
        for each in (self.top, self.histogram, self.tokens, self.sample):
            each.add(x, batch)


def examples(
    home: Home, text: Text, found: Found, which: str | int, random_seed: int
) -> dict[str, pa.Table | pd.DataFrame]:
    """Choose some of a model's neurons and describe them, see `choose` and `describe`.

    Parameters
    ----------
    random_seed
        Of what is drawn at random, with the model's names.
    """
    rng = np.random.default_rng([random_seed, home.step, *home.seed.encode()])
    return describe(home, text, choose(found, home.seed, home.model.d_mlp, which, rng), rng)


def describe(
    home: Home, text: Text, chosen: Sequence[NDArray[np.int64]], rng: np.random.Generator
) -> dict[str, pa.Table | pd.DataFrame]:
    """Pass a model through the text once and describe some of its neurons.

    Parameters
    ----------
    home
        The model.
    text
        What it reads.
    chosen
        By layer the neurons, ascending.
    rng
        Of the contexts drawn at random.

    Returns
    -------
    dict
        `columns.examples.EXAMPLES`, `HISTOGRAMS` and `ACTIVATING_TOKENS` by name.

    Raises
    ------
    UserError
        If no token is scored.
    """
    n, length = text.sequences.shape
    if not any(
        scored(part, text.exclude, text.positions).any() for part in parts_of(text.sequences)
    ):
        raise UserError("explorer.tokens: none of these tokens is scored; use more")
    size = min(SAMPLE_TOKENS, SAMPLE_VALUES // max(1, sum(map(len, chosen)))) // length
    drawn = np.sort(rng.choice(n, min(n, max(1, size)), replace=False))
    n_subsets = 1 if text.subsets is None else len(text.subsets.names)
    layers = [
        Collected(
            Top(len(own)),
            Histogram(home.low[layer][own], home.high[layer][own], n_subsets),
            TokenSums(text.occurrences[0], len(own)),
            Sample(drawn, length, len(own)),
        )
        for layer, own in enumerate(chosen)
    ]

    def take(layer: int, x: NDArray[np.float32], first: int) -> None:
        layers[layer].add(x, text.batch(first, len(x)))

    read_neurons(home.model, text.sequences, chosen, take)
    contexts, histograms, tokens = [], [], []
    for layer, (own, found) in enumerate(zip(chosen, layers, strict=True)):
        if len(own):
            neurons = Neurons(home.step, home.seed, layer, own, text.first_id)
            bands = {"top": found.top.contexts, **found.sample.contexts(rng)}
            contexts += [
                neurons.examples(band, each, np.ma.getdata(text.sequences))
                for band, each in bands.items()
            ]
            histograms.append(neurons.histograms(found.histogram, text.subsets))
            tokens.append(neurons.activating_tokens(found.tokens, *text.occurrences))
    return {
        "examples": pa.concat_tables(contexts),
        "histograms": pd.concat(histograms, ignore_index=True),
        "activating_tokens": pd.concat(tokens, ignore_index=True),
    }


@dataclass(frozen=True)
class Neurons:
    """The chosen neurons of a layer, and what was collected of them as rows of tables.

    Their tokens are numbered from `first_id` (`Text`).
    """

    step: int
    seed: str
    layer: int
    neuron: NDArray[np.int64]
    first_id: int = 0

    def _rows(self, column: NDArray[np.int64], **values: Any) -> dict[str, Any]:
        """Columns of a table whose rows are of the neurons at these indices."""
        keys = {"step": self.step, "seed": self.seed, "layer": self.layer}
        return {**keys, "neuron": self.neuron[column], **values}

    def examples(self, band: str, contexts: Contexts, sequences: NDArray[np.integer]) -> pa.Table:
        """The contexts of a band."""
        # By neuron, then by rank.
        column, rank = np.nonzero(np.isfinite(contexts.activation.T))
        sequence, position = contexts.sequence[rank, column], contexts.position[rank, column]
        at, last = places(position), sequences.shape[1] - 1
        inside = (at >= 0) & (at <= last)
        tokens = sequences[sequence[:, None], at.clip(0, last)].astype(np.int32) + self.first_id
        rows = self._rows(
            column,
            band=band,
            rank=rank,
            sequence=sequence,
            position=position,
            activation=contexts.activation[rank, column].astype(np.float64),
            start=at[:, 0].clip(0),
        )
        table = pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False)
        table = table.append_column("token_ids", lists(tokens, inside))
        return table.append_column("activations", lists(contexts.windows[rank, column], inside))

    def histograms(self, found: Histogram, subsets: Subsets | None) -> pd.DataFrame:
        """The histograms of all tokens, then those of every subset."""
        named: dict[str | None, NDArray] = {None: found.counts.sum(0)}
        if subsets is not None:
            named |= dict(zip(subsets.names, found.counts, strict=True))
        everyone = np.arange(len(self.neuron))
        parts = [
            pd.DataFrame(
                self._rows(
                    everyone,
                    subset=pd.array([name] * len(everyone), "str"),
                    low=found.low,
                    high=found.high,
                    counts=list(counts.astype(np.int64)),
                )
            )
            for name, counts in named.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def activating_tokens(
        self, found: TokenSums, token_ids: NDArray[np.int64], count: NDArray[np.int64]
    ) -> pd.DataFrame:
        """The tokens with the largest mean activations; of equal ones the smaller number."""
        mean = found.sums / count[:, None]
        order = np.argsort(-mean, axis=0, kind="stable")[:TOKENS]
        rank, column = (each.T.ravel() for each in np.indices(order.shape))
        which = order[rank, column]
        rows = self._rows(
            column,
            rank=rank,
            token_id=token_ids[which] + self.first_id,
            mean=mean[which, column],
            count=count[which],
        )
        return pd.DataFrame(rows)
