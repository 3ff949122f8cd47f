"""What is measured on a model beside its activations is measured on the same weights."""

from __future__ import annotations

import os
import shutil

import pytest
import tiny

JOBS = {
    "ablation": "tables/ablation/mean/seeda/step10.parquet",
    "doses": "tables/doses/seeda/step10.parquet",
    "effects": "tables/single/seeda/step10.parquet",
    "trace": "tables/trace/seeda/step10.parquet",
    "trace to the next step": "tables/trace/seeda/step10.parquet",
}


@pytest.mark.parametrize("job", JOBS)
def test_a_model_with_other_weights_than_the_captured_ones_is_refused(local, tmp_path, job):
    """Their time tells nothing: Snakemake would not see it."""
    whole, config = local
    (tmp_path / "tokens.npy").symlink_to(whole / "tokens.npy")
    shutil.copytree(whole / "my models", tmp_path / "my models")
    shutil.copytree(whole / "results/exact", tmp_path / "results/exact")
    tiny.configure(tmp_path, config)
    step = 20 if "next" in job else 10
    weights = tmp_path / f"my models/a/{step}/model.safetensors"
    before = weights.stat()
    shutil.copy(tmp_path / "my models/late/10/model.safetensors", weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert tiny.planned(tmp_path) == {}
    done = tiny.snakemake(tmp_path, "--force", f"results/exact/{JOBS[job]}")
    assert done.returncode != 0
    assert f"my models/a/{step}: its weights (SHA-256 " in done.stdout
    assert "are not those that were captured" in done.stdout
    assert "run snakemake again:  rm -r results/exact/" in done.stdout
    assert "Traceback" not in done.stdout
