"""A wrong configuration is refused with its key and what would be right."""

from __future__ import annotations

import copy
import math
import tomllib
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from universal_neurons.errors import UserError
from universal_neurons.models.names import local
from universal_neurons.plan.config import load_config, resolve
from universal_neurons.plan.schema import SCHEMA
from universal_neurons.plan.sections import Config

ROOT = Path(__file__).parents[2]
MINIMAL = {
    "run": "r",
    "models": {"seeds": [2, "a-x1"], "steps": [30, 4], "path": "m/{seed}/{step}"},
    "corpus": {"source": "bundled", "tokens": 1000},
}


def changed(path: str, value):
    config = copy.deepcopy(MINIMAL)
    *sections, key = path.split(".")
    place = config
    for section in sections:
        place = place.setdefault(section, {})
    place[key] = value
    return config


def test_defaults_are_filled_and_labels_made_uniform():
    config = resolve(MINIMAL)
    assert config["models"]["seeds"] == ["2", "a-x1"]
    assert config["models"]["steps"] == [4, 30]
    assert config["capture"]["encoding"] == "int8"
    assert config["capture"]["keep"] is True
    assert config["universality"]["excess_threshold"] == 0.5
    given = {"kinds": ["mean"], "controls": 20, "seed": 0}
    defaults = {"dtype": "auto", "target_se": None, "mediation_tokens": 16384}
    assert config["ablation"] == {**given, **defaults}
    assert config["corpus"]["exclude_token_ids"] == "auto"
    assert config["corpus"]["exclude_positions"] == []
    assert resolve(config) == config


