"""What we capture is what TransformerLens, which computes the models by itself, finds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from pipeline import EXCLUDED, VOCABULARY, random_tokens, run_capture
from transformers import BertForMaskedLM, BertForPreTraining

from universal_neurons.activations.reader import Activations
from universal_neurons.models import load as models

COMMON = {
    "vocab_size": VOCABULARY,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
LAYERS, D_MLP = 3, 80
GPT2 = {"n_embd": 32, "n_inner": D_MLP, "n_head": 4, "n_layer": LAYERS, "n_positions": 32}
WIDE = {
    "hidden_size": 32,
    "intermediate_size": D_MLP,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 32,
}
GROUPED = {**WIDE, "num_key_value_heads": 2}
OPT = {"hidden_size": 32, "ffn_dim": D_MLP, "word_embed_proj_dim": 32, "num_attention_heads": 4}
# Of the architectures that it has beside ours; sizes of Gemma and OLMo it knows by their names
# alone, and Falcon, StableLM, GPT-BigCode and encoders but BERT it has not.
DECODERS = {
    "gpt2": ("GPT2", GPT2),
    # As the Stanford CRFM trained its seeds.
    "gpt2-crfm": (
        "GPT2",
        {**GPT2, "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    ),
    "gpt_neox": ("GPTNeoX", WIDE),
    "opt": ("OPT", {**OPT, "num_hidden_layers": LAYERS, "max_position_embeddings": 32}),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": None}),
    "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 8}),
    "phi": ("Phi", {**WIDE, "partial_rotary_factor": 0.5}),
    "phi3": ("Phi3", GROUPED),
    # Its MLPs are always four times as wide.
    "bloom": ("Bloom", {"hidden_size": 32, "n_head": 4, "n_layer": LAYERS}),
}


def lens_config(module, where):
    """TransformerLens's own reading of a ``config.json``."""
    from transformer_lens.loading_from_pretrained import get_pretrained_model_config

    where.mkdir()
    about = module.config.to_dict()
    if module.config.model_type == "gpt2":
        about["n_ctx"] = about["n_positions"]
    (where / "config.json").write_text(json.dumps(about))
    config = get_pretrained_model_config(str(where), device="cpu")
    # It takes all GPT-2's MLPs to be four times as wide.
    config.d_mlp, config.tokenizer_name = about.get("n_inner", config.d_mlp), None
    return config


def lens_weights(module, config):
    """The weights of a model by the names of TransformerLens."""
    from transformer_lens.loading_from_pretrained import get_pretrained_state_dict

    return get_pretrained_state_dict("gpt2", config, hf_model=module)


def decoder_of(module, where):
    """The same model in TransformerLens, its weights as they are (nothing folded or centred)."""
    from transformer_lens import HookedTransformer

    config = lens_config(module, where)
    lens = HookedTransformer(config)
    lens.load_and_process_state_dict(
        lens_weights(module, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return lens.eval()


def make(maker, config):
    """A model with random weights and biases, of which many are made as 0."""
    torch.manual_seed(0)
    module = maker(config)
    for name, weight in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.3)
    return module.eval()


def check(module, lens, where, exclude=EXCLUDED):
    """Every activation, and before them the logits: what they are computed from is the same."""
    module.save_pretrained(where / "model")
    tokens = random_tokens(40, 24)
    model = models.load(where / "model")
    (shard,) = run_capture(model, tokens, where, seed="a", encoding="float32", exclude=exclude)
    store = Activations(shard / "activations.zarr")
    ids = torch.from_numpy(tokens)
    with torch.inference_mode():
        logits, cache = lens.run_with_cache(ids)
        torch.testing.assert_close(logits, model.module(ids).logits, rtol=1e-3, atol=1e-3)
    scored = ~np.isin(tokens, exclude)
    for layer in range(LAYERS):
        expected = cache[f"blocks.{layer}.mlp.hook_post"].numpy()[scored]
        found = store.activations(layer)
        assert found.std() > 0.1, "activations that hardly vary would agree with anything"
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_captured_activations_agree_with_transformer_lens(name, tmp_path, monkeypatch):
    kind, options = DECODERS[name]
    # Where it looks for what transformers keeps elsewhere by now.
    monkeypatch.setattr(transformers.PhiConfig, "partial_rotary_factor", 0.5, raising=False)
    config = getattr(transformers, f"{kind}Config")(**COMMON, **options)
    maker = getattr(transformers, f"{kind}{'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'}")
    config.architectures = [maker.__name__]
    module = make(maker, config)
    check(module, decoder_of(module, tmp_path / "lens"), tmp_path)


def test_captured_activations_of_bert_agree_with_transformer_lens(tmp_path):
    """Which wants the pooler and the head of the next sentence, too."""
    from transformer_lens import HookedEncoder

    config = transformers.BertConfig(**COMMON, **WIDE, architectures=["BertForMaskedLM"])
    whole = make(BertForPreTraining, config)
    lens_about = lens_config(whole, tmp_path / "lens")
    with pytest.warns(DeprecationWarning, match="HookedEncoder"):
        lens = HookedEncoder(lens_about)
    lens.load_state_dict(lens_weights(whole, lens_about), strict=False)
    module = BertForMaskedLM(config).eval()
    state = whole.state_dict()
    module.load_state_dict({name: state[name] for name in module.state_dict()})
    check(module, lens.eval(), tmp_path)
