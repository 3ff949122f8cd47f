"""Where the model of a seed and step is: templates with {seed} and {step}, and exceptions to them.

Zero-padded numbers are written as in Python: ``{step:06d}`` is 000400 for step 400.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# What may follow the colon of a field: a width filled with zeros.
WIDTH = re.compile(r"(0[1-9]\d?)?d?")


def fill(template: str, seed: str, step: int) -> str:
    """A template with its fields filled in; `mistakes` says which templates can be."""
    return template.format(seed=_number(seed), step=step)


def _number(seed: str) -> str | int:
    """A seed that is written as a number is one, so that it can be padded; its text is the same."""
    return int(seed) if seed.isdecimal() and str(int(seed)) == seed else seed


def mistakes(template: str, seeds: Iterable[str]) -> Iterator[str]:
    """What is wrong with a template for these seeds, if anything: the ends of sentences."""
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        yield f"is not a template: {error}"
        return
    for literal, name, spec, conversion in fields:
        if {"{", "}"} & set(literal):
            yield "has braces in a name; Snakemake would take them for its own"
        if name is None:
            continue
        if name not in ("seed", "step"):
            yield f"has the unknown field {{{name}}}; known are seed and step"
        elif conversion or not WIDTH.fullmatch(spec or ""):
            yield f"has {{{name}}} in an unknown format; known are widths, as in {{{name}:06d}}"
        elif name == "seed" and spec and (odd := [s for s in seeds if _number(s) == s]):
            yield f"has a width for {{seed}}, and seed {odd[0]} is no number; write {{seed}}"


def local(models: Mapping[str, Any], seed: str, step: int) -> str:
    """Directory of a local model.

    Parameters
    ----------
    models
        The resolved section ``models``: an entry of ``paths`` goes before the template.
    seed, step
        The model's names.
    """
    return fill(models["paths"].get(seed, {}).get(str(step), models["path"]), seed, step)
