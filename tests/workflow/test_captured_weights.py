"""What is measured on a model beside its activations is measured on the same weights."""

from __future__ import annotations

import os
import shutil

import pytest
import tiny

RUN = "results/exact"
ABLATED = {
    "ablate": f"{RUN}/tables/ablation/mean/seeda/step10.parquet",
    "doses": f"{RUN}/tables/doses/seeda/step10.parquet",
    "effects": f"{RUN}/tables/single/seeda/step10.parquet",
}
DESCRIBED = {
    "describe": (10, f"{RUN}/tables/roles/seeda/step10.parquet"),
    "examples": (20, f"{RUN}/tables/examples/seeda/step20.parquet"),
    "contexts": (10, f"{RUN}/tables/contexts/seeda/step10.parquet"),
}
TRACE = f"{RUN}/tables/trace/seeda/step10.parquet"


@pytest.fixture
def exchange(local, tmp_path):
    """A function that gives a model of a copied run other weights; their time tells nothing."""
    whole, config = local
    (tmp_path / "tokens.npy").symlink_to(whole / "tokens.npy")
    shutil.copytree(whole / "my models", tmp_path / "my models")
    shutil.copytree(whole / RUN, tmp_path / RUN)
    tiny.configure(tmp_path, config)

    def to_others(step):
        weights = tmp_path / f"my models/a/{step}/model.safetensors"
        shutil.copy(tmp_path / "my models/late/10/model.safetensors", weights)
        # Older than all that was made of the model.
        os.utime(weights, (0, 0))
        assert tiny.planned(tmp_path) == {}
        return tmp_path

    return to_others


@pytest.mark.parametrize("job", ABLATED)
def test_only_the_captured_model_is_ablated(exchange, job):
    where = exchange(10)
    done = tiny.snakemake(where, "--force", ABLATED[job])
    assert done.returncode != 0
    assert "my models/a/10: its weights (SHA-256 " in done.stdout
    assert "are not those that were captured" in done.stdout
    assert f"rm -r {RUN}/moments/seeda/step10/shard0.zarr" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("job", DESCRIBED)
def test_only_captured_models_are_described(exchange, job):
    step, table = DESCRIBED[job]
    done = tiny.snakemake(exchange(step), "--force", table)
    assert done.returncode != 0
    assert f"my models/a/{step}: its weights (SHA-256 " in done.stdout
    assert "are not those that were captured" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("step", [10, 20])
def test_traces_of_other_models_than_the_captured_ones_are_not_joined(exchange, step):
    """Of a model itself, and of the one that it is traced to."""
    where = exchange(step)
    tiny.finish(where, "--force", TRACE)
    done = tiny.snakemake(where, f"{RUN}/trajectories.parquet")
    assert done.returncode != 0
    assert f"{TRACE}: made with other weights of seed a, step {step} (SHA-256 " in done.stdout
    assert f"run snakemake again:  rm -r {TRACE}" in done.stdout
    assert "Traceback" not in done.stdout
