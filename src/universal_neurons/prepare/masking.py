"""Text as encoders read it: framed by special tokens, some of its tokens masked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.store.files import replacing

# Share of the positions between the first and the last that are masked (Devlin et al. 2019).
SHARE = 0.15

# Tokens at a sequence's ends that are no text.
FRAME = 2


def special_tokens(tokenizer: Any) -> dict[str, Any]:
    """What masking text takes of an encoder's tokenizer.

    Returns
    -------
    dict
        ``first`` and ``last``: ids of the tokens that begin and end a sequence (BERT's [CLS] and
        [SEP]; the last one ends a document, too); ``mask``: the id that takes the place of masked
        tokens; ``never``: ids that are neither scored nor masked, ascending.

    Raises
    ------
    UserError
        If there is no tokenizer, or it lacks one of the three.
    """
    if tokenizer is None:
        raise UserError(
            "models.tokenizer: missing; which tokens of an encoder's text are masked and never "
            "scored is for its tokenizer to say, also where token ids are given"
        )
    names = {"first": "cls_token", "last": "sep_token", "mask": "mask_token"}
    ids = {key: getattr(tokenizer, f"{name}_id") for key, name in names.items()}
    if missing := [names[key] for key, value in ids.items() if value is None]:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer of an encoder names no {missing[0]}; name it "
            "in tokenizer_config.json"
        )
    others = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    return {**ids, "never": sorted({*ids.values(), *others} - {None})}


def frame(path: str | Path, first: int | None = None, last: int | None = None) -> None:
    """Put a value before and another one behind every row of a .npy file.

    Parameters
    ----------
    path
        Of an array of shape (rows, length), which becomes (rows, length + `FRAME`).
    first, last
        The values; None is the one that is there at that end.
    """
    rows = np.load(path, mmap_mode="r")
    with replacing(Path(path)) as temporary:
        shape = (len(rows), rows.shape[1] + FRAME)
        framed = np.lib.format.open_memmap(temporary, "w+", rows.dtype, shape)
        framed[:, 1:-1] = rows
        framed[:, 0] = rows[:, 0] if first is None else first
        framed[:, -1] = rows[:, -1] if last is None else last
        framed.flush()


@dataclass(frozen=True, eq=False)
class Masking:
    """Which tokens of some sequences are masked.

    Attributes
    ----------
    where
        Their positions, ascending, shape (sequences, masked tokens), as many of every sequence.
    token
        Id that takes their place.
    """

    where: NDArray[np.int64]
    token: int

    @classmethod
    def draw(cls, sequences: NDArray[np.integer], special: Mapping[str, Any], seed: int) -> Masking:
        """Mask `SHARE` of every sequence, at random; no special token, and not position 0.

        Parameters
        ----------
        sequences
            Token ids, shape (sequences, context length).
        special
            As `special_tokens` returns it.
        seed
            Of the draw, which depends on nothing else but the sequences.

        Raises
        ------
        UserError
            If a sequence has too few other tokens.
        """
        number = max(1, round(SHARE * (sequences.shape[1] - FRAME)))
        free = ~np.isin(sequences, special["never"])
        free[:, 0] = False
        if (free.sum(1) < number).any():
            raise UserError(
                f"corpus.heldout_tokens: a held-out sequence has fewer than the {number} tokens "
                "that are to be masked, the others being special ones; give text without padding"
            )
        draws = np.where(free, np.random.default_rng(seed).random(sequences.shape), np.inf)
        where = np.argsort(draws, axis=1, kind="stable")[:, :number]
        return cls(np.sort(where, axis=1), special["mask"])

    def applied(self, sequences: NDArray[np.integer]) -> NDArray[np.integer]:
        """The sequences with these tokens masked."""
        masked = np.array(sequences)
        np.put_along_axis(masked, self.where, self.token, 1)
        return masked
