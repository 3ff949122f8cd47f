"""What is stored is what the model computed, and bad activations stop the job."""

from __future__ import annotations

import numpy as np
import planted
import pytest
import scipy.stats
import torch
import zarr
from pipeline import gpt2, module_activations, neurons, random_tokens, run_capture

from universal_neurons.activations import moments
from universal_neurons.activations.reader import Activations
from universal_neurons.capture import capture
from universal_neurons.errors import UserError
from universal_neurons.store.arrays import read_arrays


@pytest.fixture(scope="module")
def tokens():
    return random_tokens(300, 16)


@pytest.mark.parametrize(("encoding", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.01)])
def test_stored_activations_are_the_modules_own(encoding, tolerance, tokens, tmp_path):
    model = gpt2(1)
    shards = run_capture(model, tokens, tmp_path, seed="a", splits=(37,), encoding=encoding)
    for layer, expected in enumerate(module_activations(model, tokens)):
        stored = np.vstack([Activations(s / "activations.zarr").activations(layer) for s in shards])
        np.testing.assert_allclose(stored, expected, atol=tolerance, rtol=tolerance)


def test_int8_activations_are_within_one_code_and_open_with_plain_zarr(tokens, tmp_path):
    model = gpt2(1)
    (shard,) = run_capture(model, tokens, tmp_path, seed="a", sample=300)
    group = zarr.open(shard / "activations.zarr", mode="r")
    for layer, expected in enumerate(module_activations(model, tokens)):
        scale = group[f"scale{layer}"][:]
        codes = group[f"layer{layer}"][:].astype("float32")
        escapes = [group[f"escape_{name}{layer}"][:] for name in ("row", "neuron", "code")]
        codes[escapes[0], escapes[1]] = escapes[2]
        decoded = codes * scale + group[f"offset{layer}"][:]
        assert (np.abs(decoded - expected) <= scale * (1 + 1e-4)).all()
        # Unbiased: mean errors vanish with the number of tokens.
        error = (decoded - expected).mean(0) / scale
        assert np.abs(error).max() < 5 * 0.5 / np.sqrt(len(expected))


def test_tokens_are_recorded_with_their_place_in_the_corpus(tokens, tmp_path):
    shards = run_capture(gpt2(1), tokens, tmp_path, seed="a", splits=(5, 200))
    stores = [Activations(shard / "activations.zarr") for shard in shards]
    index = np.concatenate([store.token_index() for store in stores])
    ids = np.concatenate([store.token_ids() for store in stores])
    np.testing.assert_array_equal(tokens.ravel()[index], ids)
    np.testing.assert_array_equal(index, np.flatnonzero(~np.isin(tokens, (0, 7))))


@pytest.mark.parametrize("encoding", ["int8", "bfloat16", "float32"])
@pytest.mark.parametrize("batch_tokens", [1, 7 * 16, 1000])
def test_codes_do_not_depend_on_batches_to_the_bit(tokens, tmp_path, encoding, batch_tokens):
    """So `capture.batch_tokens` remakes nothing. Sums of moments are added in another order."""
    stores = {}
    for name, size in (("whole", 300 * 16), ("cut", batch_tokens)):
        [shard] = run_capture(
            *(gpt2(1), tokens, tmp_path / name), seed="a", encoding=encoding, batch_tokens=size
        )
        parts = ("activations", "within", "moments")
        stores[name] = {part: read_arrays(shard / f"{part}.zarr") for part in parts}
    for part, found in stores["cut"].items():
        for array, values in found.items():
            expected = stores["whole"][part][array]
            if array in ("centre", "powers", "first_powers"):
                scale = np.abs(expected).max(-1, keepdims=True)
                np.testing.assert_allclose(values / scale, expected / scale, atol=1e-13)
            else:
                np.testing.assert_array_equal(values, expected, f"{part}: {array}")


def test_codes_do_not_depend_on_shards(tokens, tmp_path):
    """The random numbers are those of the token."""
    whole = run_capture(gpt2(1), tokens, tmp_path / "a", seed="a")
    cut = run_capture(gpt2(1), tokens, tmp_path / "b", seed="a", splits=(1, 100))
    for layer in (0, 1):
        one = Activations(whole[0] / "activations.zarr").codes(layer).whole()
        two = np.vstack([Activations(s / "activations.zarr").codes(layer).whole() for s in cut])
        np.testing.assert_array_equal(two, one)


def test_moments_are_exact(tokens, tmp_path):
    model = gpt2(1)
    mlp = model.blocks[0].mlp
    mlp.c_fc.weight[:, 3] = 0  # a dead neuron
    shards = run_capture(model, tokens, tmp_path, seed="a", splits=(37, 38))
    merged = moments.merge(read_arrays(shard / "moments.zarr") for shard in shards)
    found = moments.moments(merged)
    x = np.hstack(module_activations(model, tokens))
    live = np.arange(x.shape[1]) != 3
    np.testing.assert_allclose(found["mean"], x.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["std"][live], x.std(0)[live], rtol=1e-5)
    np.testing.assert_allclose(found["skewness"][live], scipy.stats.skew(x)[live], atol=1e-4)
    kurtosis = scipy.stats.kurtosis(x, fisher=False)
    np.testing.assert_allclose(found["kurtosis"][live], kurtosis[live], rtol=1e-4)
    np.testing.assert_allclose(found["min"], x.min(0), atol=1e-6)
    np.testing.assert_allclose(found["max"], x.max(0), atol=1e-6)
    np.testing.assert_allclose(found["sparsity"], (x > 0).mean(0), atol=2e-4)
    assert found["dead"].nonzero()[0].tolist() == [3]
    assert found["std"][3] == 0
    np.testing.assert_allclose(moments.rms(merged), np.sqrt((x**2).mean(0)), rtol=1e-5)


