"""Models of every known architecture load safely, and their neurons are the modules' own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
)

from universal_neurons.errors import UserError
from universal_neurons.models import load as models
from universal_neurons.models.shape import Shape, read_context, read_shape

COMMON = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": 32}
LLAMA = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32,
}  # fmt: skip
BERT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 32, "embedding_size": 8,
}  # fmt: skip
OPTIONS = {
    "gpt2": GPT2,
    "gpt_neox": {**LLAMA, "head_dim": None},
    "opt": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24,
        "max_position_embeddings": 32, "word_embed_proj_dim": 16,
    },
    "falcon": {**LLAMA, "head_dim": None, "intermediate_size": None, "ffn_hidden_size": 24},
    "bloom": {"hidden_size": 6, "n_layer": 2, "n_head": 2},
    "gpt_bigcode": GPT2,
    **dict.fromkeys(("bert", "roberta", "albert", "electra"), BERT),
    "distilbert": {
        "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 32,
    },
    "modernbert": {**BERT, "local_attention": 4},
}  # fmt: skip
IDS = torch.randint(3, 50, (3, 9), generator=torch.Generator().manual_seed(0))


def make(kind: str, **more):
    torch.manual_seed(1)
    options = {k: v for k, v in OPTIONS.get(kind, LLAMA).items() if v is not None}
    config = AutoConfig.for_model(kind, **{**COMMON, **options, **more})
    maker, _ = models.CLASSES[models.ARCHITECTURES[kind].loss_kind]
    return maker.from_config(config)


def mlp_of(kind, block):
    """The module of a block that is called with what its MLP reads."""
    paths = {"opt": "fc1", "albert": "albert_layers.0.ffn", "distilbert": "ffn.lin1"}
    paths |= dict.fromkeys(("bert", "roberta", "electra"), "intermediate")
    return block.get_submodule(paths.get(kind, "mlp"))


def own_activations(kind, block, x):
    """The hidden value of an MLP from its parts, without hooks."""
    if kind == "opt":
        return block.activation_fn(block.fc1(x))
    if kind == "albert":
        return block.albert_layers[0].activation(block.albert_layers[0].ffn(x))
    if kind == "distilbert":
        return block.ffn.activation(block.ffn.lin1(x))
    if kind in ("bert", "roberta", "electra"):
        return block.intermediate(x)
    mlp = block.mlp
    if kind == "modernbert":
        active, gate = mlp.Wi(x).chunk(2, -1)
        return mlp.act(active) * gate
    if hasattr(mlp, "gate_proj"):
        return mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
    if hasattr(mlp, "gate_up_proj"):
        gate, up = mlp.gate_up_proj(x).chunk(2, dim=-1)
        return mlp.activation_fn(gate) * up
    if hasattr(mlp, "c_fc"):
        return mlp.act(mlp.c_fc(x))
    if hasattr(mlp, "gelu_impl"):
        return mlp.gelu_impl(mlp.dense_h_to_4h(x))
    if hasattr(mlp, "dense_h_to_4h"):
        return mlp.act(mlp.dense_h_to_4h(x))
    return mlp.activation_fn(mlp.fc1(x))


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_the_tapped_activation_is_the_mlps_own(kind, tmp_path):
    make(kind).save_pretrained(tmp_path)
    model = models.load(tmp_path)
    assert model.d_mlp == (24, 24)
    assert model.vocab_size == 50
    inputs, tapped = {}, {}
    for layer, block in enumerate(model.blocks):

        def keep(module, args, layer=layer):
            inputs[layer] = args[0]

        mlp_of(kind, block).register_forward_pre_hook(keep)
    with torch.no_grad(), model.tap(lambda layer, x: tapped.update({layer: x})):
        model.module(IDS)
        for layer, block in enumerate(model.blocks):
            expected = own_activations(kind, block, inputs[layer])
            torch.testing.assert_close(tapped[layer], expected)


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_zeroing_a_tapped_neuron_is_zeroing_its_output_weights(kind, tmp_path):
    make(kind).save_pretrained(tmp_path)
    tapped, edited = models.load(tmp_path), models.load(tmp_path)

    def zero(layer, x):
        if layer != 1:
            return None
        mask = torch.arange(24) == 5
        return torch.where(mask, 0.0, x)

    with torch.no_grad():
        with tapped.tap(zero):
            found = tapped.module(IDS).logits
        # Of this layer alone, which may share its weights (ALBERT).
        weight = edited.projections[1].weight.clone()
        # GPT-2's Conv1D has its inputs first.
        (weight[5] if kind == "gpt2" else weight[:, 5]).zero_()
        edited.projections[1].weight = torch.nn.Parameter(weight, requires_grad=False)
        torch.testing.assert_close(found, edited.module(IDS).logits)
        assert not torch.equal(found, tapped.module(IDS).logits)


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_an_activation_follows_from_what_the_input_weights_read(kind, tmp_path):
    """A neuron is its input weights (Conv1D's turned), biases and its layer's nonlinearity."""
    module = make(kind)
    for name, weight in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    module.save_pretrained(tmp_path)
    model = models.load(tmp_path)
    inputs, tapped = {}, {}
    with (
        torch.no_grad(),
        model.tap(lambda layer, x: tapped.update({layer: x})),
        model.tap_inputs(lambda layer, x: inputs.update({layer: x})),
    ):
        model.module(IDS)
        for layer in range(2):
            weights = model.input_weights(layer)
            assert {len(weight) for weight, _ in weights} == {24}
            read = [inputs[layer] @ weight.T + bias for weight, bias in weights]
            torch.testing.assert_close(tapped[layer], model.activate(layer, read))


def test_a_shared_block_is_a_layer_at_every_call(tmp_path):
    """ALBERT's logits stay its own, and the same neuron differs from layer to layer."""
    module = make("albert", num_hidden_layers=5, num_hidden_groups=2, initializer_range=0.3).eval()
    module.save_pretrained(tmp_path)
    model = models.load(tmp_path)
    tapped = []
    with torch.no_grad(), model.tap(lambda layer, x: tapped.append((layer, x))):
        torch.testing.assert_close(model.logits(IDS), module(IDS).logits)
    assert [layer for layer, _ in tapped] == [0, 1, 2, 3, 4]
    assert model.projections[0].weight is model.projections[2].weight
    assert model.projections[0].weight is not model.projections[3].weight
    assert not torch.allclose(tapped[0][1], tapped[1][1], atol=1e-3)
    assert read_shape(tmp_path) == Shape(5, 24)


def test_an_encoder_is_read_from_what_was_saved_with_the_tasks_of_sequences(tmp_path):
    """As BERT and the MultiBERTs were: pickled, with pooler, next sentence and position numbers."""
    config = AutoConfig.for_model("bert", **COMMON, **BERT)
    module = BertForPreTraining(config).eval()
    module.config.save_pretrained(tmp_path)
    state = module.state_dict()
    state["bert.embeddings.position_ids"] = torch.arange(32)[None]
    assert {"bert.pooler.dense.weight", "cls.seq_relationship.weight"} < set(state)
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = models.load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(IDS), module(IDS).prediction_logits)


