"""A user's mistake is answered with the key or file and what would be right, never a traceback."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from contextlib import chdir

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from grids import tokenizer
from pipeline import gpt2

from universal_neurons.errors import UserError
from universal_neurons.models.forward import forward
from universal_neurons.models.load import load
from universal_neurons.plan.config import resolve
from universal_neurons.plan.ready import ready_grid
from universal_neurons.prepare import text as text_module
from universal_neurons.prepare import tokens as tokens_module


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Models and token ids of a right configuration, and the configuration."""
    where = tmp_path_factory.mktemp("right")
    return where, tiny.make(where)


@pytest.fixture
def right(original, tmp_path):
    """A copy to spoil."""
    where, config = original
    shutil.copytree(where, tmp_path / "grid")
    return tmp_path / "grid", copy.deepcopy(config)


def plan(where, config):
    """What the Snakefile does before it plans a job."""
    with chdir(where):
        return ready_grid(resolve(config))


def changed(config, path, value):
    *sections, key = path.split(".")
    for section in sections:
        config = config[section] if isinstance(config, dict) else config
    config[key] = value


def test_the_right_configuration_is_accepted(right):
    assert plan(*right).seeds == ["a", "b"]


KEYS = {
    "misspelt section": ("modles", {}, "modles: unknown key; did you mean models?"),
    "misspelt key": ("corpus.shard", 2, "corpus.shard: unknown key; did you mean shards?"),
    "unknown key": ("corpus.zzz", 2, "corpus.zzz: unknown key; known are source, "),
    "misspelt value": ("corpus.source", "token", "corpus.source: 'token' is wrong; expected "),
    "section not a mapping": ("models", 5, "models: 5 is wrong; expected "),
    "section left empty": ("corpus", None, "corpus: None is wrong; expected "),
    "text for a number": ("corpus.tokens", "5k", "corpus.tokens: '5k' is wrong; expected number"),
    "fraction for a number": ("corpus.shards", 1.5, "corpus.shards: 1.5 is wrong; expected "),
    "negative tokens": ("corpus.tokens", -5, "corpus.tokens: -5 is wrong; expected number of"),
    "no tokens": ("corpus.tokens", 0, "corpus.tokens: 0 is wrong; expected number of"),
    "tokens below a sequence": ("corpus.tokens", 9, "corpus.tokens: 9 is less than one sequence"),
    "no shards": ("corpus.shards", 0, "corpus.shards: 0 is wrong; expected number of parts"),
    "more shards than sequences": ("corpus.shards", 41, "41 shards of 40 sequences"),
    "more tokens than there are": ("corpus.tokens", 9999, "corpus.tokens: 10319 tokens are asked"),
    "negative excluded id": ("corpus.exclude_token_ids", [-1], "corpus.exclude_token_ids.0: -1 is"),
    "one seed": ("models.seeds", ["a"], "models.seeds: ['a'] is wrong; expected a list of at"),
    "no seeds": ("models.seeds", [], "models.seeds: [] is wrong; expected a list of at least two"),
    "seeds not a list": ("models.seeds", "ab", "models.seeds: 'ab' is wrong; expected a list"),
    "a seed twice": ("models.seeds", ["a", "b", "a"], "models.seeds: a is listed twice"),
    "a seed as number and text": ("models.seeds", [1, "1"], "models.seeds: 1 is listed twice"),
    "seed with a slash": ("models.seeds", ["a", "x/b"], "models.seeds: 'x/b': use letters"),
    "seed that is a path": ("models.seeds", ["a", ".."], "models.seeds: '..': use letters"),
    "seed with a space": ("models.seeds", ["a", "b c"], "models.seeds: 'b c': use letters"),
    "seed with a plus": ("models.seeds", ["a", "b+c"], "models.seeds: 'b+c': use letters"),
    "empty seed": ("models.seeds", ["a", ""], "models.seeds: '': use letters"),
    "seed left empty": ("models.seeds", ["a", None], "models.seeds.1: None is wrong"),
    "no steps": ("models.steps", [], "models.steps: [] is wrong; expected a list of training"),
    "negative step": ("models.steps", [-1], "models.steps.0: -1 is wrong; expected a list of"),
    "step as text": ("models.steps", ["10"], "models.steps.0: '10' is wrong; expected a list"),
    "a step twice": ("models.steps", [10, 10], "models.steps: 10 is listed twice"),
    "no such model": ("models.steps", [10, 11], "models/a/11/config.json does not exist"),
    "path without the seed": ("models.path", "m/{step}", "seed a, step 10 and seed b, step 10 are"),
    "path with a field too many": ("models.path", "{seed}{step}{x}", "unknown field {x}"),
    "run with a space": ("run", "my run", "run: 'my run' is wrong; expected a name of letters"),
    "run that leaves the folder": ("run", "../x", "run: '../x' is wrong; expected a name of"),
    "run that is a number": ("run", 5, "run: 5 is wrong; expected a name of letters"),
    "no such token file": ("corpus.path", "none.npy", "corpus.path: none.npy: "),
    "path left empty": ("corpus.path", None, "corpus.path: missing; corpus.source tokens needs it"),
    "other context length": ("corpus.context_length", 8, "expected integers of shape (sequences"),
    "unknown encoding": ("capture", {"encoding": "fp8"}, "capture.encoding: 'fp8' is wrong; exp"),
    "unknown device": ("capture", {"device": "gpu"}, "capture.device: 'gpu' is wrong; expected"),
    "no draws": ("baseline", {"draws": 0}, "baseline.draws: 0 is wrong; expected number of"),
    "too few controls": ("ablation", {"controls": 3}, "ablation.controls: 3 is wrong; expected"),
    "unknown ablation": ("ablation", {"kinds": ["noise"]}, "ablation.kinds.0: 'noise' is wrong"),
    "threshold as text": (
        "universality",
        {"excess_threshold": "0,5"},
        "universality.excess_threshold: '0,5' is wrong; expected a number",
    ),
}


