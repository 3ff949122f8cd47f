"""A run in which one model's weights have no head: captured, compared, described, not ablated."""

from __future__ import annotations

import pandas as pd
import pytest
import tiny
from pipeline import gpt2

from universal_neurons.report import words


@pytest.mark.slow
def test_a_model_without_a_head_goes_through_the_workflow(tmp_path):
    config = tiny.make(tmp_path, steps=[10, 20])
    for step in (10, 20):
        for i, seed in enumerate("ab"):
            module = gpt2(100 * i + step, tie_word_embeddings=False).module
            part = module.base_model if seed == "b" else module
            part.save_pretrained(tmp_path / f"models/{seed}/{step}")
    said = tiny.finish(tmp_path).stdout
    unable = "seed b, step 10: the weights have no head to predict tokens with: "
    assert said.count(f"{unable}no rows in ablation") == 1
    assert said.count(f"{unable}what roles.parquet says of logits is null") == 1
    results = tmp_path / "results" / config["run"]

    def read(name, *columns):
        return pd.read_parquet(results / f"{name}.parquet", columns=["seed", *columns])

    for name in ("ablation", "doses", "effects"):
        assert set(read(name)["seed"]) == {"a"}
    losses = read("models", "heldout_loss").set_index("seed")["heldout_loss"]
    assert losses["a"].notna().all()
    assert losses["b"].isna().all()
    logits = read("roles", "vocab_var", "w_out_norm").set_index("seed")
    assert logits.loc["a"].notna().all(axis=None)
    assert logits.loc["b", "vocab_var"].isna().all()
    assert set(read("universality")["seed"]) == {"a", "b"}
    assert (results / "report.html").is_file()
    assert (results / "explorer/index.html").is_file()
    # Where nothing is ablated the head is missed by what describes neurons alone, in the same jobs.
    tiny.configure(tmp_path, {**config, "ablation": {"kinds": []}})
    assert "describe" not in tiny.planned(tmp_path)
    tiny.finish(tmp_path)
    assert words.NOT_ABLATED in (results / "report.html").read_text()
