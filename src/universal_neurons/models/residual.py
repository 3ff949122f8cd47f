"""What neurons, heads and tokens read from the residual stream and write to it, in its own terms.

The conventions are those of 2401.12181 (TransformerLens). A layer norm divides by a length, which
depends on the token; its other parts are linear and are folded into the weights that read after
it: the gain, the shift and, where it takes out the mean, the mean. Nothing can read the mean of a
stream that layer norms alone read, so that it is taken out of what is written, too. A constant
added to all logits changes no prediction: the mean token is taken out of the unembedding.

Where the stream itself goes through norms (BERT), what a layer writes goes through all that follow
before tokens are read out: `at_end`. Between the stream of an encoder and its tokens there is one
more nonlinearity, whose slope is taken to be the same everywhere, so that it changes no cosine.

All weights here are float64, on the model's device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

from universal_neurons.models.architectures import Architecture, Attention
from universal_neurons.models.load import Model

# The norms that take out the mean, OLMo's without gain or shift; others divide by a length alone.
CENTRING = (nn.LayerNorm, OlmoLayerNorm)


@dataclass(frozen=True)
class Residual:
    """A model's weights in terms of its residual stream.

    Attributes
    ----------
    model
        The model.
    """

    model: Model

    @property
    def places(self) -> Architecture:
        """Where the parts of the model are."""
        return self.model.places

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.model.output_weight(0).shape[1]

    @property
    def centred(self) -> bool:
        """Whether all that reads the stream takes out its mean."""
        return isinstance(self._final_norm, CENTRING)

    @property
    def dimensions(self) -> int:
        """Of the stream, as far as anything can read it."""
        return self.d_model - self.centred

    def inputs(self, layer: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weight, shape (d_mlp, d_model), and bias, (d_mlp,), of a layer's input projections."""
        norm = self._norm(self.model.blocks[layer], *self.places.norm)
        return [_folded(norm, w, b, self.places) for w, b in self.model.input_weights(layer)]

    def outputs(self, layer: int) -> torch.Tensor:
        """What every neuron of a layer writes, shape (d_mlp, d_model).

        Where the architecture has a norm after the MLP, times its gain.
        """
        weight = self.model.output_weight(layer).double()
        if self.places.output_norm is not None:
            norm = self.model.blocks[layer].get_submodule(self.places.output_norm)
            weight = weight * _gain(norm, self.places)
        return weight - weight.mean(1, keepdim=True) if self.centred else weight

    def at_end(self, layer: int, written: torch.Tensor) -> torch.Tensor:
        """What becomes of what a layer writes, shape (n, d_model), where tokens are read out.

        It is the same where the stream goes past all norms. Where it goes through them, each takes
        out the mean and multiplies by its gain; the division by a length, which depends on the
        token, is left out, and so is the gain of the last norm, which is a part of `unembedding`.
        """
        after_mlp = (layer + 1) * len(self.places.stream_norms) - 1
        for gain in self._stream_gains[after_mlp:-1]:
            written = written * gain
            written = written - written.mean(1, keepdim=True)
        return written

    @cached_property
    def _stream_gains(self) -> list[torch.Tensor | float]:
        """Of the norms that the stream goes through, in their order."""
        return [
            _gain(block.get_submodule(path), self.places)
            for block in self.model.blocks
            for path in self.places.stream_norms
        ]

    def unembedding(self) -> torch.Tensor:
        """What every token's logit reads, shape (vocabulary, d_model), less its mean token.

        Without a head there are no logits, and no rows.
        """
        module = self.model.module
        if not self.model.has_head:
            return self.model.output_weight(0).new_empty((0, self.d_model)).double()
        weight = module.get_output_embeddings().weight.double()
        head = self.places.masked_head
        if head is not None:
            norm, transform = (module.get_submodule(path) for path in (head.norm, head.transform))
            weight, _ = _folded(norm, weight, weight.new_zeros(len(weight)), self.places)
            weight = weight @ transform.weight.double()
        # OPT of 350 million parameters has token embeddings narrower than its stream.
        down = getattr(getattr(module.base_model, "decoder", None), "project_out", None)
        if down is not None:
            weight = weight @ down.weight.double()
        weight, _ = _folded(self._final_norm, weight, weight.new_zeros(len(weight)), self.places)
        return weight - weight.mean(0)

    def attention(self, first_tokens: NDArray[np.integer]) -> list[torch.Tensor] | None:
        """What the heads' attention to the first position reads: k₀ᵀ W_Q / √d_head.

        k₀ is a head's key at position 0, mean over first tokens of sequences.

        Parameters
        ----------
        first_tokens
            Token ids, shape (sequences,).

        Returns
        -------
        list
            Per layer, shape (heads, d_model); None where attention turns queries by their position,
            so that none of them is one direction.
        """
        where = self.places.attention
        if where is None:
            return None
        inputs: list[torch.Tensor] = []
        keys = [block.get_submodule(where.key) for block in self.model.blocks]

        def keep(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            inputs.append(given[0].flatten(0, -2).double().mean(0))

        handles = [key.register_forward_pre_hook(keep) for key in keys]
        try:
            ids = torch.from_numpy(np.asarray(first_tokens, np.int64)[:, None])
            with torch.inference_mode():
                self.model.read(ids.to(self.model.device))
        finally:
            for handle in handles:
                handle.remove()
        return [self._reads_first(layer, x) for layer, x in enumerate(inputs)]

    def _reads_first(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """Of a layer's heads, given what its keys are made of at position 0."""
        block, config = self.model.blocks[layer], self.model.module.config
        where = self.places.attention
        assert where is not None
        heads = config.num_attention_heads
        query, key = _queries_and_keys(block, where, config)
        # One key, or one for each head.
        of_head = (key[0] @ x + key[1]).view(-1, self.d_model // heads)
        norm = self._norm(block, where.norm)
        weight, _ = _folded(norm, query[0], query[1], self.places)
        weight = weight.view(heads, -1, self.d_model)
        reads = torch.einsum("hk,hkd->hd", of_head.expand(heads, -1), weight)
        scale = of_head.shape[1] ** -0.5 if getattr(config, "scale_attn_weights", True) else 1.0
        if getattr(config, "scale_attn_by_inverse_layer_idx", False):
            scale /= layer + 1
        return reads * scale

    @property
    def _final_norm(self) -> Any:
        """None where there is none."""
        if self.places.final_norm is None:
            return self.model.blocks[-1].get_submodule(self.places.stream_norms[-1])
        return attrgetter(self.places.final_norm)(self.model.module)

    def _norm(self, block: nn.Module, *paths: str) -> Any:
        """The first of these norms of a block; None where the stream is read as it is.

        So it is, too, where the norm's output is what the MLP's is added to: the stream itself.
        """
        config = self.model.module.config
        before = getattr(config, "do_layer_norm_before", True)
        if not before or getattr(config, "apply_residual_connection_post_layernorm", False):
            return None
        modules = dict(block.named_modules())
        return next((modules[path] for path in paths if path in modules), None)

    @contextmanager
    def final_scale(self, kept: torch.Tensor | None = None) -> Iterator[list[torch.Tensor]]:
        """Collect what the final norm multiplies every token by, or have it multiply by this.

        A layer norm's 1 / √(var + ε), or 1 / √(mean square + ε) where it leaves the mean in; shape
        (..., 1). Nothing is collected, and nothing kept, where there is no final norm.
        """
        norm, scales = self._final_norm, list[torch.Tensor]()
        if norm is None:
            yield scales
            return
        # OLMo's norm has its ε in the code alone.
        epsilon = getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-5))

        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
            x = inputs[0].float()
            x = x - x.mean(-1, keepdim=True) if self.centred else x
            scales.append(torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon))
            if kept is None:
                return None
            shift = getattr(norm, "bias", None)
            shift = 0 if shift is None else shift
            return (output - shift) * (kept / scales[-1]).to(output.dtype) + shift

        handle = norm.register_forward_hook(hook)
        try:
            yield scales
        finally:
            handle.remove()


