"""What every store and table records of where it comes from."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llvmlite.binding

import universal_neurons
from universal_neurons.errors import UserError
from universal_neurons.method import METHOD_VERSION
from universal_neurons.store.files import again


def config_hash(config: Mapping[str, Any]) -> str:
    """Hexadecimal digest of a resolved configuration, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def provenance(config: Mapping[str, Any], *kinds: str, **more: Any) -> dict[str, Any]:
    """What every store and table records about its origin.

    `kinds` name the parts of `method.METHOD_VERSION` that made it: readers refuse other versions.
    """
    return {
        "universal_neurons": universal_neurons.__version__,
        "run": config.get("run"),
        "config_hash": config_hash(config),
        "method": {kind: METHOD_VERSION[kind] for kind in kinds},
        **processor(),
        **more,
    }


def processor() -> dict[str, str]:
    """The processor by name, and what torch uses of it where torch is at work.

    Libraries choose their kernels of float arithmetic by it, and those differ in last bits.
    """
    found = {"cpu": llvmlite.binding.get_host_cpu_name()}
    # A job that computes nothing with it does not load it for its name.
    if torch := sys.modules.get("torch"):
        found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return found


def check_method(path: str | Path, attributes: Mapping[str, Any]) -> None:
    """Refuse what another version of the method made."""
    for kind, version in attributes.get("method", {}).items():
        if version != METHOD_VERSION.get(kind):
            raise UserError(
                f"{path}: made by version {version} of the method '{kind}', this is version "
                f"{METHOD_VERSION.get(kind)}; {again(path)}"
            )