def test_the_shipped_configuration_names_every_key_there_is():
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert resolve(shipped)["models"]["seeds"] == list("01234")

    def keys(value, prefix=()):
        for key, inner in value.items():
            yield (*prefix, key)
            if isinstance(inner, dict):
                yield from keys(inner, (*prefix, key))

    assert set(keys(resolve(shipped))) == set(keys(shipped))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("corpus.tokenz", 5, "corpus.tokenz: unknown key; did you mean tokens?"),
        ("capture.xyz", 5, "capture.xyz: unknown key; known are encoding, dtype"),
        ("extra", {}, "extra: unknown key"),
        ("run", "a/b", "run: 'a/b' is wrong; expected a name of letters"),
        ("run", 3, "run: 3 is wrong"),
        ("models", None, "models: None is wrong"),
        ("models.seeds", [1], "models.seeds: [1] is wrong; expected a list of at least two"),
        ("models.seeds", [1, 2.5], "models.seeds.1: 2.5 is wrong; expected a list of at least"),
        ("models.seeds", [1, "1"], "models.seeds: 1 is listed twice"),
        ("models.seeds", ["a/b", "c"], "models.seeds: 'a/b': use letters"),
        ("models.seeds", ["a b", "c"], "models.seeds: 'a b': use letters"),
        ("models.seeds", ["..", "c"], "models.seeds: '..': use letters"),
        ("models.steps", [], "models.steps: [] is wrong; expected a list of training steps"),
        ("models.steps", [5, 5], "models.steps: 5 is listed twice"),
        ("models.steps", [-1], "models.steps.0: -1 is wrong"),
        ("models.steps", [1.5], "models.steps.0: 1.5 is wrong"),
        ("models.path", "m/{seed}", "models.path: seed 2, step 4 and seed 2, step 30 are both m/2"),
        ("models.path", "m/{step}", "seed 2, step 4 and seed a-x1, step 4 are both m/4"),
        ("models.path", "m/{seed}/{step}/{x}", "has the unknown field {x}"),
        ("models.path", "m/{seed/{step}", "is not a template"),
        ("models.source", "locale", "models.source: 'locale' is wrong; expected train"),
        ("models.path", "m/{seed}/{step}/}", "is not a template: Single '}' encountered"),
        ("models.path", "m{{}}/{seed}/{step}", "has braces in a name; Snakemake would take them"),
        ("models.path", "m/{seed}/{step:x}", "has {step} in an unknown format; known are widths"),
        ("models.path", "m/{seed}/{step:>9999999999}", "has {step} in an unknown format"),
        ("models.path", "m/{seed!r}/{step}", "has {seed} in an unknown format; known are widths"),
        ("models.path", "m/{seed:03d}/{step}", "a width for {seed}, and seed a-x1 is no number"),
        ("models.paths", {"b": {}}, "models.paths: b is not in models.seeds"),
        ("models.paths", {2: {5: "x"}}, "models.paths.2: 5 is not in models.steps"),
        ("models.paths", {2: {4: "{x}"}}, "models.paths.2.4: '{x}' has the unknown field {x}"),
        ("models.paths", {2: {4: "m/2/30"}}, "seed 2, step 4 and seed 2, step 30 are both m/2/30"),
        ("models.paths", {2: {4: 5}}, "models.paths.2.4: 5 is wrong; expected a path"),
        ("models.tokenizer", 5, "models.tokenizer: 5 is wrong; expected a directory"),
        ("corpus.path", [], "corpus.path: [] is wrong; expected a file or glob or a list"),
        ("corpus.path", {"": "x"}, "corpus.path: '' is wrong; expected names of subsets"),
        ("corpus.tokens", "4e-1", "corpus.tokens: 0.4 is wrong; expected number of token"),
        ("corpus.tokens", 1e30, "corpus.tokens: 1e+30 is wrong; expected number of token"),
        ("corpus.tokens", 10**13, "token positions to score, at most 1,000,000,000,000"),
        ("corpus.exclude_token_ids", [1e30], "corpus.exclude_token_ids.0: 1e+30 is wrong"),
        ("capture.headroom", math.nan, "capture.headroom: nan is wrong; expected a fraction"),
        ("capture.headroom", math.inf, "capture.headroom: inf is wrong; expected a fraction"),
        ("capture.headroom", 1e308, "capture.headroom: 1e+308 is wrong; expected a fraction"),
        ("capture.device", "cpu\n", "capture.device: 'cpu\\n' has line breaks"),
        ("run", "r\n", "run: 'r\\n' has line breaks"),
        ("run", "r" * 256, "at most 200 of them"),
        ("corpus.source", "text", "corpus.path: missing; corpus.source text needs it"),
        ("corpus.tokens", 0, "corpus.tokens: 0 is wrong; expected number of token positions"),
        ("corpus.tokens", "many", "corpus.tokens: 'many' is wrong"),
        ("corpus.heldout_tokens", 5, "corpus.heldout_tokens: 5 is less than one sequence"),
        ("corpus.shards", 9, "corpus.shards: 9 shards of 7 sequences of 128 tokens"),
        ("corpus.context_length", 1, "corpus.context_length: 1 is wrong"),
        ("corpus.exclude_token_ids", "foo", "corpus.exclude_token_ids: 'foo' is wrong"),
        ("corpus.exclude_token_ids", [-1], "corpus.exclude_token_ids.0: -1 is wrong"),
        ("corpus.exclude_positions", [-1], "corpus.exclude_positions.0: -1 is wrong"),
        ("corpus.exclude_positions", [0, 128], "corpus.exclude_positions: 128 is no position of"),
        ("capture.encoding", "int4", "'int4' is wrong; expected int8, bfloat16 or float32"),
        ("capture.device", "tpu", "capture.device: 'tpu' is wrong; expected auto, cpu"),
        ("capture.keep", "yes please", "capture.keep: 'yes please' is wrong"),
        ("baseline.draws", 0, "baseline.draws: 0 is wrong; expected number of random rotations"),
        ("universality.excess_threshold", "high", "excess_threshold: 'high' is wrong"),
        ("universality.criterion", "p", "criterion: 'p' is wrong; expected what makes a neuron"),
        ("universality.false_discovery_rate", 0, "false_discovery_rate: 0 is wrong; expected a"),
        ("ablation.controls", 5, "ablation.controls: 5 is wrong; expected number of control"),
        ("ablation.kinds", ["median"], "ablation.kinds.0: 'median' is wrong; expected a list of"),
    ],
)
def test_a_mistake_names_the_key_and_what_would_be_right(path, value, message):
    with pytest.raises(UserError) as error:
        resolve(changed(path, value))
    assert message in str(error.value)


def test_no_number_of_the_schema_is_unbounded_or_may_be_no_number():
    def numbers(rules, path=""):
        for key, rule in rules.get("properties", {}).items():
            yield from numbers(rule, f"{path}.{key}" if path else key)
        if any(kind in str(rules.get("type")) for kind in ("integer", "number")):
            yield path, rules

    found = dict(numbers(yaml.safe_load(SCHEMA.read_text())))
    assert len(found) == 56
    for path, rule in found.items():
        for bound in ("inimum", "aximum"):
            assert any(key.endswith(bound) for key in rule), path
        for value in (math.nan, math.inf):
            with pytest.raises(UserError, match=rf"{path}: (nan|inf) is wrong"):
                resolve(changed(path, value))


