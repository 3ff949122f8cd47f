"""A wrong, hostile or odd model directory gives a message that names it, or the right model."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_models import IDS, make

from universal_neurons.errors import UserError
from universal_neurons.models import load as models
from universal_neurons.models.shape import read_context, read_shape, read_vocabulary
from universal_neurons.models.weights import find_weights


@pytest.fixture
def folder(tmp_path):
    """A right GPT-2."""
    make("gpt2").save_pretrained(tmp_path)
    return tmp_path


def configure(folder, **more):
    """Change what config.json says; None leaves a key out."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **more}
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder, content):
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


def refusal(folder, **options):
    with pytest.raises(UserError) as error:
        models.load(folder, **options)
    assert str(folder) in str(error.value)
    return str(error.value)


def logits(folder):
    with torch.no_grad():
        return models.load(folder).module(IDS).logits


def test_weights_that_the_configuration_does_not_cover_are_refused_by_name(folder):
    configure(folder, n_layer=1)
    said = refusal(folder)
    assert "config.json does not cover the weights transformer.h.1.attn.c_attn.weight" in said
    assert "and 6 more" in said


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
        ("gpt_neox", ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.1.attention.masked_bias",
                      "gpt_neox.layers.1.attention.rotary_emb.inv_freq"]),
        ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
        ("opt", ["decoder.version"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_what_old_versions_saved_beside_the_weights_is_passed_over(tmp_path, kind, names, dtype):
    make(kind).save_pretrained(tmp_path)
    digest = models.load(tmp_path).digest()
    change_weights(tmp_path, lambda w: w | {name: torch.ones(3).to(dtype) for name in names})
    assert models.load(tmp_path).digest() == digest
    pickled(tmp_path, load_file(tmp_path / "model.safetensors"))
    assert models.load(tmp_path).digest() == digest


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int32, torch.complex64, torch.uint8, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_that_are_no_floats_are_refused_by_name(folder, dtype, kind):
    name = "transformer.h.1.mlp.c_fc.weight"
    change_weights(folder, lambda w: w | {name: w[name].to(dtype)})
    if kind == "bin":
        pickled(folder, load_file(folder / "model.safetensors"))
    assert f"weight {name} is of type" in refusal(folder)


@pytest.mark.parametrize(
    "value", ["org/kernel", "flash_attention_2", "eager", "nonsense", {"": "org/kernel"}]
)
@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_how_attention_is_computed_is_not_the_models_to_say(folder, key, value):
    expected, drawn = logits(folder), models.untrained(folder, 0).digest()
    configure(folder, **{key: value})
    model = models.load(folder)
    assert model.module.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert torch.equal(model.module(IDS).logits, expected)
    assert models.untrained(folder, 0).digest() == drawn


def test_an_architecture_that_needs_eager_attention_has_it(tmp_path):
    """Gemma 2 caps its attention scores, which PyTorch's fused attention can't."""
    make("gemma2").save_pretrained(tmp_path)
    configure(tmp_path, _attn_implementation="sdpa")
    assert models.load(tmp_path).module.config._attn_implementation == "eager"


def test_no_file_of_a_model_is_read_but_its_configuration_and_weights(folder):
    expected = logits(folder)
    other = make("gpt2").state_dict()
    save_file(
        {k: torch.zeros_like(v) for k, v in other.items() if k != "lm_head.weight"},
        folder / "shard-00001-model-00001-of-00001.safetensors",
    )
    (folder / "generation_config.json").write_text("[1, 2]")
    configure(folder, transformers_weights="shard-00001-model-00001-of-00001.safetensors")
    assert torch.equal(logits(folder), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "pytorch_model.bin holds a list, no weights by name"),
        ({"model": {"a": torch.ones(2)}}, "pytorch_model.bin holds more than weights: 'model'"),
        ({3: torch.ones(2)}, "pytorch_model.bin holds more than weights: 3"),
        ({"a": torch.eye(2).to_sparse()}, "pytorch_model.bin holds more than weights: 'a'"),
        ({"a": torch.ones(2)}, "it describes a model of 5,"),
        ({}, "it describes a model of 5,"),
        (None, "holds a NoneType, no weights by name"),
    ],
)
def test_a_pickle_of_anything_but_weights_is_named(folder, content, message):
    pickled(folder, content)
    assert message in refusal(folder)


