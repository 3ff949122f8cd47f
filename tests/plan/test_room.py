"""The room that a run takes when it takes the most, by the order of its jobs."""

from __future__ import annotations

import pytest
import yaml
from planning import GPT2_SMALL, ROOT, grid

from universal_neurons.plan.cost import ACTIVATION_BYTES
from universal_neurons.plan.disk import most_held, shards_note
from universal_neurons.plan.sizes import CLASS_SUM_BYTES, LARGE_KINDS, SUM_BYTES

SEEDS, STEPS, TOKENS = "abcde", [1, 2, 3, 4, 5], 5_000_000 // 512 * 512
NEURONS = 36864
# Of a model, of a step's models, and of a pair on one shard.
ACTIVATIONS = ACTIVATION_BYTES["int8"] * TOKENS * NEURONS
CLASSES = CLASS_SUM_BYTES * LARGE_KINDS * 100_000 * NEURONS
SUMS = SUM_BYTES["int8"] * NEURONS**2


def study(shards=1, keep=True, keep_sums=True, **more):
    """Five seeds of GPT-2 Small at five steps, as the published study has them."""
    sections = {"models": {"seeds": list(SEEDS), "steps": STEPS}}
    sections |= {"capture": {"keep": keep}, "correlate": {"keep_sums": keep_sums, **more}}
    corpus = {"tokens": TOKENS, "heldout_tokens": 51200, "context_length": 512, "shards": shards}
    return grid(GPT2_SMALL, seeds=SEEDS, sections=sections, **corpus)


@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize("at_once", [1, 64])
def test_what_is_kept_lies_there_in_all(shards, at_once):
    room = most_held(study(shards), at_once)
    assert room.activations == pytest.approx(25 * ACTIVATIONS, rel=1e-3)
    assert room.sums == pytest.approx(shards * (50 * SUMS + 25 * CLASSES), rel=0.15)


def test_steps_take_turns_where_activations_are_temporary():
    for at_once in (1, 64, 10_000):
        room = most_held(study(keep=False, keep_sums=False), at_once)
        assert room.activations == pytest.approx(5 * ACTIVATIONS)
        assert room.sums <= 10 * SUMS + 5 * CLASSES
    # A job at a time reads what there is before it makes more.
    assert most_held(study(keep=False, keep_sums=False), 1).sums < 0.4 * room.sums


def test_one_shard_at_a_time_holds_less_than_all():
    whole, eighths = (most_held(study(shards, False, False), 1) for shards in (1, 8))
    assert eighths.activations < 0.9 * whole.activations


def test_the_published_study_as_configured_never_holds_a_terabyte():
    configured = yaml.safe_load((ROOT / "configs/gpt2-small-crfm.yaml").read_text())
    corpus, models = configured["corpus"], configured["models"]
    assert (len(models["seeds"]), len(models["steps"])) == (len(SEEDS), len(STEPS))
    assert corpus["tokens"] == 5_000_000
    sums = configured["correlate"]["keep_sums"]
    room = most_held(study(corpus["shards"], configured["capture"]["keep"], sums))
    assert room.bytes < 1e12


def test_fewer_shards_are_suggested_where_they_save_much_and_jobs_stay_short():
    [note] = shards_note(study(8))
    assert "1 in place of 8 would save 1.9 TB" in note
    assert shards_note(study(1)) == []
    assert shards_note(study(8, mode="screened")) == []
    assert shards_note(grid(shards=8)) == []
