"""The models' tokenizer: loaded, compared with others, and what it makes of texts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.models import hub
from universal_neurons.models.shape import read_vocabulary
from universal_neurons.models.weights import one_line

# What tokenizers do differently: case, spaces, digits, accents, compositions, other scripts.
PROBE = (
    " The quick  brown Fox's 1234567 jumps,\tover\r\n\n   the lazy_dog: naïve caf\u00e9 cafe\u0301 "
    "ﬁ № ½ Straße 東京 привет 🙂 <b>if (x != 0) { return; }</b> don't IT'LL "
)


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory has files of a Hugging Face tokenizer."""
    names = (
        *("tokenizer.json", "tokenizer_config.json"),
        *("vocab.json", "tokenizer.model", "spiece.model", "vocab.txt"),
    )
    return any(os.path.isfile(directory / name) for name in names)


def require_tokenizer(directory: Path) -> None:
    """Refuse a directory without a tokenizer where text is to be tokenised."""
    if not has_tokenizer(directory):
        raise UserError(
            f"models.tokenizer: {directory} has no tokenizer; put its files there, name another "
            "directory that has them, or give token ids (corpus.source: tokens)"
        )


def load_tokenizer(directory: Path) -> Any:
    """The Hugging Face tokenizer of a model directory, or None where there is none.

    It gives every text all of its tokens and no others, the same ones each time: truncation,
    padding and dropout, which may be saved with it, are switched off.

    Raises
    ------
    UserError
        If its files are damaged, or its end-of-text token is beyond the vocabulary of the model.
    """
    if not has_tokenizer(directory):
        return None
    from transformers import AutoTokenizer  # 3 s: not paid by the source `tokens`

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, **_case(directory)
        )
    # The Rust library raises plain exceptions, and the other does not check what a file holds.
    except Exception as error:
        raise UserError(
            f"{directory}: the tokenizer can't be loaded ({one_line(error)}); correct its files or "
            "save it again with save_pretrained"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
        if getattr(backend.model, "dropout", None) is not None:
            backend.model.dropout = None
    _check_end(tokenizer, directory)
    return tokenizer


def _case(directory: Path) -> dict[str, bool]:
    """Whether text is lowered first, where a vocabulary alone must say: it has no capitals then."""
    file = directory / "vocab.txt"
    others = ("tokenizer.json", "tokenizer_config.json")
    if not file.is_file() or any((directory / name).is_file() for name in others):
        return {}
    words = file.read_text(encoding="utf-8").splitlines()
    return {"do_lower_case": all(w.startswith("[") or w == w.lower() for w in words)}


def _check_end(tokenizer: Any, directory: Path) -> None:
    """Refuse an end-of-text token that was no token, and became a new one when it was loaded."""
    end = tokenizer.eos_token_id
    size = read_vocabulary(directory) if (directory / "config.json").is_file() else None
    if end is not None and size is not None and end >= size:
        raise UserError(
            f"{directory}: eos_token {tokenizer.eos_token!r} has the id {end}, beyond the "
            f"vocab_size {size} of config.json; name the right one in tokenizer_config.json"
        )


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of every text, on all cores where the tokenizer is one of the Rust library.

    Raises
    ------
    UserError
        If the tokenizer has no token for something in a text, and none for what is unknown.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]
    try:
        # Skips the character offsets, which take half the time.
        return [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
    except Exception as error:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer fails on a text ({one_line(error)})"
        ) from error


def identity(tokenizer: Any) -> dict[str, str | None] | None:
    """What two tokenizers must agree in for their tokens to mean the same; None without one.

    Returns
    -------
    dict
        Differences in words, as messages name them, to digests: of the tokens and their ids, of
        the ids of a probing text, and the token that ends a text.
    """
    if tokenizer is None:
        return None
    try:
        probed = json.dumps(encode(tokenizer, [PROBE]))
    except UserError:  # Some have no token for what is unknown to them.
        probed = ""
    return {
        "vocabulary": _sha256(json.dumps(sorted(tokenizer.get_vocab().items()))),
        "tokens of the same text": _sha256(probed),
        "end-of-text token": tokenizer.eos_token,
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_tokenizer(directory: Path, about: Mapping[str, Any]) -> None:
    """Refuse a model whose tokenizer is not the one that made the corpus.

    Parameters
    ----------
    directory
        The model's. A directory without tokenizer files passes: its token ids are checked against
        its vocabulary when it is run.
    about
        The corpus, as `tokens.describe` returns it.

    Raises
    ------
    UserError
        If the two tokenizers differ in what `identity` says of them.
    """
    expected = about["tokenizer"]
    found = expected and identity(load_tokenizer(directory))
    if found and (differ := [what for what in found if found[what] != expected.get(what)]):
        raise UserError(
            f"{directory}: its tokenizer differs from the one the corpus is made with (the first "
            f"seed's, or models.tokenizer) in {' and '.join(differ)}; activations on different "
            "tokens can't be correlated; corpus.align: bytes correlates them where tokens end at "
            "the same byte"
        )


def require_same(directories: Iterable[Path], first: Path) -> None:
    """Refuse what `check_tokenizer` would, before there is a corpus.

    Parameters
    ----------
    directories
        Of models, or of their tokenizers alone; those without one pass.
    first
        Of the tokenizer that makes the corpus. One with the same files is not loaded.

    Raises
    ------
    UserError
        See `check_tokenizer`.
    """
    own, about = _files(first), dict[str, Any]()
    for directory in directories:
        found = _files(directory)
        if not found or found == own:
            continue
        about = about or {"tokenizer": identity(load_tokenizer(first))}
        check_tokenizer(directory, about)


def _files(directory: Path) -> dict[str, bytes]:
    """What is in the files of a tokenizer, by their names."""
    paths = (directory / name for name in hub.TOKENIZER)
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def special_token_ids(tokenizer: Any) -> list[int]:
    """The tokens excluded by ``exclude_token_ids: auto``, sorted.

    They are the tokenizer's padding, beginning and end tokens and every token that stands for
    line breaks alone.
    """
    special = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    newline = {i for i, text in enumerate(texts) if text and not text.strip("\r\n")}
    return sorted(special | newline)
