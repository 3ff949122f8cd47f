"""Whatever a configuration says, it is planned, or refused with a message that names a key."""

from __future__ import annotations

import copy
import json
import math
import re
from itertools import product

import huggingface_hub.constants as hub_client
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from universal_neurons.errors import UserError
from universal_neurons.models import hub
from universal_neurons.plan.config import load_config, resolve
from universal_neurons.plan.cost import FIXED, RULES, asked
from universal_neurons.plan.grid import model_directory, parse_layers
from universal_neurons.plan.ready import notes, ready_grid
from universal_neurons.plan.schema import SCHEMA
from universal_neurons.plan.shares import summary
from universal_neurons.prepare import corpus

LENGTH = 16
CORPUS = {"tokens": 40 * LENGTH, "heldout_tokens": 20 * LENGTH, "context_length": LENGTH}
MODELS = {"seeds": ["a", 7], "steps": [10, 20]}
RIGHT = {
    "tokens": {
        "models": {**MODELS, "source": "local", "path": "{seed}/ckpt_{step:04d}"},
        "corpus": {**CORPUS, "source": "tokens", "path": "tokens.npy", "shards": 2},
    },
    "text": {
        "models": {**MODELS, "source": "local", "path": "{seed}/ckpt_{step:04d}"},
        "corpus": {**CORPUS, "source": "text", "path": ["text.jsonl", "*.txt"]},
    },
    "trained": {
        "models": {**MODELS, "source": "train"},
        "corpus": {**CORPUS, "source": "text", "path": {"one": "text.jsonl", "two": "*.txt"}},
    },
    "hub": {
        "models": {**MODELS, "source": "hub", "repo": "org/{seed}", "revision": "step{step}"},
        "corpus": {**CORPUS, "source": "hub", "dataset": "org/text"},
    },
}


def keys_of(rules, path=()):
    """Every key of the schema, as a path of names, with its rule; "a" and "10" are a user's own."""
    for key, rule in rules.get("properties", {}).items():
        yield (*path, key), rule
        yield from keys_of(rule, (*path, key))
    inner = rules.get("additionalProperties")
    if isinstance(inner, dict):
        key = "10" if "a" in path else "a"
        yield (*path, key), inner
        yield from keys_of(inner, (*path, key))


KEYS = dict(keys_of(yaml.safe_load(SCHEMA.read_text())))
NAMES = {path[-1] for path in KEYS} | {"the configuration"}

# More digits than Python writes, hypothesis neither.
LONG = 16**5000
EXTREMES = [
    *(None, True, False, "", [], {}, [[]], [None], {"": ""}, {1: 2}),
    *(0, 1, 2, -1, 255, 2**31, 2**32, 2**63, 10**30, 2.0, 0.5, 4e4, 1e30, 1e308, 5e-324),
    *(math.nan, math.inf, -math.inf, "4e4", "1e999", "1_0", "٣"),
    *(
        "cpu\n",
        "\0",
        "\ud800",
        "a/b",
        "..",
        "/",
        "~",
        "~nobody",
        "a" * 300,
        "a/" * 3000,
        "é",
        "x y",
    ),
    *(
        "a" * 300,
        "a/" * 3000,
        "{",
        "}",
        "{}",
        "{{}}",
        "{seed",
        "{seed}}",
        "{seed:06d}/{step}",
        "{step:x}/{seed}",
        "{0}",
    ),
    *(
        "{seed!r}{step}",
        "{seed.real}{step}",
        "{step:>9999999999}{seed}",
        "{seed:{step}}",
        "{step[0]}",
    ),
    *("a" * 300 + "{seed}/{step}", "\ud800{seed}/{step}", "{seed}/{step}\0", "~/{seed}/{step}"),
    *("{seed}/ckpt_{step:05d}", "{seed}/{step}/{{", "{seed:02d}{step}", "{seed}/ckpt_{step:04}/."),
    *("*", "**", "[", "text.jsonl", "tokens.npy", "none.txt", "auto", "hub", "train", "local"),
    *(["a", "a"], ["a", 7, 7.0], [1e30], [10, 20, 10**12], [2**40], list(range(400)), ["x"] * 9),
    *({"a": {"10": "other"}}, {"a": {"10": {"revision": "{"}}}, {"7": {"99": "x"}}, {"b": {}}),
]
VALUES = st.one_of(
    st.sampled_from(EXTREMES),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=5,
    ),
)
TEXTS = st.sampled_from([value for value in EXTREMES if isinstance(value, str)])


def fitting(rule):
    """Values that the schema's rule for a key accepts, most of them."""
    if "enum" in rule:
        return st.sampled_from(rule["enum"])
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    least = rule.get("minimum", rule.get("exclusiveMinimum"))
    most = rule.get("maximum", rule.get("exclusiveMaximum"))
    inner = rule.get("additionalProperties")
    of = {
        "boolean": lambda: st.booleans(),
        "null": lambda: st.none(),
        "integer": lambda: st.integers(least, least + 50) | st.integers(least, most),
        "number": lambda: st.floats(least, most),
        "string": lambda: TEXTS | st.text(max_size=20),
        "array": lambda: st.lists(fitting(rule["items"]), max_size=4),
        "object": lambda: st.dictionaries(
            st.sampled_from(["a", "7", "10", "20", ""]), fitting(inner) if inner else VALUES
        ),
    }
    return st.one_of([of[kind]() for kind in kinds])


