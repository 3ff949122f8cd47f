"""From documents to sequences of token ids, and what is known of them."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.prepare.clusters import LEAST_SEQUENCES, arrange, split_large, write_clusters
from universal_neurons.prepare.pieces import Splits, pieces
from universal_neurons.prepare.text import Document
from universal_neurons.prepare.tokenizer import encode, identity, special_token_ids
from universal_neurons.store.files import again, read_record, replacing

logger = logging.getLogger(__name__)


# Documents or characters tokenised at a time: enough to keep all cores of the tokenizer busy. Its
# tokens take some hundred bytes per character.
BATCH, BATCH_CHARACTERS = 256, 1 << 21


# More subsets than this are taken for a mistake: statistics are kept of each.
MOST_SUBSETS = 256


# What `corpus.make` returns of every corpus; for encoders also ``masking``, and with
# `corpus.align` also ``aligned``.
FACTS = {
    "source": str,
    "n_sequences": int,
    "context_length": int,
    "max_token_id": int,
    "sha256": str,
    "tokenizer": dict | None,
    "special_token_ids": list,
    "subsets": list,
    "edges": list | None,
}


def tokenise(
    parts: Mapping[str | None, Iterable[Document]],
    tokenizer: Any,
    context_length: int,
    *,
    seed: int,
    out: str | Path,
    clusters: str | Path,
    subsets: str | Path | None = None,
    enough: int | None = None,
) -> tuple[list[str], list[int]]:
    """Tokenise documents into a shuffled .npy file of whole sequences.

    Parameters
    ----------
    parts
        Documents of each corpus by its name. That is their subset, with the document's own behind a
        slash if it has one. After each document comes the tokenizer's end-of-text token.
    tokenizer
        A Hugging Face tokenizer with an end-of-text (EOS) token.
    context_length
        Tokens per sequence. What is left at the end of a cluster of documents is dropped.
    seed
        Of the order of the sequences, see `clusters.arrange`.
    out
        File to write: int32, shape (sequences, context_length).
    clusters
        File to write every sequence's cluster to: int64, shape (sequences,).
    subsets
        File to write each token's subset to: int16, indices into what is returned, same shape.
    enough
        Number of tokens after which no more documents are read; every corpus gives an equal share.

    Returns
    -------
    subsets, edges
        Names of the subsets, none if no document has one; and places that have different clusters
        on either side, see `clusters.arrange`.

    Raises
    ------
    UserError
        If the corpus is shorter than one sequence, the tokenizer has no EOS token, or there are
        more than `MOST_SUBSETS` subsets.
    """
    require_end(tokenizer)
    with temporary_files(Path(out).parent, 2) as (raw, labels):
        cut = _Clusters(tokenizer, context_length, raw, labels)
        made = Files.of(out, clusters, subsets)
        return write_sequences(parts, cut, made, seed=seed, enough=enough)


def require_end(tokenizer: Any) -> None:
    """Refuse a tokenizer without an end-of-text (EOS) token."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has no end-of-text token to join documents "
            "by; name it in tokenizer_config.json (eos_token)"
        )


