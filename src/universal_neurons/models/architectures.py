"""The architectures that are known, and where their neurons are."""

from __future__ import annotations

from typing import NamedTuple


class Attention(NamedTuple):
    """Where a block's queries and keys are made.

    Attributes
    ----------
    norm
        Path, within a block, of the norm that they are made after.
    query, key
        Paths, within a block, of their projections: of GPT-2 one, of queries, keys and values.
    by_head
        Whether the one projection has a head's query, key and value side by side, and not all
        queries before all keys; it never has with one key for all heads (``multi_query``).
    """

    norm: str
    query: str
    key: str
    by_head: bool = False


class MaskedHead(NamedTuple):
    """What predicts masked tokens: decoder(norm(nonlinearity(transform(stream)))).

    Attributes
    ----------
    transform, norm
        Paths of its first projection and of its norm. The decoder is the output embedding.
    """

    transform: str
    norm: str


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
        gated, which is one path twice where one projection has both, the gate's rows first. A
        neuron's activation is nonlinearity(input), or nonlinearity(gate)·up.
    nonlinearity
        Path of the MLP's nonlinearity.
    norm
        Paths, within a block, of the norm that the MLP's input comes from: the first that the block
        has. None where the MLP reads the stream as it is.
    final_norm
        Path of the norm that tokens are read out after; None where that is the last of
        `stream_norms`.
    output_norm
        Path, within a block, of the norm of what the MLP writes, if there is one.
    gain_offset
        What a norm adds to its stored weight.
    attention
        How attention reads positions without turning them, if it does.
    stream_norms
        Paths, within a block, of the norms that the stream itself goes through (BERT's, after
        attention and after the MLP), in their order; none where it goes past them.
    masked_head
        Of an encoder, which is trained to predict masked tokens; others predict the next one.
    positions_after_padding
        Whether the first position has the number after the padding token's (RoBERTa's).
    """

    blocks: str
    projection: str
    inputs: tuple[str, ...]
    nonlinearity: str
    norm: tuple[str, ...]
    final_norm: str | None
    output_norm: str | None = None
    gain_offset: float = 0
    attention: Attention | None = None
    stream_norms: tuple[str, ...] = ()
    masked_head: MaskedHead | None = None
    positions_after_padding: bool = False

    @property
    def loss_kind(self) -> str:
        """What it is trained to predict, as tables name it: ``next_token`` or ``masked``."""
        return "masked" if self.masked_head else "next_token"

    def longest(self, positions: int, padding: int) -> int:
        """Tokens of the longest sequence, of the number of positions and the padding token's id."""
        return positions - (1 + padding if self.positions_after_padding else 0)


_GATED = Architecture(
    "model.layers",
    "mlp.down_proj",
    ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.act_fn",
    ("post_attention_layernorm",),
    "model.norm",
)
_GEMMA = _GATED._replace(gain_offset=1)
_SANDWICH = _GEMMA._replace(
    norm=("pre_feedforward_layernorm",), output_norm="post_feedforward_layernorm"
)
_BERT = Architecture(
    "bert.encoder.layer",
    "output.dense",
    ("intermediate.dense",),
    "intermediate.intermediate_act_fn",
    norm=(),
    final_norm=None,
    stream_norms=("attention.output.LayerNorm", "output.LayerNorm"),
    masked_head=MaskedHead(
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"
    ),
)

_FUSED = Attention(
    "input_layernorm",
    "self_attention.query_key_value",
    "self_attention.query_key_value",
    by_head=True,
)

