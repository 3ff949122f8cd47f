"""Check a configuration and fill in its defaults, before any job runs."""

from __future__ import annotations

import copy
import difflib
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from universal_neurons.errors import UserError
from universal_neurons.models import hub

# Keys with types, defaults and what they mean: nowhere else.
SCHEMA = Path(__file__).with_name("config.schema.yaml")

SEED_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def load_config(path: str | Path) -> dict[str, Any]:
    """Read a configuration from a YAML file, with all defaults (`resolve`).

    Raises
    ------
    UserError
        If the file can't be read, is no YAML or has no keys, or of `resolve`.
    """
    try:
        config = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(config, Mapping):
        raise UserError(f"{path}: a configuration has keys, such as run, models and corpus")
    return resolve(config)


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Validate a configuration and return it with all defaults.

    Seeds become strings and steps are sorted, so that neither their spelling nor their order can
    make work run again.

    Parameters
    ----------
    config
        As read from YAML.

    Raises
    ------
    UserError
        Listing every key that is unknown or wrong, and what would be right.
    """
    rules = yaml.safe_load(SCHEMA.read_text())
    config = _with_text_keys(config)
    problems = [
        problem
        for error in jsonschema.Draft202012Validator(rules).iter_errors(config)
        for problem in _explain(error, rules)
    ]
    if problems:
        raise UserError("\n  ".join(["the configuration is wrong:", *sorted(problems)]))
    resolved = _with_defaults(config, rules)
    problems = list(_cross_checks(resolved))
    if problems:
        raise UserError("\n  ".join(["the configuration is wrong:", *problems]))
    models = resolved["models"]
    models["seeds"] = [str(seed) for seed in models["seeds"]]
    models["steps"] = sorted(models["steps"])
    return resolved


def _explain(error: jsonschema.ValidationError, rules: Mapping[str, Any]) -> Iterator[str]:
    """Say in plain words what is wrong and what would be right."""
    path = [str(part) for part in error.absolute_path]
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for key in error.instance:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
                yield f"{'.'.join([*path, str(key)])}: unknown key; {hint}"
    elif error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        for key in missing:
            about = error.schema["properties"][key].get("description", "a section")
            yield f"{'.'.join([*path, key])}: missing; give {about}"
    else:
        name = ".".join(path) or "the configuration"
        yield f"{name}: {error.instance!r} is wrong; expected {_expected(error, rules)}"


def _expected(error: jsonschema.ValidationError, rules: Mapping[str, Any]) -> str:
    """The innermost description on the way through the schema to the rule that failed."""
    description, node = "a mapping of sections", rules
    for part in error.absolute_schema_path:
        node = node[part]
        if isinstance(node, Mapping):
            description = node.get("description", description)
    return description


def _with_defaults(value: Any, rules: Mapping[str, Any]) -> Any:
    """A copy of `value` with the schema's defaults where keys are missing."""
    if rules.get("type") != "object" or not isinstance(value, Mapping):
        return copy.deepcopy(value)
    filled = {}
    # A mapping with names of the user's own has no defaults.
    if "properties" not in rules:
        return copy.deepcopy(value)
    for key, rule in rules["properties"].items():
        if key in value:
            filled[key] = _with_defaults(value[key], rule)
        elif "default" in rule:
            filled[key] = _with_defaults(rule["default"], rule)
    return filled


def _with_text_keys(value: Any) -> Any:
    """Keys as text, as YAML reads seeds and steps as numbers and a schema knows text keys only."""
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(inner) for key, inner in value.items()}
    return value


def _fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def _repeated(values: Sequence[Any]) -> list[Any]:
    return sorted({v for v in values if list(values).count(v) > 1})


