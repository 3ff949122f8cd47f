"""What we capture is what TransformerLens, which computes the models by itself, finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pipeline import EXCLUDED, VOCABULARY, random_tokens, run_capture
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig

from universal_neurons.activations.reader import Activations
from universal_neurons.models import load as models

COMMON = {"vocab_size": VOCABULARY, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0}
GPT2 = {"n_embd": 32, "n_inner": 80, "n_head": 4, "n_layer": 3, "n_positions": 32}
CONFIGS = {
    "gpt2": GPT2Config(**GPT2, **COMMON),
    # As the Stanford CRFM trained its seeds.
    "gpt2-crfm": GPT2Config(
        **GPT2, **COMMON, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True
    ),
    "gpt_neox": GPTNeoXConfig(
        **COMMON,
        hidden_size=32,
        intermediate_size=80,
        num_attention_heads=4,
        num_hidden_layers=3,
        max_position_embeddings=32,
        rotary_pct=0.25,
    ),
}


def lens_of(module):
    """The same model in TransformerLens, its weights as they are (nothing folded or centred)."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import (
        convert_gpt2_weights,
        convert_neox_weights,
    )

    config = module.config
    shape = {
        "n_layers": 3, "d_model": 32, "d_mlp": 80, "n_heads": 4, "d_head": 8, "n_ctx": 32,
        "d_vocab": VOCABULARY, "normalization_type": "LN", "device": "cpu", "seed": 0,
    }  # fmt: skip
    if config.model_type == "gpt2":
        more = {
            "act_fn": "gelu_new",
            "eps": config.layer_norm_epsilon,
            "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        }
        convert = convert_gpt2_weights
    else:
        more = {
            "act_fn": "gelu",
            "eps": config.layer_norm_eps,
            "positional_embedding_type": "rotary",
            "rotary_dim": 2,
            "rotary_adjacent_pairs": False,
            "parallel_attn_mlp": True,
        }
        convert = convert_neox_weights
    lens = HookedTransformer(HookedTransformerConfig(**shape, **more))
    lens.load_and_process_state_dict(
        convert(module, lens.cfg),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return lens.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_captured_activations_agree_with_transformer_lens(name, tmp_path):
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(CONFIGS[name])
    module.save_pretrained(tmp_path / "model")
    tokens = random_tokens(40, 24)
    model = models.load(tmp_path / "model")
    (shard,) = run_capture(model, tokens, tmp_path, seed="a", encoding="float32")
    store = Activations(shard / "activations.zarr")
    lens = lens_of(module.eval())
    with torch.inference_mode():
        logits, cache = lens.run_with_cache(torch.from_numpy(tokens))
        torch.testing.assert_close(
            logits, model.module(torch.from_numpy(tokens)).logits, rtol=1e-4, atol=1e-4
        )
    scored = ~np.isin(tokens, EXCLUDED)
    for layer in range(3):
        expected = cache[f"blocks.{layer}.mlp.hook_post"].numpy()[scored]
        found = store.activations(layer)
        assert found.std() > 0.1, "activations that hardly vary would agree with anything"
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