def test_whole_numbers_may_be_written_as_text_or_fractions():
    config = changed("corpus.tokens", "4e4")
    config["corpus"].update(shards=2.0, heldout_tokens="1.5e3", exclude_token_ids=[3.0])
    config["models"].update(steps=["1e1", 2.0], train={"learning_rate": "1e-3"})
    resolved = resolve(config)
    assert resolved["corpus"]["tokens"] == 40_000
    assert (resolved["corpus"]["shards"], resolved["corpus"]["heldout_tokens"]) == (2, 1500)
    assert isinstance(resolved["corpus"]["shards"], int)
    assert resolved["models"]["steps"] == [2, 10]
    assert resolved["models"]["train"]["learning_rate"] == 0.001
    assert resolved["corpus"]["exclude_token_ids"] == [3]


def test_paths_may_begin_with_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = changed("models.path", "~/m/{seed}/{step}")
    config["models"].update(paths={2: {4: "~/other"}}, tokenizer="~/tokenizer")
    for path, expected in (
        ("~/a.txt", "/home/me/a.txt"),
        (["~/a.txt", "b"], ["/home/me/a.txt", "b"]),
        ({"x": ["~/a"], "y": "~/b"}, {"x": ["/home/me/a"], "y": "/home/me/b"}),
    ):
        config["corpus"].update(source="text", path=path)
        resolved = resolve(config)
        assert resolved["corpus"]["path"] == expected
    assert resolved["models"]["path"] == "/home/me/m/{seed}/{step}"
    assert resolved["models"]["paths"] == {"2": {"4": "/home/me/other"}}
    assert resolved["models"]["tokenizer"] == "/home/me/tokenizer"


def test_names_of_models_may_be_padded_and_irregular():
    config = changed("models.path", "x/{seed:03d}/ckpt_{step:06d}")
    config["models"].update(seeds=[7, 12], paths={7: {30: "last/{seed}"}})
    models = resolve(config)["models"]
    assert local(models, "7", 4) == "x/007/ckpt_000004"
    assert local(models, "7", 30) == "last/7"
    assert local(models, "12", 30) == "x/012/ckpt_000030"


def test_scoring_fewer_than_a_hundred_tokens_is_refused():
    config = changed("corpus.tokens", 110)
    config["corpus"].update(context_length=33)
    with pytest.raises(UserError, match=r"corpus.tokens: 99 tokens .* score at least 100"):
        resolve(config)
    config["corpus"]["context_length"] = 100
    assert resolve(config)


@pytest.mark.parametrize("key", ["run", "models", "corpus"])
def test_a_missing_section_is_named(key):
    config = {name: value for name, value in MINIMAL.items() if name != key}
    with pytest.raises(UserError, match=f"{key}: missing; give"):
        resolve(config)


def test_training_options_must_fit_each_other():
    config = changed("models.source", "train")
    for train, message in (
        ({"total_steps": 20}, "models.steps: 30 is beyond models.train.total_steps"),
        ({"width": 10, "heads": 3}, "models.train.heads: must divide"),
    ):
        config["models"]["train"] = train
        with pytest.raises(UserError, match=message):
            resolve(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("repo", "org/{sed}", "models.repo: 'org/{sed}' has the unknown field {sed}"),
        ("revision", "main", "seed 2, step 4 and seed 2, step 30 are both org/2 at revision main"),
        ("repo", "org/model", "seed 2, step 4 and seed a-x1, step 4 are both org/model"),
        ("revisions", {"b": {4: {}}}, "models.revisions: b is not in models.seeds"),
        ("revisions", {2: {5: {}}}, "models.revisions.2: 5 is not in models.steps"),
        ("revisions", {2: {4: {"branch": "x"}}}, "models.revisions.2.4.branch: unknown key"),
        ("revisions", {2: {4: {"revision": 7}}}, "models.revisions.2.4.revision: 7 is wrong"),
        ("prune_cache", "often", "models.prune_cache: 'often' is wrong; expected true or false"),
    ],
)
def test_wrong_names_of_hub_models_are_refused(key, value, message):
    config = changed("models.source", "hub")
    config["models"] |= {"repo": "org/{seed}", "revision": "step{step}", key: value}
    with pytest.raises(UserError) as error:
        resolve(config)
    assert message in str(error.value)


