"""Training is reproducible to the bit, interrupted or not, and leaves Hugging Face directories."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from universal_neurons.errors import UserError
from universal_neurons.prepare import training
from universal_neurons.prepare.text import Document
from universal_neurons.store.place import check_model

OPTIONS = {
    "vocab_size": 300,
    "layers": 2,
    "width": 16,
    "heads": 2,
    "d_mlp": 32,
    "activation": "gelu",
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "warmup_steps": 3,
    "batch_size": 4,
    "total_steps": 20,
    "threads": 1,
}
TEXT = ["It was the best of times, it was the worst of times.\n\n", "Call me Ishmael."] * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    training.train_tokenizer(map(Document, TEXT), 300, out)
    return out


@pytest.fixture(scope="module")
def sequences(tokenizer):
    ids = AutoTokenizer.from_pretrained(tokenizer)("".join(TEXT))["input_ids"]
    return np.resize(np.asarray(ids, np.int32), (50, 12))


def run(sequences, tokenizer, where: Path, steps=(0, 4, 9), seed="0", **options):
    outputs = {step: where / f"out/step{step}" for step in steps}
    training.train(
        sequences,
        seed=seed,
        steps=steps,
        options={**OPTIONS, **options},
        tokenizer=tokenizer,
        work_dir=where / "work",
        outputs=outputs,
    )
    return {step: weights(out) for step, out in outputs.items()}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(directory, dtype="float32").state_dict()


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def undisturbed(sequences, tokenizer, tmp_path_factory):
    return run(sequences, tokenizer, tmp_path_factory.mktemp("undisturbed"))


def test_the_same_seed_gives_the_same_bits(undisturbed, sequences, tokenizer, tmp_path):
    again = run(sequences, tokenizer, tmp_path)
    assert all(same(again[step], undisturbed[step]) for step in undisturbed)


def test_seeds_differ_in_initialisation_and_data_order(undisturbed, sequences, tokenizer, tmp_path):
    other = run(sequences, tokenizer, tmp_path, steps=(0,), seed="1")
    assert not same(other[0], undisturbed[0])
    trainers = [training._Trainer(sequences, seed, OPTIONS) for seed in "01"]
    assert not torch.equal(trainers[0]._batch(), trainers[1]._batch())


def test_training_lowers_the_loss(sequences, tokenizer, tmp_path):
    run(sequences, tokenizer, tmp_path, steps=(0, 20))
    ids = torch.from_numpy(sequences.astype(np.int64))
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / f"out/step{step}")(
            ids, labels=ids
        ).loss.item()
        for step in (0, 20)
    )
    assert before == pytest.approx(np.log(300), rel=0.05)
    assert after < before - 1


def test_an_interrupted_run_resumes_to_the_same_bits(
    undisturbed, sequences, tokenizer, tmp_path, monkeypatch
):
    batch, made = training._Trainer._batch, []

    def failing(self):
        made.append(self.step)
        if len(made) == 7:
            raise RuntimeError("power cut")
        return batch(self)

    monkeypatch.setattr(training._Trainer, "_batch", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        run(sequences, tokenizer, tmp_path)
    resumed = run(sequences, tokenizer, tmp_path)
    assert made[7] == 4, "it goes on from the last saved step"
    assert all(same(resumed[step], undisturbed[step]) for step in undisturbed)


def test_a_killed_process_resumes_to_the_same_bits(undisturbed, sequences, tokenizer, tmp_path):
    np.save(tmp_path / "sequences.npy", sequences)
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from pathlib import Path
from universal_neurons.prepare import training
from test_training import run
batch = training._Trainer._batch
def slow(self):
    time.sleep(0.2)
    return batch(self)
training._Trainer._batch = slow
here = Path({str(tmp_path)!r})
run(np.load(here / "sequences.npy"), Path({str(tokenizer)!r}), here)
"""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not (tmp_path / "work/step4").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "work/step9").exists()
    resumed = run(sequences, tokenizer, tmp_path)
    assert all(same(resumed[step], undisturbed[step]) for step in undisturbed)


