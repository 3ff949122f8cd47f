"""Planted neurons get their family and no other; shares equal a plain float64 computation."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from pipeline import EXCLUDED, VOCABULARY, gpt2, module_activations, random_tokens

from universal_neurons.describe.class_means import ClassSums
from universal_neurons.describe.examples import Text
from universal_neurons.describe.families import FamilyCutoffs, explained, families
from universal_neurons.describe.features import Features, classes, seen_before
from universal_neurons.errors import UserError
from universal_neurons.prepare.speech import parts_of_speech
from universal_neurons.prepare.subsets import Subsets
from universal_neurons.store.columns.roles import FAMILIES

CUTOFFS = FamilyCutoffs(unigram=0.5, letter=0.35, other=0.5, ngram_tokens=5)
TOKENS = random_tokens(300, 20)
WORDS = [" the", "The", "cat", " Cat", "apple", " Ant", "7", "42", ".", '."', "(", "Bee"]
TEXTS = [WORDS[i] if i < len(WORDS) else f" w{chr(97 + i % 26)}{i}" for i in range(VOCABULARY)]


def before(tokens):
    shifted = np.full_like(tokens, -1)
    shifted[:, 1:] = tokens[:, :-1]
    return shifted


def repeated(tokens):
    return np.array([[t in row[:i] for i, t in enumerate(row)] for row in tokens.tolist()])


def described(columns, texts=(), tokens=TOKENS, labelled=None, exclude=(), cutoffs=CUTOFFS):
    """The table of neurons that are 1 where a column is true and near 0 elsewhere."""
    rng = np.random.default_rng(1)
    x = np.stack([np.asarray(c, np.float32) for c in columns], -1)
    x += 0.05 * rng.standard_normal(x.shape).astype(np.float32) - 0.2
    scored = ~np.isin(tokens, exclude)
    labelled = labelled or {}
    names = {kind: each.names for kind, each in labelled.items()}
    features = Features.of(tokens, scored, texts, names)
    sums = ClassSums(features, [len(columns)], torch.device("cpu"))
    for part in np.array_split(np.arange(len(tokens)), 4):
        labels = {kind: each.labels[part] for kind, each in labelled.items()}
        sums.begin(features.places(tokens[part], scored[part], labels))
        sums.add(0, torch.from_numpy(x[part][scored[part]]))
    return explained(features, sums, cutoffs)


POSITION = np.broadcast_to(np.arange(20), TOKENS.shape)
PLANTED = {
    "unigram": (TOKENS == 17, "#17"),
    "previous token": (before(TOKENS) == 17, "after #17"),
    "position": (POSITION == 3, "position 3"),
    "repetition": (repeated(TOKENS), "seen before in its context"),
}


@pytest.mark.parametrize("exclude", [(), EXCLUDED])
def test_planted_neurons_get_their_family_and_no_other(exclude):
    table = described([holds for holds, _ in PLANTED.values()], exclude=exclude)
    assert table["family"].tolist() == list(PLANTED)
    assert table["explanation"].tolist() == [text for _, text in PLANTED.values()]
    assert (table["variance_reduction"] > 0.85).all()
    assert (table["contrast"] > 2).all()


def test_planted_classes_of_tokens_are_named_by_their_text():
    is_token = [np.isin(TOKENS, ids) for ids in ((0, 1), (4, 5), (6, 7), (8, 9))]
    is_token.append(np.isin(before(TOKENS), (6, 7)))
    table = described(is_token, TEXTS)
    assert table["family"].tolist() == [
        *("unigram", "letter", "digit", "sentence end", "previous token")
    ]
    assert table["explanation"].tolist() == [
        *("the, with or without space and capitals", "starts with a", "is of digits"),
        *("ends a sentence", "after one that is of digits"),
    ]


def test_a_letter_that_explains_enough_goes_before_a_token_that_explains_more_but_not_enough():
    noise = np.random.default_rng(4).standard_normal(TOKENS.shape)
    mostly_apple = (TOKENS == 4) + 0.35 * (TOKENS == 5) + 0.12 * noise
    table = described([mostly_apple], TEXTS)
    assert table["explanation"].tolist() == ["starts with a"]
    assert table["family"].tolist() == ["letter"]
    assert 0.35 <= table["variance_reduction"][0] < 0.5
    stricter = described([mostly_apple], TEXTS, cutoffs=replace(CUTOFFS, letter=0.5))
    assert stricter["kind"].tolist() == ["unigram"]
    assert stricter["variance_reduction"][0] > table["variance_reduction"][0]


def test_a_subset_of_the_corpus_is_a_family():
    subsets = Subsets(["law", "code"], (np.arange(300) % 2)[:, None].repeat(20, 1).astype(np.int16))
    table = described([subsets.labels == 0, TOKENS == 17], labelled={"subset": subsets})
    assert table["family"].tolist() == ["subset", "unigram"]
    assert table["explanation"].tolist()[0] == "law"


def by_id(texts):
    """Tags words w0 to w24 as nouns, later ones as verbs."""
    words = [re.finditer(r"w(\d+)", text) for text in texts]
    return [
        [(*word.span(), "NOUN" if int(word[1]) < 25 else "VERB") for word in found]
        for found in words
    ]


def test_a_part_of_speech_is_a_family():
    """Whichever of the many nouns it is."""
    texts = [f" w{i}" for i in range(VOCABULARY)]
    speech = parts_of_speech(TOKENS, [0], texts, by_id)
    noun = (TOKENS > 0) & (TOKENS < 25)
    table = described([noun, TOKENS == 17], texts, labelled={"part of speech": speech})
    assert table["family"].tolist() == ["part of speech", "unigram"]
    assert table["explanation"].tolist()[0] == "NOUN"


def test_parts_of_speech_are_looked_for_where_a_pipeline_is_named(monkeypatch):
    found = []
    keep = lambda features, sums, cutoffs: found.append(features.labels)  # noqa: E731
    monkeypatch.setattr("universal_neurons.describe.families.explained", keep)
    monkeypatch.setattr("universal_neurons.describe.families.load_tagger", lambda name: by_id)
    texts = [f" w{i}" for i in range(VOCABULARY)]
    for cutoffs in (CUTOFFS, replace(CUTOFFS, speech="planted")):
        families(gpt2(5), Text(random_tokens(2, 8), EXCLUDED), texts, cutoffs)
    assert found == [{}, {"part of speech": ["NOUN", "VERB"]}]


def test_noise_and_dead_neurons_have_no_family():
    rng = np.random.default_rng(2)
    noise, dead = rng.random(TOKENS.shape) < 0.5, np.full(TOKENS.shape, -1)
    table = described([noise, dead])
    assert table["family"].isna().all()
    assert table["dead"].tolist() == [False, True]
    assert table["firing_tokens"].tolist()[1] == -1


def test_a_neuron_that_fires_on_few_tokens_but_not_always_is_an_n_gram_neuron():
    odd = np.isin(TOKENS, (5, 6)) & (np.random.default_rng(3).random(TOKENS.shape) < 0.3)
    table = described([odd])
    assert table["family"].tolist() == ["n-gram"]
    assert table["firing_tokens"].tolist() == [2]


def test_gradual_dependence_on_the_position_is_one_of_all_positions():
    table = described([POSITION / 5])
    assert table["explanation"].tolist() == ["by position"]
    assert np.isnan(table["share"][0])


def test_variance_reductions_equal_a_plain_computation_in_float64():
    """By a model's own activations: 1 − [(1 − p) σ₀² + p σ₁²]/σ² of every token and position."""
    model = gpt2(5)
    tokens = random_tokens(64, 16)
    table = families(model, Text(tokens, EXCLUDED), (), CUTOFFS)
    FAMILIES.conform(table.assign(seed="a", step=1))
    counted = ~np.isin(tokens, EXCLUDED)
    own, previous = tokens[counted], before(tokens)[counted]
    position = np.broadcast_to(np.arange(16), tokens.shape)[counted]
    for layer, x in enumerate(module_activations(model, tokens)):
        rows = table[table["layer"] == layer]
        for row in rows.iloc[::7].itertuples():
            values = x[:, row.neuron]
            best = max(
                reduction(values, label == i)
                for label in (own, previous)
                for i in range(VOCABULARY)
                if (label == i).any()
            )
            if row.kind == "unigram":
                holds = own == int(row.explanation.removeprefix("#"))
                assert row.variance_reduction == pytest.approx(reduction(values, holds), rel=1e-4)
                gap = values[holds].mean() - values[~holds].mean()
                assert row.contrast == pytest.approx(gap / values.std(), rel=1e-4)
                assert row.share == pytest.approx(holds.mean())
            assert row.variance_reduction >= best - 2e-3
            f = (values > 0).mean()
            information = sum(
                (position == p).mean() * (part((values[position == p] > 0).mean(), f))
                for p in range(16)
            )
            assert row.position_mi == pytest.approx(information, abs=1e-6)
            tokens_by_count = np.sort(np.bincount(own[values > 0]))[::-1].cumsum()
            enough = np.searchsorted(tokens_by_count, 0.95 * (values > 0).sum()) + 1
            assert row.firing_tokens == enough