@pytest.mark.parametrize("mistake", KEYS)
def test_a_wrong_key_or_value_is_named(right, mistake):
    where, config = right
    path, value, message = KEYS[mistake]
    changed(config, path, value)
    with pytest.raises(UserError) as error:
        plan(where, config)
    assert message in str(error.value)


def token_file(ids):
    def spoil(where):
        np.save(where / "tokens.npy", ids, allow_pickle=True)

    return spoil


def written(name, content):
    def spoil(where):
        (where / name).write_bytes(content)

    return spoil


FILES = {
    "tokens as fractions": (token_file(np.zeros((60, 16))), "tokens.npy has shape (60, 16) and"),
    "tokens in one row": (token_file(np.zeros(960, int)), "has shape (960,) and dtype int64"),
    "tokens as pickled objects": (token_file(np.array([{}, []], object)), "tokens.npy: not a .npy"),
    "no .npy file": (written("tokens.npy", b"1 2 3"), "corpus.path: tokens.npy: not a .npy file"),
    "empty token file": (written("tokens.npy", b""), "corpus.path: tokens.npy: not a .npy file"),
    "config.json that is no JSON": (
        written("models/b/10/config.json", b"{n_layer: 2}"),
        "models.path: models/b/10/config.json can't be read",
    ),
    "config.json without sizes": (
        written("models/b/10/config.json", b"{}"),
        "models/b/10/config.json does not say the number of layers",
    ),
    "config.json that is a list": (
        written("models/b/10/config.json", b"[1]"),
        "models.path: models/b/10/config.json",
    ),
}


@pytest.mark.parametrize("mistake", FILES)
def test_a_wrong_file_is_named_before_any_job(right, mistake):
    spoil, message = FILES[mistake]
    spoil(right[0])
    with pytest.raises(UserError) as error:
        plan(*right)
    assert message in str(error.value)


def test_negative_token_ids_are_refused(right):
    where, _ = right
    token_file(np.full((60, 16), -1))(where)
    with pytest.raises(UserError, match="corpus.path: .*tokens.npy has negative"):
        tokens_module.copy_token_ids(where / "tokens.npy", 16, where / "copy.npy")


def test_token_ids_beyond_the_vocabulary_are_refused():
    model = gpt2(0)
    with pytest.raises(UserError, match="corpus.path: token id 61 is beyond .* vocabulary of 61"):
        list(forward(model, np.full((2, 16), 61), 64))


def test_sequences_longer_than_the_models_context_are_refused():
    with pytest.raises(UserError, match="corpus.context_length: 33 is more than the model's 32"):
        list(forward(gpt2(0), np.zeros((2, 33), int), 64))


class Bomb:
    """What a hostile .bin file could hold."""

    def __reduce__(self):
        return (print, ("code from the weights ran",))


def pickled(folder):
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"transformer.wte.weight": Bomb()}, file)


def pickled_by_torch(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Bomb()}, folder / "pytorch_model.bin")


def nan_weights(folder):
    module = gpt2(0).module
    module.transformer.h[1].mlp.c_fc.weight.data[0, 0] = float("nan")
    module.save_pretrained(folder)


