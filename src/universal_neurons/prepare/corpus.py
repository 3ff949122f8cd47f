"""From text to token sequences: read, tokenise, cut, shuffle, and choose what is scored.

Documents are joined with the end-of-text token and cut into whole sequences, so no position is
padding. One seeded order of all sequences makes the choice nested: the scored sequences are taken
from the front and the held-out ones from the back, so asking for more tokens keeps the earlier
ones. The order has places that no document lies on both sides of, and one of them parts scored and
held-out sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from universal_neurons.errors import UserError
from universal_neurons.prepare import datasets
from universal_neurons.prepare.aligned import AlignedClusters, readers
from universal_neurons.prepare.clusters import TRAINING_SHARE, write_clusters
from universal_neurons.prepare.masking import FRAME, frame, special_tokens
from universal_neurons.prepare.records import subset_of
from universal_neurons.prepare.text import (
    Document,
    all_text_files,
    by_name,
    check_first,
    documents,
    text_files,
)
from universal_neurons.prepare.tokenizer import load_tokenizer, require_tokenizer
from universal_neurons.prepare.tokens import (
    Files,
    copy_token_ids,
    describe,
    load_token_ids,
    temporary_files,
    tokenise,
    write_sequences,
)

# Correlations over fewer scored tokens say nothing: their baseline is as large as they are.
LEAST_TOKENS = 100


def source_files(config: Mapping[str, Any]) -> list[str]:
    """The files that a corpus is made from; those of the bundled text belong to a package.

    Parameters
    ----------
    config
        The resolved section ``corpus``.

    Raises
    ------
    UserError
        See `text.text_files`.
    """
    if config["source"] == "tokens":
        return [config["path"]]
    if config["source"] == "text":
        return [str(file) for file in all_text_files("text", config["path"])]
    return []


def check_length(config: Mapping[str, Any]) -> None:
    """Refuse before any job to ask for more tokens than the corpus can have.

    The number of tokens of a text is known only when it is tokenised (`select` checks it then),
    but it is at most its number of bytes and documents. A data set of the Hub is not looked at.

    Parameters
    ----------
    config
        The resolved section ``corpus``.

    Raises
    ------
    UserError
        If the corpus is too short or its files are missing.
    """
    wanted = config["tokens"] + config["heldout_tokens"]
    if config["source"] == "hub":
        return
    if config["source"] == "tokens":
        have = load_token_ids(config["path"], config["context_length"]).size
    else:
        paths = all_text_files(config["source"], config["path"])
        if any(path.suffix != ".txt" for path in paths):
            return
        have = sum(path.stat().st_size for path in paths) + len(paths)
    if wanted > have:
        raise UserError(
            f"corpus.tokens: {wanted} tokens are asked for (corpus.tokens + corpus.heldout_tokens),"
            f" the corpus has at most {have}; ask for fewer or give more text"
        )


def check_fields(config: Mapping[str, Any]) -> None:
    """Refuse before any job fields that a text has not; the first file of each corpus is looked at.

    Parameters
    ----------
    config
        The resolved section ``corpus``. A data set of the Hub is not looked at.

    Raises
    ------
    UserError
        If ``text_key`` or ``subset_key`` is none of its first document's.
    """
    if config["source"] == "text":
        for path in by_name(config["path"]).values():
            check_first(text_files("text", path)[0], config["text_key"], config["subset_key"])


def sequence_options(config: Mapping[str, Any], loss_kind: str = "next_token") -> dict[str, Any]:
    """What the token sequences depend on, among it how many are asked for where text is streamed.

    Parameters
    ----------
    config
        The resolved section ``corpus``.
    loss_kind
        What the models predict, see `Architecture.loss_kind`.
    """
    keys = ["source", "path", "text_key", "subset_key", "context_length", "seed"]
    if loss_kind == "masked":
        return {**sequence_options(config), "masked": True}
    if config["align"] != "none":
        # Whose positions are shared, and scored, is part of the sequences.
        keys += ["align", "exclude_token_ids", "exclude_positions"]
    if config["source"] != "hub":
        return {key: config[key] for key in keys}
    keys += ["dataset", "name", "revision", "split", "shuffle_buffer"]
    # A quarter more: documents of which some text is held out are not scored.
    enough = config["stream_tokens"] or 5 * (config["tokens"] + config["heldout_tokens"]) // 4
    return {**{key: config[key] for key in keys}, "stream_tokens": enough}


def make(
    options: Mapping[str, Any],
    directories: Mapping[str, Path],
    out: str | Path,
    clusters: str | Path,
    subsets: str | Path | None = None,
    vocabulary: int = 0,
) -> dict[str, Any]:
    """Make the token sequences of a run, from any source.

    Parameters
    ----------
    options
        As `sequence_options` returns them.
    directories
        By seed where its tokenizer is: of one seed, whose tokenizer is that of all (token ids need
        none), or with ``align`` of every seed.
    out
        .npy file to write.
    clusters
        .npy file to write the sequences' clusters to, see `tokenise`; every sequence of token ids
        is one of its own.
    subsets
        .npy file to write the tokens' subsets to, if the corpus has any; see `tokenise`.
    vocabulary
        Token ids of the models, as far as that is known.

    Returns
    -------
    dict
        See `describe`; for encoders with ``masking``, see `special_tokens`, and the seed of what is
        masked; with ``dataset_commit`` for data sets of the Hub, ``subsets``, the names of
        the corpus's subsets, and ``edges``: places in the order with different clusters on either
        side, None where all places are. With ``align`` also ``aligned``, see
        `AlignedClusters.facts`.

    Raises
    ------
    UserError
        See `documents`, `datasets.documents`, `load_tokenizer`, `tokenise` and `copy_token_ids`.
    """
    source, length = options["source"], options["context_length"]
    if options.get("align", "none") != "none":
        return _make_aligned(options, directories, Files.of(out, clusters, subsets), vocabulary)
    [directory] = directories.values()
    if source != "tokens":
        require_tokenizer(directory)
    tokenizer = load_tokenizer(directory)
    special = special_tokens(tokenizer) if options.get("masked") else None
    if source == "tokens":
        write_clusters(clusters, np.arange(copy_token_ids(options["path"], length, out)))
        about = {**describe(out, tokenizer, source), "subsets": [], "edges": None}
        return _with_masking(about, special, options)
    parts, origin = _texts(options)
    joining, inner = tokenizer, length
    if special is not None:
        joining, inner = load_tokenizer(directory), length - FRAME
        joining.eos_token = joining.sep_token
    names, edges = tokenise(
        parts,
        joining,
        inner,
        seed=options["seed"],
        out=out,
        clusters=clusters,
        subsets=subsets,
        enough=options.get("stream_tokens"),
    )
    if special is not None:
        frame(out, special["first"], special["last"])
        if subsets is not None:
            frame(subsets)
    about = {**describe(out, tokenizer, source), **origin, "subsets": names, "edges": edges}
    return _with_masking(about, special, options)


def _with_masking(
    about: dict[str, Any], special: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What is known of a corpus, for encoders with what is masked and what is never scored."""
    if special is None:
        return about
    return {
        **about,
        "special_token_ids": sorted({*about["special_token_ids"], *special["never"]}),
        "masking": {**special, "seed": options["seed"]},
    }


