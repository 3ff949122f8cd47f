"""The same text through several tokenizers, whose tokens are paired where they end at one byte.

Models of different tokenizers are compared where their tokens end at the same byte of a document
(Dravid et al., 2606.03990). Every sequence starts at the same byte in all tokenizers, so that at a
shared end all models have read the same text. Positions whose ends all tokenizers share, and that
none of them excludes, are scored: as many, in the same order, for all models, so that whatever
compares rows of activations needs to know no more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.models.weights import one_line
from universal_neurons.prepare.clusters import LEAST_SEQUENCES
from universal_neurons.prepare.pieces import Splits
from universal_neurons.prepare.text import Document
from universal_neurons.prepare.tokenizer import (
    has_tokenizer,
    identity,
    load_tokenizer,
    special_token_ids,
)
from universal_neurons.prepare.tokens import label_of, require_end, splits_of

logger = logging.getLogger(__name__)

# A token, and the number of what all tokenizers have where it ends: `UNSHARED` where one of them
# has no end there, or a token that is not scored.
RECORD = np.dtype([("token", np.int32), ("shared", np.int32)])
UNSHARED = -1

# In place of the end of a token that is within a character, or has no text.
INSIDE = 0


def byte_ends(text: str) -> NDArray[np.int64]:
    """Bytes of UTF-8 before every character of a text and before its end, shape (1 + length,)."""
    code = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    size = 1 + sum((code >= least).astype(np.int64) for least in (1 << 7, 1 << 11, 1 << 16))
    return np.concatenate([[0], np.cumsum(size, dtype=np.int64)])


@dataclass(frozen=True, eq=False)
class Reader:
    """One of the tokenizers.

    Attributes
    ----------
    seeds
        Whose it is.
    tokenizer
        As `load_tokenizer` returns it.
    excluded
        Its tokens that are not scored.
    """

    seeds: Sequence[str]
    tokenizer: Any
    excluded: Sequence[int]

    def __post_init__(self) -> None:
        require_end(self.tokenizer)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError(
                f"corpus.align: {self.tokenizer.name_or_path}: the tokenizer does not say where "
                "its tokens are in a text; save it as tokenizer.json (a fast tokenizer)"
            )
        # It adds no tokens here, but may move ends away from spaces.
        backend.post_processor = None

    def read(self, texts: list[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """Tokens of every text and the byte that each ends before, ascending, or `INSIDE`.

        Of several tokens that share a character the last one ends it.

        Raises
        ------
        UserError
            If the tokenizer has no token for something in a text, and none for what is unknown.
        """
        try:
            found = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        except Exception as error:
            raise UserError(
                f"{self.tokenizer.name_or_path}: the tokenizer fails on a text ({one_line(error)})"
            ) from error
        read = []
        for text, encoding in zip(texts, found, strict=True):
            stops = np.array([stop for _, stop in encoding.offsets], np.int64)
            ends = byte_ends(text)[stops]
            later = np.minimum.accumulate(ends[::-1])[::-1]
            ends[:-1][ends[:-1] >= later[1:]] = INSIDE
            read.append((np.array(encoding.ids, np.int32), ends))
        return read


def across(
    home: NDArray[np.integer],
    own: NDArray[np.integer],
    sequence: NDArray[np.integer],
    at: NDArray[np.integer],
) -> NDArray[np.int64]:
    """Positions of one tokenizer's tokens among those of another, by what is scored.

    Parameters
    ----------
    home, own
        Field ``shared`` of `RECORD` of either, shape (sequences, context length).
    sequence
        Of the tokens, shape (n,).
    at
        Their positions in `home`, some per sequence, shape (n, some).

    Returns
    -------
    ndarray
        Positions in `own`, of the shape of `at`; −1 for tokens that are not scored.
    """
    held, row = np.unique(sequence, return_inverse=True)
    row, last = row[:, None], home.shape[1] - 1
    from_home, to_own = home[held] != UNSHARED, own[held] != UNSHARED
    # As many are scored of either, in the same order.
    number, position = from_home.cumsum(1) - 1, np.argsort(~to_own, axis=1, kind="stable")
    here = at.clip(0, last)
    known = from_home[row, here] & (at == here)
    return np.where(known, position[row, number[row, here]], -1)


def require_own(directories: Mapping[str, Path]) -> None:
    """Refuse a seed without a tokenizer in the directory that is given of it."""
    for seed, directory in directories.items():
        if not has_tokenizer(directory):
            raise UserError(
                f"corpus.align: bytes takes the tokenizer of every seed, and seed {seed} has none "
                f"in {directory}; put its files there"
            )


def readers(directories: Mapping[str, Path], exclude: str | Sequence[int]) -> list[Reader]:
    """The tokenizers of seeds, each once.

    Parameters
    ----------
    directories
        Where the tokenizer of every seed is.
    exclude
        ``auto``, or no token ids: those of several tokenizers differ.

    Raises
    ------
    UserError
        If one is missing or damaged, or lacks ends of tokens or of texts.
    """
    require_own(directories)
    seeds: dict[str, list[str]] = {}
    tokenizers: dict[str, Any] = {}
    for seed, directory in directories.items():
        tokenizer = load_tokenizer(directory)
        kind = json.dumps(identity(tokenizer))
        seeds.setdefault(kind, []).append(seed)
        tokenizers.setdefault(kind, tokenizer)
    return [
        Reader(seeds[kind], one, special_token_ids(one) if exclude == "auto" else [])
        for kind, one in tokenizers.items()
    ]


def splits_of_all(tokenizers: Sequence[Any]) -> Splits:
    """Whether all tokenizers give two texts, one after the other, the tokens of each alone."""
    of_each = list(map(splits_of, tokenizers))
    return lambda left, right: all(splits(left, right) for splits in of_each)


class AlignedClusters:
    """A `tokens.Cut` of several tokenizers, with their tokens side by side.

    A sequence starts at the same byte in all of them, and has as many tokens of each. The next one
    starts at the last shared end that lies within all: a tokenizer of longer tokens reads on beyond
    it, and reads that text again. Where all tokenizers are one, no text is read twice.

    Parameters
    ----------
    given
        The tokenizers.
    context_length
        Tokens per sequence.
    positions
        Positions in a sequence that are not scored, of any tokenizer.
    raw, labels
        See `tokens.Cut`; a sequence has the shape (tokenizers, context_length) of `RECORD`.
    """

    def __init__(
        self,
        given: Sequence[Reader],
        context_length: int,
        positions: Sequence[int],
        raw: IO[bytes],
        labels: IO[bytes],
    ) -> None:
        self._readers, self._length, self._positions = given, context_length, positions
        self.raw, self.labels = raw, labels
        self.dtype: np.dtype = RECORD
        self.shape: tuple[int, ...] = (len(given), context_length)
        self.sizes: list[int] = []
        self._numbers: dict[tuple[int, ...], int] = {}
        self.splits = splits_of_all([each.tokenizer for each in given])
        # Bytes and tokens read; tokens up to the last shared end of sequences; shared and scored.
        self.n_bytes, self.n_read = 0, np.zeros(len(given), np.int64)
        self.n_common, self.n_shared, self.n_scored = np.zeros(len(given), np.int64), 0, 0
        self._begin()

    def _begin(self) -> None:
        """Begin a cluster: tokens, subsets and places of shared ends that no sequence has yet."""
        n = len(self._readers)
        self._ids = [np.empty(0, np.int32)] * n
        self._subsets = [np.empty(0, np.int16)] * n
        self._at = np.empty((n, 0), np.int64)
        self._n_sequences, self._n_tokens = 0, np.zeros(n, np.int64)

    @property
    def n_tokens(self) -> int:
        """Tokens written, of each tokenizer."""
        return self.raw.tell() // (RECORD.itemsize * len(self._readers))

    def append(self, batch: Sequence[Document], names: dict[str, int]) -> None:
        """Take documents, and pieces of long ones."""
        texts = [document.text for document in batch]
        for document, *parts in zip(batch, *(r.read(texts) for r in self._readers), strict=True):
            size = len(document.text.encode())
            if document.ends:
                # The end of a text has one byte of its own, and a token of its own in all of them.
                parts = [
                    (np.append(ids, np.int32(r.tokenizer.eos_token_id)), np.append(ends, size + 1))
                    for r, (ids, ends) in zip(self._readers, parts, strict=True)
                ]
            self._add(parts, label_of(document, names))
            self.n_bytes += size
            self._cut()
            if document.ends and self._n_tokens.min() >= LEAST_SEQUENCES * self._length:
                self.close()

    def _add(
        self, parts: Sequence[tuple[NDArray[np.int32], NDArray[np.int64]]], label: int | None
    ) -> None:
        shared = reduce(np.intersect1d, (ends[ends > INSIDE] for _, ends in parts))
        places = np.empty((len(parts), len(shared)), np.int64)
        for k, (ids, ends) in enumerate(parts):
            own = np.flatnonzero(ends > INSIDE)
            places[k] = len(self._ids[k]) + own[np.searchsorted(ends[own], shared)]
            self._ids[k] = np.concatenate([self._ids[k], ids])
            if label is not None:
                one = np.full(len(ids), label, np.int16)
                self._subsets[k] = np.concatenate([self._subsets[k], one])
            self._n_tokens[k] += len(ids)
            self.n_read[k] += len(ids)
        self._at = np.concatenate([self._at, places], axis=1)

    def _cut(self) -> None:
        """Write all sequences that there are tokens of."""
        start, first, n_shared = np.zeros(len(self._ids), np.int64), 0, self._at.shape[1]
        sizes = np.array([len(ids) for ids in self._ids])
        while first < n_shared and (start + self._length <= sizes).all():
            # Shared ends are among the tokens of a sequence in all tokenizers, or not in it.
            ends = zip(self._at, start + self._length, strict=True)
            stop = min(int(np.searchsorted(at, end)) for at, end in ends)
            if stop > first:
                self._write(start, self._at[:, first:stop] - start[:, None])
            first = max(stop, first + 1)
            start = self._at[:, first - 1] + 1
        self._ids = [ids[i:] for ids, i in zip(self._ids, start, strict=True)]
        self._subsets = [own[i:] for own, i in zip(self._subsets, start, strict=True)]
        self._at = self._at[:, first:] - start[:, None]

    def _write(self, start: NDArray[np.int64], at: NDArray[np.int64]) -> None:
        """Write a sequence; its shared ends are at these places in it, shape (tokenizers, ends)."""
        rows = np.empty(self.shape, RECORD)
        own = [slice(i, i + self._length) for i in start.tolist()]
        rows["token"] = [ids[place] for ids, place in zip(self._ids, own, strict=True)]
        rows["shared"] = UNSHARED
        tokens = np.take_along_axis(rows["token"], at, axis=1)
        counted = ~np.isin(at, self._positions).any(0)
        for reader, ids in zip(self._readers, tokens, strict=True):
            counted &= ~np.isin(ids, reader.excluded)
        kinds = zip(*tokens[:, counted].tolist(), strict=True)
        numbers = [self._numbers.setdefault(kind, len(self._numbers)) for kind in kinds]
        for k, places in enumerate(at[:, counted]):
            rows["shared"][k, places] = numbers
        rows.tofile(self.raw)
        if len(self._subsets[0]):
            parts = zip(self._subsets, own, strict=True)
            np.stack([labels[place] for labels, place in parts]).tofile(self.labels)
        self._n_sequences += 1
        self.n_common += at[:, -1] + 1
        self.n_shared += at.shape[1]
        self.n_scored += len(numbers)

    def close(self) -> int:
        """End a cluster and drop what fills no sequence; returns how many tokens those are."""
        left = min(map(len, self._ids))
        if self._n_sequences:
            self.sizes.append(self._n_sequences)
        self._begin()
        return left

    def log(self) -> None:
        """Say how many tokens are shared."""
        for reader, facts in zip(self._readers, self.facts(0), strict=True):
            logger.info(
                "tokenizer of %s: %.1f bytes per token; %.0f %% of the tokens end where those of "
                "all tokenizers do",
                *(", ".join(reader.seeds), facts["bytes_per_token"], 100 * facts["shared"]),
            )
        written = max(1, sum(self.sizes) * self._length)
        logger.info("%.0f %% of all positions are scored", 100 * self.n_scored / written)

    def facts(self, vocabulary: int) -> list[dict[str, Any]]:
        """What is known of every tokenizer, given the largest of the models' vocabularies.

        Returns
        -------
        list
            Of every tokenizer its ``seeds`` and ``tokenizer``, the `identity`; ``first_id``, the
            number of its first token in the table of all vocabularies, and ``n_ids``, of its rows
            there; ``bytes_per_token``; and ``shared``, the share of its tokens, up to the last
            shared end of every sequence, that end where tokens of all tokenizers do.
        """
        n_ids = max(vocabulary, *(len(reader.tokenizer) for reader in self._readers))
        return [
            {
                "seeds": list(reader.seeds),
                "tokenizer": identity(reader.tokenizer),
                "first_id": k * n_ids,
                "n_ids": n_ids,
                "bytes_per_token": self.n_bytes / max(1, int(read)),
                "shared": self.n_shared / max(1, int(common)),
            }
            for k, (reader, read, common) in enumerate(
                zip(self._readers, self.n_read, self.n_common, strict=True)
            )
        ]
