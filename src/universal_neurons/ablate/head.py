"""What ablated final hidden states predict, by how they differ from the clean ones.

With h₀ the clean final hidden state of a token, c = h − h₀ its change, W the unembedding, p the
clean predictions and d = W c the change of the logits, a loss −log p_target changes by

    −d_target + log Σ p eᵈ = (Σ p W − W_target) · c + KL(clean ‖ ablated),
    KL(clean ‖ ablated) = log Σ p eᵈ − Σ p d.

The first term, the gradient of the loss by h₀ times c, takes no logits and is computed in float32.
Only KL takes all logits, and it is of second order in d, so that d may be rounded where both of
KL's terms are of the same rounded d. Of the clean model's likeliest token it is not; of the tokens
that are likely in many places it is rounded to bfloat16, of the many others to int8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from universal_neurons.ablate.rounded import add_softmax, equalised, multiply, to_int8

# Entries of the vocabulary at a time: with some thousand tokens what is made of them stays in the
# processor's cache. Those of the first block, which have most of all probability in a trained
# model, are never rounded to int8: errors of the same few logits everywhere would not average out.
HEAD_BLOCK = 2048


class Unembedding:
    """An unembedding, and what it is rounded to.

    Its rows lose their mean, of which no prediction depends, and are `equalised`.

    Parameters
    ----------
    matrix
        Float32, shape (vocabulary, width).
    int8
        Whether it is rounded to int8, on the CPU, or all to bfloat16.

    Attributes
    ----------
    matrix, mean
        Itself and the mean of its rows, in float32.
    """

    def __init__(self, matrix: torch.Tensor, *, int8: bool) -> None:
        self.matrix, self.mean = matrix, matrix.mean(0)
        rows, self._columns = equalised(matrix - self.mean)
        self._narrow = rows.bfloat16()
        self._codes = to_int8(rows) if int8 else None

    def rows(self, words: torch.Tensor, *, int8: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Rounded rows and their scales, shapes (words, width) and (words,)."""
        if self._codes is None or not int8:
            return self._narrow[words], torch.ones_like(words, dtype=torch.float32)
        codes, scales = self._codes
        return codes[words], scales[words]

    def rounded(self, change: torch.Tensor) -> dict[torch.dtype, tuple[torch.Tensor, torch.Tensor]]:
        """Changes of hidden states, shape (tokens, width), rounded alike, and their scales."""
        scaled = change * self._columns
        found = {torch.bfloat16: (scaled.bfloat16(), torch.ones_like(scaled[:, 0]))}
        return found if self._codes is None else found | {torch.int8: to_int8(scaled)}


@dataclass(frozen=True)
class _Block:
    """Some words of the vocabulary.

    Attributes
    ----------
    log_p
        Of the clean model, shape (tokens, words); −∞ where a word is the likeliest.
    matrix, scales
        Rounded rows of the unembedding, shape (width, words), and their scales.
    """

    log_p: torch.Tensor
    matrix: torch.Tensor
    scales: torch.Tensor


class HeadDifferences:
    """The clean model's predictions of a batch, to compare ablated final hidden states with.

    Parameters
    ----------
    logits, targets
        As of `predictions.Predictions`.
    hidden
        What the unembedding takes, shape (tokens, width).

    Attributes
    ----------
    loss
        Cross-entropy of every token in nats, float32, shape (tokens,).
    """

    def __init__(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        hidden: torch.Tensor,
        unembedding: Unembedding,
    ) -> None:
        self._hidden, self._unembedding = hidden, unembedding
        total = logits.logsumexp(-1, keepdim=True)
        self.loss = (total - logits.gather(1, targets[:, None]))[:, 0]
        highest, likeliest = logits.max(1)
        self._highest = highest - total[:, 0]
        self._likeliest = unembedding.matrix[likeliest] - unembedding.mean
        expected = self._highest.exp()[:, None] * unembedding.matrix[likeliest]
        self._means: dict[torch.dtype, torch.Tensor] = {}
        self._blocks = []
        order = _by_probability(logits, total)
        place = order.argsort()[likeliest]
        for i, words in enumerate(order.split(HEAD_BLOCK)):
            log_p = logits.index_select(1, words).sub_(total)
            here = place // HEAD_BLOCK == i
            log_p[here, place[here] % HEAD_BLOCK] = -torch.inf
            rows, scales = unembedding.rows(words, int8=i > 0)
            # As the kernels take them.
            self._blocks.append(_Block(log_p, rows.T.contiguous(), scales))
            p = log_p.exp()
            expected.addmm_(p, unembedding.matrix[words])
            mean = self._means.setdefault(rows.dtype, torch.zeros_like(hidden))
            mean.addmm_(p, rows * scales[:, None])
        self._gradient = expected - unembedding.matrix[targets]
        # Σ p is not quite 1; without what that adds, no change is exactly none.
        self._none = torch.zeros_like(self.loss)
        self._none, _ = self._divergence(torch.zeros_like(hidden))

    def compare(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `predictions.Predictions.compare`, of what the unembedding takes."""
        change = hidden.view_as(self._hidden) - self._hidden
        kl, other = self._divergence(change)
        return self.loss + torch.linalg.vecdot(self._gradient, change) + kl, kl, other

    def _divergence(self, change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """KL(clean ‖ ablated) of every token, and whether another one is the likeliest now."""
        rounded = self._unembedding.rounded(change)
        own = torch.linalg.vecdot(self._likeliest, change)
        expected = self._highest.exp() * own
        for dtype, mean in self._means.items():
            x, scale = rounded[dtype]
            expected += scale * torch.linalg.vecdot(mean, x.float())
        threshold = self._highest + own
        # Its own term is e⁰.
        reference, total, above = threshold.clone(), torch.ones_like(own), torch.zeros_like(own)
        for block in self._blocks:
            x, scale = rounded[block.matrix.dtype]
            if x.dtype == torch.int8:
                products = multiply(x, block.matrix)
            else:
                products = torch.mm(x, block.matrix).float()
            sums = threshold, reference, total, above
            add_softmax(block.log_p, products, scale, block.scales, *sums)
        return total.log() + reference - expected - self._none, (above > 0).float()


def _by_probability(logits: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Tokens of the vocabulary, those first that are the likeliest over all positions."""
    parts = ((part - total).exp_().sum(0) for part in logits.split(HEAD_BLOCK, 1))
    return torch.cat(list(parts)).argsort(descending=True)
