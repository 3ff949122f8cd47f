"""Shipped studies are right, and a run is held against published counts only where it can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from universal_neurons.commands import published
from universal_neurons.commands.__main__ import main
from universal_neurons.errors import UserError
from universal_neurons.models.hub import Name, name_of
from universal_neurons.plan.config import load_config

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "configs").glob("*.yaml"))


def universality(layers=12, d_mlp=3072, seeds=("a", "b"), steps=(1, 9)):
    """A table in which layer i of the last step has i universal neurons, of seed b one more."""
    frames = [
        pd.DataFrame(
            {
                "step": step,
                "seed": seed,
                "layer": layer,
                "neuron": np.arange(d_mlp),
                "universal": np.arange(d_mlp) < (layer + (seed == "b") if step == 9 else 500),
            }
        )
        for step in steps
        for seed in seeds
        for layer in range(layers)
    ]
    return pd.concat(frames)


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_shipped_study_is_valid_and_named_as_its_file(file):
    config = load_config(file)
    assert config["run"] == file.stem
    for word in ("# Cost", "#   Disk", "# To hold against it"):
        assert word in file.read_text()


def test_the_studies_name_the_published_models():
    names = {}
    for file in STUDIES:
        models = load_config(file)["models"]
        names[file.stem] = [name_of(models, s, t) for s in models["seeds"] for t in models["steps"]]
    assert {name: len(cells) for name, cells in names.items()} == {
        "gpt2-medium-crfm": 5,
        "gpt2-small-crfm": 25,
        "gpt2-small-gurnee": 5,
        "laptop": 6,
        "multiberts": 45,
        "pythia-14m": 117,
        "pythia-160m": 60,
        "pythia-31m": 117,
        "pythia-410m": 20,
        "pythia-70m": 65,
    }
    alias = "stanford-crfm/alias-gpt2-small-x21"
    assert names["gpt2-small-crfm"][0] == Name(alias, "checkpoint-80000")
    assert names["gpt2-small-gurnee"][0] == Name(alias, "checkpoint-400000")
    medium = "stanford-crfm/arwen-gpt2-medium-x21"
    assert names["gpt2-medium-crfm"][0] == Name(medium, "checkpoint-400000")
    first = Name("google/multiberts-seed_0-step_0k", "main")
    assert names["multiberts"][0] == first
    assert names["pythia-14m"][0] == Name("EleutherAI/pythia-14m-seed1", "step0")
    assert names["pythia-160m"][-1] == Name("EleutherAI/pythia-160m-seed5", "step143000")


@pytest.mark.parametrize(
    ("name", "universal", "share"),
    [("GPT-2 Small", 1533, 4.16), ("GPT-2 Medium", 1211, 1.23), ("Pythia 160M", 465, 1.26)],
)
def test_the_published_counts_are_whole(name, universal, share):
    """Totals and percentages as 2401.12181 and its tables state them."""
    model = published.PUBLISHED[name]
    assert sum(model.universal) == universal
    assert round(100 * universal / (len(model.universal) * model.d_mlp), 2) == share


def test_counts_of_the_last_step_stand_beside_those_of_models_of_the_size():
    table = published.compare(universality())
    assert list(table) == ["GPT-2 Small", "Pythia 160M", "a", "b"]
    assert table["GPT-2 Small"].tolist() == [*published.PUBLISHED["GPT-2 Small"].universal, 1533]
    assert table["Pythia 160M"].iloc[-1] == 465
    assert table["a"].tolist() == [*range(12), 66]
    assert table["b"].tolist() == [*range(1, 13), 78]
    medium = published.compare(universality(layers=24, d_mlp=4096))
    assert list(medium) == ["GPT-2 Medium", "a", "b"]
    assert medium["GPT-2 Medium"].iloc[-1] == 1211


@pytest.mark.parametrize("size", [{"layers": 6}, {"d_mlp": 512}])
def test_models_of_another_size_are_not_compared(size):
    with pytest.raises(UserError, match=r"GPT-2 Small, 12 layers of 3072 neurons; GPT-2 Medium"):
        published.compare(universality(**size))


def test_the_comparison_is_printed(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"error: .*universality.parquet is missing"):
        main(["compare-published", str(tmp_path)])
    universality().to_parquet(tmp_path / "universality.parquet")
    main(["compare-published", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "at step 9" in printed
    assert "222" in printed
