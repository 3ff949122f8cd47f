"""Size of a model, read from its ``config.json``: cheap, as the Snakefile asks for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from universal_neurons.errors import UserError

# Names of the number of layers and of the MLP width in config.json, by architecture.
LAYER_KEYS = ("n_layer", "num_hidden_layers", "num_layers")
WIDTH_KEYS = ("n_embd", "hidden_size")
MLP_KEYS = ("n_inner", "intermediate_size", "ffn_dim")
# Names of the number of experts, in the config.json of mixture-of-experts models.
EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Shape:
    """Size of a model: number of layers and neurons per layer."""

    n_layers: int
    d_mlp: int

    @property
    def neurons(self) -> int:
        """Neurons of the whole model."""
        return self.n_layers * self.d_mlp


def read_shape(model: Path) -> Shape:
    """Read a model's shape from its ``config.json``.

    Raises
    ------
    UserError
        If the file is missing, is not JSON or does not name the sizes, or if the model is a mixture
        of experts.
    """
    file = model / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"models.path: {file} does not exist; models.path must name a Hugging Face model "
            "directory for every seed and step"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"models.path: {file} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"models.path: {file} is not the config.json of a Hugging Face model")
    experts = next((k for k in EXPERT_KEYS if (config.get(k) or 0) > 1), None)
    if experts is not None:
        raise UserError(
            f"models.path: {file}: a mixture-of-experts model ({experts}: {config[experts]}); its "
            "neurons run on some tokens only and can't be correlated over all; give dense models"
        )
    layers = next((config[k] for k in LAYER_KEYS if config.get(k)), None)
    width = next((config[k] for k in WIDTH_KEYS if config.get(k)), None)
    d_mlp = next((config[k] for k in MLP_KEYS if config.get(k)), width and 4 * width)
    if layers is None or d_mlp is None:
        raise UserError(f"models.path: {file} does not say the number of layers and the MLP width")
    return Shape(layers, d_mlp)


def read_vocabulary(model: Path) -> int | None:
    """Number of tokens that a model's ``config.json`` names, if any."""
    return json.loads((model / "config.json").read_text()).get("vocab_size")
