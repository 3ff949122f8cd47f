"""Check a configuration and fill in its defaults, before any job runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from universal_neurons.errors import UserError
from universal_neurons.plan import consistency, schema

# Beside its own errors PyYAML lets through what odd tags (`!!bool maybe`) and deep nesting raise.
_NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)


def load_config(path: str | Path) -> dict[str, Any]:
    """Read a configuration from a YAML file, with all defaults (`resolve`).

    Raises
    ------
    UserError
        If the file can't be read, is no YAML or has no keys, or of `resolve`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read: {error}") from error
    try:
        config = yaml.safe_load(text)
    except _NO_YAML as error:
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
    rules = schema.rules()
    given = schema.normalised(config, rules)
    _refuse(schema.problems(given, rules))
    resolved = schema.with_defaults(given, rules)
    models, corpus = resolved["models"], resolved["corpus"]
    models["seeds"] = [str(seed) for seed in models["seeds"]]
    models["steps"] = sorted(models["steps"])
    for key in ("path", "paths", "tokenizer"):
        models[key] = _at_home(models[key])
    corpus["path"] = _at_home(corpus["path"])
    _refuse(list(consistency.problems(resolved)))
    return resolved


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise UserError("\n  ".join(["the configuration is wrong:", *problems]))


def _at_home(path: Any) -> Any:
    """Paths with the home directory for ~, one or as many as there are."""
    if isinstance(path, Mapping):
        return {name: _at_home(one) for name, one in path.items()}
    if isinstance(path, list):
        return [_at_home(one) for one in path]
    return path and os.path.expanduser(path)
