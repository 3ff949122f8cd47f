"""What a model predicts at every position, clean and ablated, in blocks of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

# Logits turned into losses at a time. Temporaries above some 10 MB are handed back to the system
# after every use, and faulting their pages in again costs four times the arithmetic.
LOSS_BLOCK = 2**21


class Compared(Protocol):
    """The clean model's predictions of a batch, to compare what it returns ablated with."""

    loss: torch.Tensor

    def compare(self, output: torch.Tensor, /) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of every token: cross-entropy, KL(clean ‖ ablated), and other top-1."""


class Predictions:
    """The clean model's predictions of a batch, to compare ablated ones with.

    Parameters
    ----------
    logits
        Shape (tokens, vocabulary).
    targets
        The tokens to be predicted, shape (tokens,).

    Attributes
    ----------
    loss
        Cross-entropy of every token in nats, float32, shape (tokens,).
    """

    def __init__(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self._targets = targets
        self._p = torch.empty_like(logits, dtype=torch.float32)
        self._negentropy = torch.empty_like(self._p[:, 0])
        self.loss = torch.empty_like(self._negentropy)
        self._likeliest = torch.empty_like(targets)
        for rows, log_q in _log_softmax(logits):
            torch.exp(log_q, out=self._p[rows])
            self._negentropy[rows] = torch.linalg.vecdot(self._p[rows], log_q)
            self.loss[rows] = self._losses(rows, log_q)
            self._likeliest[rows] = log_q.argmax(-1)

    def compare(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of every token: cross-entropy, KL(clean ‖ ablated) = Σ p ln p − Σ p ln q, other top-1.

        The last is 1 where another token than the clean model's likeliest has become likelier.
        """
        loss, kl, other = (torch.empty_like(self.loss) for _ in range(3))
        for rows, log_q in _log_softmax(logits):
            cross = torch.linalg.vecdot(self._p[rows], log_q)
            kl[rows] = self._negentropy[rows] - cross
            loss[rows] = self._losses(rows, log_q)
            # A maximum is found several times faster than where it is.
            before = log_q.gather(1, self._likeliest[rows, None])[:, 0]
            other[rows] = (log_q.amax(-1) > before).float()
        return loss, kl, other

    def _losses(self, rows: slice, log_q: torch.Tensor) -> torch.Tensor:
        return -log_q.gather(1, self._targets[rows, None])[:, 0]


def _log_softmax(logits: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    size = max(1, LOSS_BLOCK // logits.shape[1])
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        yield rows, torch.log_softmax(logits[rows].float(), -1)