def test_the_longest_sequence_of_roberta_has_no_room_for_the_numbers_before_its_first(tmp_path):
    make("roberta", pad_token_id=1).save_pretrained(tmp_path)
    model = models.load(tmp_path)
    assert model.context == read_context(tmp_path) == 30
    longest = torch.full((1, 30), 5)
    model.read(longest)
    with pytest.raises((IndexError, RuntimeError)):
        model.read(torch.full((1, 31), 5))


def test_an_encoder_that_was_made_a_decoder_is_refused(tmp_path):
    make("bert", is_decoder=True).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is_decoder is set"):
        models.load(tmp_path)


def test_float16_weights_are_run_in_the_dtype_asked_for(tmp_path):
    make("gpt2").half().save_pretrained(tmp_path)
    for dtype in ("float32", "bfloat16"):
        weights = models.load(tmp_path, dtype=dtype).module.parameters()
        assert {weight.dtype for weight in weights} == {getattr(torch, dtype)}


def test_attention_scaled_by_layer_is_computed_as_in_eager_mode(tmp_path):
    """transformers before 5.4 ignored the flag of the Stanford CRFM models."""
    options = {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}
    torch.manual_seed(0)
    config = GPT2Config(**{**COMMON, **GPT2, "n_layer": 4, "initializer_range": 0.5}, **options)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    eager = GPT2LMHeadModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    unscaled = GPT2LMHeadModel.from_pretrained(tmp_path, scale_attn_by_inverse_layer_idx=False)
    with torch.no_grad():
        ours = models.load(tmp_path).module(IDS).logits
        torch.testing.assert_close(ours, eager(IDS).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(ours, unscaled.eval()(IDS).logits, rtol=1e-2, atol=1e-2)


def test_the_digest_is_that_of_the_weights(tmp_path):
    module = make("gpt2")
    module.save_pretrained(tmp_path / "a")
    module.save_pretrained(tmp_path / "b")
    with torch.no_grad():
        module.transformer.h[1].mlp.c_fc.bias[3] += 1e-6
    module.save_pretrained(tmp_path / "c")
    a, b, c = (models.load(tmp_path / name).digest() for name in "abc")
    assert a == b != c


def test_unknown_architectures_are_refused_with_the_known_ones(tmp_path):
    config = AutoConfig.for_model("mpt", d_model=16, n_layers=1, n_heads=2, vocab_size=50)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="unknown architecture 'mpt'; known are gpt2, gpt_neox"):
        models.load(tmp_path)