def _make_aligned(
    options: Mapping[str, Any], directories: Mapping[str, Path], files: Files, vocabulary: int
) -> dict[str, Any]:
    given = readers(directories, options["exclude_token_ids"])
    parts, origin = _texts(options)
    with temporary_files(files.tokens.parent, 2) as (raw, labels):
        length, positions = options["context_length"], options["exclude_positions"]
        cut = AlignedClusters(given, length, positions, raw, labels)
        enough = options.get("stream_tokens")
        names, edges = write_sequences(parts, cut, files, seed=options["seed"], enough=enough)
    cut.log()
    found = {**describe(files.tokens, None, options["source"]), **origin}
    return {**found, "subsets": names, "edges": edges, "aligned": cut.facts(vocabulary)}


def _texts(
    options: Mapping[str, Any],
) -> tuple[dict[str | None, Iterable[Document]], dict[str, str]]:
    """The documents of each corpus by its name, and what is to be recorded of where they are from.

    Parameters
    ----------
    options
        See `make`.
    """
    source, origin = options["source"], {}
    parts: dict[str | None, Iterable[Document]] = {}
    if source == "hub":
        for name, dataset in by_name(options["dataset"]).items():
            one = {**options, "dataset": dataset}
            origin[name or "dataset"] = datasets.commit(one)
            rows = datasets.documents(one, origin[name or "dataset"])
            parts[name] = (
                Document(text, subset_of(row, options["subset_key"], dataset)) for text, row in rows
            )
        origin = {"dataset_commit": ", ".join(origin.values())}
    else:
        keys = options["text_key"], options["subset_key"]
        for name, path in by_name(options["path"]).items():
            parts[name] = documents(text_files(source, path), *keys)
    return parts, origin


def selection_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `select` in a resolved configuration."""
    return {
        "tokens": config["corpus"]["tokens"],
        "heldout_tokens": config["corpus"]["heldout_tokens"],
        "train": config["models"]["source"] == "train",
    }


def select(
    corpus: Mapping[str, Any], *, tokens: int, heldout_tokens: int, train: bool
) -> dict[str, int]:
    """Choose the scored and the held-out sequences.

    Parameters
    ----------
    corpus
        As `make` returns it.
    tokens, heldout_tokens
        Token positions asked for; whole sequences that fit are taken.
    train
        Whether the models are trained on this corpus, on its first `TRAINING_SHARE`.

    Returns
    -------
    dict
        ``n_scored``: sequences 0 to n_scored - 1 are scored; ``heldout_start``, ``heldout_stop``:
        the held-out ones; ``n_train``: sequences 0 to n_train - 1 are for training.

    Raises
    ------
    UserError
        If the corpus is too short.
    """
    total, length, edges = (corpus[key] for key in ("n_sequences", "context_length", "edges"))
    n_scored, n_heldout = tokens // length, heldout_tokens // length
    if n_scored + n_heldout > total:
        raise UserError(
            f"corpus.tokens: {n_scored + n_heldout} sequences of {length} tokens are asked for "
            f"(corpus.tokens + corpus.heldout_tokens), the corpus has {total}; ask for at most "
            f"{total * length} tokens in all, or give more text"
        )
    n_train = edges[-1] if edges else int(total * TRAINING_SHARE)
    # A token file is used in file order; a shuffled corpus gives its last sequences.
    start = n_scored if corpus["source"] == "tokens" else total - n_heldout
    if train and start < n_train:
        raise UserError(
            f"corpus.heldout_tokens: the models are trained on the first {TRAINING_SHARE:.0%} of "
            f"the corpus, which leaves {(total - n_train) * length} tokens to hold out"
        )
    # Clusters that are held out in part are not scored.
    most = max((edge for edge in edges if edge <= start), default=0) if edges else start
    if n_scored > most:
        raise UserError(
            f"corpus.tokens: {tokens} are asked for, but beside {heldout_tokens} held-out tokens "
            f"{most * length} are of other documents, of {total * length} in all; ask for fewer "
            "(corpus.heldout_tokens for less than half), or give more text"
        )
    return {
        "n_scored": n_scored,
        "heldout_start": start,
        "heldout_stop": start + n_heldout,
        "n_train": n_train,
    }
