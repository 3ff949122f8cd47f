"""The grid: stable names, shards that can be added to, and jobs of a sensible size."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from planning import GPT2_SMALL, SMALL, grid

from universal_neurons.errors import UserError
from universal_neurons.models.shape import Shape, read_shape
from universal_neurons.plan.config import resolve
from universal_neurons.plan.grid import Grid, parse_layers


def planned(models, store=True, **corpus):
    """The grid of local models that there are."""
    config = {
        "run": "r",
        "models": models,
        "corpus": {"source": "bundled", "tokens": 1000, **corpus},
        "capture": {"store": store},
    }
    return Grid.of(resolve(config))


def test_pairs_do_not_depend_on_the_order_of_the_seeds():
    assert grid(seeds=("b", "a", "c")).pairs == grid(seeds=("c", "b", "a")).pairs
    assert grid(seeds=("b", "a", "c")).pairs == [("a", "b"), ("a", "c"), ("b", "c")]


def shard_ranges(**corpus):
    cells = grid(**corpus)
    return [cells.shard_range(shard) for shard in cells.shards]


@given(tokens=st.integers(100, 10_000), shards=st.integers(1, 10), length=st.integers(2, 10))
def test_shards_partition_the_scored_sequences(tokens, shards, length):
    ranges = shard_ranges(tokens=tokens, shards=shards, context_length=length)
    edges = [start for start, _ in ranges] + [ranges[-1][1]]
    assert edges == [0, *(stop for _, stop in ranges)]
    assert edges[-1] == tokens // length
    sizes = {stop - start for start, stop in ranges}
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= 1


@given(
    each=st.fractions(10, 10_000, max_denominator=8),
    shards=st.integers(1, 10),
    more=st.integers(1, 10),
    length=st.integers(2, 10),
)
@example(each=Fraction(30_000), shards=2, more=1, length=64)
@example(each=Fraction(5_000_000, 8), shards=8, more=8, length=512)
def test_more_tokens_in_proportionally_more_shards_keep_the_old_shards(each, shards, more, length):
    """Whatever does not divide: tokens by shards, or either by the context length."""
    # As many shards as make whole numbers of tokens.
    old, new = (n * each.denominator for n in (shards, shards + more))
    before, after = (
        shard_ranges(tokens=int(n * each), shards=n, context_length=length) for n in (old, new)
    )
    assert after[:old] == before


def test_a_job_takes_some_layers_of_gpt2_small_and_all_of_a_small_model():
    assert grid(GPT2_SMALL).layer_blocks("0", "1") == ["0-2", "3-5", "6-8", "9-11"]
    assert grid(SMALL).layer_blocks("0", "1") == ["0-1"]
    assert parse_layers("3-5") == [3, 4, 5]


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"n_layer": 3, "n_embd": 16}, Shape(3, 64)),
        ({"n_layer": 3, "n_embd": 16, "n_inner": None}, Shape(3, 64)),
        ({"n_layer": 3, "n_embd": 16, "n_inner": 40}, Shape(3, 40)),
        ({"num_hidden_layers": 6, "hidden_size": 16, "intermediate_size": 48}, Shape(6, 48)),
        ({"num_hidden_layers": 6, "hidden_size": 16, "ffn_dim": 64}, Shape(6, 64)),
    ],
)
def test_sizes_are_read_from_config_json(tmp_path, config, shape):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_shape(tmp_path) == shape


@pytest.mark.parametrize("key", ["num_local_experts", "num_experts", "n_routed_experts"])
def test_mixtures_of_experts_are_refused_before_any_job(tmp_path, key):
    config = {"num_hidden_layers": 6, "hidden_size": 16, "intermediate_size": 48}
    (tmp_path / "config.json").write_text(json.dumps({**config, key: 8}))
    with pytest.raises(UserError, match=rf"mixture-of-experts model \({key}: 8\)"):
        read_shape(tmp_path)
    for dense in (0, 1, None):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: dense}))
        assert read_shape(tmp_path) == Shape(6, 48)


def test_token_ids_need_seeds_of_one_vocabulary_but_not_of_one_size(tmp_path):
    for seed, vocabulary, layers in (("a", 50, 2), ("b", 50, 3), ("c", 51, 2)):
        (tmp_path / seed / "1").mkdir(parents=True)
        config = {"n_layer": layers, "n_embd": 16, "vocab_size": vocabulary}
        (tmp_path / seed / "1/config.json").write_text(json.dumps(config))
    models = {"source": "local", "steps": [1], "path": f"{tmp_path}/{{seed}}/{{step}}"}
    grid = planned({**models, "seeds": ["a", "b"]}, source="tokens", path="tokens.npy")
    assert [shape.n_layers for shape in grid.shapes.values()] == [2, 3]
    different = {**models, "seeds": ["a", "c"]}
    with pytest.raises(UserError, match=r"models.seeds: .* vocabularies of \[50, 51\] tokens"):
        planned(different, source="tokens", path="tokens.npy")
    # Tokenizers, where there are any, are compared themselves: embeddings may be padded.
    planned(different, source="text", path="*.txt")


def test_bad_model_directories_are_named(tmp_path):
    with pytest.raises(UserError, match="models.path: .*config.json does not exist"):
        read_shape(tmp_path)
    for text, message in (("{", "can't be read"), ("{}", "does not say the number of layers")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            read_shape(tmp_path)


def test_a_seed_whose_size_changes_between_steps_is_refused(tmp_path):
    for seed in "ab":
        for step in (1, 2):
            where = tmp_path / seed / str(step)
            where.mkdir(parents=True)
            width = 16 + (seed == "b" and step == 2)
            (where / "config.json").write_text(json.dumps({"n_layer": 2, "n_embd": width}))
    models = {"source": "local", "seeds": ["a", "b"], "steps": [1, 2]}
    models["path"] = f"{tmp_path}/{{seed}}/{{step}}"
    with pytest.raises(UserError, match="seed b has different sizes"):
        planned(models)
    assert planned({**models, "steps": [1]}).shapes["b"] == Shape(2, 64)


def test_without_stored_activations_all_seeds_need_one_size(tmp_path):
    for seed, width in (("a", 16), ("b", 20)):
        where = tmp_path / seed / "1"
        where.mkdir(parents=True)
        (where / "config.json").write_text(json.dumps({"n_layer": 2, "n_embd": width}))
    models = {"source": "local", "seeds": ["a", "b"], "steps": [1]}
    models["path"] = f"{tmp_path}/{{seed}}/{{step}}"
    assert planned(models)
    with pytest.raises(UserError, match="capture.store: false .* needs them to have one size"):
        planned(models, store=False)


def test_encoders_have_a_run_of_their_own_and_room_for_text_between_their_frames(tmp_path):
    for seed, kind in (("a", "bert"), ("b", "gpt2"), ("c", "bert")):
        (tmp_path / seed).mkdir()
        about = {"model_type": kind, "n_layer": 2, "hidden_size": 8}
        (tmp_path / seed / "config.json").write_text(json.dumps(about))
    models = {"source": "local", "steps": [1], "path": str(tmp_path / "{seed}")}
    assert planned({**models, "seeds": ["a", "c"]}).loss_kind == "masked"
    with pytest.raises(UserError, match="predict the next token and others masked ones"):
        planned({**models, "seeds": ["a", "b"]})
    with pytest.raises(UserError, match="context_length: 2 leaves no room for text"):
        planned({**models, "seeds": ["a", "c"]}, context_length=2)


def test_a_job_takes_as_many_layers_as_its_memory_holds_in_blocks_of_equal_size():
    for memory_gb, size in ((0.1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (14, 12)):
        sections = {"correlate": {"memory_gb": memory_gb}}
        blocks = grid(GPT2_SMALL, seeds="01", sections=sections).layer_blocks("0", "1")
        assert [len(parse_layers(block)) for block in blocks] == [size] * (12 // size)
        # 0.9 GB of sums a layer and 0.13 GB of its codes; 0.6 GB whatever the layers.
        assert 1.04 * size + 0.6 < memory_gb or size == 1


@pytest.mark.parametrize(
    ("tokens", "shards", "sizes"),
    [(5_000_000, 8, [12]), (5_000_000, 1, [3] * 4), (10**8, 1, [1] * 12)],
)
def test_sums_are_made_of_all_layers_in_one_job_that_takes_a_day_at_most(tokens, shards, sizes):
    for memory_gb in (0.1, 4, 100):
        sections = {"correlate": {"memory_gb": memory_gb}}
        found = grid(GPT2_SMALL, sections=sections, tokens=tokens, shards=shards)
        blocks = found.sum_blocks("0", "1")
        assert [len(parse_layers(block)) for block in blocks] == sizes, "whatever the memory"
        of_matches = found.layer_blocks("0", "1")
        assert [i for block in of_matches for i in parse_layers(block)] == list(range(12))
        for layers in of_matches:
            block = found.sum_block("0", "1", layers)
            assert block in blocks
            assert set(parse_layers(layers)) <= set(parse_layers(block))


def test_sums_of_all_pairs_are_made_in_as_many_passes_as_the_memory_asks_for():
    # Ten pairs of 0.9 GB per layer, and 0.9 GB of within-layer sums per seed.
    for memory_gb, passes in ((200, 1), (64, 2), (8, 12)):
        sections = {"capture": {"store": False}, "correlate": {"memory_gb": memory_gb}}
        blocks = grid(GPT2_SMALL, seeds="01234", sections=sections).layer_blocks("0", "1")
        assert len(blocks) == passes
        assert [i for block in blocks for i in parse_layers(block)] == list(range(12))
