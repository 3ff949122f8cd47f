"""What the report says of where a run comes from: date, code, models and text."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import universal_neurons
from universal_neurons.method import METHOD_VERSION
from universal_neurons.report.words import percent
from universal_neurons.store.provenance import config_hash, processor

# Packages whose versions results depend on, and what runs them.
PACKAGES = (
    *("torch", "transformers", "tokenizers", "numpy", "scipy", "pandas", "numba"),
    *("zarr", "numcodecs", "snakemake"),
)


def origin(
    config: Mapping[str, Any], corpus: Mapping[str, Any], scored_tokens: int
) -> dict[str, str | int]:
    """The origin of a run, name to value.

    Parameters
    ----------
    config
        The resolved configuration.
    corpus
        What is known of the corpus (``corpus.json``).
    scored_tokens
        Token positions behind every correlation.
    """
    package = Path(universal_neurons.__file__).parent
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return {
        "report written": datetime.now().astimezone().isoformat(" ", "minutes"),
        "universal_neurons": f"{universal_neurons.__version__}, commit {commit_of(package)}",
        "configuration": f"{config_hash(config)} (SHA-256, first 16 digits)",
        "method versions": ", ".join(f"{kind} {n}" for kind, n in METHOD_VERSION.items()),
        "models": _models(config),
        "text": _text(config["corpus"]),
        "tokens": f"{corpus['sha256']} (SHA-256)",
        **_tokenizers(corpus.get("aligned", [])),
        "scored tokens": scored_tokens,
        "versions": f"Python {platform.python_version()}, {versions}",
        "machine": ", ".join([platform.platform(), *processor().values()]),
    }


def commit_of(folder: Path) -> str:
    """The Git commit that the files of a folder are of, and whether they differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        # A package installed below somebody's repository is not of it.
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = " with changes" if git("status", "--porcelain", "--", ".") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a Git checkout)"


def _models(config: Mapping[str, Any]) -> str:
    models = config["models"]
    if models["source"] == "hub":
        odd = ", some by models.revisions" if models["revisions"] else ""
        return f"hub: {models['repo']}, revision {models['revision']}{odd}; commits: see Models"
    if models["source"] == "train":
        return f"trained, in {Path('results', config['run'], 'models').absolute()}"
    return str(Path(models["path"]).absolute())


def _tokenizers(aligned: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What several tokenizers make of the text; nothing of one."""
    if not aligned:
        return {}
    each = [
        f"of {', '.join(one['seeds'])}: {percent(one['shared'])} of the tokens end where those of "
        f"all do, {one['bytes_per_token']:.2f} bytes per token"
        for one in aligned
    ]
    losses = (
        "Losses are per token, which differ: divided by ln 2 and the bytes per token they are bits "
        "per byte, about"
    )
    return {"tokenizers": "; ".join([*each, losses])}


def _text(corpus: Mapping[str, Any]) -> str:
    if corpus["source"] == "bundled":
        return "bundled"
    if corpus["source"] == "hub":
        return f"hub: {corpus['dataset']}, revision {corpus['revision']}, split {corpus['split']}"
    paths = corpus["path"] if isinstance(corpus["path"], Mapping) else {"": corpus["path"]}
    named = (f"{name} {_absolute(files)}".strip() for name, files in paths.items())
    return f"{corpus['source']}: {', '.join(named)}"


def _absolute(files: str | Sequence[str]) -> str:
    """A file or a glob, or a list of them, by absolute paths."""
    listed = [files] if isinstance(files, str) else files
    return ", ".join(str(Path(file).absolute()) for file in listed)