def test_an_irregular_name_makes_up_for_a_template_without_a_field():
    config = changed("models.source", "hub")
    config["models"] |= {"repo": "org/{seed}", "revision": "main", "steps": [4, 30]}
    config["models"]["revisions"] = {2: {30: {"revision": "late"}}, "a-x1": {4: {"repo": "o/a"}}}
    models = resolve(config)["models"]
    assert models["revisions"]["2"]["30"] == {"revision": "late"}


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ({}, "corpus.dataset: missing; corpus.source hub needs it"),
        ({"dataset": "org/x", "stream_tokens": 60_999}, "60999 is less than the 61000 asked for"),
        ({"dataset": "org/x", "shuffle_buffer": 0}, "corpus.shuffle_buffer: 0 is wrong"),
    ],
)
def test_wrong_options_of_a_hub_data_set_are_refused(corpus, message):
    config = changed("corpus", {"source": "hub", "tokens": 11_000, **corpus})
    with pytest.raises(UserError) as error:
        resolve(config)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("corpus.align", "words", "corpus.align: 'words' is wrong; expected none, or bytes"),
        ("corpus.source", "tokens", "corpus.align: bytes needs text; corpus.source tokens"),
        ("models.source", "train", "corpus.align: bytes: models that are trained share one"),
        ("models.tokenizer", "x", "corpus.align: bytes takes the tokenizer of every seed"),
        ("corpus.exclude_token_ids", [3], "corpus.align: bytes: corpus.exclude_token_ids has ids"),
        ("capture.store", False, "corpus.align: bytes needs stored activations"),
        ("correlate.given", ["token", "position"], "corpus.align: bytes: correlate.given has"),
    ],
)
def test_what_does_not_go_with_aligned_tokenizers_is_refused(key, value, message):
    config = changed("corpus.align", "bytes")
    config["corpus"] |= {"source": "text", "path": "a.txt"}
    section, _, name = key.partition(".")
    config.setdefault(section, {})[name] = value
    with pytest.raises(UserError) as error:
        resolve(config)
    assert message in str(error.value)


def test_universal_by_q_value_takes_two_rotations_where_there_are_no_random_directions():
    config = changed("universality.criterion", "q_value")
    assert resolve(config)["universality"]["false_discovery_rate"] == 0.05
    config["baseline"] = {"draws": 1}
    assert resolve(config)["nulls"]["random_directions"]["draws"] == 2
    config["nulls"] = {"random_directions": {"draws": 0}}
    with pytest.raises(UserError, match="universality.criterion: q_value .* baseline.draws of 2"):
        resolve(config)


def test_an_exit_threshold_is_at_most_that_of_excess_and_goes_with_no_other_criterion():
    assert resolve(changed("persistence", {}))["persistence"]["exit_threshold"] is None
    config = changed("persistence.exit_threshold", 0.45)
    assert resolve(config)["persistence"]["exit_threshold"] == 0.45
    with pytest.raises(UserError, match="exit_threshold: 0.45 is above .*excess_threshold .0.4"):
        resolve({**config, "universality": {"excess_threshold": 0.4}})
    with pytest.raises(UserError, match="exit_threshold: .* universality.criterion: q_value"):
        resolve({**config, "universality": {"criterion": "q_value"}})


def test_all_mistakes_are_listed_at_once():
    config = changed("corpus.tokenz", 5)
    config["models"]["steps"] = [-1]
    with pytest.raises(UserError) as error:
        resolve(config)
    assert "corpus.tokenz" in str(error.value)
    assert "models.steps.0" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read"),
        ("run: x\n  models: [", "not a YAML file"),
        ("- a\n- b\n", "a configuration has keys"),
        ("", "a configuration has keys"),
        ("run: tiny\n", "models: missing; give"),
    ],
    ids=["no file", "no YAML", "a list", "nothing", "one key"],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, content, message):
    file = tmp_path / "my.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(file)


def test_a_file_is_read_with_its_defaults(tmp_path):
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(MINIMAL))
    assert load_config(tmp_path / "my.yaml") == resolve(MINIMAL)


def test_the_schema_is_the_packages_and_shown_with_the_workflow():
    shown = ROOT / "workflow/schemas/config.schema.yaml"
    assert shown.samefile(SCHEMA)
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    package = SCHEMA.parent.parent
    assert any(SCHEMA in package.glob(pattern) for pattern in data["universal_neurons"])


def test_the_typed_sections_have_the_keys_of_the_schema():
    def names(kind):
        hints = get_type_hints(kind)
        return {key: names(of) if is_dataclass(of) else None for key, of in hints.items()}

    def keys(rules):
        return {
            key: keys(rule) if "properties" in rule else None
            for key, rule in rules["properties"].items()
        }

    assert names(Config) == keys(yaml.safe_load(SCHEMA.read_text()))
    typed = Config.of(resolve(MINIMAL))
    assert asdict(typed) == resolve(MINIMAL)
