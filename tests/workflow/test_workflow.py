"""The whole workflow through Snakemake, on grids small enough for a test."""

from __future__ import annotations

import json
import os
from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from digest import digests
from grids import SEEDS, STEPS
from pipeline import corr, gpt2, module_activations
from tiny import ROOT, configure, finish, jobs_in, make, planned, snakemake

COLUMNS = {
    "matches": "step seed other_seed layer neuron best_corr best_corr_se best_layer best_neuron "
    "baseline_corr baseline_se min_corr mutual assigned_corr assigned_layer assigned_neuron",
    "universality": "step seed layer neuron max_corr baseline_corr excess_corr excess_se threshold "
    "universal p_value q_value token_r2 previous_token_r2 position_r2 excess_given_token "
    "universal_given_token assigned_excess assigned_universal n_matched n_mutual n_assigned "
    "in_group leave_one_out regression_r2",
    "fractions": "step seed layer n_neurons n_universal fraction mean_fraction se low high",
    "nulls": "step null low high n",
    "groups": "step group seed layer neuron excess_corr group_mean_corr group_min_corr",
    "persistence": "seed layer from_step to_step n_from n_to n_both persistence jaccard chance "
    "p_value odds_ratio q_value",
    "ablation": "step seed layer kind neuron_set draw n_neurons loss_kind clean_loss delta_loss "
    "delta_loss_se kl mean_contribution mean_sparsity top1_change direct_delta_loss difference "
    "difference_se permutation_p energy energy_ratio overlap comparable delta_loss_later "
    "ablated_loss",
    "trajectories": "seed layer neuron step universal label emergence_step next_layer next_neuron "
    "next_corr self_corr",
    "doses": "step seed kind dose neuron_set draw n_neurons loss_kind delta_loss difference "
    "difference_se energy comparable",
    "effects": "step seed layer neuron excess_corr attributed_delta_loss delta_loss sampled "
    "perturbation sparsity loss_kind",
    "token_budget": "step seed part n_shards n_tokens n_neurons n_universal jaccard rank_corr corr "
    "reliability",
    "screening": "step seed other_seed n_tokens sampled_tokens rare undecided certified audited "
    "wrong wrong_upper baseline_shift baseline_error",
    "similarity": "step seed other_seed layer other_layer cka pwcca procrustes soft_matching "
    "unmatched_mass matched_corr",
    "neurons": "step seed layer neuron mean std skewness kurtosis sparsity min max "
    "first_position_share",
    "roles": "step seed layer neuron w_in_norm w_out_norm input_bias in_out_cos l2_penalty "
    "vocab_mean vocab_var vocab_skew vocab_kurt logit_var null_space role promoted_ids "
    "promoted_cos suppressed_ids suppressed_cos",
    "families": "step seed layer neuron family explanation variance_reduction position_mi dead",
    "models": "seed step source revision sha256 duplicate_of n_layers d_mlp loss_kind heldout_loss "
    "heldout_loss_later",
    "examples": "step seed layer neuron band rank sequence position activation start token_ids "
    "activations",
    "contexts": "step seed other_seed other_step layer neuron band rank other_layer other_neuron "
    "activations",
    "histograms": "step seed layer neuron subset low high counts",
    "activating_tokens": "step seed layer neuron rank token_id mean count",
    "vocabulary": "token_id text",
}


@pytest.fixture
def tables(local):
    where, _ = local
    return {name: pd.read_parquet(where / f"results/exact/{name}.parquet") for name in COLUMNS}


def test_tables_have_the_columns_and_one_row_per_cell(local, tables):
    for name, columns in COLUMNS.items():
        assert set(columns.split()) <= set(tables[name].columns), name
    neurons, models, layers = 80, 6, 2
    assert len(tables["matches"]) == 2 * models * neurons
    assert len(tables["universality"]) == len(tables["neurons"]) == models * neurons
    assert len(tables["persistence"]) == len(SEEDS) * (layers + 1)
    assert len(tables["models"]) == models
    assert len(tables["trajectories"]) == len(tables["effects"]) == models * neurons
    assert set(tables["trajectories"].query("step == 20")["next_layer"]) == {-1}
    same = tables["trajectories"].query("step == 10 and seed == '1'")
    assert (same["next_neuron"] == same["neuron"]).all(), "seed 1 has one model at both steps"
    np.testing.assert_allclose(same["self_corr"], 1, atol=1e-5)
    for name in ("matches", "universality", "neurons"):
        assert not tables[name].drop(columns=MAY_BE_NULL, errors="ignore").isna().any().any()
        assert tables[name].seed.map(type).eq(str).all()
    sets = tables["ablation"].groupby(["step", "seed", "layer", "kind"]).size()
    assert len(sets) == models * (layers + 1) * 3
    assert (sets == 21).all()


