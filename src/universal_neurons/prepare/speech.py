"""Part of speech of every token: of the word that it lies in, as a spaCy pipeline tags it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.prepare.subsets import Subsets

# First character, the one after the last, and the tag of every word of a text, in order.
Words = list[tuple[int, int, str]]
Tagger = Callable[[Sequence[str]], list[Words]]

# What tokens read as that are no text, such as the one between documents.
BREAK = "\n"
# Sequences that are tagged at once.
AT_ONCE = 256
# Components of a pipeline that no part of speech rests on: they take most of its time.
NOT_NEEDED = ("parser", "senter", "ner", "lemmatizer")


def load_tagger(name: str) -> Tagger:
    """A function that tags words with the universal parts of speech of a spaCy pipeline.

    Parameters
    ----------
    name
        An installed pipeline (``en_core_web_sm``), or the folder of one.

    Raises
    ------
    UserError
        If spaCy or the pipeline is not there.
    """
    require_spacy()
    import spacy

    try:
        pipeline = spacy.load(name, exclude=NOT_NEEDED)
    except (OSError, ValueError) as error:
        raise UserError(
            f"families.speech: spaCy can't load {name} ({error}); install it with "
            f"`python -m spacy download {name}`, or use null"
        ) from error

    def tag(texts: Sequence[str]) -> list[Words]:
        return [
            [(word.idx, word.idx + len(word), word.pos_) for word in read if word.pos_]
            for read in pipeline.pipe(texts)
        ]

    return tag


def require_spacy() -> None:
    """Refuse to go on without spaCy.

    Raises
    ------
    UserError
        If it is not installed.
    """
    if find_spec("spacy") is None:
        raise UserError(
            "families.speech: spaCy is not installed; install it with "
            "`pip install 'universal-neurons[speech]'`, or use null"
        )


def parts_of_speech(
    sequences: NDArray[np.integer], breaks: Sequence[int], texts: Sequence[str], tag: Tagger
) -> Subsets:
    """Label every token with the part of speech of its word.

    Every sequence is put together from its tokens again. A token is of the word that holds its
    first character which is no space.

    Parameters
    ----------
    sequences
        Token ids, shape (sequences, context length).
    breaks
        Token ids that are no text, such as the one between documents.
    texts
        Of every token id.
    tag
        Finds the words of texts.

    Returns
    -------
    Subsets
        Names are the tags that occur, in order; labels are −1 for tokens of no word.

    Raises
    ------
    UserError
        If tokens have no text, or no word gets a tag.
    """
    if not len(texts):
        raise UserError("families.speech: needs a tokenizer, whose tokens have texts; use null")
    pieces = np.array(texts, dtype=object)
    pieces[[i for i in breaks if i < len(pieces)]] = BREAK
    tokens = np.ma.getdata(sequences)
    labels = np.full(tokens.shape, -1, np.int16)
    codes: dict[str, int] = {}
    for start in range(0, len(tokens), AT_ONCE):
        read = pieces[tokens[start : start + AT_ONCE]].tolist()
        tagged = tag(["".join(sequence) for sequence in read])
        for row, sequence, words in zip(labels[start:], read, tagged, strict=False):
            own = [(begin, end, codes.setdefault(name, len(codes))) for begin, end, name in words]
            row[:] = _labels(sequence, own)
    if not codes:
        raise UserError("families.speech: the pipeline tags no parts of speech; use null")
    names = sorted(codes)
    # The last is of −1.
    order = np.argsort([*(codes[name] for name in names), len(names)])
    order[-1] = -1
    return Subsets(names, order.astype(np.int16)[labels])


def _labels(sequence: Sequence[str], words: Sequence[tuple[int, int, int]]) -> NDArray[np.int64]:
    """Code of the word of every token of a sequence; −1 without."""
    if not words:
        return np.full(len(sequence), -1)
    lengths = np.array([len(piece) for piece in sequence])
    spaces = [len(piece) - len(piece.lstrip()) for piece in sequence]
    first = np.cumsum(lengths) - lengths + spaces
    starts, ends, codes = np.array(words).T
    place = np.searchsorted(starts, first, "right") - 1
    inside = (place >= 0) & (first < ends[place]) & (np.array(spaces) < lengths)
    return np.where(inside, codes[place], -1)
