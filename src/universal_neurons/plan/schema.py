"""What the schema alone says of a configuration: types, bounds, defaults, unknown keys."""

from __future__ import annotations

import copy
import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from universal_neurons.errors import UserError

# Keys with types, defaults and what they mean: nowhere else.
SCHEMA = Path(__file__).with_name("config.schema.yaml")

# YAML takes 4e4 for text: its numbers have a point and a sign of the exponent.
EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")

# Whole numbers that a fraction can tell apart.
WHOLE = 2**53

# Above it a number is as good as infinite: Python does not even write thousands of digits.
HUGE = 10**100

# Levels of a configuration; the deepest is models.revisions.<seed>.<step>.<key>.
DEPTH = 8

# Characters of a wrong value that a message shows.
LONGEST = 200

_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
    {
        "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
        "number": lambda _, value: (
            not isinstance(value, bool)
            and (isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)))
        ),
    }
)
_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)


@cache
def rules() -> Mapping[str, Any]:
    """The schema."""
    return yaml.safe_load(SCHEMA.read_text())


def normalised(config: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with keys as text, and whole numbers as such: 4e4 is 40000, 2.0 is 2.

    Raises
    ------
    UserError
        If it is nested too deep.
    """
    return _normalised(config, schema, DEPTH)


def _normalised(value: Any, rule: Mapping[str, Any], depth: int) -> Any:
    if depth == 0:
        raise UserError(
            f"the configuration has more than {DEPTH} levels; a YAML anchor that holds itself?"
        )
    if isinstance(value, Mapping):
        known, other = rule.get("properties", {}), rule.get("additionalProperties") or {}
        # YAML reads seeds and steps as numbers, and a schema knows text keys only.
        named = {str(_finite(key)): inner for key, inner in value.items()}
        return {
            key: _normalised(inner, known.get(key, other), depth - 1)
            for key, inner in named.items()
        }
    if isinstance(value, list):
        return [_normalised(inner, rule.get("items", {}), depth - 1) for inner in value]
    types = rule.get("type", ())
    if types in ("integer", "number") and isinstance(value, str) and EXPONENT.fullmatch(value):
        value = float(value)
    value = _finite(value)
    whole = isinstance(value, float) and value.is_integer() and abs(value) < WHOLE
    return int(value) if whole and "integer" in types else value


def _finite(value: Any) -> Any:
    """A value, or infinity in place of a whole number that is as good as it."""
    return math.inf if isinstance(value, int) and abs(value) > HUGE else value


def problems(config: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """What is wrong with a normalised configuration, each with its key and what would be right."""
    errors = _Validator(schema).iter_errors(config)
    found = [problem for error in errors for problem in _explain(error, schema)]
    return sorted([*found, *_unprintable(config, ())])


def _explain(error: jsonschema.ValidationError, schema: Mapping[str, Any]) -> Iterator[str]:
    """Say in plain words what is wrong and what would be right."""
    path = [*map(str, error.absolute_path)]
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for key in error.instance:
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
                yield f"{_name([*path, key])}: unknown key; {hint}"
    elif error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        for key in missing:
            about = error.schema["properties"][key].get("description", "a section")
            yield f"{_name([*path, key])}: missing; give {about}"
    else:
        most = f", at most {error.validator_value:,}" if error.validator == "maximum" else ""
        right = f"{_expected(error, schema)}{most}"
        yield f"{_name(path)}: {_shown(error.instance)} is wrong; expected {right}"


def _expected(error: jsonschema.ValidationError, schema: Mapping[str, Any]) -> str:
    """The innermost description on the way through the schema to the rule that failed."""
    description, node = "a mapping of sections", schema
    for part in error.absolute_schema_path:
        node = node[part]
        if isinstance(node, Mapping):
            description = node.get("description", description)
    return description


def _unprintable(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Texts that no name or path can be: with line breaks and the like."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _unprintable(key, path)
            yield from _unprintable(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _unprintable(inner, (*path, str(i)))
    elif isinstance(value, str) and any(unicodedata.category(c) in ("Cc", "Cs") for c in value):
        yield f"{_name(path)}: {_shown(value)} has line breaks or control characters"


def _shown(value: Any) -> str:
    """A value in a message, however large it is."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _name(path: Iterable[str]) -> str:
    """A key with the sections it is in."""
    parts = [part if part.isprintable() and len(part) <= LONGEST else _shown(part) for part in path]
    return ".".join(parts) or "the configuration"


def with_defaults(value: Any, rule: Mapping[str, Any]) -> Any:
    """A copy of a value with the schema's defaults where keys are missing."""
    # A mapping with names of the user's own has no defaults.
    if not isinstance(value, Mapping) or "properties" not in rule:
        return copy.deepcopy(value)
    filled = {}
    for key, inner in rule["properties"].items():
        if key in value:
            filled[key] = with_defaults(value[key], inner)
        elif "default" in inner:
            filled[key] = with_defaults(inner["default"], inner)
    return filled
