"""Models from the Hugging Face Hub: fetched once, by commit, into a directory like a local one.

`fetch` leaves a snapshot: ``config.json``, the tokenizer's files, the weights as safetensors and
``hub.json``, which says where they come from. Whatever runs later reads the snapshot alone and
needs no network. The client's own settings hold: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.models.names import fill
from universal_neurons.models.weights import PICKLED, SAFETENSORS, parts_of, read_pickled
from universal_neurons.store.files import replacing
from universal_neurons.store.place import mark_model

logger = logging.getLogger(__name__)

# The record of a snapshot's origin; what lacks it is not a complete snapshot.
ORIGIN = "hub.json"

# Every file a known tokenizer may consist of. Names, not wildcards: those would match in folders of
# the repository too (`onnx/`), and would fetch the training states that some repositories hold.
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "vocab.txt",
)  # fmt: skip

# Requests for config.json side by side before any job runs.
CONNECTIONS = 8


@dataclass(frozen=True)
class Name:
    """A model on the Hub: repository and revision (branch, tag or commit)."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo} at revision {self.revision}"


def name_of(models: Mapping[str, Any], seed: str, step: int) -> Name:
    """Where the model of a seed and step is.

    Parameters
    ----------
    models
        The resolved section ``models``: an entry of ``revisions`` goes before the templates.
    seed, step
        The model's names.
    """
    given = models["revisions"].get(seed, {}).get(str(step), {})
    repo, revision = (given.get(key, models[key]) for key in ("repo", "revision"))
    return Name(fill(repo, seed, step), fill(revision, seed, step))


def origin(model: str | Path) -> dict[str, str] | None:
    """Where a snapshot comes from (``repo``, ``revision``, ``commit``); None if it is no snapshot.

    Parameters
    ----------
    model
        A model directory.
    """
    try:
        return json.loads((Path(model) / ORIGIN).read_text())
    except FileNotFoundError:
        return None


def commit(model: str | Path) -> str | None:
    """The commit of a snapshot; None for any other model directory."""
    known = origin(model)
    return None if known is None else known["commit"]


def config_directories(names: Sequence[Name], snapshots: Sequence[Path]) -> list[Path]:
    """A directory with ``config.json`` for every model, before any of them is fetched.

    In this order: the model's own snapshot, the client's cache, the Hub. So a finished run needs no
    network to be planned, and a wrong name is reported before any job.

    Parameters
    ----------
    names, snapshots
        Models and where `fetch` puts, or has put, them.

    Raises
    ------
    UserError
        If one is in none of the three places, or may not be read.
    """
    found = [_directory_at_hand(*pair) for pair in zip(names, snapshots, strict=True)]
    missing = [name for name, where in zip(names, found, strict=True) if where is None]
    # The first one alone: where there is no network, the client takes its time to say so.
    fetched = [_fetch_config(name, missing) for name in missing[:1]]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        fetched += pool.map(_fetch_config, missing[1:])
    rest = iter(fetched)
    return [where or next(rest) for where in found]


def _directory_at_hand(name: Name, snapshot: Path) -> Path | None:
    known = origin(snapshot)
    if known is not None and (known["repo"], known["revision"]) == (name.repo, name.revision):
        return snapshot
    from huggingface_hub import try_to_load_from_cache  # 1 s, unless all snapshots are there

    with _explained(name):
        cached = try_to_load_from_cache(name.repo, "config.json", revision=name.revision)
    return Path(cached).parent if isinstance(cached, str) else None


def _fetch_config(name: Name, needed: Sequence[Name] = ()) -> Path:
    from huggingface_hub import hf_hub_download

    with _explained(name, needed):
        return Path(hf_hub_download(name.repo, "config.json", revision=name.revision)).parent


