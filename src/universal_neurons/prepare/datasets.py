"""Text of a data set on the Hugging Face Hub, streamed: no more is fetched than is asked for.

The client's own settings hold, as for models (`hub`). Only the corpus job needs the network, once:
what it leaves are token ids.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.prepare.records import text_of

logger = logging.getLogger(__name__)


def commit(options: Mapping[str, Any]) -> str:
    """The commit that a data set's revision is at.

    Parameters
    ----------
    options
        The resolved section ``corpus``.

    Raises
    ------
    UserError
        If there is no such data set or revision, or the Hub can't be reached.
    """
    from huggingface_hub import HfApi

    with _explained(options):
        sha = HfApi().dataset_info(options["dataset"], revision=options["revision"]).sha
    if sha is None:
        raise UserError(f"corpus.dataset: the Hub names no commit of {options['dataset']}")
    logger.info("%s at revision %s is commit %s", options["dataset"], options["revision"], sha)
    return sha


def documents(options: Mapping[str, Any], commit: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a data set's texts and rows in a seeded order, fetching them as they are asked for.

    The order of its files is shuffled, and documents within a buffer that moves along the stream.

    Parameters
    ----------
    options
        The resolved section ``corpus``: ``dataset``, ``name``, ``split``, ``text_key``, ``seed``,
        ``shuffle_buffer``.
    commit
        Of the data set.

    Raises
    ------
    UserError
        If the configuration, split or column does not exist, or the connection fails.
    """
    from datasets import load_dataset
    from datasets.utils import disable_progress_bars

    disable_progress_bars()
    key = options["text_key"]
    with _explained(options):
        rows = load_dataset(
            options["dataset"],
            options["name"],
            split=options["split"],
            revision=commit,
            streaming=True,
        )
        if options["shuffle_buffer"] > 1:
            rows = rows.shuffle(seed=options["seed"], buffer_size=options["shuffle_buffer"])
        for row in rows:
            if text := text_of(row, key, options["dataset"]):
                yield text, row


@contextmanager
def _explained(options: Mapping[str, Any]) -> Iterator[None]:
    """Turn the client's errors into ones that name the key and what to do."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    dataset = options["dataset"]
    try:
        yield
    except UserError:
        raise
    except RevisionNotFoundError as error:
        raise UserError(
            f"corpus.revision: {dataset} has no revision {options['revision']}"
        ) from error
    except (RepositoryNotFoundError, DatasetNotFoundError) as error:
        # `datasets` raises its own error and keeps no trace of the client's but the words.
        if isinstance(error, GatedRepoError) or "is a gated dataset" in str(error):
            raise UserError(
                f"corpus.dataset: {dataset} is gated: accept its terms on its page, then set "
                "HF_TOKEN to a token of yours"
            ) from error
        raise UserError(
            f"corpus.dataset: {dataset} does not exist or is private; for a private or gated one "
            "set HF_TOKEN"
        ) from error
    except HFValidationError as error:
        raise UserError(f"corpus.dataset: {dataset!r} is no repository name: {error}") from error
    except ValueError as error:
        # A configuration or split that does not exist; the message lists those that do.
        raise UserError(f"corpus.name, corpus.split: {dataset}: {error}") from error
    except Exception as error:
        # The client lets errors of its HTTP library through, whose name differs between versions.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("http"):
            raise
        raise UserError(
            f"corpus.source: {dataset} can't be streamed ({type(error).__name__}: {error}); run "
            "again with network, or download its files and use corpus.source text"
        ) from error
