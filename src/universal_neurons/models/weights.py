"""The weights of a model directory: their files, and what is in these, read as data alone.

Files are mapped and read weight by weight, so that a model takes its own size and little more.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from universal_neurons.errors import UserError
from universal_neurons.models.description import read_json_object

# Files of weights in the order of preference: whole, or the index of their parts.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

# What older versions of transformers saved beside the weights, though config.json says all of it:
# masks of attention, frequencies of rotary embeddings, a version.
COMPUTED = re.compile(
    r"(\.attn|\.attention)\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$"
    r"|(^|\.)decoder\.version$|(^|\.)embeddings\.position_ids$"
)

# Parts of encoders for other tasks than masked tokens, which are saved with them: whether this is
# the next sentence (BERT, ALBERT), or the token that was there (ELECTRA's discriminator).
OTHER_TASKS = re.compile(
    r"(^|\.)pooler\.|^cls\.seq_relationship\.|^sop_classifier\.|^discriminator_predictions\."
)

# How a file begins that Git LFS keeps in place of another where it is not installed.
POINTER = b"version https://git-lfs"

# Types of weights, as safetensors and torch name them; others are quantised, or no weights.
FLOATS = {"F64", "F32", "F16", "BF16"} | {
    f"torch.{name}" for name in ("float64", "float32", "float16", "bfloat16")
}


def find_weights(model: Path) -> list[Path]:
    """The files of a model's weights; no more than how they begin is read.

    Parameters
    ----------
    model
        A model directory.

    Raises
    ------
    UserError
        If there are none, parts that the index names are missing, or files are empty or pointers.
    """
    for whole, index in (SAFETENSORS, PICKLED):
        if (model / whole).is_file():
            files = [model / whole]
        elif (model / index).is_file():
            files = [model / part for part in parts_of(model / index)]
            if missing := [file.name for file in files if not file.is_file()]:
                raise UserError(f"models.path: {model} lacks weights: {', '.join(missing)}")
        else:
            continue
        for file in files:
            _check_begin(file)
        return files
    raise UserError(
        f"models.path: {model} has no weights; looked for {SAFETENSORS[0]} and {PICKLED[0]}, whole "
        "or in parts"
    )


def _check_begin(file: Path) -> None:
    """Refuse a file that holds no weights by how it begins."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(POINTER))
    except OSError as error:
        raise UserError(f"models.path: {file} can't be read: {error}") from error
    if not begin:
        raise UserError(f"models.path: {file} is empty; copy or download it again")
    if begin == POINTER:
        raise UserError(
            f"models.path: {file} is a pointer of Git LFS to the weights; run git lfs pull in its "
            "folder"
        )


def parts_of(index: Path) -> list[str]:
    """Names of the files that an index of weights names, sorted.

    Raises
    ------
    UserError
        If it is no such index, or names files in other directories.
    """
    parts = read_json_object(index).get("weight_map")
    names = set(parts.values()) if isinstance(parts, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"models.path: {index} is no index of weights")
    return sorted(names)


def read_weights(model: Path) -> dict[str, Any]:
    """A model's weights by name, each read when it is indexed.

    Parameters
    ----------
    model
        A model directory.

    Raises
    ------
    UserError
        If they are missing or unreadable, hold code, or are of a type that no weights have.
    """
    weights: dict[str, Any] = {}
    for file in find_weights(model):
        try:
            found = read_pickled(file) if file.suffix == ".bin" else _map_safetensors(file)
        except UserError as error:
            raise UserError(f"{model}: the model can't be loaded: {error}") from error
        weights |= {
            name: one
            for name, one in found.items()
            if not (COMPUTED.search(name) or OTHER_TASKS.search(name))
        }
    for name, weight in weights.items():
        kind = weight.get_dtype() if hasattr(weight, "get_dtype") else str(weight.dtype)
        if kind not in FLOATS:
            raise UserError(
                f"{model}: weight {name} is of type {kind.removeprefix('torch.')}; known are "
                "float64, float32, float16 and bfloat16: a quantised model?"
            )
    return weights


def read_pickled(file: Path) -> dict[str, Any]:
    """The tensors of a .bin file by name, mapped where its format allows; executes nothing of it.

    Raises
    ------
    UserError
        If it is damaged or holds anything else.
    """
    import torch

    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    # What a broken file makes the unpickler do is anybody's guess.
    except Exception as error:
        raise UserError(
            f"{file.name} can't be loaded as weights alone ({one_line(error)}); files that would "
            "execute code are refused"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{file.name} holds a {type(found).__name__}, no weights by name")
    for name, weight in found.items():
        is_weight = isinstance(weight, torch.Tensor) and weight.layout == torch.strided
        if not (isinstance(name, str) and is_weight):
            raise UserError(f"{file.name} holds more than weights: {name!r}")
    return found


def _map_safetensors(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(file, framework="pt")
        return {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file.name} can't be read: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """What an error of a library says, short enough to be part of a message."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)