# By model_type of config.json. A new architecture is a new line here.
ARCHITECTURES = {
    "gpt2": Architecture(
        "transformer.h",
        "mlp.c_proj",
        ("mlp.c_fc",),
        "mlp.act",
        ("ln_2",),
        "transformer.ln_f",
        attention=Attention("ln_1", "attn.c_attn", "attn.c_attn"),
    ),
    "gpt_neox": Architecture(
        "gpt_neox.layers",
        "mlp.dense_4h_to_h",
        ("mlp.dense_h_to_4h",),
        "mlp.act",
        ("post_attention_layernorm",),
        "gpt_neox.final_layer_norm",
    ),
    "opt": Architecture(
        "model.decoder.layers",
        "fc2",
        ("fc1",),
        "activation_fn",
        ("final_layer_norm",),
        "model.decoder.final_layer_norm",
        attention=Attention("self_attn_layer_norm", "self_attn.q_proj", "self_attn.k_proj"),
    ),
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "gemma": _GEMMA,
    "gemma2": _SANDWICH,
    "gemma3_text": _SANDWICH,
    "olmo": _GATED,
    "olmo2": _GATED._replace(norm=(), output_norm="post_feedforward_layernorm"),
    "phi": Architecture(
        "model.layers",
        "mlp.fc2",
        ("mlp.fc1",),
        "mlp.activation_fn",
        ("input_layernorm",),
        "model.final_layernorm",
    ),
    "phi3": _GATED._replace(
        inputs=("mlp.gate_up_proj", "mlp.gate_up_proj"), nonlinearity="mlp.activation_fn"
    ),
    # Where attention and MLP read the same, they have one norm.
    "stablelm": _GATED._replace(norm=("post_attention_layernorm", "input_layernorm")),
    "falcon": Architecture(
        "transformer.h",
        "mlp.dense_4h_to_h",
        ("mlp.dense_h_to_4h",),
        "mlp.act",
        ("ln_mlp", "post_attention_layernorm", "input_layernorm"),
        "transformer.ln_f",
    ),
    "bloom": Architecture(
        "transformer.h",
        "mlp.dense_4h_to_h",
        ("mlp.dense_h_to_4h",),
        "mlp.gelu_impl",
        ("post_attention_layernorm",),
        "transformer.ln_f",
        attention=_FUSED,
    ),
    "gpt_bigcode": Architecture(
        "transformer.h",
        "mlp.c_proj",
        ("mlp.c_fc",),
        "mlp.act",
        ("ln_2",),
        "transformer.ln_f",
        attention=Attention("ln_1", "attn.c_attn", "attn.c_attn", by_head=True),
    ),
    "bert": _BERT,
    "roberta": _BERT._replace(
        blocks="roberta.encoder.layer",
        masked_head=MaskedHead("lm_head.dense", "lm_head.layer_norm"),
        positions_after_padding=True,
    ),
    "electra": _BERT._replace(
        blocks="electra.encoder.layer",
        masked_head=MaskedHead("generator_predictions.dense", "generator_predictions.LayerNorm"),
    ),
    # One block for all layers: `load` gives each layer its own module with the shared weights.
    "albert": _BERT._replace(
        blocks="albert.encoder.albert_layer_groups",
        projection="albert_layers.0.ffn_output",
        inputs=("albert_layers.0.ffn",),
        nonlinearity="albert_layers.0.activation",
        stream_norms=(
            "albert_layers.0.attention.LayerNorm",
            "albert_layers.0.full_layer_layer_norm",
        ),
        masked_head=MaskedHead("predictions.dense", "predictions.LayerNorm"),
    ),
    "distilbert": _BERT._replace(
        blocks="distilbert.transformer.layer",
        projection="ffn.lin2",
        inputs=("ffn.lin1",),
        nonlinearity="ffn.activation",
        stream_norms=("sa_layer_norm", "output_layer_norm"),
        masked_head=MaskedHead("vocab_transform", "vocab_layer_norm"),
    ),
    "modernbert": Architecture(
        "model.layers",
        "mlp.Wo",
        ("mlp.Wi", "mlp.Wi"),
        "mlp.act",
        ("mlp_norm",),
        "model.final_norm",
        masked_head=MaskedHead("head.dense", "head.norm"),
    ),
}