def code_of_its_own(folder):
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), "model_type": "bomb"}
    file.write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "bomb.Bomb"}}))
    (folder / "bomb.py").write_text("print('code from the weights ran')")


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pickled, "the model can't be loaded"),
        (pickled_by_torch, "the model can't be loaded"),
        (nan_weights, "weight transformer.h.1.mlp.c_fc.weight has NaN or infinite values"),
        (code_of_its_own, "unknown architecture 'bomb'"),
        (truncated, "the model can't be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "not a Hugging Face model directory"),
    ],
    ids=["pickle", "torch pickle", "NaN", "code", "truncated", "no config"],
)
def test_a_bad_model_is_named_and_its_code_never_run(right, spoil, message, capfd):
    folder = right[0] / "models/b/10"
    spoil(folder)
    with pytest.raises(UserError) as error:
        load(folder)
    assert str(folder) in str(error.value)
    assert message in str(error.value)
    assert "code from the weights ran" not in "".join(capfd.readouterr())


TEXTS = {
    "text that is not UTF-8": ("a.txt", "naïve".encode("latin-1"), "a.txt: not UTF-8 text"),
    "line that is no JSON": ("a.jsonl", b'{"text": "x"}\n{"text"\n', "a.jsonl: can't be read"),
    "line without the text": ("a.jsonl", b'{"txt": "x"}\n', "a.jsonl:1 has no text 'text'"),
    "line that is a list": ("a.jsonl", b'["x"]\n', "a.jsonl:1 has no text 'text'"),
    "text that is a number": ("a.jsonl", b'{"text": 5}\n', "a.jsonl:1 has no text 'text'"),
    "truncated gzip": ("a.txt.gz", b"\x1f\x8b\x08\x00abc", "a.txt.gz: can't be read"),
    "no zstd": ("a.jsonl.zst", b"plain text", "a.jsonl.zst: can't be read"),
    "no parquet": ("a.parquet", b"plain text", "a.parquet: can't be read"),
    "unknown kind": ("a.docx", b"PK", "a.docx: unknown kind of file; known are .txt and .jsonl"),
}


@pytest.mark.parametrize("mistake", TEXTS)
def test_a_text_that_cannot_be_read_is_named(tmp_path, mistake):
    name, content, message = TEXTS[mistake]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(text_module.documents(text_module.text_files("text", str(tmp_path / "a.*"))))
    assert "corpus." in str(error.value)
    assert message in str(error.value)


def test_a_parquet_file_without_the_column_is_named(tmp_path):
    pd.DataFrame({"content": ["x"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="corpus.text_key: .*a.parquet has no column 'text'"):
        list(text_module.documents([tmp_path / "a.parquet"]))


def test_an_empty_corpus_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    texts = {None: text_module.documents([tmp_path / "a.txt"])}
    files = {"out": tmp_path / "tokens.npy", "clusters": tmp_path / "clusters.npy"}
    with pytest.raises(UserError, match="corpus.path: the corpus has 1 tokens, fewer than one"):
        tokens_module.tokenise(texts, tokenizer(["a"]), 16, seed=0, **files)
    with pytest.raises(UserError, match="corpus.path: no file matches"):
        text_module.text_files("text", str(tmp_path / "none/*.txt"))


def test_paths_with_spaces_and_dots_are_fine(right):
    where, config = right
    (where / "models").rename(where / "my models v1.0")
    (where / "tokens.npy").rename(where / "my tokens.npy")
    config["models"]["path"] = "../grid/my models v1.0/{seed}/{step}"
    config["corpus"]["path"] = "../grid/my tokens.npy"
    assert plan(where, config).seeds == ["a", "b"]


def test_a_job_that_meets_a_mistake_prints_it_without_a_traceback(right):
    """Seen only when the model is loaded; the message is in the output and in the rule's log."""
    where, _ = right
    truncated(where / "models/b/10")
    result = tiny.snakemake(where, "results/tiny/calibration/seedb/step10.json", real=True)
    log = (where / "results/tiny/logs/capture/seedb/step10/shard0.log").read_text()
    assert result.returncode != 0
    for text in (result.stdout, log):
        assert "error: models/b/10: the model can't be loaded" in text
        assert "Traceback" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("run: x\n  models: [", "Config file is not valid JSON or YAML"),
        ("run: tiny\n", "models: missing; give"),
        ("- a\n- b\n", "Config file must be given as JSON or YAML with keys"),
    ],
    ids=["no YAML", "one key", "a list"],
)
def test_a_wrong_file_is_named_by_snakemake_without_a_traceback(tmp_path, content, message):
    (tmp_path / "config.yaml").write_text(content)
    result = tiny.snakemake(tmp_path, "--dry-run")
    assert result.returncode != 0
    assert message in result.stdout
    assert "universal_neurons/plan/config.py" not in result.stdout


def test_a_job_ends_with_the_message_alone(tmp_path):
    code = (
        "from universal_neurons.jobs import job\n"
        "from universal_neurons.store.arrays import open_store\n"
        "with job('job.log'): open_store('none.zarr')"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    for text in (result.stderr, (tmp_path / "job.log").read_text()):
        assert "none.zarr: not a store; remove it and run snakemake again" in text
        assert "Traceback" not in text
