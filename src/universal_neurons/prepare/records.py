"""The text of a document and the subset it belongs to, from the record that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from universal_neurons.errors import UserError

# Names of fields that a message lists.
LISTED = 20


def text_of(record: Mapping[str, Any], text_key: str, where: str) -> str:
    """The text of a document from its record.

    Raises
    ------
    UserError
        If the record (named `where`) has none, or one that is not made of characters.
    """
    text = record.get(text_key)
    if not isinstance(text, str):
        raise UserError(
            f"corpus.text_key: {where} has no text {text_key!r}; {_instead(text, record)}"
        )
    return _characters(text, f"corpus.text_key: {where}: {text_key!r}")


def subset_of(record: Mapping[str, Any], subset_key: str | None, where: str) -> str | None:
    """The subset of a document from its record, None without a `subset_key`.

    Raises
    ------
    UserError
        If the record (named `where`) has no such text, or an empty one.
    """
    if subset_key is None:
        return None
    value: Any = record
    for key in subset_key.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise UserError(
            f"corpus.subset_key: {where} has no text {subset_key!r}; {_instead(value, record)}"
        )
    if not value.strip():
        raise UserError(
            f"corpus.subset_key: {where} has an empty {subset_key!r}; every document needs the "
            "name of a subset"
        )
    return _characters(value, f"corpus.subset_key: {where}: {subset_key!r}")


def _instead(value: Any, record: Mapping[str, Any]) -> str:
    """What there is in place of a text."""
    if value is not None:
        return f"what is there is of type {type(value).__name__}"
    names = f"it has {', '.join(list(record)[:LISTED])}"
    # JSON can write halves of characters, which no terminal or log takes.
    return names.encode(errors="backslashreplace").decode()


def _characters(text: str, what: str) -> str:
    """A text as it is, unless it has halves of characters, which JSON can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("ascii", "backslashreplace").decode()
        raise UserError(
            f"{what} is no text: it has half a character, {half}, at position {error.start}"
        ) from error
    return text
