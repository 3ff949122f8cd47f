"""The architectures that are known, and where their neurons are."""

from __future__ import annotations

from typing import NamedTuple


class Architecture(NamedTuple):
    """Where the neurons of an architecture are.

    Attributes
    ----------
    blocks
        Path of the list of blocks.
    projection
        Path, within a block, of the MLP's output projection.
    inputs
        Paths of what neurons read with: the MLP's input projection, or gate and up where it is
        gated. A neuron's activation is nonlinearity(input), or nonlinearity(gate)·up.
    nonlinearity
        Path of the MLP's nonlinearity.
    """

    blocks: str
    projection: str
    inputs: tuple[str, ...]
    nonlinearity: str


_GATED = Architecture(
    "model.layers", "mlp.down_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.act_fn"
)

# By model_type of config.json. A new architecture is a new line here.
ARCHITECTURES = {
    "gpt2": Architecture("transformer.h", "mlp.c_proj", ("mlp.c_fc",), "mlp.act"),
    "gpt_neox": Architecture(
        "gpt_neox.layers", "mlp.dense_4h_to_h", ("mlp.dense_h_to_4h",), "mlp.act"
    ),
    "opt": Architecture("model.decoder.layers", "fc2", ("fc1",), "activation_fn"),
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "gemma": _GATED,
    "gemma2": _GATED,
}