def _cross_checks(config: Mapping[str, Any]) -> Iterator[str]:
    """What no schema can say: keys that must fit each other."""
    models, corpus = config["models"], config["corpus"]
    seeds = [str(seed) for seed in models["seeds"]]
    for seed in _repeated(seeds):
        yield f"models.seeds: {seed} is listed twice"
    for seed in seeds:
        if not SEED_LABEL.fullmatch(seed):
            yield f"models.seeds: {seed!r}: use letters, digits, '.', '_' and '-' only"
    for step in _repeated(models["steps"]):
        yield f"models.steps: {step} is listed twice"
    if models["source"] == "hub":
        yield from _check_hub_names(models, seeds)
    if models["source"] == "local":
        yield from _check_template("models.path", models["path"], {"seed", "step"})
    if models["source"] == "train":
        train = models["train"]
        if max(models["steps"]) > train["total_steps"]:
            yield (
                f"models.steps: {max(models['steps'])} is beyond models.train.total_steps "
                f"({train['total_steps']})"
            )
        if train["width"] % train["heads"]:
            yield "models.train.heads: must divide models.train.width"
        if corpus["source"] == "tokens":
            yield "corpus.source: tokens can't be used with models.source: train; use text"
        if corpus["source"] == "hub":
            # Its tokenizer learns from the text, which is streamed to a number of tokens.
            yield "corpus.source: hub can't be used with models.source: train; use text"
    if corpus["source"] == "hub":
        wanted = corpus["tokens"] + corpus["heldout_tokens"]
        if not corpus["dataset"]:
            yield "corpus.dataset: missing; corpus.source hub needs it"
        if corpus["stream_tokens"] is not None and corpus["stream_tokens"] < wanted:
            yield (
                f"corpus.stream_tokens: {corpus['stream_tokens']} is less than the {wanted} asked "
                "for (corpus.tokens + corpus.heldout_tokens)"
            )
    for key, sources in (("path", ("text",)), ("dataset", ("hub",))):
        if isinstance(corpus[key], Mapping) and corpus["source"] not in sources:
            yield f"corpus.{key}: several corpora need corpus.source: {sources[0]}; give one"
    if corpus["subset_key"] is not None and corpus["source"] not in ("text", "hub"):
        yield f"corpus.subset_key: corpus.source {corpus['source']} has no fields; use text or hub"
    if corpus["source"] in ("text", "tokens") and not corpus["path"]:
        yield f"corpus.path: missing; corpus.source {corpus['source']} needs it"
    if not config["capture"]["store"] and config["correlate"]["mode"] == "screened":
        yield (
            "correlate.mode: screened looks at activations twice and needs capture.store: true; "
            "use exact"
        )
    if config["universality"]["criterion"] == "q_value" and config["baseline"]["draws"] < 2:
        yield (
            "universality.criterion: q_value holds rotations against each other and needs "
            "baseline.draws of 2 or more"
        )
    n_sequences = corpus["tokens"] // corpus["context_length"]
    if n_sequences == 0:
        yield (
            f"corpus.tokens: {corpus['tokens']} is less than one sequence "
            f"(corpus.context_length {corpus['context_length']})"
        )
    elif n_sequences < corpus["shards"]:
        yield (
            f"corpus.shards: {corpus['shards']} shards of {n_sequences} sequences of "
            f"{corpus['context_length']} tokens; use fewer shards or more tokens"
        )
    if corpus["heldout_tokens"] < corpus["context_length"]:
        yield (
            f"corpus.heldout_tokens: {corpus['heldout_tokens']} is less than one sequence "
            f"(corpus.context_length {corpus['context_length']})"
        )


def _check_hub_names(models: Mapping[str, Any], seeds: Sequence[str]) -> Iterator[str]:
    problems = [
        problem
        for key in ("repo", "revision")
        for problem in _check_template(f"models.{key}", models[key], set())
    ]
    yield from problems
    steps = [str(step) for step in models["steps"]]
    for seed, given in models["revisions"].items():
        if seed not in seeds:
            yield f"models.revisions: {seed} is not in models.seeds"
        for step in given:
            if step not in steps:
                yield f"models.revisions.{seed}: {step} is not in models.steps"
    if problems:
        return
    seen: dict[hub.Name, str] = {}
    for seed, step in product(seeds, sorted(models["steps"])):
        name, cell = hub.name_of(models, seed, step), f"seed {seed}, step {step}"
        if name in seen:
            yield (
                f"models.repo, models.revision: {seen[name]} and {cell} are both {name}; the "
                "templates need {seed} and {step}, or models.revisions an entry"
            )
            return
        seen[name] = cell


def _check_template(key: str, template: str, wanted: set[str]) -> Iterator[str]:
    try:
        fields = _fields(template)
    except ValueError as error:
        yield f"{key}: {template!r} is not a template: {error}"
        return
    for name in sorted(wanted - fields):
        yield f"{key}: {template!r} lacks {{{name}}}"
    for name in sorted(fields - {"seed", "step"}):
        yield f"{key}: {template!r} has the unknown field {{{name}}}; known are seed and step"