def test_a_model_of_text_and_images_is_refused_with_its_text_model(tmp_path):
    about = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"'gemma3'; save its text model alone \(gemma3_text\)"):
        read_shape(tmp_path)


@pytest.mark.parametrize(
    ("kind", "key"),
    [("mixtral", "num_local_experts"), ("olmoe", "num_experts"), ("phimoe", "num_local_experts")],
)
def test_mixtures_of_experts_are_refused_as_such(kind, key, tmp_path):
    AutoConfig.for_model(kind, **{**COMMON, **LLAMA, key: 4}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"a mixture-of-experts model \({key}: 4\)"):
        models.load(tmp_path)


def test_bloom_multiplied_in_slices_is_run_whole(tmp_path):
    """The slices would go past the projection's module, and no hook would see an activation."""
    make("bloom", slow_but_exact=True, pretraining_tp=2).save_pretrained(tmp_path)
    model, tapped = models.load(tmp_path), {}
    with torch.no_grad(), model.tap(lambda layer, x: tapped.update({layer: x})):
        model.module(IDS)
    assert set(tapped) == {0, 1}


def test_the_old_names_of_sizes_are_read(tmp_path):
    """The config.json of published BLOOM has n_embed."""
    about = {"model_type": "bloom", "n_embed": 16, "n_layer": 2, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert read_shape(tmp_path) == Shape(n_layers=2, d_mlp=64)


def test_pickled_weights_are_loaded_and_code_in_them_is_not(tmp_path):
    module = make("gpt2")
    for name in ("weights", "harm"):
        module.config.save_pretrained(tmp_path / name)
    torch.save(module.state_dict(), tmp_path / "weights/pytorch_model.bin")
    module.save_pretrained(tmp_path / "safetensors")
    digests = {models.load(tmp_path / name).digest() for name in ("weights", "safetensors")}
    assert len(digests) == 1

    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    torch.save({"transformer.wte.weight": Harm()}, tmp_path / "harm/pytorch_model.bin")
    with pytest.raises(UserError, match="the model can't be loaded"):
        models.load(tmp_path / "harm")
    assert not (tmp_path / "harmed").exists()


def test_broken_model_directories_are_named(tmp_path):
    with pytest.raises(UserError, match="none: not a Hugging Face model directory"):
        models.load(tmp_path / "none")
    module = make("gpt2")
    module.transformer.h[0].mlp.c_fc.bias.data[2] = float("nan")
    module.save_pretrained(tmp_path / "nan")
    with pytest.raises(UserError, match="h.0.mlp.c_fc.bias has NaN"):
        models.load(tmp_path / "nan")
    state = {k: v.clone() for k, v in module.state_dict().items() if k != "lm_head.weight"}
    del state["transformer.h.1.mlp.c_proj.weight"]
    module.save_pretrained(tmp_path / "missing", state_dict=state)
    with pytest.raises(UserError, match="weights are missing: .*h.1.mlp.c_proj.weight"):
        models.load(tmp_path / "missing")
    weights = tmp_path / "nan/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="the model can't be loaded"):
        models.load(tmp_path / "nan")
    weights.unlink()
    with pytest.raises(UserError, match="models.path: .*nan has no weights; looked for model.safe"):
        models.load(tmp_path / "nan")
