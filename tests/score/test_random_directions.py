"""The null of random directions: a plain float64 computation, its error rate, and its power."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from pipeline import (
    EXCLUDED,
    VOCABULARY,
    corr,
    gpt2,
    random_tokens,
    run_capture,
    run_match,
    write_rotations,
)
from scipy import stats

from universal_neurons.capture.directions import Directions, InputMoments, RandomNeurons
from universal_neurons.capture.directions import input_moments as library_moments
from universal_neurons.capture.run import CaptureOptions, Cell
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.correlate.rotations import Rotating, rotation
from universal_neurons.models.load import load
from universal_neurons.prepare import training
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.tokens import describe
from universal_neurons.score import nulls
from universal_neurons.score.random_directions import Drawing, random_step
from universal_neurons.store.arrays import read_by_pair
from universal_neurons.store.files import write_json

TOKENS, USED, STEP = random_tokens(200, 16), 150, 3
DRAWING = Drawing(draws=2, sequences=USED, seed=5)


def cell(where, seed, model, tokens=TOKENS):
    """A saved model and its corpus, as a job is handed them."""
    folder = where / f"model {seed}"
    model.module.save_pretrained(folder)
    np.save(where / "tokens.npy", tokens)
    about = describe(where / "tokens.npy", None, "tokens")
    write_json(where / "corpus.json", {**about, "subsets": [], "edges": None})
    options = CaptureOptions("int8", "float32", "cpu", 1000, 0.5, list(EXCLUDED), 128)
    selection = {"tokens": (len(tokens) - 10) * 16, "heldout_tokens": 10 * 16, "train": False}
    corpus = Corpus(where / "tokens.npy", where / "corpus.json")
    return Cell(seed, STEP, folder, "local", corpus, options, selection, {"run": "x"})


def inputs_of(model):
    """Inputs of the MLPs of a GPT-2, from the hidden states that it returns itself."""
    ids, found = torch.from_numpy(TOKENS[:USED]), []
    counted = ~np.isin(TOKENS[:USED], EXCLUDED).ravel()
    with torch.inference_mode():
        hidden = model.module(ids, output_hidden_states=True).hidden_states
        for block, before in zip(model.blocks, hidden, strict=False):
            x = block.ln_2(before + block.attn(block.ln_1(before))[0])
            found.append(x.flatten(0, 1).double().numpy()[counted])
    return found


def activations(model, layer, read):
    return model.blocks[layer].mlp.act(torch.from_numpy(read)).numpy()


def expected_excess(a, b, seed_b, draw, draws, *, standardise):
    """In float64, from inputs, weights and rotations; directions alone are the library's."""
    of = library_moments(b, TOKENS[:USED], EXCLUDED, (), 128)
    key = [DRAWING.seed, STEP, *seed_b.encode()]
    drawn = RandomNeurons.of(b, of, DRAWING.draws, key).directions[draw]
    own, best, base = [], [], []
    for layer, x in enumerate(inputs_of(a)):
        mlp = a.blocks[layer].mlp.c_fc
        own.append(activations(a, layer, x @ mlp.weight.double().numpy() + mlp.bias.numpy()))
    own = np.hstack(own)
    for layer, x in enumerate(inputs_of(b)):
        directions = drawn[layer]
        weights, means = (t.double().numpy()[:, 0] for t in (directions.weights, directions.means))
        random = activations(b, layer, (x - x.mean(0)) @ weights.T + means)
        best.append(corr(own, random).max(1))
        if standardise:
            random = (random - random.mean(0)) / random.std(0)
        turned = [rotation(0, layer, d, random.shape[1]) for d in range(draws)]
        base.append([corr(own, random @ r.T).max(1) for r in turned])
    return np.max(best, 0) - np.max(base, 0).mean(0)


