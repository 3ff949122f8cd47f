"""Run a model again on what differs from its clean pass: matrices multiply in bfloat16.

A linear map of x is W x = W x₀ + W (x − x₀). With W x₀ known from the clean pass in float32 and
the rest in bfloat16, the rounding error is some 2⁻⁹ of the change, not of the activations: an
ablation that changes little is known as accurately as one that changes much. Residual sums, norms,
nonlinearities and attention stay in float32. Processors with bfloat16 instructions multiply
several times faster that way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from universal_neurons.ablate.predictions import Compared, Predictions
from universal_neurons.ablate.replay import instead
from universal_neurons.models.load import Model

# Entries of the vocabulary at a time: with some thousand tokens what is made of them stays in the
# processor's cache.
HEAD_BLOCK = 2048


class Passes:
    """Forward passes as the model makes them.

    Attributes
    ----------
    dtype
        In which matrices are multiplied.
    error
        Difference of the loss change from that in float32, in its standard errors; NaN where it is
        not measured.
    """

    def __init__(self, model: Model) -> None:
        self.dtype = str(model.module.dtype).removeprefix("torch.")
        self.error = math.nan

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While the clean pass runs."""
        yield

    def predictions(self, logits: torch.Tensor, targets: torch.Tensor) -> Compared:
        """The clean predictions, to compare with what the model returns while `running`."""
        return Predictions(logits.flatten(0, 1), targets)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While an ablated pass runs."""
        yield


class Differences(Passes):
    """A model's linear maps, and what they took and returned in the clean pass of a batch."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.dtype = "bfloat16"
        self._head: nn.Module = model.module.get_output_embeddings()
        inside = [module for block in model.blocks for module in block.modules()]
        maps = [one for one in (*inside, self._head) if type(one) in (nn.Linear, Conv1D)]
        self._weights = {one: _matrix(one).bfloat16().contiguous() for one in maps}
        # The same function as transformers', which takes ten times as long.
        gelu = partial(functional.gelu, approximate="tanh")
        self._gelu = dict.fromkeys((m for m in inside if type(m) is NewGELUActivation), gelu)
        unembedding = _matrix(self._head)
        # Without what is common to all logits, of which no prediction depends.
        self._blocks = (unembedding - unembedding.mean(0)).bfloat16().split(HEAD_BLOCK)
        self._clean: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
        self._whole = True

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what linear maps take and return in the clean pass, in place of what was kept."""
        self._clean = {}
        twice: set[nn.Module] = set()

        def keep(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            if module in self._clean:
                twice.add(module)
            self._clean[module] = inputs[0], output

        handles = [module.register_forward_hook(keep) for module in self._weights]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in twice:
                del self._clean[module]

    def predictions(self, logits: torch.Tensor, targets: torch.Tensor) -> Compared:
        """As of `Passes`.

        Where the model makes more of what the unembedding returns (as Gemma 2 does, which bounds
        its logits), it returns logits; else the unembedding's input, from which
        `HeadDifferences` has the same in less time.
        """
        known = self._clean.get(self._head)
        self._whole = known is None or known[1] is not logits
        if known is None or self._whole:
            return super().predictions(logits, targets)
        del self._clean[self._head]  # the logits
        return HeadDifferences(logits.flatten(0, 1), targets, known[0].flatten(0, 1), self._blocks)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let linear maps add to what they returned what they make of the change of their input."""
        changed = {
            module: partial(_changed, self._weights[module], *known)
            for module, known in self._clean.items()
        }
        head = {} if self._whole else {self._head: lambda hidden: hidden}
        with instead(self._gelu | changed | head):
            yield


class HeadDifferences:
    """The clean model's predictions of a batch, to compare ablated final hidden states with.

    With p the clean predictions and d the change of the logits, all follows from u = log p + d:
    loss = log Σ exp u − u_target, KL(clean ‖ ablated) = log Σ exp u − Σ p d.

    Parameters
    ----------
    logits, targets
        As of `predictions.Predictions`.
    hidden
        What the unembedding takes, shape (tokens, width).
    blocks
        Its matrix in bfloat16, less the mean of its rows, in blocks of rows.

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
        blocks: Sequence[torch.Tensor],
    ) -> None:
        self._hidden = hidden
        self._blocks = blocks
        # Of targets and of the likeliest tokens, looked up in every block.
        self._picked = torch.stack([targets, logits.argmax(-1)], -1)
        total = logits.logsumexp(-1, keepdim=True)
        parts = logits.split(HEAD_BLOCK, -1)
        self._log_p = [part - total for part in parts]
        self._mean = sum(
            log_p.exp() @ block.float() for log_p, block in zip(self._log_p, blocks, strict=True)
        )
        # By the same way as of ablated ones, so that no change is exactly none.
        self.loss, *_ = self.compare(hidden)

    def compare(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `predictions.Predictions.compare`, of what the unembedding takes."""
        change = (hidden.view_as(self._hidden) - self._hidden).bfloat16()
        picked = torch.zeros_like(self._picked, dtype=torch.float32)
        totals, largest = [], []
        place = self._picked
        for log_p, block in zip(self._log_p, self._blocks, strict=True):
            u = functional.linear(change, block).float().add_(log_p)
            found = u.gather(1, place.clamp(0, len(block) - 1))
            picked = torch.where((place >= 0) & (place < len(block)), found, picked)
            place = place - len(block)
            largest.append(u.amax(1))
            # On a CPU this is twice as fast as logsumexp.
            totals.append(u[:, 0] - torch.log_softmax(u, -1)[:, 0])
        total = torch.stack(totals).logsumexp(0)
        target, likeliest = picked.unbind(1)
        expected = torch.linalg.vecdot(self._mean, change.float())
        return total - target, total - expected, (torch.stack(largest).amax(0) > likeliest).float()


def _matrix(module: nn.Module) -> torch.Tensor:
    """The matrix of a linear map, shape (outputs, inputs)."""
    weight = module.get_parameter("weight")
    return weight if isinstance(module, nn.Linear) else weight.T


def _changed(
    weight: torch.Tensor, taken: torch.Tensor, returned: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    change = functional.linear((x - taken).bfloat16(), weight)
    # torch adds numbers of different types fifteen times slower.
    return change.float().add_(returned)
