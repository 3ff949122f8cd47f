"""Load a language model and reach its MLP neurons.

A neuron's activation is the input of its MLP's output projection: the hidden value after the
nonlinearity, or act(gate)·up in a gated MLP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from universal_neurons.errors import UserError
from universal_neurons.models.shape import read_shape

# Loading a model takes no time worth a progress bar; our own log says what is loaded.
transformers_logging.disable_progress_bar()

# model_type of config.json -> (path of the list of blocks, path of the MLP's output projection
# within a block). A new architecture is a new line here.
ARCHITECTURES = {
    "gpt2": ("transformer.h", "mlp.c_proj"),
    "gpt_neox": ("gpt_neox.layers", "mlp.dense_4h_to_h"),
    "opt": ("model.decoder.layers", "fc2"),
    "llama": ("model.layers", "mlp.down_proj"),
    "mistral": ("model.layers", "mlp.down_proj"),
    "qwen2": ("model.layers", "mlp.down_proj"),
    "qwen3": ("model.layers", "mlp.down_proj"),
    "gemma": ("model.layers", "mlp.down_proj"),
    "gemma2": ("model.layers", "mlp.down_proj"),
}

# What loading broken files, or pickled ones that hold more than weights, raises.
_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError)

OnLayer = Callable[[int, torch.Tensor], torch.Tensor | None]


@dataclass(frozen=True)
class Model:
    """A loaded causal language model and the places where its neurons are read.

    Attributes
    ----------
    module
        The Hugging Face model, in evaluation mode.
    blocks
        Its transformer blocks in order, one per layer.
    projections
        The MLP output projection of every block.
    device
        Where it runs.
    """

    module: Any
    blocks: tuple[nn.Module, ...]
    projections: tuple[nn.Module, ...]
    device: torch.device

    @cached_property
    def d_mlp(self) -> tuple[int, ...]:
        """Number of neurons of every layer."""
        return tuple(
            # GPT-2's Conv1D stores its weight as (inputs, outputs) and has no in_features.
            p.in_features if isinstance(p, nn.Linear) else len(p.get_parameter("weight"))
            for p in self.projections
        )

    @cached_property
    def vocab_size(self) -> int:
        """Number of rows of the token embedding."""
        return self.module.get_input_embeddings().weight.shape[0]

    @contextmanager
    def tap(self, on_layer: OnLayer) -> Iterator[None]:
        """Call `on_layer(layer, activations)` whenever a layer's MLP runs inside the context.

        `activations` has shape (..., d_mlp), in the model's dtype. Where the function returns a
        tensor, the model goes on with that instead.
        """

        def hook(layer: int) -> Callable:
            def run(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple | None:
                replaced = on_layer(layer, inputs[0])
                return None if replaced is None else (replaced, *inputs[1:])

            return run

        handles = [
            projection.register_forward_pre_hook(hook(layer))
            for layer, projection in enumerate(self.projections)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def digest(self) -> str:
        """SHA-256 (hexadecimal) over the names, shapes and bytes of the loaded weights."""
        sha = hashlib.sha256()
        for name, weight in sorted(self.module.state_dict().items()):
            sha.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            flat = weight.detach().cpu().contiguous().flatten()
            sha.update(flat.view(torch.uint8).numpy().data)
        return sha.hexdigest()


def device_of(name: str) -> torch.device:
    """The torch device for a config value: ``auto`` is a CUDA device if there is one, or the CPU.

    Raises
    ------
    UserError
        If the named device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"capture.device: {name}: no CUDA device is available; use auto or cpu")
    return torch.device(name)


def load(path: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Model:
    """Load a Hugging Face model directory without executing code from it.

    Parameters
    ----------
    path
        Directory with ``config.json`` and weights (safetensors preferred).
    dtype
        ``float32``, ``bfloat16`` or ``float16``: weights are converted to it, whatever the dtype
        they were stored in (published float16 weights would otherwise be run in float16).
    device
        See `device_of`.

    Raises
    ------
    UserError
        If the directory is missing or unreadable, the architecture is unknown or a mixture of
        experts, or a weight is missing or not finite.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: not a Hugging Face model directory (no config.json)")
    read_shape(path)
    try:
        module, loading = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except _UNREADABLE as error:
        raise UserError(f"{path}: the model can't be loaded: {error}") from error
    # transformers would go on with random weights in their place.
    if loading["missing_keys"]:
        raise UserError(
            f"{path}: weights are missing: {', '.join(sorted(loading['missing_keys']))}"
        )
    for name, weight in module.named_parameters():
        if not torch.isfinite(weight).all():
            raise UserError(f"{path}: weight {name} has NaN or infinite values")
    return _reach(module, path, device)


def untrained(path: str | Path, seed: int, *, dtype: str = "float32", device: str = "cpu") -> Model:
    """A model of the same architecture with random weights, as its configuration draws them.

    Parameters
    ----------
    path
        Directory with ``config.json``.
    seed
        Of the weights.
    dtype, device
        See `load`.

    Raises
    ------
    UserError
        If the directory is missing or the architecture is unknown.
    """
    path = Path(path)
    read_shape(path)
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return _reach(module.to(getattr(torch, dtype)), path, device)


def _reach(module: Any, path: Path, device: str) -> Model:
    """Put a model on its device and find its neurons."""
    kind = module.config.model_type
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{path}: unknown architecture {kind!r}; known are {known}")
    where = device_of(device)
    module = module.to(where).eval().requires_grad_(False)
    blocks_path, projection_path = ARCHITECTURES[kind]
    blocks = tuple(module.get_submodule(blocks_path))
    return Model(
        module=module,
        blocks=blocks,
        projections=tuple(block.get_submodule(projection_path) for block in blocks),
        device=where,
    )