def test_moments_far_from_zero_lose_no_digits():
    """A neuron at 1000 ± 0.01: sums of squares about 0 would leave no digit of the variance."""
    from universal_neurons.capture.power_sums import PowerSums

    x = 1000 + 0.01 * torch.randn(10_000, 1, generator=torch.Generator().manual_seed(0))
    sums = PowerSums(torch.tensor([1000.0], dtype=torch.float64))
    for part in x.split(999):
        assert sums.update(part)
    arrays = {**sums.arrays(), "n_tokens": np.array([len(x)])}
    assert moments.std(arrays)[0] == pytest.approx(x.double().std(correction=0).item(), rel=1e-9)


def test_escapes_are_counted_and_kept_whole(tokens, tmp_path):
    model = gpt2(1)
    (shard,) = run_capture(model, tokens, tmp_path, seed="a", sample=1)
    sums = read_arrays(shard / "moments.zarr")
    x = np.hstack(module_activations(model, tokens))
    arrays = read_arrays(tmp_path / "calibration.zarr")
    scale = np.concatenate([arrays["scale0"], arrays["scale1"]])
    offset = np.concatenate([arrays["offset0"], arrays["offset1"]])
    code = (x - offset) / scale
    assert (np.abs(code) > 128).sum() > 0
    assert ((np.abs(code) > 129).sum(0) <= sums["escapes"]).all()
    assert (sums["escapes"] <= (np.abs(code) > 126).sum(0)).all()
    store = Activations(shard / "activations.zarr")
    found = np.hstack([store.codes(i).whole() for i in range(2)])
    assert np.abs(found - code).max() < 1 + 1e-3
    np.testing.assert_array_equal(sums["code_sum"], found.sum(0, dtype=np.float64))


def test_neurons_silent_in_the_sample_and_alive_later_are_told_of(tmp_path, caplog):
    """Two fifths of the tokens escape: the sums are right and the log says what that costs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 6)).astype(np.float32)
    x[:, 2] = np.where(np.arange(5000) < 1000, 0, np.maximum(x[:, 2], 0))
    shards = run_capture(
        planted.model([x]), planted.tokens(5000), tmp_path, seed="a", exclude=(), sample=20
    )
    capture.warn_of_escapes("seed a, step 1", read_arrays(shards[0] / "moments.zarr"), [6])
    [said] = caplog.messages
    assert said.startswith("seed a, step 1, layer 0: 1 of 6 neurons lie beyond their int8 range")
    assert "(neuron 2 in 39 %)" in said
    own, sums = neurons(shards), read_arrays(shards[0] / "within.zarr")["0x0"]
    corr = (sums - np.outer(own.code_sum, own.code_sum) / 5000) / 5000
    corr *= np.outer(own.factor, own.factor)
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(corr[off], np.corrcoef(x.T.astype(float))[off], atol=2e-3)


def test_a_sample_unlike_the_corpus_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(capture, "MOST_ESCAPES", 1000)
    x = np.random.default_rng(0).standard_normal((5000, 6)).astype(np.float32)
    x[:1000] = 0
    with pytest.raises(UserError, match="capture.calibration_tokens: the sample is unlike"):
        run_capture(
            planted.model([x]), planted.tokens(5000), tmp_path, seed="a", exclude=(), sample=20
        )
    assert not list(tmp_path.glob("**/activations.zarr"))


@pytest.mark.parametrize("first_call", [0, 200 * 16 // 128])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_activations_name_the_seed_step_and_layer(value, first_call, tokens, tmp_path):
    """In the calibration's sample and after it."""
    model = gpt2(1)
    calls = 0

    def spoil(module, inputs, output):
        nonlocal calls
        calls += 1
        if calls > first_call:
            output[0, 3, 5] = value
        return output

    model.blocks[1].mlp.act.register_forward_hook(spoil)
    with pytest.raises(UserError, match="seed x1, step 3, layer 1: NaN or infinite"):
        run_capture(model, tokens, tmp_path, seed="x1", exclude=())
    assert not list(tmp_path.glob("**/activations.zarr"))


def test_token_ids_beyond_the_vocabulary_are_refused(tokens, tmp_path):
    tokens = tokens.copy()
    tokens[7, 3] = 61
    with pytest.raises(UserError, match="token id 61 is beyond the model's vocabulary of 61"):
        run_capture(gpt2(1), tokens, tmp_path, seed="a")


def test_sequences_longer_than_the_context_are_refused(tmp_path):
    with pytest.raises(UserError, match="33 is more than the model's 32"):
        run_capture(gpt2(1), random_tokens(4, 33), tmp_path, seed="a")


def test_a_shard_of_one_token_and_one_of_none(tmp_path):
    tokens = random_tokens(40, 16)
    tokens[10] = [5, *[0] * 15]
    tokens[11] = 0
    shards = run_capture(gpt2(1), tokens, tmp_path, seed="a", splits=(10, 11, 12), sample=40)
    counts = [Activations(shard / "activations.zarr").n_tokens for shard in shards]
    assert counts[1:3] == [1, 0]
    merged = moments.merge(read_arrays(shard / "moments.zarr") for shard in shards)
    assert merged["n_tokens"][0] == (~np.isin(tokens, (0, 7))).sum()
    assert np.isfinite(moments.moments(merged)["kurtosis"]).all()
