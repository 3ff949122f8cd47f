"""Load a language model and reach its MLP neurons.

A neuron's activation is the input of its MLP's output projection: the hidden value after the
nonlinearity, or act(gate)·up in a gated MLP.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
)
from transformers.activations import ACT2FN
from transformers.utils import logging as transformers_logging

from universal_neurons.devices import device_of
from universal_neurons.errors import UserError
from universal_neurons.models.architectures import ARCHITECTURES, Architecture
from universal_neurons.models.description import read_description
from universal_neurons.models.fit import check_loading, check_size, heads, lacks_head
from universal_neurons.models.shape import read_shape
from universal_neurons.models.weights import one_line, read_weights
from universal_neurons.store.files import again

# Loading a model takes no time worth a progress bar; our own log says what is loaded.
transformers_logging.disable_progress_bar()
# What it would warn of at loading is refused.
transformers_logging.set_verbosity_error()

# Keys of config.json that say how to run a model or classify by it, not what it is. Some would have
# code fetched (an attention kernel of the Hub), or other files loaded than those that are checked,
# or a projection multiplied in slices, past its module and so unseen (`slow_but_exact`).
LEFT_OUT = {
    "_attn_implementation", "attn_implementation", "_attn_implementation_internal",
    "_experts_implementation", "experts_implementation", "_experts_implementation_internal",
    "auto_map", "fusion_config", "id2label", "label2id", "num_labels", "output_attentions",
    "output_hidden_states", "problem_type", "return_dict", "slow_but_exact", "torchscript",
    "transformers_weights", "use_return_dict",
}  # fmt: skip

# By what a model predicts: the class that makes one of any architecture, and the classes it knows.
CLASSES = {
    "next_token": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    "masked": (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING),
}

OnLayer = Callable[[int, torch.Tensor], torch.Tensor | None]


@dataclass(frozen=True)
class Model:
    """A loaded language model and the places where its neurons are read.

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

    @property
    def places(self) -> Architecture:
        """Where the parts of the model are."""
        return ARCHITECTURES[self.module.config.model_type]

    @property
    def context(self) -> int | None:
        """Tokens of the longest sequence that it reads; None where nothing says."""
        config = self.module.config
        positions = getattr(config, "max_position_embeddings", None)
        padding = getattr(config, "pad_token_id", None)
        return positions and self.places.longest(positions, padding or 0)

    def read(self, ids: torch.Tensor) -> None:
        """Run the network up to the unembedding over token ids, shape (sequences, length)."""
        self.module.base_model(input_ids=ids, **self._without_cache)

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Its predictions at every position of token ids, shape (sequences, length, vocabulary)."""
        return self.module(input_ids=ids, **self._without_cache).logits

    @property
    def _without_cache(self) -> dict[str, bool]:
        """For a model that could keep keys and values for the next token."""
        return {"use_cache": False} if self.places.loss_kind == "next_token" else {}

    @property
    def has_head(self) -> bool:
        """Whether it can predict tokens; weights without a head have activations alone."""
        return bool(heads(self.module))

    @cached_property
    def d_mlp(self) -> tuple[int, ...]:
        """Number of neurons of every layer."""
        return tuple(
            # GPT-2's Conv1D stores its weight as (inputs, outputs) and has no in_features.
            p.in_features if isinstance(p, nn.Linear) else len(p.get_parameter("weight"))
            for p in self.projections
        )

    def output_weight(self, layer: int) -> torch.Tensor:
        """What the layer's MLP writes per unit of every activation, shape (d_mlp, d_model)."""
        projection = self.projections[layer]
        weight = projection.get_parameter("weight")
        # GPT-2's Conv1D stores (neurons, outputs), a linear layer (outputs, neurons).
        return weight.T if isinstance(projection, nn.Linear) else weight

    @cached_property
    def input_projections(self) -> tuple[tuple[nn.Module, ...], ...]:
        """What every layer's neurons read with: one projection, or gate and up, be they one."""
        paths = self.places.inputs
        return tuple(tuple(map(block.get_submodule, paths)) for block in self.blocks)

    def input_weights(self, layer: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weight, shape (d_mlp, d_model), and bias, (d_mlp,), of a layer's input projections.

        The bias is 0 where there is none.
        """
        found: list[tuple[torch.Tensor, ...]] = []
        projections = self.input_projections[layer]
        for projection in dict.fromkeys(projections):
            stored = projection.get_parameter("weight")
            # GPT-2's Conv1D stores (inputs, neurons), a linear layer (neurons, inputs).
            weight = stored if isinstance(projection, nn.Linear) else stored.T
            bias = getattr(projection, "bias", None)
            bias = weight.new_zeros(len(weight)) if bias is None else bias
            parts = len(projections) if len(set(projections)) == 1 else 1
            found += zip(weight.chunk(parts), bias.chunk(parts), strict=True)
        return [(weight, bias) for weight, bias in found]

    def activate(self, layer: int, read: Sequence[torch.Tensor]) -> torch.Tensor:
        """A layer's activations, given what its input projections (or others) return."""
        gate, *up = read
        active = attrgetter(self.places.nonlinearity)(self.blocks[layer])(gate)
        return active * up[0] if up else active

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

        with _hooked(self.projections, on_layer):
            yield

    @contextmanager
    def tap_inputs(self, on_layer: OnLayer) -> Iterator[None]:
        """As `tap`, of the inputs of the MLPs' input projections, shape (..., d_model)."""
        with _hooked([first for first, *_ in self.input_projections], on_layer):
            yield

    def digest(self) -> str:
        """SHA-256 (hexadecimal) over the names, shapes and bytes of the loaded weights."""
        sha = hashlib.sha256()
        for name, weight in sorted(self.module.state_dict().items()):
            sha.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            flat = weight.detach().cpu().contiguous().flatten()
            sha.update(flat.view(torch.uint8).numpy().data)
        return sha.hexdigest()


@contextmanager
def _hooked(modules: Sequence[nn.Module], on_layer: OnLayer) -> Iterator[None]:
    """Hand the input of every module to a function, before the module runs."""

    def hook(layer: int) -> Callable:
        def run(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple | None:
            replaced = on_layer(layer, inputs[0])
            return None if replaced is None else (replaced, *inputs[1:])

        return run

    handles = [m.register_forward_pre_hook(hook(layer)) for layer, m in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def load(path: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Model:
    """Load a Hugging Face model directory without executing code from it.

    Weights may lack the head (`Model.has_head`); a head is never drawn at random.

    Parameters
    ----------
    path
        Directory with ``config.json`` and weights (safetensors preferred).
    dtype
        ``float32``, ``bfloat16`` or ``float16``: weights are converted to it, whatever the dtype
        they were stored in (published float16 weights would otherwise be run in float16).
    device
        See `devices.device_of`.

    Raises
    ------
    UserError
        If the directory is missing or unreadable, the architecture is unknown, a mixture of experts
        or quantised, ``config.json`` and the weights do not fit each other, or a weight is not
        finite.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: not a Hugging Face model directory (no config.json)")
    config = _configuration(path)
    weights = read_weights(path)
    maker, classes = CLASSES[ARCHITECTURES[config.model_type].loss_kind]
    with _explained(path):
        with torch.device("meta"):
            outline = maker.from_config(copy.deepcopy(config))
        check_size(path, outline, weights)
        # Without a path, no other file of the directory is looked for.
        module, loading = classes[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=getattr(torch, dtype),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if lacks_head(module, loading, weights):
        for name in heads(module):
            setattr(module, name, None)
        loading = {**loading, "missing_keys": ()}
    check_loading(path, loading, read_description(path))
    for name, weight in module.named_parameters():
        if not torch.isfinite(weight).all():
            raise UserError(f"{path}: weight {name} has NaN or infinite values")
    return _reach(module, device)


def load_captured(
    path: str | Path, sha256: str, captured: str | Path, options: Mapping[str, str]
) -> Model:
    """Load a model whose activations were captured, and refuse other weights.

    Parameters
    ----------
    path
        See `load`.
    sha256
        `Model.digest` of the captured one.
    captured
        The file or store that says so.
    options
        Of `load`.

    Raises
    ------
    UserError
        If the weights are others, or see `load`.
    """
    model = load(path, **options)
    if (digest := model.digest()) != sha256:
        raise UserError(
            f"{path}: its weights (SHA-256 {digest[:12]}…) are not those that were captured "
            f"({sha256[:12]}…, {captured}): put those back, or, to capture these, {again(captured)}"
        )
    return model


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
    config = _configuration(path)
    maker, _ = CLASSES[ARCHITECTURES[config.model_type].loss_kind]
    torch.manual_seed(seed)
    with _explained(path):
        module = maker.from_config(config)
    return _reach(module.to(getattr(torch, dtype)), device)


def _configuration(path: Path) -> PreTrainedConfig:
    """The configuration of a model, without the keys that are left out."""
    read_shape(path)
    about = {k: v for k, v in read_description(path).items() if k not in LEFT_OUT}
    if "model_type" not in about:
        raise UserError(f"{path}: config.json does not name the architecture (model_type)")
    for key in ("activation", "activation_function", "hidden_act", "hidden_activation"):
        name = about.get(key)
        if name is not None and not (isinstance(name, str) and name in ACT2FN):
            raise UserError(
                f"{path}: config.json: unknown activation {name!r} ({key}); known are "
                f"{', '.join(ACT2FN)}"
            )
    with _explained(path / "config.json"):
        return CONFIG_MAPPING[about["model_type"]].from_dict(about)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what transformers makes of a wrong config.json into a message that names the model."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: the model can't be loaded: {one_line(error)}") from error


def _reach(module: Any, device: str) -> Model:
    """Put a model on its device and find its neurons."""
    where = device_of(device)
    module = module.to(where).eval().requires_grad_(False)
    if module.config.model_type == "albert":
        _unshare(module.albert.encoder)
    places = ARCHITECTURES[module.config.model_type]
    blocks = tuple(module.get_submodule(places.blocks))
    return Model(
        module=module,
        blocks=blocks,
        projections=tuple(block.get_submodule(places.projection) for block in blocks),
        device=where,
    )


def _unshare(encoder: Any) -> None:
    """Give every layer of ALBERT a block of its own, which has the weights of the shared one."""
    config, groups = encoder.config, encoder.albert_layer_groups
    layers = config.num_hidden_layers
    # What a copy is told to know already it takes as it is.
    known = {id(kept): kept for kept in (config, *encoder.parameters())}
    copies = [
        copy.deepcopy(groups[int(layer / (layers / len(groups)))], dict(known))
        for layer in range(layers)
    ]
    encoder.albert_layer_groups = nn.ModuleList(copies)
    config.num_hidden_groups = layers
