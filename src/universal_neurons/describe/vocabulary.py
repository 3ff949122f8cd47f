"""Tokens as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from universal_neurons.prepare.tokenizer import encode, load_tokenizer

# What bytes that are no whole character decode to.
REPLACEMENT = "\ufffd"


def vocabularies(
    directories: Mapping[str, Path], about: Mapping[str, Any], size: int
) -> pd.DataFrame:
    """Every token of a run as text: of its tokenizer, or of several one after the other.

    Parameters
    ----------
    directories
        By seed where its tokenizer is, see `vocabulary`.
    about
        The corpus, as `corpus.make` returns it.
    size
        Number of token ids that the models have at least.

    Returns
    -------
    DataFrame
        `columns.examples.VOCABULARY`. With ``corpus.align`` the tokens of a tokenizer are numbered
        from its ``first_id``.

    Raises
    ------
    UserError
        See `load_tokenizer`.
    """
    if "aligned" not in about:
        [directory] = directories.values()
        return vocabulary(directory, max(size, 1 + about["max_token_id"]))
    texts = [vocabulary(directories[t["seeds"][0]], t["n_ids"])["text"] for t in about["aligned"]]
    return pd.concat(texts, ignore_index=True).rename_axis("token_id").reset_index()


def vocabulary(directory: Path, size: int) -> pd.DataFrame:
    """Every token of a tokenizer as text.

    Parameters
    ----------
    directory
        Of the tokenizer, which need not have one.
    size
        Number of token ids that there are at least.

    Returns
    -------
    DataFrame
        `columns.examples.VOCABULARY`.

    Raises
    ------
    UserError
        See `load_tokenizer`.
    """
    tokenizer = load_tokenizer(directory)
    known = [] if tokenizer is None else texts(tokenizer)
    text = [*known, *(f"#{i}" for i in range(len(known), size))]
    return pd.DataFrame({"token_id": range(len(text)), "text": text})


def texts(tokenizer: Any) -> list[str]:
    """What every token decodes to after another one, where a space before it is not dropped.

    The token's name stands for one that is no whole character by itself, and its number for an id
    that no token has.
    """
    before = encode(tokenizer, ["a"])[0][-1:]
    start = tokenizer.decode(before)
    found = []
    for i, name in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
        text = tokenizer.decode([*before, i], clean_up_tokenization_spaces=False)
        if not text.startswith(start):
            text = start + tokenizer.decode([i], clean_up_tokenization_spaces=False)
        text = text.removeprefix(start)
        found.append(f"#{i}" if name is None else name if REPLACEMENT in text else text)
    return found
