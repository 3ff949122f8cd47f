"""What neurons are for, by their weights alone: one row of `columns.roles.ROLES` each.

Statistics are those of 2401.12181 and 2406.16254, with the layer norms folded in and the weights
centred as there (`models.residual`). A role takes a published cut-off and more than chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from universal_neurons.describe.chance import Chance, cosine_p, q_values, share_p, upper_p
from universal_neurons.describe.logits import Logits
from universal_neurons.models.load import Model
from universal_neurons.models.residual import Residual

# Tokens listed as promoted or suppressed.
LISTED = 10
# Sequences whose first tokens say what heads see at the first position.
FIRST_TOKENS = 256
# |cos| at which weights of a gated neuron count as aligned, of Gerstner and Schütze (2505.17936).
ALIGNED = 0.5

ROLES = ("entropy", "prediction", "suppression", "token frequency", "attention", "partition")


@dataclass(frozen=True)
class RoleCutoffs:
    """Section ``roles`` of the configuration: what makes a role.

    Attributes
    ----------
    kurtosis
        Of prediction and suppression: least `vocab_kurt`.
    partition_variance
        Least `vocab_var`.
    entropy_layers
        Last layers in which there are entropy neurons.
    entropy_variance, entropy_kurtosis, entropy_penalty
        Largest `vocab_var`, largest `vocab_kurt` and least `l2_penalty` of these.
    null_space
        Share of the dimensions that counts as the unembedding's null space.
    frequency_cos, attention_cos
        Least cosine with the direction of token frequency, and with a head's of the first position.
    false_discovery_rate
        Largest q-value against random directions, of every role.
    draws, seed
        See `Chance`.
    """

    kurtosis: float
    partition_variance: float
    entropy_layers: int
    entropy_variance: float
    entropy_kurtosis: float
    entropy_penalty: float
    null_space: float
    frequency_cos: float
    attention_cos: float
    false_discovery_rate: float
    draws: int
    seed: int


def roles(
    model: Model, sequences: NDArray[np.integer], counts: NDArray[np.int64], cutoffs: RoleCutoffs
) -> pd.DataFrame:
    """Describe every neuron of a model by its weights.

    Parameters
    ----------
    model
        The model.
    sequences
        Token ids, shape (sequences, context length): the first tokens of the first ones are what
        heads see at position 0.
    counts
        How often every token id is in the corpus, shape (ids,).
    cutoffs
        What makes a role.

    Returns
    -------
    DataFrame
        `columns.roles.ROLES` without seed and step.
    """
    residual = Residual(model)
    chance = Chance(cutoffs.draws, cutoffs.seed)
    logits = Logits.of(residual, counts)
    drawn = chance.directions(residual.d_model, residual.centred).to(model.device)
    random = logits.moments(drawn)
    null_space = logits.null_space(cutoffs.null_space)
    heads = residual.attention(sequences[:FIRST_TOKENS, 0])
    layers = []
    for layer in range(len(model.blocks)):
        written = residual.outputs(layer)
        arriving = residual.at_end(layer, written)
        unit = torch.nn.functional.normalize(written, dim=1)
        found = {
            "layer": layer,
            "neuron": np.arange(len(written)),
            **_weights(residual.inputs(layer), written, residual.dimensions),
            **logits.moments(arriving),
            "null_space": _share(arriving, null_space),
            **_attention(heads, layer, unit, drawn),
            **{k: list(v) for k, v in logits.extremes(arriving, LISTED).items()},
        }
        layers.append(pd.DataFrame(found))
    table = pd.concat(layers, ignore_index=True)
    table = _with_q_values(table, random, null_space.shape[1], residual.dimensions)
    return table.assign(role=_role(table, cutoffs))


def _weights(
    inputs: Sequence[tuple[torch.Tensor, torch.Tensor]], written: torch.Tensor, dimensions: int
) -> dict[str, NDArray | list[str | None]]:
    """Norms and angles of a layer's input and output weights."""
    # Of a gated MLP `up` carries the input, and `gate` whether it passes.
    *gates, (read, bias) = inputs
    norms = [torch.linalg.vector_norm(w, dim=1) for w in (read, written)]
    in_out = _cosine(read, written)
    nothing = np.full(len(written), np.nan)
    found: dict[str, NDArray | list[str | None]] = {
        "w_in_norm": norms[0].cpu().numpy(),
        "w_out_norm": norms[1].cpu().numpy(),
        "w_gate_norm": nothing,
        "input_bias": (gates[0][1] if gates else bias).cpu().numpy(),
        "in_out_cos": in_out,
        "in_out_p": cosine_p(in_out, dimensions),
        "gate_out_cos": nothing,
        "gate_in_cos": nothing,
        "gate_category": [None] * len(written),
    }
    penalty = norms[0].square() + norms[1].square()
    if gates:
        gate = gates[0][0]
        norm = torch.linalg.vector_norm(gate, dim=1)
        penalty = penalty + norm.square()
        cosines = _cosine(gate, written), _cosine(gate, read)
        found["w_gate_norm"] = norm.cpu().numpy()
        found["gate_out_cos"], found["gate_in_cos"] = cosines
        found["gate_category"] = gate_category(in_out, *cosines)
    return {**found, "l2_penalty": penalty.cpu().numpy()}


