"""Nothing damaged is ever read: it is named and refused, with the command that makes it again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny

from universal_neurons.activations.codes import Escapes
from universal_neurons.activations.reader import Activations
from universal_neurons.errors import UserError
from universal_neurons.method import METHOD_VERSION
from universal_neurons.persist.trajectories import read_traces
from universal_neurons.prepare import tokens as tokens_module
from universal_neurons.score.describe import models_table
from universal_neurons.store import arrays as arrays_module
from universal_neurons.store import chunks as chunks_module
from universal_neurons.store import files as files_module
from universal_neurons.store import same_run
from universal_neurons.store.columns.declare import STEP, Column, Table
from universal_neurons.store.columns.persist import TRACE
from universal_neurons.store.tables import concatenate_table, read_table, write_table

VALUES = np.random.default_rng(0).integers(-127, 128, (60, 50)).astype(np.int8)
ABOUT = {
    "method": {"capture": METHOD_VERSION["capture"]},
    "corpus_sha256": "c",
    "seed": "a",
    "step": 3,
    "model_sha256": "m",
    "sequences": [0, 8],
    "encoding": "int8",
    "n_tokens": 60,
    "d_mlp": [50],
}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A store of three chunks per array."""
    monkeypatch.setattr(chunks_module, "CHUNK_BYTES", 1000)
    scale = np.ones(50, np.float32)
    escapes = Escapes(np.array([3, 41]), np.array([7, 0], np.int32), np.array([200, -300], "f4"))
    arrays = {"layer0": VALUES, "scale0": scale, "offset0": scale}
    arrays |= {f"{name}0": values for name, values in escapes.arrays().items()}
    arrays_module.write_arrays(tmp_path / "s.zarr", arrays.items(), ABOUT)
    return tmp_path / "s.zarr"


def chunks(path, name="layer0"):
    return sorted(file for file in (path / name / "c").rglob("*") if file.is_file())


