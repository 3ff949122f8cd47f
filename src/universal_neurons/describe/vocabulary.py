"""Tokens as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from universal_neurons.prepare.tokenizer import encode, load_tokenizer

# What bytes that are no whole character decode to.
REPLACEMENT = "\ufffd"


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
