"""What a model says of itself in its ``config.json``: read without torch, as the plan asks too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.models.architectures import ARCHITECTURES

# Names of sizes in config.json, by architecture: whole numbers above 0, or null for a default.
LAYER_KEYS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers")
WIDTH_KEYS = ("n_embd", "n_embed", "hidden_size", "dim")
MLP_KEYS = ("n_inner", "intermediate_size", "ffn_dim", "ffn_hidden_size", "hidden_dim")
CONTEXT_KEYS = ("n_positions", "max_position_embeddings")
HEAD_KEYS = ("n_head", "num_attention_heads", "num_key_value_heads", "head_dim", "n_heads")
SIZES = (
    *LAYER_KEYS, *WIDTH_KEYS, *MLP_KEYS, *CONTEXT_KEYS, *HEAD_KEYS, "vocab_size", "sliding_window"
)  # fmt: skip

# Names of the number of experts, in the config.json of mixture-of-experts models.
EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
# Where the config.json of a quantised model says how.
QUANTISATION_KEYS = ("quantization_config", "compression_config")


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that comes with a model.

    Raises
    ------
    UserError
        If it can't be read, or is no JSON object.
    """
    try:
        found = json.loads(file.read_text(), parse_int=_whole, parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"models.path: {file} can't be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"models.path: {file} is not the {file.name} of a Hugging Face model")
    return found


def _whole(digits: str) -> int:
    if abs(number := int(digits)) >= 1 << 63:
        raise ValueError(f"{digits} is too large")
    return number


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def read_description(model: Path) -> dict[str, Any]:
    """Read a model's ``config.json`` and check what it says.

    Raises
    ------
    UserError
        If the file is missing or unreadable or has a size of the wrong type, or if the model is of
        an unknown architecture, a mixture of experts or quantised.
    """
    file = model / "config.json"
    # Path.is_file lets errors through, such as that a name is too long.
    if not os.path.isfile(file):
        raise UserError(
            f"models.path: {file} does not exist; models.path must name a Hugging Face model "
            "directory for every seed and step"
        )
    found = read_json_object(file)
    for key in (*SIZES, *EXPERT_KEYS):
        value = found.get(key)
        least = 1 if key in SIZES else 0
        if value is not None and not (type(value) is int and value >= least):
            raise UserError(
                f"models.path: {file}: {key} is {value!r}; expected a whole number from {least}"
            )
    experts = next((key for key in EXPERT_KEYS if (found.get(key) or 0) > 1), None)
    if experts is not None:
        raise UserError(
            f"models.path: {file}: a mixture-of-experts model ({experts}: {found[experts]}); its "
            "neurons run on some tokens only and can't be correlated over all; give dense models"
        )
    for key in QUANTISATION_KEYS:
        if found.get(key) is not None:
            how = found[key].get("quant_method") if isinstance(found[key], dict) else None
            raise UserError(
                f"models.path: {file}: a quantised model ({key}: {how or found[key]}); give it "
                "with float weights"
            )
    kind = found.get("model_type")
    if kind is not None and (not isinstance(kind, str) or kind not in ARCHITECTURES):
        hint = f"known are {', '.join(ARCHITECTURES)}"
        text = found.get("text_config")
        if isinstance(text, dict) and text.get("model_type") in tuple(ARCHITECTURES):
            hint = f"save its text model alone ({text['model_type']}) and give that"
        raise UserError(f"models.path: {file}: unknown architecture {kind!r}; {hint}")
    if kind is not None and ARCHITECTURES[kind].masked_head and found.get("is_decoder"):
        raise UserError(
            f"models.path: {file}: is_decoder is set, so that it predicts next tokens; a model of "
            f"the architecture {kind} is read as an encoder, which predicts masked ones"
        )
    return found