def gate_category(
    in_out: NDArray[np.floating], gate_out: NDArray[np.floating], gate_in: NDArray[np.floating]
) -> list[str | None]:
    """What gated neurons do to the direction that they write, after Gerstner and Schütze.

    Enrichment writes more of what is read (cos(in, out) ≥ 1/2), depletion less of it; they are
    conditional where the gate reads something else (\\|cos(gate, out)\\| < 1/2). A neuron that
    reads something else, and whose gate reads what it writes, is one of proportional change; any
    other has orthogonal output. It is atypical if gate and input are aligned (\\|cos\\| ≥ 1/2)
    where the other two angles say that they are not, or the other way round.

    Parameters
    ----------
    in_out, gate_out, gate_in
        Cosines of input, gate and output weights, shape (n,).
    """
    gated = np.abs(gate_out) >= ALIGNED
    kind = np.select(
        [in_out >= ALIGNED, in_out <= -ALIGNED, gated],
        ["enrichment", "depletion", "proportional change"],
        "orthogonal output",
    ).astype(object)
    aligned = np.abs(in_out) >= ALIGNED
    kind[aligned & ~gated] = "conditional " + kind[aligned & ~gated]
    atypical = (np.abs(gate_in) >= ALIGNED) != (aligned & gated)
    kind[atypical] = "atypical " + kind[atypical]
    return kind.tolist()


def _share(directions: torch.Tensor, space: torch.Tensor) -> NDArray[np.float64]:
    """How much of directions lies in a space, of an orthonormal basis (d_model, k)."""
    unit = torch.nn.functional.normalize(directions, dim=1)
    return (unit @ space).square().sum(1).cpu().numpy()


def _cosine(a: torch.Tensor, b: torch.Tensor) -> NDArray[np.float64]:
    """Of rows; 0 where one of them is 0."""
    return torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1).cpu().numpy()


def _attention(
    heads: Sequence[torch.Tensor] | None, layer: int, unit: torch.Tensor, drawn: torch.Tensor
) -> dict[str, NDArray]:
    """How neurons steer the later layers' attention to the first position, by the head most."""
    n, later = len(unit), [] if heads is None else heads[layer + 1 :]
    if not later:
        return {
            **dict.fromkeys(
                ("attention_score", "attention_cos", "attention_p"), np.full(n, np.nan)
            ),
            **dict.fromkeys(("attention_layer", "attention_head"), np.full(n, -1)),
        }
    reads = torch.cat(list(later))
    scores = unit @ reads.T
    place = scores.abs().argmax(1)
    score = scores.gather(1, place[:, None])[:, 0]
    of_head = len(reads) // len(later)
    sample = (drawn @ reads.T).abs().amax(1).cpu().numpy()
    length = torch.linalg.vector_norm(reads, dim=1)[place]
    return {
        "attention_score": score.cpu().numpy(),
        "attention_cos": (score / length).nan_to_num(0).cpu().numpy(),
        "attention_p": upper_p(score.abs().cpu().numpy(), sample),
        "attention_layer": (layer + 1 + place // of_head).cpu().numpy(),
        "attention_head": (place % of_head).cpu().numpy(),
    }


def _with_q_values(
    table: pd.DataFrame, random: dict[str, NDArray[np.float64]], null_space: int, dimensions: int
) -> pd.DataFrame:
    """False discovery rates over the model's neurons, of random directions in their place."""
    value = {name: table[name].to_numpy() for name in random}
    with np.errstate(divide="ignore"):
        # Small variances are large inverses; they have the same order.
        flat = upper_p(1 / value["vocab_var"], 1 / random["vocab_var"])
    p = {
        "in_out_q": table["in_out_p"].to_numpy(),
        "vocab_kurt_q": upper_p(value["vocab_kurt"], random["vocab_kurt"]),
        "vocab_var_q": upper_p(value["vocab_var"], random["vocab_var"]),
        "vocab_flat_q": flat,
        "null_space_q": share_p(table["null_space"].to_numpy(), null_space, dimensions),
        "frequency_q": upper_p(np.abs(value["frequency_cos"]), np.abs(random["frequency_cos"])),
        "attention_q": table["attention_p"].to_numpy(),
    }
    found = {name: q_values(each) for name, each in p.items()}
    return table.drop(columns=["in_out_p", "attention_p"]).assign(**found)


def _role(table: pd.DataFrame, cutoffs: RoleCutoffs) -> NDArray[np.object_]:
    """The first of `ROLES` that a neuron has; None without any."""
    sharp = (table["vocab_kurt"] > cutoffs.kurtosis) & _better(table["vocab_kurt_q"], cutoffs)
    wide = table["vocab_var"] > cutoffs.partition_variance
    last = table["layer"] > table["layer"].max() - cutoffs.entropy_layers
    flat = (table["vocab_var"] <= cutoffs.entropy_variance) & _better(
        table["vocab_flat_q"], cutoffs
    )
    # Of a neuron that changes no logit the kurtosis is unknown.
    flat &= ~(table["vocab_kurt"] > cutoffs.entropy_kurtosis)
    frequent = table["frequency_cos"].abs() >= cutoffs.frequency_cos
    attending = table["attention_cos"].abs() >= cutoffs.attention_cos
    holds = {
        "entropy": last & flat & (table["l2_penalty"] >= cutoffs.entropy_penalty),
        "prediction": sharp & (table["vocab_skew"] > 0),
        "suppression": sharp & (table["vocab_skew"] < 0),
        "partition": wide & _better(table["vocab_var_q"], cutoffs),
        "token frequency": frequent & _better(table["frequency_q"], cutoffs),
        "attention": attending & _better(table["attention_q"], cutoffs),
    }
    role = np.full(len(table), None, dtype=object)
    for name in reversed(ROLES):
        role[holds[name].to_numpy()] = name
    return role


def _better(q: pd.Series, cutoffs: RoleCutoffs) -> pd.Series:
    """Whether random directions are unlikely to do as much."""
    return q < cutoffs.false_discovery_rate