def flip(file, place):
    """Flip one bit of one byte."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << (place % 8)
    file.write_bytes(data)


def flipped_chunk(path):
    flip(chunks(path)[1], 20)


def flipped_checksum(path):
    flip(chunks(path)[1], -1)


def truncated_chunk(path):
    file = chunks(path)[2]
    file.write_bytes(file.read_bytes()[:-7])


def emptied_chunk(path):
    chunks(path)[0].write_bytes(b"")


def missing_chunk(path):
    chunks(path)[1].unlink()


def missing_array(path):
    shutil.rmtree(path / "layer0")


def missing_chunks_of_another_array(path):
    shutil.rmtree(path / "scale0/c")


def empty_directory(path):
    shutil.rmtree(path)
    path.mkdir()


def gone(path):
    shutil.rmtree(path)


def a_file_in_its_place(path):
    shutil.rmtree(path)
    path.write_text("")


def half_written_metadata(path):
    file = path / "zarr.json"
    file.write_text(file.read_text()[:200])


def edited(path, **changes):
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"].update(changes)
    file.write_text(json.dumps(metadata))


def changed_attribute(path):
    edited(path, n_tokens=59)


def changed_shape(path):
    file = path / "layer0/zarr.json"
    metadata = json.loads(file.read_text())
    metadata["shape"] = [59, 50]
    file.write_text(json.dumps(metadata))


def without_its_mark(path):
    edited(path, complete=False)


def of_another_method(path):
    arrays = arrays_module.read_arrays(path)
    method = {"capture": METHOD_VERSION["capture"] - 1}
    arrays_module.write_arrays(path, arrays.items(), {**ABOUT, "method": method})


DAMAGE = [
    flipped_chunk, flipped_checksum, truncated_chunk, emptied_chunk, missing_chunk, missing_array,
    missing_chunks_of_another_array, empty_directory, gone, a_file_in_its_place,
    half_written_metadata, changed_attribute, changed_shape, without_its_mark, of_another_method,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(
    "read",
    [
        arrays_module.read_arrays,
        lambda path: dict(arrays_module.Added([path, path])),
        lambda path: Activations(path).activations(0),
        lambda path: Activations(path).stored(0, slice(0, 60), np.empty((60, 50), np.int8)),
    ],
    ids=["arrays", "sums", "activations", "buffer"],
)
def test_a_damaged_store_is_named_and_refused_however_it_is_read(path, damage, read):
    read(path)
    damage(path)
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert f"run snakemake again:  rm -r {path}" in str(error.value)


def test_no_flipped_bit_of_a_store_goes_unnoticed(path):
    """Every byte of the chunks, and of the metadata that make a difference."""
    whole = arrays_module.read_arrays(path)
    rng = np.random.default_rng(1)
    for file in sorted(path.rglob("*")):
        if not file.is_file():
            continue
        original = file.read_bytes()
        for place in rng.integers(0, len(original), 25):
            flip(file, int(place))
            try:
                found = arrays_module.read_arrays(path)
            except UserError:
                pass
            else:
                assert file.name == "zarr.json", f"byte {place} of {file}"
                for name, values in whole.items():
                    np.testing.assert_array_equal(found[name], values)
            file.write_bytes(original)


def test_stores_of_other_runs_are_not_mixed(tmp_path):
    def make(name, **changes):
        path = tmp_path / name
        arrays_module.write_arrays(path, [("x", np.ones(1))], {**ABOUT, **changes})
        return path

    same = make("a/shard0.zarr")
    assert same_run.check_same_run([same, make("a/shard1.zarr", sequences=[8, 16])])["models"] == {
        "a/3": "m"
    }
    for changes, what in (
        ({"corpus_sha256": "d"}, "corpus_sha256"),
        ({"encoding": "float32"}, "encoding"),
        ({"model_sha256": "n"}, "the weights of a/3"),
    ):
        other = make("other.zarr", **changes)
        with pytest.raises(UserError, match=f"{other} and {same} differ in {what}"):
            same_run.check_same_run([same, other])
    for place in ([0, 8], [9, 16]):
        with pytest.raises(UserError, match="do not follow those of the shard before it"):
            same_run.check_same_run([same, make("a/shard1.zarr", sequences=place)])
    sums = make("sums.zarr", seed="b", model_sha256="k", models={"a/3": "n"})
    with pytest.raises(UserError, match="the weights of a/3"):
        same_run.check_same_run([same, sums])


DECLARED = Table("t", "For tests.", (STEP,), (Column("x", "float64", "", "Anything."),))


def table(path, **about):
    rows = pd.DataFrame({"step": np.arange(3000), "x": np.random.default_rng(0).random(3000)})
    write_table(path, DECLARED, rows, about)
    return rows


@pytest.mark.parametrize("left", [0, 3, 100, -1])
def test_a_half_written_table_is_named_and_refused(tmp_path, left):
    path = tmp_path / "t.parquet"
    table(path)
    path.write_bytes(path.read_bytes()[:left])
    for read in (
        read_table,
        lambda path: concatenate_table([path], tmp_path / "all", DECLARED, {}, []),
    ):
        with pytest.raises(UserError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: damaged")
        assert f"rm -r {path}" in str(error.value)
    assert not (tmp_path / "all").exists()


def test_a_missing_table_or_column_is_named(tmp_path):
    with pytest.raises(UserError, match="none.parquet: damaged"):
        read_table(tmp_path / "none.parquet")
    table(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="t.parquet: damaged .*y"):
        read_table(tmp_path / "t.parquet", ["step", "y"])


def test_no_flipped_bit_of_a_table_changes_what_is_read(tmp_path):
    path = tmp_path / "t.parquet"
    rows = table(path)
    original = path.read_bytes()
    for place in np.random.default_rng(2).integers(0, len(original) - 3000, 150):
        flip(path, int(place))
        try:
            found = read_table(path)
        except UserError:
            continue
        finally:
            path.write_bytes(original)
        pd.testing.assert_frame_equal(found, rows)


def test_a_table_of_another_method_is_refused(tmp_path):
    table(tmp_path / "t.parquet", method={"score": METHOD_VERSION["score"] + 1})
    with pytest.raises(UserError, match="made by version .* of the method 'score'"):
        read_table(tmp_path / "t.parquet")


def test_damaged_token_ids_and_json_files_are_refused(tmp_path):
    ids = np.arange(32, dtype=np.int32).reshape(4, 8)
    np.save(tmp_path / "tokens.npy", ids)
    about = {"sha256": tokens_module.token_digest(ids), "n_sequences": 4, "context_length": 8}
    tokens_module.check_digest(np.load(tmp_path / "tokens.npy", mmap_mode="r"), about)
    flip(tmp_path / "tokens.npy", -3)
    with pytest.raises(UserError, match="tokens.npy: damaged, .*rm -r"):
        tokens_module.check_digest(np.load(tmp_path / "tokens.npy", mmap_mode="r"), about)
    (tmp_path / "corpus.json").write_text('{"sha256": "ab')
    with pytest.raises(UserError, match="corpus.json: damaged"):
        files_module.read_json(tmp_path / "corpus.json")


def test_a_row_that_is_there_twice_is_named_and_refused(tmp_path):
    rows = table(tmp_path / "t.parquet")
    write_table(tmp_path / "t.parquet", DECLARED, pd.concat([rows, rows[:1]]), {})
    with pytest.raises(UserError) as error:
        concatenate_table([tmp_path / "t.parquet"], tmp_path / "all", DECLARED, {}, [])
    assert str(error.value).startswith(f"{tmp_path}/t.parquet: damaged (rows have the same step)")
    assert not (tmp_path / "all").exists()
    values = [0 if column.type.startswith("int") else 0.5 for column in TRACE.columns[2:]]
    trace = pd.DataFrame([["a", 10, *values]] * 2, columns=TRACE.names)
    write_table(tmp_path / "trace.parquet", TRACE, trace, {})
    with pytest.raises(UserError, match="trace.parquet: damaged .rows have the same seed, step"):
        read_traces([tmp_path / "trace.parquet"])


@pytest.mark.parametrize("said", ["{}", "null", "[]", '{"seed": "a", "step": "10"}'])
def test_what_is_known_of_a_model_is_there_or_refused(tmp_path, said):
    (tmp_path / "step10.json").write_text(said)
    ablation = pd.DataFrame({"seed": ["a"], "step": [10], "clean_loss": [2.0]})
    with pytest.raises(UserError, match="step10.json: damaged .it lacks .*sha256"):
        models_table([tmp_path / "step10.json"], ablation)


@pytest.mark.parametrize("said", ["null", "{}", "3", "[null]", '[{"seeds": ["a"]}]', "[["])
def test_a_damaged_list_of_what_was_dropped_stops_the_plan_with_a_message(local, tmp_path, said):
    where, config = local
    tiny.configure(tmp_path, {**config, "run": "damaged"})
    for name in ("my models", "tokens.npy"):
        (tmp_path / name).symlink_to(where / name)
    (tmp_path / "results/damaged").mkdir(parents=True)
    (tmp_path / "results/damaged/pruned.json").write_text(said)
    done = tiny.snakemake(tmp_path, "--dry-run")
    assert done.returncode != 0
    assert "results/damaged/pruned.json: damaged" in done.stdout
    assert "run snakemake again" in done.stdout
    assert "Traceback" not in done.stdout