def test_added_steps_lie_on_the_same_trajectory(undisturbed, sequences, tokenizer, tmp_path):
    run(sequences, tokenizer, tmp_path, steps=(0, 9))
    more = run(sequences, tokenizer, tmp_path, steps=(0, 4, 9, 12))
    assert all(same(more[step], undisturbed[step]) for step in undisturbed)
    (tmp_path / "fresh").mkdir()
    fresh = run(sequences, tokenizer, tmp_path / "fresh", steps=(12,))
    assert same(more[12], fresh[12])


def test_other_options_start_afresh(undisturbed, sequences, tokenizer, tmp_path):
    run(sequences, tokenizer, tmp_path)
    other = run(sequences, tokenizer, tmp_path, learning_rate=0.02)
    assert same(other[0], undisturbed[0])
    assert not same(other[9], undisturbed[9])


def test_what_a_killed_save_left_is_removed(sequences, tokenizer, tmp_path):
    run(sequences, tokenizer, tmp_path, steps=(0,))
    half = tmp_path / "work/.step4.0123abcd.partial"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    run(sequences, tokenizer, tmp_path, steps=(0, 4))
    assert not list(tmp_path.glob("work/.*"))


def test_finished_steps_are_placed_again_without_training(
    undisturbed, sequences, tokenizer, tmp_path, monkeypatch
):
    run(sequences, tokenizer, tmp_path)
    shutil.rmtree(tmp_path / "out")
    monkeypatch.delattr(training._Trainer, "train_to")
    again = run(sequences, tokenizer, tmp_path)
    assert all(same(again[step], undisturbed[step]) for step in undisturbed)


def test_a_saved_directory_says_of_which_step_it_is(sequences, tokenizer, tmp_path):
    run(sequences, tokenizer, tmp_path, steps=(0, 1))
    one, other = (tmp_path / f"out/step{step}" for step in (0, 1))
    check_model(one)
    shutil.rmtree(one)
    other.rename(one)
    with pytest.raises(UserError, match="this is out/step1 of a run, put in place of out/step0"):
        check_model(one)


def test_outputs_are_copied_where_the_file_system_has_no_hard_links(
    undisturbed, sequences, tokenizer, tmp_path, monkeypatch
):
    def no_links(source, target):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert same(run(sequences, tokenizer, tmp_path, steps=(0,))[0], undisturbed[0])


def test_without_a_tokenizer_the_saved_directory_is_a_model_alone(undisturbed, sequences, tmp_path):
    assert same(run(sequences, None, tmp_path, steps=(0,))[0], undisturbed[0])
    assert {file.name for file in (tmp_path / "out/step0").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "place.json",
    }


def test_the_same_text_gives_the_same_tokenizer(tokenizer, tmp_path):
    training.train_tokenizer(map(Document, TEXT), 300, tmp_path / "again")
    for file in tokenizer.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_257_tokens_are_the_bytes_and_end_of_text(tmp_path):
    training.train_tokenizer(map(Document, TEXT), 257, tmp_path / "bytes")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "bytes")
    assert len(loaded) == 257
    assert len(loaded("naïve")["input_ids"]) == len("naïve".encode())


def test_the_saved_directory_has_the_tokenizer(undisturbed, sequences, tokenizer, tmp_path):
    run(sequences, tokenizer, tmp_path, steps=(0,))
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out/step0")
    text = "Call me Ishmael.\nIt was the best of times – naïve."
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.eos_token == training.END_OF_TEXT
    assert len(loaded) <= 300


def test_progress_says_step_loss_speed_and_time_left(
    sequences, tokenizer, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(training, "LOG_SECONDS", 0.0)
    with caplog.at_level("INFO", training.logger.name):
        run(sequences, tokenizer, tmp_path)
    line = r"seed 0: step 2 of 9, training loss 5\.\d+, \d+ tokens per second, \d+ s left"
    assert re.search(line, caplog.text)


def test_a_step_beyond_the_schedule_names_the_key(sequences, tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"models\.train\.total_steps: 20 .* 21"):
        run(sequences, tokenizer, tmp_path, steps=(0, 21))
    assert not (tmp_path / "work").exists()


def test_a_corpus_too_short_to_train_on_is_refused(sequences, tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"corpus\.path"):
        run(sequences[:0], tokenizer, tmp_path)


def test_a_diverging_loss_names_the_seed_and_the_key(sequences, tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"seed 0, step \d+.*models.train.learning_rate"):
        run(sequences, tokenizer, tmp_path, learning_rate=1e30, warmup_steps=0)