def test_matches_equal_a_plain_float64_computation_on_the_models(local, tables):
    where, _ = local
    tokens = np.load(where / "tokens.npy")[:61]
    truth = {
        seed: np.hstack(
            module_activations(gpt2(100 * i + (10 if seed == "1" else 20)), tokens, exclude=(3, 7))
        )
        for i, seed in enumerate(SEEDS)
    }
    matches = tables["matches"].query("step == 20")
    for seed, other in combinations(SEEDS, 2):
        full = corr(truth[seed], truth[other])
        for a, b, expected in ((seed, other, full), (other, seed, full.T)):
            rows = matches[(matches.seed == a) & (matches.other_seed == b)]
            # 950 tokens: the rounding noise of int8 is larger than in a real run.
            np.testing.assert_allclose(rows.best_corr, expected.max(1), atol=5e-3)
            np.testing.assert_allclose(rows.min_corr, expected.min(1), atol=5e-3)
    moments = tables["neurons"].query("step == 20 and seed == 'a'")
    np.testing.assert_allclose(moments["std"], truth["a"].std(0), rtol=1e-5)


def test_heldout_loss_is_the_models_own_on_the_sequences_after_the_scored_ones(local, tables):
    import torch

    where, _ = local
    heldout = torch.from_numpy(np.load(where / "tokens.npy")[61:81])
    for row in tables["models"].query("step == 20 and seed != '1'").itertuples():
        model = gpt2(100 * SEEDS.index(row.seed) + 20).module
        assert row.heldout_loss == pytest.approx(model(heldout, labels=heldout).loss.item(), 1e-5)
        # A label of −100 is not counted: the second token is predicted at position 0.
        labels = heldout.clone()
        labels[:, 1] = -100
        later = model(heldout, labels=labels).loss.item()
        assert row.heldout_loss_later == pytest.approx(later, 1e-5)


def test_equal_weights_under_two_names_are_flagged(local, tables):
    models = tables["models"].set_index(["seed", "step"])
    assert models.duplicate_of[("1", 20)] == "1/10"
    assert models.duplicate_of.drop(("1", 20)).isna().all()
    assert "same weights" in (local[0] / "results/exact/logs/models.log").read_text()


