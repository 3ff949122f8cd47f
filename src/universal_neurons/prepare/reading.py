"""The corpus of a run, as jobs read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.prepare.aligned import UNSHARED, across
from universal_neurons.prepare.clusters import halves_of, read_clusters
from universal_neurons.prepare.corpus import select
from universal_neurons.prepare.masking import Masking
from universal_neurons.prepare.subsets import Subsets
from universal_neurons.prepare.tokens import check_digest, excluded, read_facts
from universal_neurons.store.files import again, read_json


@dataclass(frozen=True, eq=False)
class Documents:
    """Which document every token of a corpus is of.

    Attributes
    ----------
    about
        What is known of the corpus (``corpus.json``).
    corpus_sha256
        Of its tokens.
    context_length
        Tokens per sequence.
    cluster
        Cluster of every sequence, shape (sequences,), see `prepare.clusters`.
    """

    about: str | Path
    corpus_sha256: str
    context_length: int
    cluster: NDArray[np.int64]

    @classmethod
    def read(cls, clusters: str | Path, about: str | Path) -> Documents:
        """Read both files.

        Raises
        ------
        UserError
            If one can't be read.
        """
        facts = read_facts(about)
        cluster = read_clusters(clusters, facts["n_sequences"])
        return cls(about, facts["sha256"], facts["context_length"], cluster)

    def check(self, corpus_sha256: str, path: str | Path) -> None:
        """Refuse to speak for `path`, made of the corpus of this digest, if that is another one.

        Raises
        ------
        UserError
            If it is.
        """
        if corpus_sha256 != self.corpus_sha256:
            raise UserError(
                f"{self.about}: not of the corpus that {path} was made of; the older one: "
                f"{again(self.about)}"
            )

    def of_tokens(self, token_index: NDArray[np.integer]) -> NDArray[np.int64]:
        """Cluster of every token, given as in `Activations.token_index`."""
        return self.cluster[token_index // self.context_length]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out text.

    Attributes
    ----------
    sequences
        Token ids, shape (sequences, context length).
    documents
        Cluster of every sequence, shape (sequences,), see `prepare.clusters`: sequences of one
        document are alike, so errors are over documents.
    masking
        Which of their tokens are to be predicted, by models that predict masked ones; None for
        models that predict the next token everywhere.
    """

    sequences: NDArray[np.integer]
    documents: NDArray[np.int64]
    masking: Masking | None = None

    @property
    def loss_kind(self) -> str:
        """What is predicted: ``next_token`` or ``masked``."""
        return "masked" if self.masking else "next_token"

    @cached_property
    def inputs(self) -> NDArray[np.integer]:
        """Token ids that models read, shape (sequences, positions).

        The last token of a sequence predicts no other that could be checked.
        """
        return self.masking.applied(self.sequences) if self.masking else self.sequences[:, :-1]

    @cached_property
    def targets(self) -> NDArray[np.integer]:
        """Token ids that are to be predicted, shape (sequences, predictions)."""
        if self.masking:
            return np.take_along_axis(self.sequences, self.masking.where, 1)
        return self.sequences[:, 1:]


