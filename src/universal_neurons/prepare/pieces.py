"""Long documents in pieces, so that memory does not grow with them.

A piece ends where tokenising the text around the cut at once gives the tokens of tokenising both
sides: where the tokenizer starts a new word anyway. Byte-level tokenizers (GPT-2, NeoX, Llama 3,
Qwen) and those that put a mark in front of every word do so before nearly every space, and what is
cut is the text as a whole, token by token. A tokenizer that takes a text in one piece (Llama 2's
adds a mark in front of the first word of every text) has documents of up to `LONGEST` characters
whole; longer ones are cut all the same, with a warning: a token or two at each cut may differ.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from universal_neurons.prepare.text import Document

logger = logging.getLogger(__name__)

# Characters of a piece: from where on a sure place to cut is looked for, and where one is taken
# that is not sure.
PIECE, LONGEST = 1 << 15, 1 << 20
# Characters on either side of a cut that are tokenised to see whether it is sure, more than any
# word that a cut is found beside has; places tried, and how far they may be apart in all.
CONTEXT, TRIES, REACH = 256, 32, 1 << 12

END_OF_WORD = re.compile(r"(?<=\w)\W")

UNSURE = (
    "a text of more than %d characters has no place where this tokenizer surely starts a new word: "
    "it is cut all the same, and a token or two at each cut may differ from those of the whole"
)

Splits = Callable[[str, str], bool]


def pieces(documents: Iterable[Document], splits: Splits) -> Iterator[Document]:
    """Cut long documents.

    Parameters
    ----------
    documents
        Texts; a document may come in several parts, cut anywhere.
    splits
        Whether two texts, one after the other, are tokenised as each of them alone.

    Yields
    ------
    Document
        Pieces; the last of each document is the one that `ends` it.
    """
    rest, warned = "", False
    for document in documents:
        text, start = rest + document.text, 0
        while (stop := _sure_cut(text, start, splits)) or len(text) - start > LONGEST + REACH:
            if not stop:
                stop = _last_resort(text, start)
                if not warned:
                    logger.warning(UNSURE, LONGEST)
                    warned = True
            yield document._replace(text=text[start:stop], ends=False)
            start = stop
        rest = text[start:]
        if document.ends:
            yield document._replace(text=rest)
            rest = ""


def _sure_cut(text: str, start: int, splits: Splits) -> int | None:
    """The next sure cut; None where there is none yet, or none is needed."""
    for least in (start + PIECE, start + LONGEST):
        for found in islice(END_OF_WORD.finditer(text, least, least + REACH), TRIES):
            cut = found.start()
            if cut + CONTEXT > len(text):
                return None
            if splits(text[cut - CONTEXT : cut], text[cut : cut + CONTEXT]):
                return cut
    return None


def _last_resort(text: str, start: int) -> int:
    """The end of a word, or the middle of one that has none."""
    found = END_OF_WORD.search(text, start + LONGEST, start + LONGEST + REACH)
    return found.start() if found else start + LONGEST
