"""A file of another step, seed, pair, shard or block in the right place is refused, never used."""

from __future__ import annotations

import base64
import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import tiny
from grids import MODES
from planning import RULES, rule_names

from universal_neurons.errors import UserError
from universal_neurons.models.facts import read_facts
from universal_neurons.store import arrays, place, tables

# How what one job makes and others read is read. Beside that there are the token ids, which have a
# digest, what is known of the one corpus, figures and the page.
READERS = {".zarr": arrays.read_arrays, ".parquet": tables.read_table, ".json": read_facts}
ATTRIBUTES = {
    ".zarr": arrays.attributes_of,
    ".parquet": tables.attributes_of,
    ".json": read_facts,
}
OTHERS = {"corpus", "figures", "explorer", "report.html"}
MODE_OF = {"screen": "screened", "refine": "screened"}
MODE_OF |= dict.fromkeys(("direct", "direct_first", "direct_more"), "direct")


@pytest.fixture
def results(request, local):
    """A function from a mode of the shared grid to the folder of its results."""

    def of(mode):
        return local[0] / "results/exact" if mode == "exact" else request.getfixturevalue(mode)

    return of


def records(results):
    """What Snakemake recorded of every file of a run that is there, by its path in the run."""
    folder, found = results / "records", {}
    for file in folder.rglob("*"):
        if file.is_file():
            name = "".join(file.relative_to(folder).parts).replace("@", "")
            path = base64.urlsafe_b64decode(name).decode()
            found[path.removeprefix(f"results/{results.name}/")] = json.loads(file.read_text())
    return {path: record for path, record in found.items() if (results / path).exists()}


def alike(paths):
    """By file, the others that only seed, step, pair, layers, shard or kind of ablation tell."""
    kinds = defaultdict(list)
    for path in sorted(paths):
        parts = Path(path).parts
        where = parts[:2] if parts[0] == "tables" else parts[:1]
        kinds[where, len(parts), Path(path).suffix].append(path)
    return {path: [p for p in kind if p != path] for kind in kinds.values() for path in kind}


def put(results, path, there):
    """Put a copy of a file or store of a run somewhere, in place of what is there."""
    if there.is_dir():
        shutil.rmtree(there)
    there.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if (results / path).is_dir() else shutil.copy)(results / path, there)


def refusal(path, by):
    return f"{path}: this is {by} of a run, put in place of "


@pytest.mark.parametrize("mode", MODES)
def test_whatever_jobs_make_for_others_records_its_place_and_is_refused_in_anothers(
    results, tmp_path, mode
):
    """Of all kinds that a run has: a new one can't be forgotten."""
    run = results(mode)
    made = [path for path in records(run) if path.split("/")[0] not in OTHERS]
    assert {Path(path).suffix for path in made} == set(READERS)
    for path in made:
        assert ATTRIBUTES[Path(path).suffix](run / path)["place"] == path
    for path, others in alike(made).items():
        for other in others[:1]:
            put(run, path, tmp_path / "copy" / other)
            with pytest.raises(UserError) as error:
                READERS[Path(path).suffix](tmp_path / "copy" / other)
            assert str(error.value).startswith(refusal(tmp_path / "copy" / other, path) + other)
            assert f"rm -r {tmp_path}/copy/{other}" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted(rule_names(RULES)))
def test_a_job_refuses_what_belongs_elsewhere_among_its_inputs(local, results, tmp_path, rule):
    """One job of every rule, and of its inputs one of every kind that has others like it."""
    mode = MODE_OF.get(rule, "exact")
    run, (where, config) = results(mode), local
    made, start = records(run), f"results/{mode}/"
    target = next((path for path in made if made[path]["rule"] == rule), None)
    if target is None:
        pytest.skip("has no job in this grid")
    others = alike(path for path in made if path.split("/")[0] not in OTHERS)
    given = (path.removeprefix(start) for path in made[target]["input"])
    swapped = {Path(path).parts[:2]: path for path in given if others.get(path)}
    for name in ("my models", "tokens.npy"):
        (tmp_path / name).symlink_to(where / name)
    tiny.configure(tmp_path, {**config, "run": mode, **MODES[mode]})
    for path in swapped.values():
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
        shutil.copytree(run, tmp_path / start)
        put(run, others[path][0], tmp_path / start / path)
        done = tiny.snakemake(tmp_path, "--allowed-rules", rule, "--force", start + target)
        assert done.returncode != 0, path
        assert refusal(start + path, others[path][0]) in done.stdout
        assert f"run snakemake again:  rm -r {start}{path}" in done.stdout
        assert "Traceback" not in done.stdout


def test_results_may_be_moved_and_stores_of_earlier_versions_be_read(tmp_path):
    path = tmp_path / "results/r/within/seeda/step10/shard0.zarr"
    arrays.write_arrays(path, [], {"run": "r"})
    assert arrays.attributes_of(path)["place"] == "within/seeda/step10/shard0.zarr"
    (tmp_path / "results/r").rename(tmp_path / "kept")
    arrays.open_store(tmp_path / "kept/within/seeda/step10/shard0.zarr")
    for about in ({}, {"run": "another"}):  # earlier ones do not say of which run they are
        arrays.write_arrays(path, [], about)
        (tmp_path / "x.zarr").unlink(missing_ok=True)
        path.rename(tmp_path / f"{len(about)}.zarr")
        arrays.open_store(tmp_path / f"{len(about)}.zarr")


@pytest.mark.parametrize("run", ["r", "results"])
def test_a_place_begins_below_the_folder_of_the_run(run):
    for folder in ("", "/", "/home/results/results/x/"):
        found = place.with_place(f"{folder}results/{run}/a/b.zarr", {"run": run})
        assert found == {"run": run, "place": "a/b.zarr"}
    assert place.with_place("results/other/a/b.zarr", {"run": run}) == {"run": run}
