"""What makes neurons fire: the family of every neuron, one row of `columns.roles.FAMILIES` each.

An explanation is held against a neuron by the share of its variance that it takes to know where the
explanation is true, as in 2401.12181. All that this takes are sums over classes of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from universal_neurons.describe.class_means import ClassSums, LayerMeans
from universal_neurons.describe.examples import Text
from universal_neurons.describe.features import Features
from universal_neurons.errors import UserError
from universal_neurons.models.forward import forward, scored
from universal_neurons.models.load import Model
from universal_neurons.prepare.speech import load_tagger, parts_of_speech
from universal_neurons.prepare.subsets import Subsets

# Of the forward passes; results depend on it only by rounding.
BATCH_TOKENS = 4096
# What a later explanation must explain beyond an earlier one, which says more, to take its place.
MARGIN = 1e-3
# One position is named if it explains this share of what all positions do.
ONE_POSITION = 0.9
# Of a neuron's positive activations, those that an n-gram neuron has on few tokens (2309.04827).
MOST_FIRING = 0.95


@dataclass(frozen=True)
class FamilyCutoffs:
    """Section ``families`` of the configuration: what makes a family.

    Attributes
    ----------
    unigram, letter, other
        Least variance reduction by an explanation: by a token, a letter, and any other kind.
    ngram_tokens
        Most tokens that a neuron of no other family fires on to be an n-gram neuron.
    speech
        spaCy pipeline that tags parts of speech; None for none.
    """

    unigram: float
    letter: float
    other: float
    ngram_tokens: int
    speech: str | None = None

    def of(self, kind: str) -> float:
        """Least variance reduction by an explanation of a kind."""
        return {"unigram": self.unigram, "letter": self.letter}.get(kind, self.other)


def families(
    model: Model, text: Text, texts: Sequence[str], cutoffs: FamilyCutoffs
) -> pd.DataFrame:
    """Run a model once over a text and find what explains its neurons' activations.

    Parameters
    ----------
    model
        The model.
    text
        What it is run over.
    texts
        Of every token id; empty where there is no tokenizer.
    cutoffs
        What makes a family.

    Returns
    -------
    DataFrame
        `columns.roles.FAMILIES` without seed and step.

    Raises
    ------
    UserError
        If no token is scored; see `prepare.speech.load_tagger` and `parts_of_speech`.
    """
    counted = scored(text.sequences, text.exclude, text.positions)
    if not counted.any():
        raise UserError("explorer.tokens: no token is scored; use more")
    labelled = _labelled(text, texts, cutoffs.speech)
    names = {kind: own.names for kind, own in labelled.items()}
    features = Features.of(np.ma.getdata(text.sequences), counted, texts, names)
    sums = ClassSums(features, model.d_mlp, model.device)

    def add(layer: int, x: torch.Tensor) -> None:
        sums.add(layer, x.flatten(0, -2)[rows].float())

    done = 0
    with model.tap(add):
        for tokens in forward(model, text.sequences, BATCH_TOKENS):
            batch = text.batch(done, len(tokens))
            own = slice(done, done + len(tokens))
            labels = {kind: each.labels[own] for kind, each in labelled.items()}
            sums.begin(features.places(batch.tokens, batch.scored, labels))
            rows = torch.from_numpy(batch.scored.ravel()).to(model.device)
            done += len(tokens)
    return explained(features, sums, cutoffs)


def _labelled(text: Text, texts: Sequence[str], speech: str | None) -> dict[str, Subsets]:
    """By kind, what tokens are labelled with."""
    found = {}
    if speech is not None:
        tag = load_tagger(speech)
        found["part of speech"] = parts_of_speech(text.sequences, text.exclude, texts, tag)
    if text.subsets is not None:
        found["subset"] = text.subsets
    return found


def explained(features: Features, sums: ClassSums, cutoffs: FamilyCutoffs) -> pd.DataFrame:
    """The table of `families`, given the sums."""
    layers = []
    for layer in range(len(sums.squares)):
        means = sums.layer(layer)
        best = _Explained.nothing(len(means.mean))
        for candidate in _candidates(features, sums, layer, means):
            best.improve(candidate, cutoffs)
        fired = sums.fired["token"][layer].cpu().numpy().astype(np.int64)
        dead = fired.sum(0) == 0
        firing = _firing_tokens(fired)
        family = _family(best, firing, cutoffs)
        family[dead] = None
        layers.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "neuron": np.arange(len(family)),
                    "family": family,
                    "kind": best.kind,
                    "explanation": best.text,
                    "variance_reduction": best.reduction,
                    "share": best.share,
                    "contrast": best.contrast,
                    "position_mi": _position_information(sums, layer),
                    "firing_tokens": firing,
                    "dead": dead,
                }
            )
        )
    return pd.concat(layers, ignore_index=True)


@dataclass(frozen=True)
class _Explained:
    """An explanation of every neuron of a layer; arrays have shape (d_mlp,).

    Attributes
    ----------
    kind, text
        Of the explanation.
    reduction
        Its variance reduction.
    share
        Of the tokens for which it is true; NaN for a partition of them.
    contrast
        Mean where it is true less elsewhere, in standard deviations; NaN likewise.
    """

    kind: NDArray[np.object_]
    text: NDArray[np.object_]
    reduction: NDArray[np.float64]
    share: NDArray[np.float64]
    contrast: NDArray[np.float64]

    @classmethod
    def nothing(cls, d_mlp: int) -> _Explained:
        """What explains nothing."""
        kind, text = np.full((2, d_mlp), None, dtype=object)
        share, contrast = np.full((2, d_mlp), np.nan)
        return cls(kind, text, np.zeros(d_mlp), share, contrast)

    def enough(self, cutoffs: FamilyCutoffs) -> NDArray[np.bool_]:
        """Whether the explanation makes a family."""
        least = [np.inf if kind is None else cutoffs.of(kind) for kind in self.kind]
        return self.reduction >= np.array(least)

    def improve(self, other: _Explained, cutoffs: FamilyCutoffs) -> None:
        """Take the other explanation of each neuron of which it explains more by `MARGIN`.

        One that makes a family goes before one that does not, whose cut-off is higher.
        """
        ours, others = self.enough(cutoffs), other.enough(cutoffs)
        more = other.reduction > self.reduction + MARGIN
        better = np.where(ours == others, more, others)
        for field in fields(self):
            getattr(self, field.name)[better] = getattr(other, field.name)[better]


def _candidates(
    features: Features, sums: ClassSums, layer: int, means: LayerMeans
) -> Iterator[_Explained]:
    """Explanations of a layer's neurons, those that say more before others."""
    kept = len(features.frequent)
    names = [features.name(i) for i in features.frequent.tolist()]
    own = sums.sums["token"][layer][:kept].cpu().numpy().astype(np.float64)
    count = sums.counts["token"][:kept]
    yield _of_classes(means, own, count, "unigram", names)
    of_token, words = features.variants
    joint = np.zeros((len(words), own.shape[1]))
    np.add.at(joint, of_token, own)
    texts = [f"{word}, with or without space and capitals" for word in words]
    yield _of_classes(means, joint, np.bincount(of_token, count).astype(int), "unigram", texts)
    yield _of_positions(means, sums, layer)
    before = sums.sums["previous"][layer][:kept].cpu().numpy().astype(np.float64)
    texts = [f"after {name}" for name in names]
    yield _of_classes(means, before, sums.counts["previous"][:kept], "previous token", texts)
    dense = sums.dense[layer].cpu().numpy()
    for kind in dict.fromkeys(e.kind for e in features.explanations):
        some = [i for i, e in enumerate(features.explanations) if e.kind == kind]
        texts = [features.explanations[i].text for i in some]
        yield _of_classes(means, dense[some], sums.dense_counts[some], kind, texts)