def _gain(norm: nn.Module, places: Architecture) -> torch.Tensor | float:
    weight = getattr(norm, "weight", None)
    return 1.0 if weight is None else weight.double() + places.gain_offset


def _folded(
    norm: Any, weight: torch.Tensor, bias: torch.Tensor, places: Architecture
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, shape (n, d_model), that read after a norm, and their biases, with it folded in."""
    weight, bias = weight.double(), bias.double()
    if norm is None:
        return weight, bias
    shift = getattr(norm, "bias", None)
    if shift is not None:
        bias = bias + weight @ shift.double()
    weight = weight * _gain(norm, places)
    if isinstance(norm, CENTRING):
        weight = weight - weight.mean(1, keepdim=True)
    return weight, bias


def _queries_and_keys(
    block: nn.Module, where: Attention, config: Any
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weight and bias of a block's queries, of all heads one after the other, and of its keys."""
    query, key = (_linear(block.get_submodule(path)) for path in (where.query, where.key))
    if where.query != where.key:
        return query, key
    one_key = getattr(config, "multi_query", False)
    if where.by_head and not one_key:
        of_head = [part.unflatten(0, (config.num_attention_heads, 3, -1)) for part in query]
        query, key = ([part[:, i].flatten(0, 1) for part in of_head] for i in (0, 1))
        return query, key
    width = config.hidden_size
    keys = width // config.num_attention_heads if one_key else width
    return [part[:width] for part in query], [part[width : width + keys] for part in key]


def _linear(module: nn.Module) -> list[torch.Tensor]:
    """Weight, shape (outputs, inputs), and bias of a projection, float64."""
    stored, bias = module.get_parameter("weight"), getattr(module, "bias", None)
    # GPT-2's Conv1D stores (inputs, outputs).
    weight = stored if isinstance(module, nn.Linear) else stored.T
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return [weight.double(), bias.double()]