@dataclass(frozen=True)
class Corpus:
    """Where the tokens are, and what is in them.

    Attributes
    ----------
    tokens
        All sequences (.npy).
    about
        What `tokens.describe` says of them (JSON).
    subsets
        Every token's subset (.npy), if the corpus has any.
    clusters
        Every sequence's documents (.npy, see `clusters`), where they are asked for.
    seed
        Whose tokens: of several tokenizers the corpus has the tokens of each (`of_seed`).
    """

    tokens: str | Path
    about: str | Path
    subsets: str | Path = ""
    clusters: str | Path = ""
    seed: str = ""

    def of_seed(self, seed: str) -> Corpus:
        """The corpus in the tokens of a seed's models; itself where all have one tokenizer."""
        return replace(self, seed=seed) if "aligned" in read_facts(self.about) else self

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is known of the corpus, and of the seed's tokenizer."""
        facts = read_facts(self.about)
        return facts if self._beside is None else {**facts, **facts["aligned"][self._beside]}

    @property
    def first_id(self) -> int:
        """Number of the first token of the seed's tokenizer among those of all (`vocabulary`)."""
        return self.facts.get("first_id", 0)

    @cached_property
    def _beside(self) -> int | None:
        """Number of the seed's tokenizer, of several; None where there is one.

        Raises
        ------
        UserError
            If the corpus is of other seeds.
        """
        tokenizers = read_facts(self.about).get("aligned")
        if tokenizers is None:
            return None
        for number, facts in enumerate(tokenizers):
            if self.seed in facts["seeds"]:
                return number
        raise UserError(f"{self.about}: has no tokens of seed {self.seed}; {again(self.about)}")

    @cached_property
    def _stored(self) -> NDArray:
        """The tokens as they are stored, checked to be those of `about`."""
        stored = np.load(self.tokens, mmap_mode="r")
        check_digest(stored, self.facts)
        return stored

    @cached_property
    def sequences(self) -> NDArray[np.integer]:
        """All sequences, shape (sequences, context length), checked to be those of `about`.

        Of several tokenizers they are a masked array (`numpy.ma`): those of its tokens are masked
        that are not scored, since other tokenizers have no end there (`aligned`).

        Raises
        ------
        UserError
            If they are not.
        """
        if self._beside is None:
            return self._stored
        own = self._stored[:, self._beside]
        return np.ma.MaskedArray(np.asarray(own["token"]), own["shared"] == UNSHARED)

    @cached_property
    def identity(self) -> NDArray[np.int32]:
        """What every scored token is to all models, shape (sequences, context length).

        Its number; of several tokenizers that of what all of them have there.
        """
        if self._beside is None:
            return self._stored
        return self._stored[:, self._beside]["shared"]

    def positions(
        self,
        seeds: NDArray[np.object_],
        sequence: NDArray[np.integer],
        at: NDArray[np.integer],
    ) -> NDArray[np.integer]:
        """Positions of other seeds' tokens among those of this one; the same with one tokenizer.

        Parameters
        ----------
        seeds, sequence
            Whose tokens and of which sequence, shape (n,).
        at
            Their positions, shape (n, some).

        Returns
        -------
        ndarray
            Of the shape of `at`; −1 where another tokenizer has no token that ends there.
        """
        if self._beside is None:
            return at
        found = at.copy()
        for seed in np.unique(seeds.astype(str)):
            home = replace(self, seed=str(seed))._beside
            if home != self._beside:
                rows = seeds == seed
                shared = self._stored[:, home]["shared"], self.identity
                found[rows] = across(*shared, sequence[rows], at[rows])
        return found

    @cached_property
    def labels(self) -> Subsets | None:
        """The subsets, if there are any."""
        if not self.subsets:
            return None
        found = Subsets.read(self.subsets, self.facts["subsets"], self._stored.shape)
        if self._beside is None:
            return found
        return replace(found, labels=found.labels[:, self._beside])

    @cached_property
    def halves(self) -> NDArray[np.int8]:
        """Half of the documents that every sequence is of, 0 or 1, shape (sequences,)."""
        return halves_of(read_clusters(self.clusters, len(self.sequences)))

    def excluded(self, option: str | Sequence[int]) -> list[int]:
        """Token ids that are not scored, see `tokens.excluded`."""
        return excluded(option, self.facts)

    def for_training(self, **asked: Any) -> NDArray[np.integer]:
        """The sequences that models are trained on; `asked` are the options of `corpus.select`.

        Raises
        ------
        UserError
            If the corpus is too short for what is asked for, on which the training does not depend.
        """
        return self.sequences[: select(self.facts, **asked)["n_train"]]

    def held_out(self, selection: str | Path, **asked: Any) -> HeldOut:
        """The held-out sequences and their documents.

        Parameters
        ----------
        selection
            File with what `corpus.select` returned for the corpus.
        asked
            Its options.

        Raises
        ------
        UserError
            If the file says something else than `select` does, or the clusters can't be read.
        """
        chosen = select(self.facts, **asked)
        if read_json(selection) != chosen:
            raise UserError(
                f"{selection}: not what the configuration asks for of {self.about}; "
                f"{again(selection)}"
            )
        own = slice(chosen["heldout_start"], chosen["heldout_stop"])
        documents = read_clusters(self.clusters, self.facts["n_sequences"])
        sequences, special = np.ma.getdata(self.sequences[own]), self.facts.get("masking")
        masking = special and Masking.draw(sequences, special, special["seed"])
        return HeldOut(sequences, documents[own], masking)
