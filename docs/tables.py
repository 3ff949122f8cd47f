"""Print docs/tables.md, the columns of all result tables, from their declarations: make tables."""

from __future__ import annotations

from universal_neurons.store.columns.declare import Table
from universal_neurons.store.columns.registry import TABLES

INTRODUCTION = """\
# Result tables

Every table of a run is a Parquet file in `results/<run>/` (parts of it in `results/<run>/tables/`).
Layers, neurons and steps count from 0. *null* says that values may be missing (NaN or None in
pandas); without it there is a value in every row. No two rows of a table have the same values in
all of its first columns, those in **bold**. A correlation is Pearson's, from −1 to 1; a share is
from 0 to 1.

This page is made from the declarations in `src/universal_neurons/store/columns/` (`make tables`),
which the workflow holds every table to when it writes it.
"""


def section(table: Table) -> str:
    """A table as a section of the page."""
    rows = ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
    for column in table.columns:
        name = f"**{column.name}**" if column in table.keys else column.name
        kind = f"{column.type}, null" if column.nullable else column.type
        rows.append(f"| {name} | {kind} | {column.unit} | {column.meaning} |")
    return "\n".join([f"## {table.name}", "", table.about, "", *rows, ""])


print("\n".join([INTRODUCTION, *map(section, TABLES.values())]), end="")
