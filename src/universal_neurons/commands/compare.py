"""Two runs side by side: ``universal-neurons compare results/a results/b``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from universal_neurons.errors import UserError
from universal_neurons.report.comparison import Comparison, compare
from universal_neurons.store.columns.declare import ALL_LAYERS
from universal_neurons.store.files import replacing

# What the columns of the printed table are.
LEGEND = """\
corr, mean_difference, max_difference, shift   of excess correlation: differences without sign, and
                                               the mean of b less a
n_a, n_b, n_both, jaccard, a_in_b, b_in_a      of universal neurons: a_in_b is the share of those of
                                               a that are universal in b
same_partner                                   best matches that are the same neuron in both"""


def page(a: Path, b: Path, output: Path | None = None, figure: Path | None = None) -> str:
    """Compare two runs and say what agrees.

    Parameters
    ----------
    a, b
        Directories ``results/<run>``.
    output
        File for the table: .csv or .parquet.
    figure
        File for the figure: .svg or .png.

    Raises
    ------
    UserError
        If a file has another suffix, or of `comparison.compare`.
    """
    write = _writer("--output", output, {".csv": _write_csv, ".parquet": _write_parquet})
    draw = _writer("--figure", figure, {".svg": _draw, ".png": _draw})
    found = compare(a, b)
    write(found)
    draw(found)
    table = found.table.astype({"layer": str}).replace({"layer": {str(ALL_LAYERS): "all"}})
    shown = table.to_string(index=False, float_format="{:.4g}".format, na_rep="–")
    return "\n".join([*found.notes, "", shown, "", LEGEND])


def _writer(
    option: str, path: Path | None, kinds: Mapping[str, Callable[[Comparison, Path], None]]
) -> Callable[[Comparison], None]:
    """Writes to a file by its suffix; nothing where there is none."""
    if path is None:
        return lambda found: None
    if path.suffix not in kinds:
        raise UserError(f"{option} {path}: write to a file that ends with {' or '.join(kinds)}")
    return lambda found: kinds[path.suffix](found, path)


def _write_csv(found: Comparison, path: Path) -> None:
    with replacing(path) as temporary:
        found.table.to_csv(temporary, index=False)


def _write_parquet(found: Comparison, path: Path) -> None:
    with replacing(path) as temporary:
        found.table.to_parquet(temporary, index=False)


def _draw(found: Comparison, path: Path) -> None:
    from universal_neurons.report.figures.comparison import comparison
    from universal_neurons.report.figures.style import styled

    with styled(), replacing(path) as temporary:
        form = path.suffix.removeprefix(".")
        metadata = {"Date": None} if form == "svg" else None
        comparison(found).savefig(temporary, format=form, dpi=150, metadata=metadata)
