"""`universal-neurons compare` prints the table of two runs and writes it and a figure."""

from __future__ import annotations

import pandas as pd
import pytest

from universal_neurons.commands.__main__ import main
from universal_neurons.report.comparison import compare


@pytest.fixture
def runs(local, screened):
    return [str(local[0] / "results/exact"), str(screened)]


def test_the_table_is_printed_with_every_step_and_layer(runs, capsys):
    main(["compare", *runs])
    said = capsys.readouterr().out
    rows = [line.split()[:3] for line in said.splitlines() if line.lstrip()[:3] in ("10 ", "20 ")]
    assert rows == [
        [step, layer, "240" if layer == "all" else "120"]
        for step in ("10", "20")
        for layer in ("all", "0", "1")
    ]
    assert f"a is {runs[0]}, b is {runs[1]}" in said


@pytest.mark.parametrize(
    ("name", "read"), [("table.csv", pd.read_csv), ("new/table.parquet", pd.read_parquet)]
)
def test_the_table_is_written_in_the_form_of_its_name(runs, name, read, tmp_path):
    main(["compare", *runs, "--output", str(tmp_path / name)])
    pd.testing.assert_frame_equal(read(tmp_path / name), compare(*runs).table, check_dtype=False)


@pytest.mark.parametrize(("name", "start"), [("x.svg", b"<?xml"), ("x.png", b"\x89PNG")])
def test_the_figure_is_written_in_the_form_of_its_name(runs, name, start, tmp_path):
    main(["compare", *runs, "--figure", str(tmp_path / name)])
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("option", "kinds"), [("output", ".csv or .parquet"), ("figure", ".svg or .png")]
)
def test_another_form_is_refused_before_anything_is_read(option, kinds, tmp_path):
    with pytest.raises(SystemExit, match=f"error: --{option} x.txt: .* ends with {kinds}"):
        main(["compare", "no", "run", f"--{option}", "x.txt"])


def test_one_run_is_not_compared_with_the_published_counts_by_this_name(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "results/x"])
    assert "the following arguments are required: b" in capsys.readouterr().err
