"""Models whose activations are planted, token by token, with the spread that real ones have."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from universal_neurons.models.load import Model
from universal_neurons.prepare.reading import Documents

CONTEXT = 50
# Tokens that fix the codes: the first of `N_TOKENS`.
SAMPLE = 16_384 // CONTEXT * CONTEXT
N_TOKENS = 50_000


class _Network(nn.Module):
    """Looks up every token's activations and hands them to the layers' projections."""

    def __init__(self, layers: list[NDArray]) -> None:
        super().__init__()
        self._layers = [torch.from_numpy(np.asarray(x, np.float32)) for x in layers]
        self.projections = nn.ModuleList(nn.Linear(x.shape[1], 1) for x in layers)
        self.config = SimpleNamespace(model_type="gpt2")

    @property
    def base_model(self) -> _Network:
        return self

    def get_input_embeddings(self) -> SimpleNamespace:
        return SimpleNamespace(weight=self._layers[0])

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> None:
        for x, projection in zip(self._layers, self.projections, strict=True):
            projection(x[input_ids])


def model(layers: list[NDArray]) -> Model:
    """A model with these activations of the tokens 0, 1, …, shape (tokens, d_mlp) per layer."""
    network = _Network(layers).requires_grad_(False)
    return Model(network, (), tuple(network.projections), torch.device("cpu"))


def tokens(n_tokens: int = N_TOKENS) -> NDArray[np.int64]:
    """The corpus whose every token is another one, in sequences of `CONTEXT`."""
    return np.arange(n_tokens).reshape(-1, CONTEXT)


def documents(n_tokens: int = N_TOKENS) -> Documents:
    """Of that corpus: every sequence is one."""
    return Documents("corpus.json", "", CONTEXT, np.arange(n_tokens // CONTEXT))


def two_models(seed: int = 0, n_tokens: int = N_TOKENS) -> tuple[list[NDArray], list[NDArray]]:
    """Activations of two models of two layers, all kinds of neurons in each, float32.

    Neurons of one kind have partners in the other model: ReLU, its square and GELU; neurons that
    fire at one token in 30,000, from silence and from a murmur; massive activations of a thousand
    standard deviations; neurons that are constant but for one token. All have units of their own,
    from 1e-5 to 1e5.
    """
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n_tokens, 24))
    in_sample, later = rng.integers(0, SAMPLE, 4), rng.integers(SAMPLE, n_tokens, 4)
    rare = [np.array([*rng.integers(0, n_tokens, 2)]) for _ in range(6)]
    rare += [rng.integers(SAMPLE, n_tokens, 2) for _ in range(3)]

    def one(which: int) -> list[NDArray]:
        own = np.random.default_rng([seed, which])
        inner = 0.9 * factors + np.sqrt(1 - 0.9**2) * own.standard_normal(factors.shape)
        gelu = torch.nn.functional.gelu(torch.from_numpy(inner - 0.7)).numpy()
        common = [np.maximum(inner, 0), np.maximum(inner - 0.5, 0) ** 2, gelu]
        silent, murmur = np.zeros((2, n_tokens, len(rare)))
        murmur += 0.01 * own.standard_normal(murmur.shape) ** 2
        for i, where in enumerate(rare):
            for x in (silent, murmur):
                x[where, i] += 3 * (1 + 0.3 * own.random(2))
        massive = own.standard_normal((n_tokens, 9))
        for i, where in enumerate([*in_sample, *later]):
            massive[where, i] = 1000 * (1 + 0.1 * own.random())
        massive[::CONTEXT, 8] = 1000
        single = np.tile(own.standard_normal(8), (n_tokens, 1))
        for i, where in enumerate([*in_sample, *later]):
            single[where, i] += 1 + own.random()
        kinds = np.hstack([*common, silent, murmur, massive, single])
        kinds *= 10 ** own.uniform(-5, 5, kinds.shape[1])
        order = own.permutation(kinds.shape[1])
        return np.array_split(kinds[:, order].astype(np.float32), 2, axis=1)

    return one(0), one(1)
