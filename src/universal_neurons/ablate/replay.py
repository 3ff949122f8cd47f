"""Run a model again from an ablated block on: what came before is known from the clean pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from universal_neurons.models.load import Model

Calls = list[tuple[nn.Module, Any]]


def parts_of_block(block: nn.Module, projection: nn.Module) -> list[nn.Module]:
    """The largest modules of a block that don't contain its MLP's output projection, and that."""
    if block is projection:
        return [block]
    if all(module is not projection for module in block.modules()):
        return [block]
    return [part for child in block.children() for part in parts_of_block(child, projection)]


@contextmanager
def record(model: Model) -> Iterator[Calls]:
    """Collect what every block and every part of a block returns, in the order of the calls."""
    calls: Calls = []

    projections = set(model.projections)

    def keep(module: nn.Module, inputs: tuple, output: Any) -> None:
        # Falcon's blocks add to what a projection returned, in its place.
        calls.append((module, output.clone() if module in projections else output))

    handles = [
        module.register_forward_hook(keep)
        for block, projection in zip(model.blocks, model.projections, strict=True)
        for module in (block, *parts_of_block(block, projection))
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def known_outputs(model: Model, calls: Calls) -> list[dict[nn.Module, Any]]:
    """What, for each layer, need not be computed again when that layer's neurons are replaced.

    That is the blocks before it, and in its own block whatever ran before the MLP's output
    projection (attention, norms, the MLP's input projection) but for modules that ran twice.
    """
    order = [module for module, _ in calls]
    times = Counter(order)
    known = []
    for layer, projection in enumerate(model.projections):
        start = 1 + order.index(model.blocks[layer - 1]) if layer else 0
        before = calls[start : order.index(projection)]
        known.append(
            {block: calls[order.index(block)][1] for block in model.blocks[:layer]}
            | {part: output for part, output in before if times[part] == 1}
        )
    return known


def with_written(
    model: Model,
    calls: Calls,
    known: Sequence[Mapping[nn.Module, Any]],
    written: Mapping[int, torch.Tensor],
) -> list[Mapping[nn.Module, Any]]:
    """`known`, and what the MLPs' output projections return where some layers write otherwise.

    `written` is by how much, of every layer, for these projections' clean input.
    """
    order = [module for module, _ in calls]
    found = list(known)
    for layer, change in written.items():
        projection = model.projections[layer]
        output = calls[order.index(projection)][1] + change
        found[layer] = {**known[layer], projection: output}
    return found


@contextmanager
def replay(outputs: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Let modules return known outputs instead of running.

    Embedding, positions, masks, residual sums, final norm and head stay the model's own code,
    whatever its architecture.
    """

    def returning(output: Any) -> Callable:
        return lambda *args, **kwargs: output

    with instead({module: returning(output) for module, output in outputs.items()}):
        yield


@contextmanager
def instead(forwards: Mapping[nn.Module, Callable]) -> Iterator[None]:
    """Let modules run other functions; may be nested."""
    before: dict[nn.Module, Any] = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward  # hides the method of the class
    try:
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward


@contextmanager
def frozen(
    model: Model, layers: Sequence[int], calls: Calls, known: Sequence[Mapping[nn.Module, Any]]
) -> Iterator[None]:
    """Let every block see its clean input, and add the changes of `layers` to the last output.

    Blocks other than `layers` don't run. In a model whose blocks add to a residual stream, the last
    output is then what it would be if later blocks made nothing of the change.
    """
    order = [module for module, _ in calls]
    clean = [calls[order.index(block)][1] for block in model.blocks]
    changed = set(layers)
    replayed = {
        block: output
        for layer, (block, output) in enumerate(zip(model.blocks, clean, strict=True))
        if layer not in changed
    }
    blocks = set(model.blocks)
    for layer in changed:
        replayed |= {part: out for part, out in known[layer].items() if part not in blocks}
    changes: list[torch.Tensor] = []

    def collecting(layer: int) -> Callable:
        def hook(_: nn.Module, inputs: tuple, output: Any) -> Any:
            if layer in changed:
                changes.append(hidden(output) - hidden(clean[layer]))
            if layer < len(clean) - 1:
                return clean[layer]
            total = hidden(clean[layer]) + sum(changes)
            return (total, *output[1:]) if isinstance(output, tuple) else total

        return hook

    handles = [
        block.register_forward_hook(collecting(layer)) for layer, block in enumerate(model.blocks)
    ]
    try:
        with replay(replayed):
            yield
    finally:
        for handle in handles:
            handle.remove()


def hidden(output: Any) -> torch.Tensor:
    """The residual stream in what a block returns: some also return what they would cache."""
    return output[0] if isinstance(output, tuple) else output