@pytest.mark.parametrize("standardise", [False, True])
def test_excess_over_random_directions_equals_a_plain_float64_computation(tmp_path, standardise):
    models = {"a": gpt2(1), "b": gpt2(2, layers=3)}
    captured = run_capture(models["b"], TOKENS[:20], tmp_path / "any", seed="any")
    write_rotations(tmp_path / "rotations.zarr", [captured], 3)
    (tmp_path / "room").mkdir()
    random_step(
        [cell(tmp_path, seed, model) for seed, model in models.items()],
        DRAWING,
        rotations=tmp_path / "rotations.zarr",
        rotating=Rotating(3, standardise),
        kernel="auto",
        path=tmp_path / "room/random.zarr",
        attributes={},
    )
    found = read_by_pair([tmp_path / "room/random.zarr"])
    assert set(found) == {("a", "b"), ("b", "a")}
    for (one, other), excess in found.items():
        assert excess.shape == (2, sum(models[one].d_mlp))
        for draw in range(2):
            wanted = expected_excess(
                models[one], models[other], other, draw, 3, standardise=standardise
            )
            # Rounding to bytes, on 2,300 tokens.
            np.testing.assert_allclose(excess[draw], wanted, atol=0.006)
    assert [path.name for path in (tmp_path / "room").iterdir()] == ["random.zarr"]


TRAINING = {
    "vocab_size": 61, "layers": 2, "width": 32, "heads": 2, "d_mlp": 128, "activation": "relu2",
    "learning_rate": 0.01, "weight_decay": 0.5, "warmup_steps": 20, "batch_size": 16,
    "total_steps": 200, "threads": 1,
}  # fmt: skip


def text(rng, n):
    """Sequences of 16 tokens, in which the next follows from one of the last two."""
    likely = rng.dirichlet(np.full(VOCABULARY, 0.03), (2, VOCABULARY))
    found = rng.integers(0, VOCABULARY, (n, 16))
    for i in range(2, 16):
        far = (rng.random(n) < 0.5).astype(int)
        odds = likely[far, np.where(far, found[:, i - 2], found[:, i - 1])].cumsum(1)
        found[:, i] = (rng.random((n, 1)) > odds).sum(1).clip(max=VOCABULARY - 1)
    return found


@pytest.mark.slow
def test_the_null_of_trained_models_lies_between_rotations_and_their_own_matches(tmp_path):
    sequences, models = text(np.random.default_rng(0), 2200), {}
    for seed in ("a", "b"):
        outputs = {200: tmp_path / f"{seed}/step200"}
        where = {"work_dir": tmp_path / f"work {seed}", "outputs": outputs}
        how = {"seed": seed, "steps": [200], "options": TRAINING, "tokenizer": None}
        training.train(sequences[:1200], **how, **where)
        models[seed] = load(outputs[200])
    tokens = sequences[1200:]
    shards = [run_capture(m, tokens, tmp_path / f"of {s}", seed=s) for s, m in models.items()]
    found = StepMatches.read(run_match(*shards, tmp_path, draws=3)).found
    tmp_path.joinpath("room").mkdir()
    random_step(
        [cell(tmp_path, seed, model, tokens) for seed, model in models.items()],
        Drawing(2, len(tokens), 0),
        rotations=tmp_path / "rotations.zarr",
        rotating=Rotating(3),
        kernel="auto",
        path=tmp_path / "room/random.zarr",
        attributes={},
    )
    for pair, random in read_by_pair([tmp_path / "room/random.zarr"]).items():
        own = found[pair].best - found[pair].baseline.mean(0)
        rotated = nulls.left_out_excess(found[pair].baseline)
        assert np.nanmean(rotated) + 0.05 < np.nanmean(random) < own.mean() - 0.02
        assert (own > np.nanquantile(random, 0.95)).mean() > 0.1


# A library-level simulation: seeds whose MLPs read the same causes, each in its own way.
SEEDS, WIDTH, NEURONS, N_TOKENS, DRAWS, ROTATIONS = ("a", "b", "c"), 60, 100, 1000, 4, 2


class Layer(SimpleNamespace):
    """What `Directions.draw` asks of a model, for one layer."""

    device = torch.device("cpu")

    def input_weights(self, layer):
        return [(torch.from_numpy(self.weights), torch.from_numpy(self.bias))]


def reading(directions, x):
    return directions.read(torch.from_numpy(x).float())[0].double().numpy()