def fetch(name: Name, out: str | Path, *, prune_cache: bool = False) -> None:
    """Fetch a model and leave a snapshot of it.

    A download whose connection breaks goes on where it was; after a killed job, the files that were
    whole are not fetched again. Weights are copied bit by bit from safetensors where the revision
    has them; pickled ones are loaded as weights only, which executes nothing, and written as
    safetensors. A revision without a tokenizer gets that of the repository's branch ``main``.

    Parameters
    ----------
    name
        The model.
    out
        Directory to make.
    prune_cache
        Whether to remove the revision from the client's cache afterwards.

    Raises
    ------
    UserError
        If the revision does not exist, may not be read, can't be reached, or has no weights that
        can be loaded safely.
    """
    _fetch_config(name)
    with _explained(name):
        cached = _download(name, TOKENIZER)
        sha = cached.name
        weights = _weights(name, sha)
    with replacing(Path(out)) as snapshot:
        snapshot.mkdir()
        _copy([cached / "config.json"], snapshot)
        _copy(_tokenizer_files(name, cached), snapshot)
        for file in weights:
            _write_weights(name, file, snapshot)
        about = {**asdict(name), "commit": sha}
        (snapshot / ORIGIN).write_text(json.dumps(about, indent=1))
        mark_model(snapshot, out)
    logger.info("%s is commit %s", name, sha)
    if prune_cache:
        _prune(sha)


def fetch_tokenizer(name: Name, out: str | Path) -> None:
    """Fetch the files of a model's tokenizer, and ``config.json``, which says of what kind it is.

    Raises
    ------
    UserError
        See `fetch`.
    """
    cached, files = _tokenizer(name)
    with replacing(Path(out)) as directory:
        directory.mkdir()
        _copy([cached / "config.json", *files], directory)


def tokenizer_folder(name: Name) -> Path:
    """Where the client's cache has the files of a model's tokenizer, fetched if they are not there.

    Raises
    ------
    UserError
        See `fetch`.
    """
    cached, files = _tokenizer(name)
    return files[0].parent if files else cached


def _tokenizer(name: Name) -> tuple[Path, list[Path]]:
    """Folder of a revision in the client's cache, and the files of its tokenizer."""
    with _explained(name):
        cached = _download(name, TOKENIZER)
        return cached, _tokenizer_files(name, cached)


def _download(name: Name, files: Iterable[str]) -> Path:
    """Bring files of a revision into the client's cache; the folder there, named by the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # jobs side by side would write over each other's
    # With config.json, which every model has, the client does not warn that nothing matched.
    wanted = ["config.json", *files]
    return Path(snapshot_download(name.repo, revision=name.revision, allow_patterns=wanted))


def _weights(name: Name, commit: str) -> list[Path]:
    """The files of a revision's weights in the cache, their index last.

    Raises
    ------
    UserError
        If the revision has none.
    FileNotFoundError
        If they, or parts that the index names, are missing in the cache and can't be fetched.
    """
    pinned = Name(name.repo, commit)
    for kind in (SAFETENSORS, PICKLED):
        cached = _download(pinned, kind)
        whole, index = (cached / file for file in kind)
        if whole.is_file():
            return [whole]
        if index.is_file():
            parts = parts_of(index)
            _download(pinned, parts)
            files = [cached / part for part in parts]
            if missing := [file for file in files if not file.is_file()]:
                raise FileNotFoundError(f"no {missing[0].name} in the cache")
            return [*files, index]
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    # Nothing there: because the revision has none, or because the Hub can't be asked?
    try:
        hf_hub_download(name.repo, SAFETENSORS[0], revision=commit)
    except RemoteEntryNotFoundError as error:
        raise UserError(
            f"models.revision: {name} has no weights for PyTorch; looked for {SAFETENSORS[0]} and "
            f"{PICKLED[0]}, whole or in parts"
        ) from error
    raise FileNotFoundError(f"no {SAFETENSORS[0]} in the cache")


def _tokenizer_files(name: Name, cached: Path) -> list[Path]:
    def found(where: Path) -> list[Path]:
        return [where / file for file in TOKENIZER if (where / file).is_file()]

    if files := found(cached):
        return files
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

    try:
        files = found(_download(Name(name.repo, "main"), TOKENIZER))
    except (LocalEntryNotFoundError, RevisionNotFoundError):
        files = []
    if files:
        logger.warning("%s has no tokenizer; the one of revision main is taken", name)
    return files


def _copy(files: Iterable[Path], out: Path) -> None:
    for file in files:
        shutil.copyfile(file, out / file.name)


def _write_weights(name: Name, file: Path, out: Path) -> None:
    """Put a file of weights, or their index, into a snapshot as safetensors."""
    if file.name.endswith(".index.json"):
        index = {"metadata": {}, **json.loads(file.read_text())}
        index["weight_map"] = {k: _renamed(v) for k, v in index["weight_map"].items()}
        (out / SAFETENSORS[1]).write_text(json.dumps(index))
    elif file.suffix == ".safetensors":
        shutil.copyfile(file, out / file.name)
    else:
        _convert(name, file, out / _renamed(file.name))


def _renamed(part: str) -> str:
    """The name under which transformers looks for a pickled part's safetensors."""
    if part.endswith(".bin"):
        part = part.removeprefix("pytorch_").removesuffix(".bin") + ".safetensors"
    return part


