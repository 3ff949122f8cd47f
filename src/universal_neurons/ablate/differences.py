"""Run a model again on what differs from its clean pass: matrices multiply in bfloat16.

A linear map of x is W x = W x₀ + W (x − x₀). With W x₀ known from the clean pass in float32 and
the rest in bfloat16, the rounding error is some 2⁻⁹ of the change, not of the activations: an
ablation that changes little is known as accurately as one that changes much. Residual sums, norms,
and nonlinearities stay in float32. Processors with bfloat16 instructions multiply several times
faster that way. Of attention and the unembedding see `attention` and `head`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from universal_neurons.ablate.attention import Attention
from universal_neurons.ablate.fused import gelu, narrow_difference, wide_sum
from universal_neurons.ablate.head import HeadDifferences, Unembedding
from universal_neurons.ablate.passes import Passes
from universal_neurons.ablate.predictions import Compared
from universal_neurons.ablate.replay import instead
from universal_neurons.ablate.rounded import Int8Map
from universal_neurons.models.load import Model


class Differences(Passes):
    """A model's linear maps, and what they took and returned in the clean pass of a batch.

    Parameters
    ----------
    model
        In float32.
    int8
        Whether the unembedding, and the blocks' maps but for those of MLPs, are in int8, for which
        the model must be on the CPU.
    """

    def __init__(self, model: Model, *, int8: bool = False) -> None:
        super().__init__(model)
        self.dtype = "bfloat16"
        self._head: nn.Module = model.module.get_output_embeddings()
        inside = [module for block in model.blocks for module in block.modules()]
        maps = [one for one in (*inside, self._head) if type(one) in (nn.Linear, Conv1D)]
        of_mlps = {*model.projections, *(one for some in model.input_projections for one in some)}
        exact = {self._head, *of_mlps} if int8 else set(maps)
        self._maps = {one: _rounded(_matrix(one), int8=one not in exact) for one in maps}
        on_cpu = model.device.type == "cpu"
        # The same function as transformers', which takes ten to seventy times as long.
        fast = gelu if on_cpu else partial(functional.gelu, approximate="tanh")
        self._gelu = dict.fromkeys((m for m in inside if type(m) is NewGELUActivation), fast)
        self._attention = Attention() if on_cpu else None
        self._unembedding = Unembedding(_matrix(self._head), int8=int8)
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

        handles = [module.register_forward_hook(keep) for module in self._maps]
        try:
            attention = self._attention.recording() if self._attention else nullcontext()
            with attention, instead(self._gelu):
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
        hidden = known[0].flatten(0, 1)
        return HeadDifferences(logits.flatten(0, 1), targets, hidden, self._unembedding)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let linear maps add to what they returned what they make of the change of their input."""
        changed = {
            module: partial(self._maps[module], *known) for module, known in self._clean.items()
        }
        head = {} if self._whole else {self._head: lambda hidden: hidden}
        attention = self._attention.running() if self._attention else nullcontext()
        with attention, instead(self._gelu | changed | head):
            yield

    def known_layers(self, direct: bool, layers: Sequence[int]) -> Sequence[int]:
        """Those whose input is the clean one."""
        return layers if direct else [min(layers)]


def _matrix(module: nn.Module) -> torch.Tensor:
    """The matrix of a linear map, shape (outputs, inputs)."""
    weight = module.get_parameter("weight")
    return weight if isinstance(module, nn.Linear) else weight.T


def _rounded(matrix: torch.Tensor, *, int8: bool) -> Callable[..., torch.Tensor]:
    """A linear map, of what was taken and returned in the clean pass and of what is taken now."""
    if int8:
        return Int8Map(matrix).changed
    return partial(_changed, matrix.bfloat16().contiguous())


def _changed(
    weight: torch.Tensor, taken: torch.Tensor, returned: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    if x.device.type == "cpu":
        return wide_sum(functional.linear(narrow_difference(x, taken), weight), returned)
    change = functional.linear((x - taken).bfloat16(), weight)
    # torch adds numbers of different types fifteen times slower.
    return change.float().add_(returned)
