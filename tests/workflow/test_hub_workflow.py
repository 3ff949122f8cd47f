"""The workflow on models and text of the Hub: fetched once, then at home without network."""

from __future__ import annotations

import json
import re
import shutil

import hub as server
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pipeline import gpt2
from tiny import ROOT, configure, planned, snakemake
from transformers import AutoModelForCausalLM

from universal_neurons.models.hub import name_of
from universal_neurons.plan.config import resolve
from universal_neurons.prepare.text import Document
from universal_neurons.prepare.training import train_tokenizer

SEEDS, STEPS = ["a", "b"], [10, 20]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Models with branches as the Stanford CRFM has them, and a data set."""
    where = tmp_path_factory.mktemp("hub")
    words = ["every", "language", "model", "grows", "some", "neurons", "whatever", "seed", "\n"]
    texts = [" ".join(np.random.default_rng(i).choice(words, 60)) for i in range(200)]
    train_tokenizer(map(Document, texts), 260, where / "tokenizer")
    with server.serving() as running:
        for i, seed in enumerate(SEEDS):
            for branch in ("checkpoint-10", "checkpoint-20", "checkpoint-30", "main"):
                # Of seed b, step 20 serves the weights of main, as some published revisions do.
                late = branch == "main" or (seed, branch) == ("b", "checkpoint-20")
                number = 100 * i + (40 if late else int(branch[-2:]))
                folder = where / seed / branch
                shutil.copytree(where / "tokenizer", folder)
                # Depths may differ.
                model = gpt2(number, layers=2 + i, vocab_size=260)
                model.module.half().save_pretrained(folder)
                running.add(f"org/{seed}", branch, folder)
        # Two data sets, whose documents name their subset as the Pile's do.
        for i, name in enumerate(("text", "more")):
            (where / name).mkdir()
            lines = [{"text": t, "meta": {"set": "ab"[n % 2]}} for n, t in enumerate(texts[i::2])]
            content = "".join(json.dumps(line) + "\n" for line in lines)
            (where / name / "train.jsonl").write_text(content)
            running.add(f"org/{name}", "main", where / name, "datasets")
        yield running


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory):
    """A finished run; its folder, its config and the settings of a client with network."""
    where = tmp_path_factory.mktemp("run")
    config = {
        "run": "far",
        "models": {
            "source": "hub",
            "seeds": SEEDS,
            "steps": [10, 20, 40],
            "repo": "org/{seed}",
            "revision": "checkpoint-{step}",
            "revisions": {seed: {40: {"revision": "main"}} for seed in SEEDS},
            "prune_cache": True,
        },
        "corpus": {
            "source": "hub",
            "dataset": {"one": "org/text", "two": "org/more"},
            "subset_key": "meta.set",
            "tokens": 60 * 16,
            "heldout_tokens": 20 * 16,
            "stream_tokens": 200 * 16,
            "context_length": 16,
        },
        "universality": {"excess_threshold": 0.0},
    }
    env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_HOME": str(where / "hf")}
    configure(where, config)
    result = snakemake(where, **env)
    assert result.returncode == 0, result.stdout
    return where, config, env


def test_models_are_recorded_with_their_commits_and_wrong_revisions_flagged(hub, run):
    where, _, _ = run
    models = pd.read_parquet(where / "results/far/models.parquet").set_index(["seed", "step"])
    for seed in SEEDS:
        for step, branch in ((10, "checkpoint-10"), (20, "checkpoint-20"), (40, "main")):
            assert models.revision[(seed, step)] == hub.commit(f"org/{seed}", branch)
    assert models.source.eq("hub").all()
    assert models.n_layers.to_dict()[("b", 10)] == 3
    assert models.duplicate_of.dropna().to_dict() == {("b", 40): "b/20"}
    about = json.loads((where / "results/far/corpus/corpus.json").read_text())
    commits = [hub.commit(f"org/{name}", "main", "datasets") for name in ("text", "more")]
    assert about["dataset_commit"] == ", ".join(commits)
    assert about["n_sequences"] >= 200


def test_two_data_sets_of_documents_with_subsets_give_statistics_of_each(run):
    table = pd.read_parquet(run[0] / "results/far/subsets.parquet")
    assert set(table["subset"]) == {"one/a", "one/b", "two/a", "two/b"}
    tokens = table[table["neuron"].eq(0) & table["layer"].eq(0)].groupby(["seed", "step"])
    assert set(tokens["n_tokens"].sum()) <= set(range(50 * 16, 60 * 16 + 1))


def test_heldout_loss_is_that_of_a_plain_transformers_evaluation(hub, run):
    where, _, _ = run
    corpus = where / "results/far/corpus"
    chosen = json.loads((corpus / "selection.json").read_text())
    sequences = np.load(corpus / "tokens.npy")[chosen["heldout_start"] : chosen["heldout_stop"]]
    ids = torch.from_numpy(sequences).long()
    models = pd.read_parquet(where / "results/far/models.parquet").set_index(["seed", "step"])
    for seed in SEEDS:
        folder = hub.repos[f"models/org/{seed}"]["checkpoint-10"]
        # The published weights are float16 and would be run so, were the dtype not given.
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.inference_mode():
            expected = module(ids, labels=ids).loss.item()
        assert models.heldout_loss[(seed, 10)] == pytest.approx(expected, rel=1e-5)


def test_every_file_is_fetched_once(hub, run):
    weights = [path for path in hub.downloads() if path.endswith("safetensors")]
    assert len(weights) == 6
    assert len(set(weights)) == 6


def test_every_seed_has_its_own_tokenizer_where_they_are_aligned(run):
    where, config, env = run
    aligned = {**config["corpus"], "align": "bytes"}
    configure(where, {**config, "run": "aligned", "corpus": aligned})
    try:
        about = where / "results/aligned/corpus/corpus.json"
        jobs = planned(where, str(about.relative_to(where)), **env)
        assert jobs == {"fetch_tokenizer": 2, "corpus": 1}
        result = snakemake(where, str(about.relative_to(where)), **env)
        assert result.returncode == 0, result.stdout
    finally:
        configure(where, config)
    [one] = json.loads(about.read_text())["aligned"]
    assert one["seeds"] == SEEDS
    # The models' tokenizers are the same, and so are the sequences.
    far, near = (
        np.load(where / f"results/{name}/corpus/tokens.npy") for name in ("far", "aligned")
    )
    np.testing.assert_array_equal(near["token"][:, 0], far)


@pytest.mark.slow
def test_a_finished_run_needs_no_network_to_be_planned_or_gone_on_with(run, tmp_path):
    where, config, _ = run
    home = {"HF_HOME": str(tmp_path / "empty")}
    assert planned(where, real=True, **home) == {}
    shutil.copytree(where, tmp_path / "copy", ignore=shutil.ignore_patterns("hf"))
    corpus = {**config["corpus"], "tokens": 90 * 16}
    configure(tmp_path / "copy", {**config, "corpus": corpus})
    assert not {"fetch", "fetch_tokenizer", "corpus"} & set(
        planned(tmp_path / "copy", real=True, **home)
    )
    captured = "results/far/moments/seeda/step10/shard0.zarr"
    result = snakemake(tmp_path / "copy", captured, real=True, **home)
    assert result.returncode == 0, result.stdout
    assert re.search(r"^capture +1 job ", result.stdout, re.MULTILINE), result.stdout


def test_a_further_step_is_fetched_alone_and_leaves_the_corpus(run):
    where, config, env = run
    configure(where, {**config, "models": {**config["models"], "steps": [10, 20, 30, 40]}})
    try:
        jobs = planned(where, **env)
        assert jobs["fetch"] == jobs["capture_first"] == 2
        assert not {"fetch_tokenizer", "corpus"} & set(jobs)
        steps = [5, 10, 20, 40]
        revisions = {
            seed: {5: {"revision": "checkpoint-30"}, 40: {"revision": "main"}} for seed in SEEDS
        }
        models = {**config["models"], "steps": steps, "revisions": revisions}
        configure(where, {**config, "models": models})
        jobs = planned(where, **env)
        assert jobs["fetch"] == jobs["capture_first"] == 2
        assert not {"fetch_tokenizer", "corpus"} & set(jobs)
    finally:
        configure(where, config)


def test_another_revision_is_fetched_again_with_what_depends_on_it(run):
    where, config, env = run
    revisions = {**config["models"]["revisions"], "b": {20: {"revision": "checkpoint-30"}}}
    revisions["b"][40] = {"revision": "main"}
    configure(where, {**config, "models": {**config["models"], "revisions": revisions}})
    try:
        jobs = planned(where, **env)
        assert jobs["fetch"] == jobs["capture_first"] == jobs["match"] == 1
    finally:
        configure(where, config)


def test_a_missing_revision_and_a_missing_network_are_named_before_any_job(run):
    where, config, env = run
    models = {**config["models"], "steps": [10, 99], "revisions": {}}
    configure(where, {**config, "models": models})
    try:
        missing = ["models.revision: org/a has no revision checkpoint-99"]
        offline = [f"hf download org/{seed} --revision checkpoint-99\n" for seed in SEEDS]
        for real, more, messages in (
            (False, env, missing),
            (True, {**env, "HF_HUB_OFFLINE": "1"}, offline),
        ):
            result = snakemake(where, real=real, **more)
            assert result.returncode != 0
            assert all(message in result.stdout for message in messages)
            assert "Traceback" not in result.stdout
            assert "rule " not in result.stdout
    finally:
        configure(where, config)


# Architecture, layers and width of the studies' models.
SHAPES = {
    "gpt2-medium-crfm": ("gpt2", 24, 1024),
    "gpt2-small-crfm": ("gpt2", 12, 768),
    "gpt2-small-gurnee": ("gpt2", 12, 768),
    "laptop": ("gpt_neox", 6, 128),
    "multiberts": ("bert", 12, 768),
    "pythia-14m": ("gpt_neox", 6, 128),
    "pythia-31m": ("gpt_neox", 6, 256),
    "pythia-70m": ("gpt_neox", 6, 512),
    "pythia-160m": ("gpt_neox", 12, 768),
    "pythia-410m": ("gpt_neox", 24, 1024),
}


STUDIES = [
    pytest.param(
        path, id=path.stem, marks=[] if path.stem in ("laptop", "multiberts") else pytest.mark.slow
    )
    for path in sorted((ROOT / "configs").glob("*.yaml"))
]


@pytest.mark.parametrize("study", STUDIES)
def test_shipped_studies_are_planned_from_the_config_files_of_their_models_alone(study, tmp_path):
    config = yaml.safe_load(study.read_text())
    kind, layers, width = SHAPES[study.stem]
    shape = {"model_type": kind, "num_hidden_layers": layers, "hidden_size": width}
    shape |= {"n_layer": layers, "n_embd": width, "intermediate_size": 4 * width}
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(shape))
    models = resolve(config)["models"]
    cells = [(seed, step) for seed in models["seeds"] for step in models["steps"]]
    configure(tmp_path, config)
    with server.serving() as hub:
        for name in (name_of(models, *cell) for cell in cells):
            hub.add(name.repo, name.revision, tmp_path / "model")
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        jobs = planned(tmp_path, real=True, **env)
    assert jobs["fetch"] == jobs["capture_first"] == len(cells)
    assert jobs["corpus"] == jobs["fetch_tokenizer"] == 1
    said = re.search(r"# +Jobs +About ([\d,]+)\.", study.read_text())
    assert said is not None
    assert sum(jobs.values()) == pytest.approx(int(said[1].replace(",", "")), rel=0.1)
