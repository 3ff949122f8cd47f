"""The models' tokenizer: loaded, compared with others, and what it makes of texts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory has files of a Hugging Face tokenizer."""
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
    return any(os.path.isfile(directory / name) for name in names)


def load_tokenizer(directory: Path) -> Any:
    """The Hugging Face tokenizer of a model directory, or None where there is none."""
    if not has_tokenizer(directory):
        return None
    from transformers import AutoTokenizer  # 3 s: not paid by the source `tokens`

    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{directory}: the tokenizer can't be loaded: {error}") from error


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of every text, on all cores where the tokenizer is one of the Rust library."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]
    # Skips the character offsets, which take half the time.
    return [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)]


def vocabulary_digest(tokenizer: Any) -> str | None:
    """SHA-256 over a tokenizer's tokens and ids; None without a tokenizer."""
    if tokenizer is None:
        return None
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()


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
        If the two tokenizers have different vocabularies.
    """
    digest = about["vocabulary_sha256"] and vocabulary_digest(load_tokenizer(directory))
    if digest is not None and digest != about["vocabulary_sha256"]:
        raise UserError(
            f"{directory}: its tokenizer differs from the one the corpus was made with (the first "
            "seed's); activations on different tokens can't be correlated"
        )


def special_token_ids(tokenizer: Any) -> list[int]:
    """The tokens excluded by ``exclude_token_ids: auto``, sorted.

    They are the tokenizer's padding, beginning and end tokens and every token that stands for
    line breaks alone.
    """
    special = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    newline = {i for i, text in enumerate(texts) if text and not text.strip("\r\n")}
    return sorted(special | newline)
