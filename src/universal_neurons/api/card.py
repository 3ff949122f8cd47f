"""The card of a neuron: what is known of it at a glance, as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from universal_neurons.api.neuron_rows import NeuronRows
from universal_neurons.store.tables import records

# Examples that a card shows.
SHOWN = 5
# Half the width of a 95 % interval, in standard errors.
HALF_WIDTH = 1.96

STYLE = (
    "font-family:system-ui,sans-serif;font-size:14px;line-height:1.45;max-width:60em;"
    "border:1px solid #8884;border-radius:8px;padding:12px 16px"
)


@dataclass(frozen=True)
class Example:
    """A context with the activation at each of its tokens.

    Attributes
    ----------
    tokens
        Text of the tokens.
    shares
        Their activations as shares of the largest one of the neuron's examples, 0 to 1.
    centre
        Which token it is an example for.
    activation
        The activation there.
    """

    tokens: list[str]
    shares: list[float]
    centre: int
    activation: float


@dataclass(frozen=True)
class Card:
    """What a card says, before it has a form.

    Attributes
    ----------
    title
        Which neuron it is.
    sentences
        Its numbers in words.
    partners, training
        Tables, with the columns as they are shown.
    examples
        The strongest ones.
    """

    title: str
    sentences: list[str]
    partners: pd.DataFrame
    training: pd.DataFrame
    examples: list[Example]

    @classmethod
    def of(cls, neuron: NeuronRows) -> Card:
        """What is known of a neuron."""
        title = (
            f"Neuron {neuron.layer}.{neuron.neuron} of seed {neuron.seed} at step {neuron.step} "
            f"({neuron.run.name})"
        )
        said = [_universal(neuron), _beyond(neuron), _weights(neuron), _fires(neuron)]
        said += [_activity(neuron), _costs(neuron)]
        sentences = [sentence for sentence in said if sentence]
        return cls(title, sentences, _partners(neuron), _training(neuron), _examples(neuron))


def as_text(neuron: NeuronRows) -> str:
    """The card for a terminal; the token that an example is for is in [[ ]], active ones in [ ]."""
    card = Card.of(neuron)
    parts = [card.title, *card.sentences]
    parts += ["", "Best matches in the other seeds", card.partners.to_string(index=False)]
    parts += ["", "Over training", card.training.to_string(index=False)]
    if card.examples:
        parts += ["", "Where it is most active (at the last step)"]
        parts += [f"{each.activation:8.3g}  {_marked(each)}" for each in card.examples]
    return "\n".join(parts)


def as_html(neuron: NeuronRows) -> str:
    """The card for a notebook."""
    card = Card.of(neuron)
    lines = "".join(f"<p style='margin:4px 0'>{escape(each)}</p>" for each in card.sentences)
    body = [f"<h3 style='margin:0 0 6px'>{escape(card.title)}</h3>", lines]
    for name, table in (
        ("Best matches in the other seeds", card.partners),
        ("Over training", card.training),
    ):
        body.append(f"<h4 style='margin:10px 0 4px'>{name}</h4>")
        body.append(table.to_html(index=False, border=0, escape=True))
    if card.examples:
        body.append("<h4 style='margin:10px 0 4px'>Where it is most active (last step)</h4>")
        body += [_coloured(each) for each in card.examples]
    return f"<div style='{STYLE}'>{''.join(body)}</div>"


def _universal(neuron: NeuronRows) -> str:
    of, partners = neuron.scores, neuron.partners
    above = int((partners["excess_corr"] > of["threshold"]).sum())
    error = "" if pd.isna(of["excess_se"]) else f" ± {HALF_WIDTH * of['excess_se']:.3f}"
    verdict = "Universal" if of["universal"] else "Not universal"
    return (
        f"{verdict}: excess correlation {of['excess_corr']:.3f}{error} (95 %, over tokens), mean "
        f"over {len(partners)} other seed{'s' * (len(partners) != 1)}; the threshold is "
        f"{of['threshold']:.2f}, which {above} of them exceed{'s' * (above == 1)}."
    )


def _beyond(neuron: NeuronRows) -> str:
    of, said = neuron.scores, []
    if not pd.isna(of["q_value"]):
        nulls = neuron.run.rows("nulls", step=neuron.step)["null"]
        null = "random directions in the other models' inputs"
        if "random directions" not in set(nulls):
            null = "the nulls that the run has"
        said.append(f"Against {null}: q = {of['q_value']:.2g}.")
    if not pd.isna(of["token_r2"]):
        said.append(f"The token at hand explains {of['token_r2']:.0%} of its variance.")
    if not pd.isna(of["excess_given_token"]):
        said.append(f"Excess given the token: {of['excess_given_token']:.3f}.")
    return " ".join(said)


def _weights(neuron: NeuronRows) -> str:
    of = neuron.roles
    if not of:
        return ""
    role = "none of those looked for" if pd.isna(of["role"]) else of["role"]
    promoted, suppressed = (
        ", ".join(repr(neuron.run.text([token])) for token in of[kind])
        for kind in ("promoted_ids", "suppressed_ids")
    )
    if not promoted:
        return f"Role by its weights: {role}. The model has no head that would read tokens from it."
    return f"Role by its weights: {role}. It promotes {promoted}; it suppresses {suppressed}."


def _fires(neuron: NeuronRows) -> str:
    of = neuron.family
    if not of:
        return ""
    if pd.isna(of["family"]):
        return "Family: none of those looked for explains when it fires."
    share = f"{of['variance_reduction']:.0%}" if not pd.isna(of["variance_reduction"]) else "–"
    why = "" if pd.isna(of["explanation"]) else f" ({of['explanation']!r})"
    return f"Family: {of['family']}{why}, which alone explains {share} of its variance."


def _activity(neuron: NeuronRows) -> str:
    of = neuron.moments
    return (
        f"Activation: mean {of['mean']:.3g}, standard deviation {of['std']:.3g}, from "
        f"{of['min']:.3g} to {of['max']:.3g}; above 0 at {of['sparsity']:.1%} of the tokens."
    )


def _costs(neuron: NeuronRows) -> str:
    of = neuron.effect
    if not of:
        return ""
    if not pd.isna(of["delta_loss"]):
        error = f" ± {HALF_WIDTH * of['delta_loss_se']:.2g}" if of["delta_loss_se"] else ""
        return (
            f"Ablating it alone changes the loss by {of['delta_loss']:+.2g}{error} nats per token."
        )
    return (
        "Ablating it alone would change the loss by about "
        f"{of['attributed_delta_loss']:+.2g} nats per token (to second order)."
    )


def _partners(neuron: NeuronRows) -> pd.DataFrame:
    of = neuron.partners
    place = of["best_layer"].astype(str) + "." + of["best_neuron"].astype(str)
    return pd.DataFrame(
        {
            "seed": of["other_seed"].astype(str),
            "neuron": place.where(of["best_layer"] >= 0, "–"),
            "correlation": of["best_corr"].map("{:.3f}".format),
            "baseline": of["baseline_corr"].map("{:.3f}".format),
            "excess": of["excess_corr"].map("{:.3f}".format),
            "mutual": of["mutual"].map({True: "yes", False: "no"}),
        }
    )


def _training(neuron: NeuronRows) -> pd.DataFrame:
    of = neuron.trajectory
    shown = pd.DataFrame(
        {
            "step": of["step"],
            "excess": of["excess_corr"].map("{:.3f}".format),
            "± 95 %": (HALF_WIDTH * of["excess_se"]).map("{:.3f}".format),
            "universal": of["universal"].map({True: "yes", False: "no"}),
        }
    )
    if "self_corr" in of:
        shown["correlation with the next step"] = of["self_corr"].map("{:.3f}".format)
    return shown.replace("nan", "–")


def _examples(neuron: NeuronRows) -> list[Example]:
    found = neuron.examples
    if found.empty:
        return []
    top = found[found["band"] == "top"].nsmallest(SHOWN, "rank")
    largest = max((max(each) for each in top["activations"]), default=0)
    return [
        Example(
            tokens=[neuron.run.text([token]) for token in row["token_ids"]],
            shares=[max(0.0, x / largest) if largest > 0 else 0.0 for x in row["activations"]],
            centre=row["position"] - row["start"],
            activation=row["activation"],
        )
        for row in records(top)
    ]


def _marked(example: Example) -> str:
    def mark(place: int, token: str, share: float) -> str:
        token = token.replace("\n", "⏎")
        if place == example.centre:
            return f"[[{token}]]"
        return f"[{token}]" if share >= 0.5 else token

    return "".join(map(mark, *_columns(example)))


def _coloured(example: Example) -> str:
    def colour(place: int, token: str, share: float) -> str:
        weight = "font-weight:600;" if place == example.centre else ""
        style = f"{weight}background:rgba(0,114,178,{0.65 * share:.2f});white-space:pre-wrap"
        return f"<span style='{style}'>{escape(token)}</span>"

    text = "".join(map(colour, *_columns(example)))
    return f"<p style='margin:2px 0'><code>{example.activation:.3g}</code> {text}</p>"


def _columns(example: Example) -> tuple[Iterable[Any], ...]:
    return range(len(example.tokens)), example.tokens, example.shares