@pytest.mark.parametrize("content", [b"\0" * 100, b"PK\3\4", b"\x80\x02]q\0.", b"{}"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_file_of_weights_that_is_none_is_named(folder, name, content):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    assert f"the model can't be loaded: {name} " in refusal(folder)
    (folder / name).write_bytes(b"")
    assert refusal(folder) == f"models.path: {folder / name} is empty; copy or download it again"


def test_missing_weights_are_named_with_their_path_before_any_job(tmp_path, folder):
    assert [file.name for file in find_weights(folder)] == ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(UserError, match=f"models.path: {folder} lacks weights: two.safetensors"):
        find_weights(folder)
    for wrong in ("[]", "{}", '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../b"}}', "["):
        index.write_text(wrong)
        with pytest.raises(UserError, match=f"models.path: {index} "):
            find_weights(folder)
    index.unlink()
    with pytest.raises(UserError, match=f"models.path: {folder} has no weights; looked for model"):
        find_weights(folder)


QUANTISED = {
    "bitsandbytes": {"load_in_8bit": True, "quant_method": "bitsandbytes"},
    "gptq": {"bits": 4, "group_size": 128, "quant_method": "gptq"},
    "torchao": {"quant_type": "int8_weight_only", "quant_method": "torchao"},
}


@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_models_are_refused_as_such_before_any_job(folder, method):
    configure(folder, quantization_config=QUANTISED[method])
    message = f"config.json: a quantised model (quantization_config: {method})"
    assert message in refusal(folder)
    with pytest.raises(UserError, match="a quantised model"):
        read_shape(folder)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"n_head": 0}, "n_head is 0; expected a whole number from 1"),
        ({"n_layer": "2"}, "n_layer is '2'; expected a whole number from 1"),
        ({"n_layer": 2.0}, "n_layer is 2.0; expected a whole number from 1"),
        ({"n_layer": True}, "n_layer is True; expected a whole number from 1"),
        ({"n_layer": -1}, "n_layer is -1; expected a whole number from 1"),
        ({"vocab_size": [50]}, "vocab_size is [50]; expected a whole number from 1"),
        ({"num_experts": "8"}, "num_experts is '8'; expected a whole number from 0"),
        ({"n_layer": 2_000_000_000}, "n_layer is 2,000,000,000; at most"),
        ({"n_inner": 2_000_000_000}, "n_inner is 2,000,000,000; at most"),
        ({"n_layer": 10**30}, "is too large"),
        ({"n_embd": float("nan")}, "NaN is no number"),
        ({"model_type": ["gpt2"]}, "unknown architecture ['gpt2']; known are gpt2"),
        ({"model_type": "mamba"}, "unknown architecture 'mamba'; known are gpt2"),
    ],
)
def test_a_wrong_size_or_kind_is_named_before_any_job(folder, more, message):
    configure(folder, **more)
    assert message in refusal(folder)
    for read in (read_shape, read_vocabulary, read_context):
        if read is read_shape or "at most" not in message:
            with pytest.raises(UserError) as error:
                read(folder)
            assert message in str(error.value)


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "[]", "", "\ud83d"],
    ids=["deep lists", "deep objects", "a list", "empty", "no UTF-8"],
)
def test_a_configuration_that_is_no_json_object_is_named_before_any_job(folder, content):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=f"models.path: {folder}/config.json "):
        read_shape(folder)
    refusal(folder)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"vocab_size": 49}, "vocab_size is 49, by the weights 50; transformer.wte.weight has"),
        ({"vocab_size": 10**12}, "it describes a model of 16,0"),
        pytest.param({"n_layer": 10_000}, "it describes a model of ", marks=pytest.mark.slow),
        ({"n_embd": 18}, "n_embd is 18, by the weights 16; "),
        ({"n_inner": 20}, "n_inner is 20, by the weights 24; "),
        ({"n_positions": 31}, "n_positions is 31, by the weights 32; transformer.wpe.weight"),
        ({"n_head": 3}, "the model can't be loaded: ValueError: `embed_dim` must be divisible by"),
        ({"activation_function": "gulu"}, "unknown activation 'gulu' (activation_function); known"),
        ({"activation_function": ["relu"]}, "unknown activation ['relu'] (activation_function)"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon"),
        ({"dtype": "float99"}, "float99"),
        ({"model_type": None}, "does not name the architecture (model_type)"),
        ({"id2label": [1], "num_labels": "x", "n_layer": 3}, "weights are missing: transformer.h."),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_the_weights_says_in_what(folder, more, message):
    configure(folder, **more)
    assert message in refusal(folder)


def test_the_context_of_a_model_is_known_before_any_job(folder, tmp_path):
    assert read_context(folder) == 32
    make("llama").save_pretrained(tmp_path / "llama")
    assert read_context(tmp_path / "llama") == 32
    configure(folder, n_positions=None)
    assert read_context(folder) is None


WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([10**9, 10**30, 1.5, 1e400]),
    st.text(max_size=3), st.just("org/kernel"), st.lists(st.integers(0, 2), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(0, 2), max_size=2),
)  # fmt: skip


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_configuration_is_answered_but_by_a_model_or_a_message(folder, data):
    file = folder / "config.json"
    right = json.loads(file.read_text())
    more = ["rope_scaling", "rope_parameters", "torch_dtype", "architectures", "sliding_window",
            "pruned_heads", "per_layer_config", "text_config", "auto_map", "to_dict"]  # fmt: skip
    wrong = data.draw(st.dictionaries(st.sampled_from([*right, *more]), WRONG, max_size=2))
    file.write_text(json.dumps({**right, **wrong}))
    try:
        with suppress(UserError), torch.no_grad():
            model = models.load(folder)
            # Where the embedding is said not to be the head, there is none.
            run = model.module if model.has_head else model.module.base_model
            run(IDS, use_cache=False)
    finally:
        file.write_text(json.dumps(right))
