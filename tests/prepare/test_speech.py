"""Every token has the part of speech of the word that it lies in."""

from __future__ import annotations

import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest

from universal_neurons.errors import UserError
from universal_neurons.prepare.speech import NOT_NEEDED, load_tagger, parts_of_speech

TEXTS = ["<end>", "The", " law", "yer", " speaks", ".", "  ", " well", "-", "known", " law."]
TAGS = {"The": "DET", "lawyer": "NOUN", "law": "NOUN", "speaks": "VERB", ".": "PUNCT"}
TAGS |= {"well-known": "ADJ"}
# The lawyer speaks. | <end>The well-known law.
SEQUENCES = np.array([[1, 2, 3, 4, 5, 6], [0, 1, 7, 8, 9, 10]])


def tag(texts):
    """Words are letters and hyphens, or one mark."""
    found = []
    for text in texts:
        words = re.finditer(r"[\w-]+|[^\w\s]", text)
        found.append([(w.start(), w.end(), TAGS[w.group()]) for w in words])
    return found


class Word:
    """What is used of a spaCy token."""

    def __init__(self, start, end, part):
        self.idx, self.pos_, self._length = start, part, end - start

    def __len__(self):
        return self._length


class Pipeline:
    """What is used of a spaCy pipeline: it tags the words of `TAGS`, and its spaces have no tag."""

    def pipe(self, texts):
        for text, words in zip(texts, tag(texts), strict=True):
            spaces = [(space.start(), space.end(), "") for space in re.finditer(" +", text)]
            yield [Word(*word) for word in sorted(words + spaces)]


def stand_in():
    """A module in place of spaCy, which is large: tests run without it, too."""
    made = ModuleType("spacy")
    made.__spec__ = ModuleSpec("spacy", None)

    def load(name, exclude):
        assert set(exclude) == set(NOT_NEEDED)
        if name != "planted":
            raise OSError("[E050] Can't find model")
        return Pipeline()

    made.load = load
    return made


@pytest.fixture(params=["stand-in", "installed"])
def pipeline(request, tmp_path, monkeypatch):
    """Name of a spaCy pipeline that tags the words of `TAGS`."""
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "spacy", stand_in())
        return "planted"
    spacy = pytest.importorskip("spacy")
    made = spacy.blank("en")
    ruler = made.add_pipe("attribute_ruler")
    for word, part in TAGS.items():
        ruler.add([[{"ORTH": word}]], {"POS": part})
    made.to_disk(tmp_path / "planted")
    return str(tmp_path / "planted")


def named(found):
    return [[found.names[code] if code >= 0 else None for code in row] for row in found.labels]


EXPECTED = [
    ["DET", "NOUN", "NOUN", "VERB", "PUNCT", None],
    # A token of several words is of the first.
    [None, "DET", "ADJ", "ADJ", "ADJ", "NOUN"],
]


@pytest.mark.parametrize("at_once", [1, 256])
def test_tokens_have_the_part_of_speech_of_their_word(at_once, monkeypatch):
    monkeypatch.setattr("universal_neurons.prepare.speech.AT_ONCE", at_once)
    found = parts_of_speech(SEQUENCES, [0], TEXTS, tag)
    assert found.names == ["ADJ", "DET", "NOUN", "PUNCT", "VERB"]
    assert named(found) == EXPECTED


def test_a_pipeline_of_spacy_tags_tokens(pipeline):
    found = named(parts_of_speech(SEQUENCES, [0], TEXTS, load_tagger(pipeline)))
    assert found[0] == EXPECTED[0]
    assert found[1][-1] == "NOUN"


@pytest.mark.usefixtures("pipeline")
def test_a_pipeline_that_is_not_there_is_named_with_what_to_do():
    with pytest.raises(UserError, match="families.speech: spaCy can't load en_nowhere"):
        load_tagger("en_nowhere")


def test_without_spacy_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr("universal_neurons.prepare.speech.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"families.speech: .*universal-neurons\[speech"):
        load_tagger("en_core_web_sm")


def test_what_has_no_texts_or_no_tags_is_refused():
    with pytest.raises(UserError, match="families.speech: needs a tokenizer"):
        parts_of_speech(SEQUENCES, [0], [], tag)
    with pytest.raises(UserError, match="families.speech: .* tags no parts"):
        parts_of_speech(SEQUENCES, [0], TEXTS, lambda texts: [[] for _ in texts])