def _convert(name: Name, file: Path, out: Path) -> None:
    import torch
    from safetensors.torch import save_file

    try:
        weights = read_pickled(file)
    except UserError as error:
        raise UserError(f"models.revision: {name}: {error}") from error
    own: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for key, weight in weights.items():
        # Tied weights share memory, which safetensors can't express: every name gets its own.
        memory = weight.untyped_storage().data_ptr()
        own[key] = (weight.clone() if memory in seen else weight).contiguous()
        seen.add(memory)
    save_file(own, out, metadata={"format": "pt"})


def _prune(commit: str) -> None:
    from huggingface_hub import scan_cache_dir

    try:
        strategy = scan_cache_dir().delete_revisions(commit)
        strategy.execute()
    except OSError as error:
        # Another job may be writing there; a revision left over costs disk, nothing else.
        logger.warning("revision %s stays in the cache: %s", commit, error)
    else:
        logger.info("%s freed in the cache", strategy.expected_freed_size_str)


@contextmanager
def _explained(name: Name, needed: Sequence[Name] = ()) -> Iterator[None]:
    """Turn the client's errors into ones that name the key and what to do.

    `needed` are all models that are missing, if it is more than `name`.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise UserError(f"models.repo: {name.repo!r} is no repository name: {error}") from error
    except GatedRepoError as error:
        raise UserError(
            f"models.repo: {name.repo} is gated: accept its terms on its page, then set HF_TOKEN "
            "to a token of yours"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"models.revision: {name.repo} has no revision {name.revision}; see its branches, or "
            "name the odd ones in models.revisions"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"models.repo: {name.repo} does not exist or is private; for a private or gated one "
            "set HF_TOKEN"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise UserError(
            f"models.revision: {name} has no config.json; it is not a transformers model"
        ) from error
    except (LocalEntryNotFoundError, FileNotFoundError) as error:
        commands = [f"    hf download {n.repo} --revision {n.revision}" for n in needed or [name]]
        about = (
            f"models.source: {name} is not in the cache and the Hub can't be reached "
            f"({_first_line(error)}); on a machine with network run"
        )
        last = "  and bring its cache (HF_HOME) here"
        raise UserError("\n".join([about, *commands, last])) from error
    except HfHubHTTPError as error:
        raise UserError(f"models.source: {name}: {_first_line(error)}") from error
    except Exception as error:
        # The client lets errors of its HTTP library through, whose name differs between versions.
        if not type(error).__module__.startswith("http"):
            raise
        raise UserError(
            f"models.source: {name}: the connection to the Hub failed ({_first_line(error)}); "
            "run the same command again"
        ) from error


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