def test_every_table_and_store_says_where_it_comes_from(local):
    where, _ = local
    hashes = set()
    for name in COLUMNS:
        metadata = pq.read_schema(where / f"results/exact/{name}.parquet").metadata
        about = json.loads(metadata[b"universal_neurons"])
        hashes.add(about["config_hash"])
        assert about["universal_neurons"]
        assert about["cpu"]
        assert about["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    store = where / "results/exact/activations/seeda/step10/shard0.zarr/zarr.json"
    about = json.loads(store.read_text())["attributes"]
    assert len(about["model_sha256"]) == len(about["corpus_sha256"]) == 64
    assert {about["config_hash"]} == hashes


def test_the_report_is_there_and_whole(local):
    where, _ = local
    report = (where / "results/exact/report.html").read_text()
    assert report.count("<svg") + report.count("data:image/svg") >= 9
    assert report.rstrip().endswith("</html>")
    result = snakemake(where, "--report", "snakemake-report.zip")
    assert result.returncode == 0, result.stdout


MAY_BE_NULL = ["leave_one_out", "assigned_corr"]
# Asked for by nobody.
MAY_BE_NULL += ["excess_given_previous_token", "universal_given_previous_token"]
MAY_BE_NULL += ["excess_given_position", "universal_given_position"]
MAY_BE_NULL += ["given_previous_token_corr", "given_previous_token_baseline"]
MAY_BE_NULL += ["given_position_corr", "given_position_baseline"]
# What joins the tables of steps and seeds, and what is drawn of them.
DRAWN = {"figures": 1, "report": 1}
# Six models, three kinds.
ABLATED = {"ablate": 18, "doses": 6, "concatenate_ablation": 1, "concatenate_doses": 1, **DRAWN}
# Contexts are chosen by scores and effects at the last step, and read by all models.
JOINED_CONTEXTS = {"concatenate_examples": 1, "concatenate_contexts": 1, "explorer": 1}
DESCRIBED = {"examples": 3, "contexts": 6, **JOINED_CONTEXTS}
SCORED = {"score": 2, "concatenate": 1, "persistence": 1, "trajectories": 1}
SCORED = {**SCORED, **ABLATED, "join_effects": 1, **DESCRIBED}
JOINED = {**SCORED, "neurons": 1, "models": 1, "concatenate_described": 1}
# Neurons are ablated by their roles, too.
DESCRIBED_ANEW = {"describe": 6, "mediate": 6, "concatenate_described": 1, "concatenate_doses": 1}
DESCRIBED_ANEW |= DRAWN
# Of one step: three models.
OF_A_STEP = {"score": 1, "ablate": 9, "doses": 3}
# Three pairs of seeds, two steps, two shards. A change, and exactly what it makes Snakemake run.
CHANGES = {
    "nothing": ({}, {}),
    "a further step": (
        {"models": {"steps": [10, 20, 30]}},
        {"capture_first": 3, "capture": 3, "correlate": 6, "rotated_std": 3, "match": 3}
        | {"given": 3, "similarity": 3, "influence": 1, "permuted": 3, "effects": 3, "trace": 3}
        | {"random_directions": 1, "describe": 3, "mediate": 3}
        | {**JOINED, **OF_A_STEP, "contexts": 9},
    ),
    "a further seed": (
        {"models": {"seeds": [*SEEDS, "late"]}},
        # Its own models, and their three pairs at two steps.
        {"capture_first": 2, "capture": 2, "correlate": 12, "rotated_std": 2, "match": 6}
        | {"given": 2, "similarity": 6, "permuted": 6, "random_directions": 2}
        | {"effects": 2, "trace": 1, "describe": 2, "mediate": 2}
        # Scores are means over the other seeds, so that all are new, and what is ablated by them.
        | {**JOINED, "influence": 2, "ablate": 24, "doses": 8, "examples": 4, "contexts": 8},
    ),
    "half as many tokens again, in a further shard": (
        # Of 61 sequences: 30, 31 and then 30 more.
        {"corpus": {"tokens": 61 * 16 * 3 // 2, "shards": 3}},
        {"selection": 1, "capture": 6, "correlate": 6, "rotated_std": 6, "match": 6}
        # Random directions, as traces, are of all tokens where they are so few.
        | {"similarity": 6, "influence": 2, "permuted": 6, "effects": 6, "trace": 3, **JOINED}
        | {"random_directions": 2, "given": 6, "describe": 6, "mediate": 6},
    ),
    "other batches": ({"capture": {"batch_tokens": 64}}, {}),
    # Rows and categories are in the order of the seeds; nothing else is.
    "another order of the seeds": (
        {"models": {"seeds": SEEDS[::-1]}},
        {"concatenate": 1, "concatenate_ablation": 1, "concatenate_doses": 1, "join_effects": 1}
        | {"persistence": 1, "trajectories": 1, "neurons": 1, "models": 1, **DRAWN}
        | {**JOINED_CONTEXTS, "concatenate_described": 1},
    ),
    "fewer held-out tokens": (
        {"corpus": {"heldout_tokens": 10 * 16}},
        {"selection": 1, "effects": 6, "join_effects": 1, "models": 1, **ABLATED, **DESCRIBED}
        | {"mediate": 6},
    ),
    "a baseline of standardised neurons": (
        {"baseline": {"standardise": True}},
        {"rotated_std": 6, "given": 6, "match": 6, "influence": 2, "permuted": 6, "untrained": 1}
        | {"random_directions": 2, **SCORED},
    ),
    "no similarity of layers": ({"correlate": {"similarity": False}}, SCORED),
    "more random directions": (
        {"nulls": {"random_directions": {"draws": 3}}},
        {"random_directions": 2, **SCORED},
    ),
    "no random directions": ({"nulls": {"random_directions": {"draws": 0}}}, SCORED),
    "another threshold": ({"universality": {"excess_threshold": 0.1}}, SCORED),
    "universal by q-value": ({"universality": {"criterion": "q_value"}}, SCORED),
    "another cut-off of a role": (
        {"roles": {"kurtosis": 5}},
        {**DESCRIBED_ANEW, "explorer": 1},
    ),
    "another cut-off of a family": (
        {"families": {"letter": 0.5}},
        {**DESCRIBED_ANEW, "explorer": 1},
    ),
    "more controls": (
        {"ablation": {"controls": 21}},
        {"ablate": 18, "concatenate_ablation": 1, **DRAWN},
    ),
    "a kind of ablation less": (
        {"ablation": {"kinds": ["mean", "zero"]}},
        {"concatenate_ablation": 1, **DRAWN},
    ),
    "other contexts at random": ({"explorer": {"seed": 1}}, {**DESCRIBED, "report": 1}),
    "contexts of fewer tokens": (
        {"explorer": {"tokens": 480}},
        {**DESCRIBED, **DESCRIBED_ANEW},
    ),
    "contexts of all neurons": ({"explorer": {"neurons": "all"}}, {**DESCRIBED, "report": 1}),
    "a step less": (
        {"models": {"steps": [20]}},
        # Untrained models are those of the first step's architecture.
        {**JOINED, **OF_A_STEP, "untrained": 1, "contexts": 3},
    ),
    "a seed less": (
        {"models": {"seeds": SEEDS[1:]}},
        {**JOINED, "influence": 2, "random_directions": 2, "ablate": 12, "doses": 4}
        | {"examples": 2, "contexts": 4},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_runs_what_it_needs_and_nothing_else(local, change):
    where, config = local
    sections, expected = CHANGES[change]
    changed = {key: {**config.get(key, {}), **sections[key]} for key in sections}
    configure(where, {**config, **changed})
    try:
        assert planned(where) == expected
    finally:
        configure(where, config)


@pytest.mark.parametrize(
    ("gone", "jobs"),
    [
        ("figures", {"figures": 1, "report": 1}),
        ("figures/emergence.png", {"figures": 1, "report": 1}),
        ("report.html", {"report": 1}),
    ],
)
def test_half_a_report_is_made_whole(local, gone, jobs):
    where, _ = local
    path, aside = where / "results/exact" / gone, where / "aside"
    path.rename(aside)
    try:
        assert planned(where) == jobs
    finally:
        aside.rename(path)
    assert planned(where) == {}


def test_touched_files_run_nothing_and_changed_weights_what_depends_on_them(local):
    where, _ = local
    for folder in ("workflow", "src"):
        for file in (ROOT / folder).rglob("*.*"):
            file.touch()
    weights = where / "my models/a/10/model.safetensors"
    for file in (weights, where / "tokens.npy"):
        file.touch()
    assert planned(where) == {}
    content, times = weights.read_bytes(), weights.stat()
    weights.write_bytes(content[:-1] + b"x")
    try:
        of_the_model = {"capture_first": 1, "capture": 1, "rotated_std": 1, "trace": 1}
        of_its_pairs = {"correlate": 4, "match": 2, "similarity": 2, "influence": 1, "permuted": 2}
        of_its_pairs["random_directions"] = 1
        of_the_model["given"] = 1
        made = {**of_the_model, **of_its_pairs, "effects": 1, "describe": 1, "mediate": 1}
        assert planned(where) == {**JOINED, **OF_A_STEP, **made}
    finally:
        weights.write_bytes(content)
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_corpus_too_large_for_snakemakes_checksums_may_be_touched_but_not_changed(local):
    where, _ = local
    tokens = where / "tokens.npy"
    content, times = tokens.read_bytes(), tokens.stat()
    tokens.touch()
    assert "corpus" not in planned(where, "--max-checksum-file-size", "0")
    tokens.write_bytes(content[:-8] + b"\1" + content[-7:])
    try:
        assert planned(where)["corpus"] == 1
    finally:
        tokens.write_bytes(content)
        os.utime(tokens, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert planned(where) == {}


@pytest.mark.parametrize(
    ("kind", "expected"), [("report", DRAWN), ("match", {"match": 6, "influence": 2, **SCORED})]
)
def test_a_new_version_of_the_method_runs_what_depends_on_it_and_says_why(
    local, tmp_path, kind, expected
):
    where, _ = local
    (tmp_path / "sitecustomize.py").write_text(
        f"from universal_neurons import method\nmethod.METHOD_VERSION[{kind!r}] += 1\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    said = finish(where, "--dry-run", real=True, **env).stdout
    assert jobs_in(said) == expected
    rule = {"report": "figures"}.get(kind, kind)
    assert "Params have changed since last execution" in said.partition(f"rule {rule}:")[2]


def same_as_stored(where, results, names=("matches", "neurons", "token_budget")):
    for name in names:
        mine = pd.read_parquet(results / f"{name}.parquet")
        stored = pd.read_parquet(where / f"results/exact/{name}.parquet")
        if "given_token_corr" in mine and not (results / "given").exists():
            assert mine["given_token_corr"].isna().all(), "sums by token take more memory"
            mine, stored = (x.drop(columns=x.filter(like="given_")) for x in (mine, stored))
        if "best_corr_se" in mine:
            assert mine.pop("best_corr_se").isna().all(), "errors take stored activations"
            del stored["best_corr_se"]
        pd.testing.assert_frame_equal(mine, stored, check_exact=True)
    assert not (results / "activations").exists()


def test_sums_straight_from_the_models_give_the_same_tables_to_the_bit(local, direct):
    where, config = local
    same_as_stored(where, direct)
    given = ["token_r2", "previous_token_r2", "position_r2", "token_coverage", "excess_given_token"]
    one, other = (
        pd.read_parquet(results / "universality.parquet")[given]
        for results in (direct, where / "results/exact")
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert set(pd.read_parquet(direct / "nulls.parquet")["null"]) == {
        "random directions",
        "rotated",
        "untrained",
    }
    assert (direct / "report.html").exists()
    configure(where, {**config, "run": "direct", "capture": {"store": False}})
    try:
        assert planned(where) == {}
        (where / "results/direct").rename(where / "results/away")
        try:
            jobs = planned(where)
        finally:
            (where / "results/away").rename(where / "results/direct")
        assert jobs["direct_first"] == jobs["direct"] == len(STEPS)
        assert "direct_more" not in jobs
    finally:
        configure(where, config)


@pytest.mark.slow
def test_sums_of_one_layer_per_pass_are_the_same_where_those_of_all_do_not_fit(local):
    where, config = local
    small = {"capture": {"store": False}, "correlate": {"memory_gb": 1e-6}}
    configure(where, {**config, "run": "small", **small})
    try:
        names = ("matches", "neurons", "token_budget")
        tables = [f"results/small/{name}.parquet" for name in names]
        jobs = planned(where, *tables)
        assert jobs["direct_first"] == jobs["direct"] == len(STEPS)
        assert jobs["direct_more"] == 2 * len(STEPS)
        finish(where, *tables)
        same_as_stored(where, where / "results/small")
        assert not (where / "results/small/given").exists()
        assert planned(where, *tables) == {}
    finally:
        configure(where, config)


def test_screened_matches_are_the_exact_ones(local, screened):
    where, config = local
    mine = pd.read_parquet(screened / "matches.parquet")
    exact = pd.read_parquet(where / "results/exact/matches.parquet")
    same = ["step", "seed", "other_seed", "layer", "neuron"]
    same += ["best_corr", "best_layer", "best_neuron"]
    pd.testing.assert_frame_equal(mine[same], exact[same], check_exact=True)
    assert set(mine.best_by) <= {"comparison", "certificate"}
    assert set(exact.best_by) == {"comparison"}
    by = mine.groupby("best_by")["baseline_by"].unique().map(list).to_dict()
    assert by.items() <= {"comparison": ["all tokens"], "certificate": ["sample"]}.items()
    assert set(exact.baseline_by) == {"all tokens"}
    assert pd.read_parquet(screened / "token_budget.parquet").empty
    assert pd.read_parquet(where / "results/exact/screening.parquet").empty
    found = pd.read_parquet(screened / "screening.parquet")
    assert len(found) == len(STEPS) * len(SEEDS) * (len(SEEDS) - 1)
    # All of so few certified neurons are audited.
    assert (found["audited"] == found["certified"]).all()
    assert (mine.best_by == "comparison").all()
    configure(where, {**config, "run": "screened", "correlate": {"mode": "screened"}})
    try:
        assert planned(where) == {}
    finally:
        configure(where, config)


@pytest.mark.slow
def test_forked_jobs_make_the_tables_of_real_processes_to_the_bit(real, tmp_path):
    """What the other tests of the workflow rest on (support/fork_server.py)."""
    make(tmp_path)
    finish(tmp_path)
    found, forked = (digests(where / "results/tiny") for where in (real[0], tmp_path))
    assert set(COLUMNS) <= set(found)
    assert forked == found


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("corpus", "tokenz", 5, "corpus.tokenz: unknown key; did you mean tokens?"),
        ("corpus", "tokens", 10**9, "corpus.tokens: 1000000320 tokens are asked for"),
        ("models", "path", "models/{seed}", "and {step} in it"),
        ("models", "path", "none/{seed}/{step}", "none/a/10/config.json does not exist"),
    ],
)
def test_a_mistake_is_named_before_any_job_without_a_traceback(
    local, tmp_path, section, key, value, message
):
    where, config = local
    wrong = {**config, section: {**config[section], key: value}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(wrong))
    result = snakemake(where, "--configfile", str(tmp_path / "config.yaml"))
    assert result.returncode != 0
    assert message in result.stdout
    assert "Traceback" not in result.stdout
    assert "rule " not in result.stdout


def test_models_are_trained_on_text_and_lose_nothing_to_an_added_step(tmp_path):
    (tmp_path / "text").mkdir()
    for i in range(3):
        words = np.random.default_rng(i).choice(["neurons ", "of ", "every ", "seed.\n"], 4000)
        (tmp_path / f"text/{i}.txt").write_text("".join(words))
    config = {
        "run": "trained",
        "models": {
            "source": "train",
            "seeds": [0, 1],
            "steps": [0, 6],
            "train": {"vocab_size": 260, "width": 16, "d_mlp": 32, "total_steps": 8},
        },
        "corpus": {
            "source": "text",
            "path": "text/*.txt",
            "tokens": 2000,
            "heldout_tokens": 500,
            "context_length": 20,
        },
    }
    configure(tmp_path, config)
    result = snakemake(tmp_path)
    assert result.returncode == 0, result.stdout
    results = tmp_path / "results/trained"
    models = pd.read_parquet(results / "models.parquet").set_index(["seed", "step"])
    for seed in "01":
        assert models.heldout_loss[(seed, 6)] < models.heldout_loss[(seed, 0)]
    ablation = pd.read_parquet(results / "ablation.parquet")
    empty = ablation[ablation.n_neurons == 0]
    assert len(empty) > 0, "at step 0 no neuron passes 0.5"
    assert empty.delta_loss.isna().all()
    assert empty.clean_loss.notna().all()
    (tmp_path / "text/0.txt").touch()
    assert planned(tmp_path) == {}, "the text is the same"

    config["models"]["steps"] = [0, 6, 8]
    configure(tmp_path, config)
    jobs = planned(tmp_path)
    assert jobs["train"] == jobs["capture_first"] == 2
    assert jobs["match"] == jobs["correlate"] == 1
    assert not {"tokenizer", "corpus", "selection"} & set(jobs)

    config["models"]["steps"] = [0, 6]
    config["models"]["train"]["learning_rate"] = 0.001
    configure(tmp_path, config)
    jobs = planned(tmp_path)
    assert jobs["train"] == 2
    assert jobs["capture_first"] == 4, "other weights: everything is captured again"
    assert not {"tokenizer", "corpus"} & set(jobs)
