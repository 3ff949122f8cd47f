"""Drawing the figures of the registry, and writing them as files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from universal_neurons.errors import UserError
from universal_neurons.report.figures.registry import FIGURES, TABLES
from universal_neurons.report.figures.style import styled
from universal_neurons.report.findings import Findings
from universal_neurons.report.results import check_rows, read_tables
from universal_neurons.score.criterion import Criterion
from universal_neurons.store.files import replacing


def draw(name: str, findings: Findings) -> Figure:
    """Draw the figure `name` of `registry.FIGURES`.

    Parameters
    ----------
    name
        Its name.
    findings
        Of the tables that it needs, or more.

    Raises
    ------
    UserError
        If there is no such figure or one of its tables is empty or not given.
    """
    if name not in FIGURES:
        raise UserError(f"no figure named {name!r}; there are {', '.join(FIGURES)}")
    spec = FIGURES[name]
    for table in spec.tables:
        if table not in findings.tables:
            raise UserError(f"figure {name} needs the table {table}")
    check_rows(findings.tables, spec.tables, f"figure {name}")
    module = import_module(f"{__package__}.{spec.module}")
    with styled():
        return getattr(module, name)(findings)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as ``<path>.svg`` and ``<path>.png``; the same figure gives the same bytes.

    What `style.message` says in place of a drawing is the description among the SVG's metadata.
    """
    path, about = Path(path), {"Date": None, "Description": figure.get_label() or None}
    options: dict[str, dict[str, Any]] = {"svg": {"metadata": about}, "png": {"dpi": 150}}
    for kind, how in options.items():
        with styled(), replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, **how)


def write_figures(results: str | Path, out: str | Path, *, criterion: Criterion) -> None:
    """Draw every figure of `registry.FIGURES` from a run's tables.

    Parameters
    ----------
    results
        Directory ``results/<run>`` with the Parquet tables.
    out
        Directory for ``<name>.svg`` and ``<name>.png``.
    criterion
        When a neuron is universal.
    """
    findings = Findings(read_tables(results, TABLES), criterion)
    for name in FIGURES:
        save(draw(name, findings), Path(out) / name)