def simulated(rng, shared):
    """Neurons of three seeds, and random ones in their place, each of shape (tokens, neurons).

    Neurons of a seed are a draw of the null, whatever their sizes and thresholds; but the first
    `shared` ones read causes that they share with those of the other seeds.
    """
    # Heavy-tailed causes of very different sizes, some of them rare.
    causes = rng.standard_t(4, (N_TOKENS, WIDTH)) * np.exp(rng.normal(0, 0.7, WIDTH))
    causes[:, :8] *= rng.random((N_TOKENS, 8)) < 0.1
    white = np.linalg.svd(causes - causes.mean(0), full_matrices=False)[0]
    targets = white @ rng.normal(size=(WIDTH, shared))
    own, random = {}, {}
    for seed in SEEDS:
        x = causes @ rng.normal(size=(WIDTH, WIDTH)) + rng.normal(size=WIDTH)
        x += 0.05 * x.std() * rng.standard_t(5, x.shape)
        centred = x - x.mean(0)
        of = InputMoments(x.mean(0), centred.T @ centred / N_TOKENS)
        weights = rng.normal(size=(NEURONS, WIDTH)) * np.exp(rng.normal(0, 1, (NEURONS, 1)))
        spread = (centred @ weights.T).std(0)
        bias = rng.normal(-0.5, 0.5, NEURONS) * spread - weights @ x.mean(0)
        any_layer = Layer(weights=weights, bias=bias)
        weights = Directions.draw(any_layer, 0, of, rng).weights[:, 0].double().numpy()
        linear = np.linalg.lstsq(centred, targets, rcond=None)[0].T
        size = spread[:shared] / (centred @ linear.T).std(0)
        weights[:shared] = linear * size[:, None]
        layer = Layer(weights=weights, bias=rng.normal(-0.5, 0.5, NEURONS) * spread)
        layer.bias -= weights @ x.mean(0)
        reads = [x @ weights.T + layer.bias]
        reads += [reading(Directions.draw(layer, 0, of, rng), x) for _ in range(DRAWS)]
        own[seed], *random[seed] = (np.maximum(read, 0) ** 2 for read in reads)
    return own, random


def excess_of(own, other):
    """Excess correlation, and its rotated baseline."""
    own, other = (x - x.mean(0) for x in (own, other))
    own = own / np.linalg.norm(own, axis=0)
    best, base = (own.T @ (other / np.linalg.norm(other, axis=0))).max(1), []
    for draw in range(ROTATIONS):
        turned = other @ rotation(0, 0, draw, NEURONS).T
        base.append((own.T @ (turned / np.linalg.norm(turned, axis=0))).max(1))
    return np.stack([best - np.mean(base, 0), np.mean(base, 0)])


def simulated_scores(run, shared=0):
    """Scores with p- and q-values, as `score.score_step` has them."""
    own, random = simulated(np.random.default_rng(run), shared)
    pairs, parts = list(permutations(SEEDS, 2)), []
    null = {(a, m): np.stack([excess_of(own[a], x)[0] for x in random[m]]) for a, m in pairs}
    tokens = []
    for seed in SEEDS:
        others = [excess_of(own[a], own[m]) for a, m in pairs if a == seed]
        excess, base = np.mean(others, 0)
        table = {"seed": seed, "layer": 0, "excess_corr": excess, "baseline_corr": base}
        parts.append(pd.DataFrame({**table, "neuron": np.arange(NEURONS)}))
        tokens.append(1 / stats.kurtosis(own[seed], fisher=False))
    scores = nulls.with_strata(pd.concat(parts, ignore_index=True), np.concatenate(tokens))
    return nulls.with_p_values(scores, {nulls.LEADING: nulls.random_null(null, scores)})


@pytest.mark.slow
def test_seeds_of_random_directions_have_false_discoveries_as_rarely_as_promised():
    found = [simulated_scores(run) for run in range(60)]
    # All discoveries are false here, so the rate is that of runs with any.
    assert np.mean([(scores["q_value"] < 0.05).any() for scores in found]) <= 0.05
    together = pd.concat(found)
    rates = (together["p_value"] < 0.05).groupby(together["stratum"]).mean()
    assert rates.between(0.04, 0.06).all()


@pytest.mark.slow
def test_directions_that_seeds_share_are_found_and_few_others_with_them():
    found = [simulated_scores(run, shared=15) for run in range(30)]
    passing = np.stack([s["q_value"] < 0.05 for s in found])
    planted = np.stack([s["neuron"] < 15 for s in found])
    assert passing[planted].mean() > 0.8
    # Five of a hundred, and the few that are like those that others share.
    false = (passing & ~planted).sum(1) / passing.sum(1).clip(1)
    assert false.mean() < 0.075
