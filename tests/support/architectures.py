"""A tiny model of every architecture, and the same model with its weights edited."""

from __future__ import annotations

import copy

import numpy as np
import torch
import transformers
from torch import nn
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

from universal_neurons.ablate.subject import Subject
from universal_neurons.models.architectures import ARCHITECTURES
from universal_neurons.models.load import CLASSES, Model, _reach
from universal_neurons.prepare.masking import Masking
from universal_neurons.prepare.reading import HeldOut

VOCABULARY = 40
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
WIDE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
OPT = {
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "init_std": 0.3,
}
FALCON = {
    "hidden_size": 16,
    "ffn_hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
BLOOM = {"hidden_size": 16, "n_layer": 3, "n_head": 2}  # its MLPs are always four times as wide
GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_inner": 24}
BERT = {**WIDE, "num_attention_heads": 2}
# Larger weights than usual, so that every neuron matters.
INIT = {"initializer_range": 0.3}

CONFIGS = {
    "gpt2": ("GPT2Config", GPT2),
    "gpt_neox": ("GPTNeoXConfig", {**WIDE, "num_attention_heads": 2}),
    "gpt_neox sequential": (
        "GPTNeoXConfig",
        {**WIDE, "num_attention_heads": 2, "use_parallel_residual": False},
    ),
    "opt": ("OPTConfig", OPT),
    "opt post-norm": ("OPTConfig", {**OPT, "do_layer_norm_before": False}),
    "llama": ("LlamaConfig", {**WIDE, **HEADS}),
    "mistral": ("MistralConfig", {**WIDE, **HEADS}),
    "qwen2": ("Qwen2Config", {**WIDE, **HEADS}),
    "qwen3": ("Qwen3Config", {**WIDE, **HEADS}),
    "gemma": ("GemmaConfig", {**WIDE, **HEADS}),
    "gemma2": ("Gemma2Config", {**WIDE, **HEADS}),
    "gemma3_text": ("Gemma3TextConfig", {**WIDE, **HEADS}),
    "olmo": ("OlmoConfig", {**WIDE, **HEADS}),
    "olmo2": ("Olmo2Config", {**WIDE, **HEADS}),
    "phi": ("PhiConfig", {**WIDE, **HEADS}),
    "phi3": ("Phi3Config", {**WIDE, **HEADS}),
    "stablelm": ("StableLmConfig", {**WIDE, **HEADS}),
    "stablelm parallel": ("StableLmConfig", {**WIDE, **HEADS, "use_parallel_residual": True}),
    "falcon": ("FalconConfig", FALCON),
    "falcon sequential": ("FalconConfig", {**FALCON, "parallel_attn": False, "bias": True}),
    "falcon two norms": ("FalconConfig", {**FALCON, "new_decoder_architecture": True}),
    "bloom": ("BloomConfig", BLOOM),
    "bloom post-norm": (
        "BloomConfig",
        {**BLOOM, "apply_residual_connection_post_layernorm": True},
    ),
    "gpt_bigcode": ("GPTBigCodeConfig", GPT2),
    "gpt_bigcode keys by head": ("GPTBigCodeConfig", {**GPT2, "multi_query": False}),
    "bert": ("BertConfig", BERT),
    "roberta": ("RobertaConfig", BERT),
    "albert": ("AlbertConfig", {**BERT, "embedding_size": 8}),
    "electra": ("ElectraConfig", {**BERT, "embedding_size": 8}),
    "distilbert": ("DistilBertConfig", {"dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 2}),
    "modernbert": ("ModernBertConfig", {**BERT, "local_attention": 4, "norm_bias": True}),
}


def wrap(module) -> Model:
    return _reach(module, "cpu")


def make(name="gpt2"):
    """A tiny model with random weights; the layers of the GPT-2 differ in width."""
    class_name, options = CONFIGS[name]
    torch.manual_seed(0)
    config = getattr(transformers, class_name)(**COMMON, **INIT, **options)
    maker, _ = CLASSES[ARCHITECTURES[config.model_type].loss_kind]
    module = maker.from_config(config)
    if name == "gpt2":
        module.transformer.h[1].mlp = GPT2MLP(40, config).apply(module._init_weights)
    for weight_name, weight in module.named_parameters():
        if weight_name.endswith("bias"):  # zero at initialisation, which would hide mistakes
            nn.init.normal_(weight, std=0.3)
    return wrap(module)


def tokens(n=5, length=9):
    return np.random.default_rng(1).integers(0, VOCABULARY, (n, length))


SPECIAL = {"never": [0, 1], "mask": 1}


def held_out(sequences, documents=None, model=None):
    """Held-out text, every sequence a document of its own if nothing else is said."""
    each = np.arange(len(sequences)) if documents is None else np.asarray(documents)
    masked = model is not None and model.places.loss_kind == "masked"
    return HeldOut(sequences, each, Masking.draw(sequences, SPECIAL, 0) if masked else None)


def neurons(model, seed=2):
    """Random statistics, and 4 universal neurons in each layer."""
    rng = np.random.default_rng(seed)
    n = sum(model.d_mlp)
    universal = np.zeros(n, bool)
    start = 0
    for width in model.d_mlp:
        universal[start + rng.choice(width, 4, replace=False)] = True
        start += width
    return {
        "universal": universal,
        "mean": rng.normal(size=n),
        "std": np.exp(rng.normal(size=n)),
        "sparsity": rng.uniform(0.1, 0.9, n),
    }


def subject(model, mean, std, sparsity, seed="a", step=1):
    """A model with what is known of its neurons."""
    return Subject(model, seed, step, mean, std, sparsity)


def layers(model):
    return np.repeat(np.arange(len(model.d_mlp)), model.d_mlp)


def edited(model, replaced, values):
    """A copy whose weights do what replacing activations by constants does."""
    module = copy.deepcopy(model.module)
    start = 0
    for projection in wrap(module).projections:
        conv1d = not isinstance(projection, nn.Linear)
        # Of the layer alone: ALBERT's share theirs.
        projection.weight = nn.Parameter(projection.weight.clone(), requires_grad=False)
        weight = projection.weight if conv1d else projection.weight.T  # (neurons, d_model)
        own = slice(start, start + len(weight))
        start = own.stop
        chosen = torch.from_numpy(np.flatnonzero(replaced[own]))
        constant = torch.from_numpy(values[own][chosen.numpy()]).float() @ weight[chosen]
        bias = constant if projection.bias is None else projection.bias + constant
        projection.bias = nn.Parameter(bias, requires_grad=False)
        weight[chosen] = 0
    return module


def hugging_face_loss(module, sequences):
    """As transformers evaluates it; of an encoder with the tokens masked that `held_out` masks."""
    ids = labels = torch.from_numpy(sequences)
    if ARCHITECTURES[module.config.model_type].loss_kind == "masked":
        masked = torch.zeros(ids.shape, dtype=torch.bool)
        where = Masking.draw(sequences, SPECIAL, 0).where
        masked.scatter_(1, torch.from_numpy(where), value=True)
        ids, labels = ids.masked_fill(masked, SPECIAL["mask"]), ids.masked_fill(~masked, -100)
    with torch.no_grad():
        return module(input_ids=ids, labels=labels).loss.item()