@contextmanager
def temporary_files(folder: Path, n: int) -> Iterator[list[IO[bytes]]]:
    """Files without a name in a folder, which is made; they are gone when they are closed."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        yield [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(n)]


@dataclass(frozen=True)
class Files:
    """The files of a corpus: its tokens, its clusters, and its subsets where it has any."""

    tokens: Path
    clusters: Path
    subsets: Path | None

    @classmethod
    def of(
        cls, tokens: str | Path, clusters: str | Path, subsets: str | Path | None = None
    ) -> Files:
        """At these paths."""
        return cls(Path(tokens), Path(clusters), None if subsets is None else Path(subsets))


class Cut(Protocol):
    """Tokens of documents in clusters, each of whole sequences.

    Attributes
    ----------
    raw, labels
        Files that sequences and the subsets of their tokens (int16) are written to.
    dtype, shape
        Of a sequence; the subsets have the same shape.
    sizes
        Number of sequences of every cluster that is closed.
    splits
        Whether two texts, one after the other, have the tokens of each alone.
    """

    raw: IO[bytes]
    labels: IO[bytes]
    dtype: np.dtype
    shape: tuple[int, ...]
    sizes: list[int]
    splits: Splits

    @property
    def n_tokens(self) -> int:
        """Tokens written."""

    def append(self, batch: Sequence[Document], names: dict[str, int]) -> None:
        """Take documents, and pieces of long ones, whose subsets `names` counts (`label_of`)."""

    def close(self) -> int:
        """End a cluster and drop what fills no sequence; returns how many tokens those are."""


def write_sequences(
    parts: Mapping[str | None, Iterable[Document]],
    cut: Cut,
    made: Files,
    *,
    seed: int,
    enough: int | None,
) -> tuple[list[str], list[int]]:
    """Read documents, cut them and write the sequences in a seeded order; see `tokenise`."""
    names: dict[str, int] = {}
    for corpus, texts in parts.items():
        # What a batch was too long by is not at the expense of the next corpus.
        limit = None if enough is None else cut.n_tokens + enough / len(parts)
        named = (document._replace(subset=_subset(corpus, document)) for document in texts)
        for batch in _batches(pieces(progress(named, "texts"), cut.splits)):
            cut.append(batch, names)
            if limit is not None and cut.n_tokens >= limit and batch[-1].ends:
                break
    n_left = cut.close()
    if not cut.sizes:
        raise UserError(
            f"corpus.path: the corpus has {n_left} tokens, fewer than one sequence of "
            f"{cut.shape[-1]}"
        )
    order, cluster, edges = arrange(split_large(cut.sizes), seed)
    _write_in_order(cut.raw, cut.dtype, cut.shape, order, made.tokens)
    if made.subsets is not None:
        _write_in_order(cut.labels, np.dtype(np.int16), cut.shape, order, made.subsets)
    write_clusters(made.clusters, cluster)
    logger.info("%d sequences of %d tokens", len(order), cut.shape[-1])
    return list(names), edges


def _subset(corpus: str | None, document: Document) -> str | None:
    """The subset of a document of a corpus; None if neither has a name."""
    both = [name for name in (corpus, document.subset) if name is not None]
    return "/".join(both) if both else None


def label_of(document: Document, names: dict[str, int]) -> int | None:
    """Number of a document's subset, None if it has none; `names` counts them.

    Raises
    ------
    UserError
        If there are more than `MOST_SUBSETS`.
    """
    if document.subset is None:
        return None
    label = names.setdefault(document.subset, len(names))
    if len(names) > MOST_SUBSETS:
        raise UserError(
            f"corpus.subset_key: more than {MOST_SUBSETS} subsets ({document.subset!r}, …): is it "
            "the right field?"
        )
    return label


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents, and pieces of long ones, to be tokenised at a time."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if len(batch) == BATCH or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def splits_of(tokenizer: Any) -> Splits:
    """Whether a tokenizer gives two texts, one after the other, the tokens of each alone."""

    def splits(left: str, right: str) -> bool:
        whole, a, b = encode(tokenizer, [left + right, left, right])
        return whole == a + b

    return splits


class _Clusters:
    """A `Cut` of one tokenizer."""

    def __init__(
        self, tokenizer: Any, context_length: int, raw: IO[bytes], labels: IO[bytes]
    ) -> None:
        self._tokenizer, self._length = tokenizer, context_length
        self.raw, self.labels = raw, labels
        self.dtype: np.dtype = np.dtype(np.int32)
        self.shape: tuple[int, ...] = (context_length,)
        self.splits = splits_of(tokenizer)
        self._start = 0
        self.sizes: list[int] = []

    @property
    def n_tokens(self) -> int:
        """Tokens written."""
        return self.raw.tell() // 4

    def append(self, batch: Sequence[Document], names: dict[str, int]) -> None:
        """Write the tokens of documents and the labels of their subsets."""
        texts = encode(self._tokenizer, [document.text for document in batch])
        for document, ids in zip(batch, texts, strict=True):
            end = [self._tokenizer.eos_token_id] if document.ends else []
            tokens, label = np.asarray([*ids, *end], np.int32), label_of(document, names)
            tokens.tofile(self.raw)
            if label is not None:
                np.full(len(tokens), label, np.int16).tofile(self.labels)
            if document.ends and self.n_tokens - self._start >= LEAST_SEQUENCES * self._length:
                self.close()

    def close(self) -> int:
        """End a cluster and drop what fills no sequence; returns how many tokens those are."""
        n_sequences, left = divmod(self.n_tokens - self._start, self._length)
        if n_sequences:
            self.sizes.append(n_sequences)
        self._start += n_sequences * self._length
        for file, size in ((self.raw, 4), (self.labels, 2)):
            if file.tell():
                file.seek(self._start * size)
                file.truncate()
        return left


def _write_in_order(
    raw: IO[bytes],
    dtype: np.dtype,
    shape: tuple[int, ...],
    order: NDArray[np.int64],
    out: Path,
) -> None:
    """Write a file's rows in another order as .npy; nothing is mapped, so none of it in memory."""
    raw.flush()
    descr = np.lib.format.dtype_to_descr(dtype)
    about = {"descr": descr, "fortran_order": False, "shape": (len(order), *shape)}
    size = dtype.itemsize * math.prod(shape)
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, about)
        for row in order.tolist():
            file.write(os.pread(raw.fileno(), size, row * size))