def changes(values):
    """A key of the schema and a value for it, by its rule."""
    paths = st.sampled_from(sorted(KEYS))
    return paths.flatmap(lambda path: st.tuples(st.just(path), values(KEYS[path])))


MISSPELT = st.tuples(st.sampled_from(["models", "corpus", "capture"]), st.text(max_size=6))
CHANGE = st.one_of(
    *[changes(fitting)] * 3,
    changes(lambda rule: VALUES),
    changes(lambda rule: st.just(...)),
    st.tuples(MISSPELT, VALUES),
)
CHANGES = st.lists(CHANGE, min_size=1, max_size=3)


def changed(config, made):
    """A copy with the values at these paths, or without them (...)."""
    config = copy.deepcopy(config)
    for (*sections, key), value in made:
        place = config
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place.pop(key, None)
            if value is not ...:
                place[key] = value
    return config


def plan(config):
    """What the Snakefile does before it plans a job."""
    resolved = resolve(config)
    assert resolve(resolved) == resolved
    grid = ready_grid(resolved)
    assert summary(grid)
    notes(resolved)
    files = corpus.source_files(resolved["corpus"])
    if grid.config.models.source == "train":
        grid.training_key(files)
    for rule in (*RULES, *FIXED):
        needed = asked(grid, rule)
        assert min(needed.mem_mb, needed.minutes, needed.threads) > 0, rule
    for seed, step in product(grid.seeds, grid.steps):
        if grid.config.models.source != "train":
            model_directory(resolved, seed, step)
        if grid.config.models.source == "hub":
            hub.name_of(resolved["models"], seed, step)
    for shard in grid.shards[:3]:
        start, stop = grid.shard_range(shard)
        assert 0 <= start < stop
    assert all(parse_layers(block) for block in grid.layer_blocks(*grid.pairs[0]))
    json.dumps(resolved, allow_nan=False)
    return resolved


def refusal(config):
    """The message that a configuration is refused with, if it is."""
    try:
        plan(config)
    except UserError as error:
        str(error).encode()
        return str(error)
    return None


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the right configurations name, in the working directory."""
    where = tmp_path_factory.mktemp("right")
    shape = {"n_layer": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 50}
    for seed, step in product("a7", (10, 20)):
        snapshot = where / f"results/r/models/seed{seed}/step{step}"
        for folder in (where / f"{seed}/ckpt_{step:04}", snapshot):
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(json.dumps(shape))
            (folder / "model.safetensors").write_bytes(b"weights")
            (folder / "tokenizer.json").write_text("{}")
        about = {"repo": f"org/{seed}", "revision": f"step{step}", "commit": "0"}
        (snapshot / "hub.json").write_text(json.dumps(about))
    np.save(where / "tokens.npy", np.zeros((60, LENGTH), np.int32))
    (where / "long.txt").write_text("word " * 1000)
    (where / "text.jsonl").write_text('{"text": "word", "of": "x"}\n' * 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.setattr(hub_client, "HF_HUB_OFFLINE", True)
        patch.setattr(hub_client, "HF_HUB_CACHE", str(where / "cache"))
        yield where


@pytest.mark.parametrize("base", RIGHT)
def test_the_right_configurations_are_planned(files, base):
    assert plan({"run": "r", **RIGHT[base]})["models"]["seeds"] == ["a", "7"]


def check(base, made):
    said = refusal(changed({"run": "r", **RIGHT[base]}, made))
    if said is not None:
        named = set(re.findall(r"[a-z_]+", said)) | {"the configuration"} & {said[:17]}
        assert named & NAMES, said


FUZZ = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@given(base=st.sampled_from(sorted(RIGHT)), made=CHANGES)
@settings(max_examples=400, **FUZZ)
def test_any_change_is_planned_or_refused_by_name(files, base, made):
    check(base, made)


@pytest.mark.slow
@given(base=st.sampled_from(sorted(RIGHT)), made=CHANGES)
@settings(max_examples=10_000, **FUZZ)
def test_thousands_of_changes_are_planned_or_refused_by_name(files, base, made):
    check(base, made)


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_extreme_of_a_key_is_planned_or_refused_by_name(files, path):
    for value in (*EXTREMES, LONG):
        check("text", [(path, value)])


@pytest.mark.slow
@pytest.mark.parametrize("base", sorted({*RIGHT} - {"text"}))
def test_every_extreme_of_other_sources_is_planned_or_refused_by_name(files, base):
    for path, value in product(KEYS, (*EXTREMES, LONG)):
        check(base, [(path, value)])


def test_a_configuration_that_holds_itself_is_refused(files, tmp_path):
    file = tmp_path / "round.yaml"
    file.write_text("run: r\nmodels: &m {paths: *m}\ncorpus: &c [*c]\n")
    with pytest.raises(UserError, match="more than 8 levels"):
        load_config(file)