def reduction(values, holds):
    p = holds.mean()
    if p in (0, 1):
        return 0.0
    within = p * values[holds].var() + (1 - p) * values[~holds].var()
    return 1 - within / values.var()


def part(own, whole):
    terms = [(own, whole), (1 - own, 1 - whole)]
    return sum(a * np.log(a / b) for a, b in terms if a > 0)


def test_classes_of_tokens():
    held = {
        e.text: {TEXTS[i] for i in np.flatnonzero(holds) if i < len(WORDS)}
        for e, holds in classes(TEXTS).items()
    }
    assert held["is of digits"] == {"7", "42"}
    assert held["ends a sentence"] == {".", '."'}
    assert held["is punctuation"] == {".", '."', "("}
    assert held["starts with a capital"] == {"The", " Cat", " Ant", "Bee"}
    assert held["starts with a space"] == {" the", " Cat", " Ant"}
    assert held["starts with a"] == {"apple", " Ant"}


def test_seen_before_looks_at_the_own_sequence_alone():
    assert (seen_before(TOKENS) == repeated(TOKENS)).all()


def test_tokens_that_are_rare_are_pooled(monkeypatch):
    from universal_neurons.describe import features

    monkeypatch.setattr(features, "MOST_TOKENS", 30)
    rare = np.argsort(np.bincount(TOKENS.ravel()))[0]
    common = np.argsort(-np.bincount(TOKENS.ravel()), kind="stable")[3]
    table = described([rare == TOKENS, common == TOKENS])
    assert table["family"].tolist()[1] == "unigram"
    assert table["family"].isna()[0]
    assert table["firing_tokens"].tolist() == [-1, 1]


def test_a_text_of_which_nothing_is_scored_is_refused():
    with pytest.raises(UserError, match="explorer.tokens: no token is scored"):
        families(gpt2(5), Text(random_tokens(2, 8), range(VOCABULARY)), (), CUTOFFS)


def test_means_far_from_zero_and_constant_neurons_are_told_apart():
    """A spread of a thousandth of the mean is a spread; that of rounding is none."""
    x = np.stack([1000 + (TOKENS == 17), np.full(TOKENS.shape, 0.1)], -1).astype(np.float32)
    scored = np.ones(TOKENS.shape, bool)
    features = Features.of(TOKENS, scored, (), {})
    sums = ClassSums(features, [2], torch.device("cpu"))
    sums.begin(features.places(TOKENS, scored, {}))
    sums.add(0, torch.from_numpy(x.reshape(-1, 2)))
    table = explained(features, sums, CUTOFFS)
    assert table["variance_reduction"].tolist() == pytest.approx([1, 0], abs=1e-3)
    assert table["kind"].isna().tolist() == [False, True]