def copy_token_ids(path: str | Path, context_length: int, out: str | Path) -> int:
    """Copy a .npy file of token ids to `out` as int32, in file order; see `tokenise`.

    Raises
    ------
    UserError
        If the file is not an integer array of shape (sequences, context_length), or has negative
        ids.
    """
    given = load_token_ids(path, context_length)
    with replacing(Path(out)) as temporary:
        copy = np.lib.format.open_memmap(temporary, "w+", np.int32, given.shape)
        for start in range(0, len(given), 4096):
            block = given[start : start + 4096]
            if block.min() < 0 or block.max() > np.iinfo(np.int32).max:
                raise UserError(f"corpus.path: {path} has negative or absurdly large token ids")
            copy[start : start + 4096] = block
        copy.flush()
    return len(given)


def load_token_ids(path: str | Path, context_length: int) -> NDArray[np.integer]:
    """Map a .npy file of token ids, shape (sequences, context_length), into memory.

    Raises
    ------
    UserError
        If there is no such file, or its shape or dtype is wrong.
    """
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"corpus.path: {path}: not a .npy file of token ids: {error}") from error
    if ids.ndim != 2 or ids.shape[1] != context_length or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(
            f"corpus.path: {path} has shape {ids.shape} and dtype {ids.dtype}; expected integers "
            f"of shape (sequences, {context_length}), the second being corpus.context_length"
        )
    return ids


def token_digest(ids: NDArray) -> str:
    """SHA-256 over token ids, read block by block."""
    sha = hashlib.sha256()
    for start in range(0, len(ids), 65536):
        sha.update(np.ascontiguousarray(ids[start : start + 65536]).data)
    return sha.hexdigest()


def read_facts(path: str | Path) -> dict[str, Any]:
    """Read what `corpus.make` said of a corpus (``corpus.json``)."""
    return read_record(path, FACTS)


def check_digest(ids: NDArray, about: Mapping[str, Any]) -> None:
    """Refuse token ids that are not those `describe` saw; a corpus is read in about a second.

    Raises
    ------
    UserError
        If the file was damaged or is of another run.
    """
    # Those of several tokenizers lie side by side, see `aligned`.
    beside = [len(about["aligned"])] if "aligned" in about else []
    shape = (about["n_sequences"], *beside, about["context_length"])
    if ids.shape != shape or token_digest(ids) != about["sha256"]:
        path = getattr(ids, "filename", None) or "tokens.npy"
        raise UserError(f"{path}: damaged, or not the tokens of its corpus.json; {again(path)}")


def describe(tokens: str | Path, tokenizer: Any, source: str) -> dict[str, Any]:
    """What later jobs need to know of a token file.

    Returns
    -------
    dict
        ``source``, ``n_sequences``, ``context_length``, ``max_token_id``, ``sha256`` of the token
        ids, ``tokenizer``: its `identity`, and ``special_token_ids``: what
        ``exclude_token_ids: auto`` stands for. Without a tokenizer (possible with the source
        ``tokens``) that is nothing.
    """
    stored = np.load(tokens, mmap_mode="r")
    ids = stored if stored.dtype.names is None else stored["token"]
    largest = max(int(ids[i : i + 65536].max()) for i in range(0, len(ids), 65536))
    return {
        "source": source,
        "n_sequences": ids.shape[0],
        "context_length": ids.shape[-1],
        "max_token_id": largest,
        "sha256": token_digest(stored),
        "tokenizer": identity(tokenizer),
        "special_token_ids": special_token_ids(tokenizer) if tokenizer is not None else [],
    }


def excluded(option: str | Sequence[int], about: Mapping[str, Any]) -> list[int]:
    """The token ids that `exclude_token_ids` (auto or a list) stands for in a corpus."""
    if isinstance(option, str):
        return about["special_token_ids"]
    # Those that frame an encoder's text are never scored.
    never = about.get("masking", {}).get("never", [])
    return [*option, *(i for i in never if i not in option)]