def _of_classes(
    means: LayerMeans,
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
    kind: str,
    texts: Sequence[str],
) -> _Explained:
    """The class of tokens that explains most of each neuron."""
    reduction = means.reduction(sums, counts)
    # Of two classes that are each other's rest, the one with the larger activations.
    lower = sums < counts[:, None] * means.mean
    place = (reduction - MARGIN * lower).argmax(0)
    neuron = np.arange(sums.shape[1])
    found = reduction[place, neuron]
    share = counts[place] / means.n_tokens
    # p (1 − p) contrast² is the variance reduction.
    higher = np.sign(sums[place, neuron] - counts[place] * means.mean)
    scale = share * (1 - share)
    size = np.sqrt(np.divide(found, scale, out=np.zeros_like(found), where=scale > 0))
    return _Explained(
        np.full(len(place), kind, dtype=object),
        np.array(texts, dtype=object)[place],
        found,
        share,
        higher * size,
    )


def _of_positions(means: LayerMeans, sums: ClassSums, layer: int) -> _Explained:
    """What all positions explain together; one of them is named if it does nearly as much."""
    of_position = sums.sums["position"][layer].cpu().numpy().astype(np.float64)
    counts = sums.counts["position"]
    names = [f"position {i}" for i in range(len(counts))]
    one = _of_classes(means, of_position, counts, "position", names)
    together = means.partition(of_position, counts)
    single = one.reduction >= ONE_POSITION * together
    return _Explained(
        one.kind,
        np.where(single, one.text, "by position"),
        np.where(single, one.reduction, together),
        np.where(single, one.share, np.nan),
        np.where(single, one.contrast, np.nan),
    )


def _position_information(sums: ClassSums, layer: int) -> NDArray[np.float64]:
    """Mutual information of firing and position, in nats, shape (d_mlp,).

    With f_p the share of activations above 0 at position p, and f of all, it is the mean over the
    tokens of f_p ln(f_p/f) + (1 − f_p) ln((1 − f_p)/(1 − f)).
    """
    used = sums.counts["position"] > 0
    counts = sums.counts["position"][used, None]
    at = sums.fired["position"][layer].cpu().numpy().astype(np.float64)[used] / counts
    weight = counts / counts.sum()
    whole = (weight * at).sum(0)

    def part(own: NDArray[np.float64], of_all: NDArray[np.float64]) -> NDArray[np.float64]:
        ratio = np.divide(own, of_all, out=np.ones_like(own), where=(own > 0) & (of_all > 0))
        return own * np.log(ratio)

    return (weight * (part(at, whole) + part(1 - at, 1 - whole))).sum(0).clip(min=0)


def _firing_tokens(fired: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fewest tokens that have `MOST_FIRING` of a neuron's positive activations; −1 if unknown.

    Parameters
    ----------
    fired
        Positive activations by token, shape (frequent tokens + 1, d_mlp): last those at the other
        tokens, whose number is not known.
    """
    total = fired.sum(0)
    reached = np.cumsum(-np.sort(-fired[:-1], axis=0), axis=0) >= MOST_FIRING * total
    return np.where(reached.any(0) & (total > 0), reached.argmax(0) + 1, -1)


def _family(
    best: _Explained, firing: NDArray[np.int64], cutoffs: FamilyCutoffs
) -> NDArray[np.object_]:
    """The kind of the explanation where it explains enough; None elsewhere."""
    family = np.full(len(firing), None, dtype=object)
    family[(firing > 0) & (firing <= cutoffs.ngram_tokens)] = "n-gram"
    enough = best.enough(cutoffs)
    family[enough] = best.kind[enough]
    return family
