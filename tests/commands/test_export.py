"""Exports have the formats of other tools and the values of the run."""

import gzip
import json

import pandas as pd
import pytest

from universal_neurons.api.run import open_run
from universal_neurons.commands.__main__ import main
from universal_neurons.export.gurnee import COLUMNS


@pytest.fixture(scope="module")
def results(local):
    return local[0] / "results/exact"


def test_gurnees_table_has_the_published_columns_and_our_scores(results, tmp_path, capsys):
    out = tmp_path / "universal.csv"
    main(["export", "gurnee", str(results), "--seed", "1", "--step", "10", "--output", str(out)])
    table, run = pd.read_csv(out), open_run(results)
    assert list(table) == list(COLUMNS)
    own = run.rows("universality", seed="1", step=10)
    assert table.excess_corr.to_numpy() == pytest.approx(own.excess_corr.to_numpy(), abs=1e-12)
    assert table.mean_corr.to_numpy() == pytest.approx(own.max_corr.to_numpy())
    assert (table.max_corr >= table.mean_corr).all()
    assert (table.mean_corr >= table.min_corr).all()
    moments = run.rows("neurons", seed="1", step=10)
    assert table["var"].to_numpy() == pytest.approx(moments["std"].to_numpy() ** 2)
    assert "definitions differ" in capsys.readouterr().out


def test_best_buddies_are_mutual_in_both_directions(results, tmp_path, capsys):
    out = tmp_path / "best_buddies.json"
    main(["export", "rosetta", str(results), "--seeds", "a", "1", "--output", str(out)])
    found, run = json.loads(out.read_text()), open_run(results)
    there, back = (
        run.matches(*pair, step=20).set_index(["layer", "neuron"])
        for pair in (("a", "1"), ("1", "a"))
    )
    assert len(found) == there.mutual.sum() > 0
    assert f"{len(found)} pairs of seed a (model 1) and 1 (model 2)" in capsys.readouterr().out
    assert [x["correlation"] for x in found] == sorted(
        (x["correlation"] for x in found), reverse=True
    )
    for pair in found:
        one, two = ((pair[f"model{i}_layer"], pair[f"model{i}_neuron"]) for i in (1, 2))
        assert tuple(there.loc[one, ["best_layer", "best_neuron"]]) == two
        assert tuple(back.loc[two, ["best_layer", "best_neuron"]]) == one
        assert pair["correlation"] == there.loc[one, "best_corr"]
        assert pair["rank_in_model1"] == pair["rank_in_model2"] == 1


# By file, the columns of Neuronpedia's tables that have no default, and others that we fill.
NEURONPEDIA = {
    "release": ("name description creatorName creatorId", "urls visibility"),
    "model": (
        "id creatorId layers neuronsPerLayer owner",
        "displayName displayNameShort visibility",
    ),
    "sourceset": ("modelId name description creatorName creatorId", "urls visibility releaseName"),
    "source": ("id modelId setName creatorId", "visibility"),
    "features": (
        "modelId layer index",
        "creatorId sourceSetName maxActApprox frac_nonzero pos_str pos_values neg_str neg_values "
        "freq_hist_data_bar_heights freq_hist_data_bar_values",
    ),
    "activations": (
        "id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId",
        "dataIndex qualifyingTokenIndex",
    ),
}


def test_neuronpedia_finds_its_files_and_columns_and_our_contexts(results, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["export", "neuronpedia", str(results), "--seed", "1", "--output", str(out)]
    main([*command, "--model-id", "tiny-1"])
    assert "cosines with the unembedding" in capsys.readouterr().out
    run = open_run(results)
    examples = run.rows("examples", seed="1", step=20)
    held = {"features": [], "activations": []}
    for layer in examples["layer"].unique():
        folder = out / f"tiny-1/{layer}-mlp"
        files = {path.relative_to(folder).parts[0]: path for path in folder.rglob("*.jsonl*")}
        assert {name.removesuffix(".jsonl") for name in files} == set(NEURONPEDIA)
        for name, path in files.items():
            text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            lines = [json.loads(line) for line in text.splitlines()]
            required, filled = NEURONPEDIA[name.removesuffix(".jsonl")]
            assert {tuple(sorted(line)) for line in lines} == {
                tuple(sorted(f"{required} {filled}".split()))
            }
            held.get(name, []).extend(lines)
        assert folder.name == json.loads((folder / "source.jsonl").read_text())["id"]
    for feature in held["features"]:
        heights, values = (feature[f"freq_hist_data_bar_{x}"] for x in ("heights", "values"))
        assert len(heights) == len(values)
    own = {(line["layer"], line["index"]) for line in held["features"]}
    assert {(line["layer"], line["index"]) for line in held["activations"]} == own
    assert len({line["id"] for line in held["activations"]}) == len(examples)
    for line, row in zip(held["activations"], examples.itertuples(), strict=True):
        assert line["index"] == str(row.neuron)
        assert line["tokens"] == [run.text([token]) for token in row.token_ids]
        assert line["values"] == row.activations.tolist()
        assert line["values"][line["qualifyingTokenIndex"]] == pytest.approx(row.activation)
        assert line["values"][line["maxValueTokenIndex"]] == line["maxValue"] == max(line["values"])


def test_a_model_is_named_as_neuronpedia_names_them(results, tmp_path):
    command = ["export", "neuronpedia", str(results), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="--model-id Tiny/1: use small letters"):
        main([*command, "--model-id", "Tiny/1"])


def test_any_table_becomes_csv(results, tmp_path):
    out = tmp_path / "x.csv"
    main(["export", "csv", str(results), "fractions", "--output", str(out)])
    own = open_run(results).fractions
    assert list(pd.read_csv(out)) == list(own)
    assert len(pd.read_csv(out)) == len(own)


def test_show_prints_the_card(results, capsys):
    main(["show", str(results), "b-x21/20/0/3"])
    said = capsys.readouterr().out
    assert said.startswith("Neuron 0.3 of seed b-x21 at step 20 (exact)")
    assert "Best matches in the other seeds" in said


def test_a_table_that_is_not_there_is_named_with_those_that_are(results):
    with pytest.raises(SystemExit, match=r"no table nothing; it has .*universality"):
        main(["export", "csv", str(results), "nothing"])
