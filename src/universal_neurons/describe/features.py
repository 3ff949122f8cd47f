"""What can be said of a token at its place: the explanations that neurons are held against."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

# Token ids whose own sums are kept, of those with the most scored tokens.
MOST_TOKENS = 4096
# Marks that end a sentence, and what may stand after them.
ENDS, CLOSING = (".", "!", "?"), "\"'”’)]»"


@dataclass(frozen=True)
class Explanation:
    """Something that is true of some tokens.

    Attributes
    ----------
    kind
        Its family, as tables name it.
    text
        Which of its kind.
    """

    kind: str
    text: str


def classes(texts: Sequence[str]) -> dict[Explanation, NDArray[np.bool_]]:
    """Classes of tokens by their text, and which tokens they hold, shape (vocabulary,).

    Parameters
    ----------
    texts
        Of every token id.
    """
    bare = [text.strip() for text in texts]
    found = {
        Explanation("sentence end", "ends a sentence"): [
            b.rstrip(CLOSING).endswith(ENDS) for b in bare
        ],
        Explanation("space", "starts with a space"): [text.startswith(" ") for text in texts],
        Explanation("capital", "starts with a capital"): [b[:1].isupper() for b in bare],
        Explanation("digit", "is of digits"): [b.isdigit() for b in bare],
        Explanation("punctuation", "is punctuation"): [
            bool(b) and not any(map(str.isalnum, b)) for b in bare
        ],
    }
    for letter in string.ascii_lowercase:
        own = Explanation("letter", f"starts with {letter}")
        found[own] = [b[:1].lower() == letter for b in bare]
    return {explanation: np.array(holds, bool) for explanation, holds in found.items()}


@dataclass(frozen=True, eq=False)
class Features:
    """The explanations of a corpus.

    Attributes
    ----------
    texts
        Of every token id of the vocabulary; empty where there is no tokenizer.
    frequent
        The token ids with sums of their own, most frequent first.
    context_length
        Tokens per sequence.
    labels
        By kind, what a token may be labelled with, such as the subsets of the corpus.
    """

    texts: Sequence[str]
    frequent: NDArray[np.int64]
    context_length: int
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        sequences: NDArray[np.integer],
        counted: NDArray[np.bool_],
        texts: Sequence[str],
        labels: Mapping[str, Sequence[str]],
    ) -> Features:
        """Of the sequences on which neurons are described.

        Parameters
        ----------
        sequences
            Token ids, shape (sequences, context length).
        counted
            Which of the tokens are scored, of the same shape.
        texts, labels
            See the class.
        """
        counts = np.bincount(sequences[counted])
        frequent = np.argsort(-counts, kind="stable")[:MOST_TOKENS]
        return cls(texts, frequent[counts[frequent] > 0], sequences.shape[1], labels)

    @cached_property
    def _classes(self) -> dict[Explanation, NDArray[np.bool_]]:
        return classes(self.texts) if self.texts else {}

    @cached_property
    def explanations(self) -> list[Explanation]:
        """Of the columns of `Places.dense`."""
        own = list(self._classes)
        return [
            Explanation("repetition", "seen before in its context"),
            *own,
            *(Explanation("previous token", f"after one that {e.text}") for e in own),
            *(Explanation(kind, name) for kind, names in self.labels.items() for name in names),
        ]

    def name(self, token_id: int) -> str:
        """A token's text; its number where there is none."""
        return self.texts[token_id] if token_id < len(self.texts) else f"#{token_id}"

    @cached_property
    def variants(self) -> tuple[NDArray[np.int64], list[str]]:
        """Which frequent tokens are the same word but for case and spaces, and the words.

        Returns
        -------
        of_token
            Number of every frequent token's word, shape (frequent tokens,).
        words
            Their texts, only of those with several tokens a word of its own.
        """
        bare = [self.name(i).strip().lower() or self.name(i) for i in self.frequent.tolist()]
        words, of_token = np.unique(np.array(bare, dtype=object).astype(str), return_inverse=True)
        return of_token, words.tolist()

    def places(
        self,
        batch: NDArray[np.integer],
        counted: NDArray[np.bool_],
        labels: Mapping[str, NDArray[np.integer]],
    ) -> Places:
        """The labels of a batch's scored tokens.

        Parameters
        ----------
        batch
            Token ids, shape (sequences, context length).
        counted
            Which are scored, of the same shape.
        labels
            By kind, which of its labels every token has, of the same shape.
        """
        before = np.full_like(batch, -1)
        before[:, 1:] = batch[:, :-1]
        position = np.broadcast_to(np.arange(batch.shape[1]), batch.shape)
        columns = [seen_before(batch)[counted]]
        own, previous = batch[counted], before[counted]
        columns += [holds[own] for holds in self._classes.values()]
        # There is no token before the first, and nothing is true of it.
        columns += [holds[previous] & (previous >= 0) for holds in self._classes.values()]
        for kind, names in self.labels.items():
            columns += [labels[kind][counted] == i for i in range(len(names))]
        return Places(
            token=self._kept(own),
            previous=self._kept(previous),
            position=position[counted].astype(np.int64),
            dense=np.stack(columns, axis=1).astype(np.float32),
        )

    def _kept(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Places of token ids in `frequent`; its length for others."""
        order = np.argsort(self.frequent)
        ascending = self.frequent[order]
        at = np.searchsorted(ascending, ids).clip(max=len(order) - 1)
        return np.where(ascending[at] == ids, order[at], len(order))


def seen_before(batch: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether a token's id was in its sequence before, shape (sequences, context length)."""
    order = np.argsort(batch, axis=1, kind="stable")
    ordered = np.take_along_axis(batch, order, 1)
    again = np.zeros(batch.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    found = np.empty_like(again)
    np.put_along_axis(found, order, again, 1)
    return found


@dataclass(frozen=True)
class Places:
    """Labels of scored tokens.

    Attributes
    ----------
    token, previous
        Place of the token, and of the one before it, among the frequent ones, or their number;
        int64, shape (tokens,).
    position
        Place in the sequence, from 0, int64, shape (tokens,).
    dense
        Whether the `Features.explanations` hold, float32 0 or 1, shape (tokens, explanations).
    """

    token: NDArray[np.int64]
    previous: NDArray[np.int64]
    position: NDArray[np.int64]
    dense: NDArray[np.float32]

    def labels(self) -> dict[str, torch.Tensor]:
        """The first three by name."""
        return {
            name: torch.from_numpy(getattr(self, name))
            for name in ("token", "previous", "position")
        }
