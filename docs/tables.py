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

A *seed* is text, also where it is a number in the configuration: `df[df.seed == 7]` is empty. In
pandas it is an ordered category, in Parquet and pyarrow an ordered dictionary, in the order of
`models.seeds`: sorting, grouping and legends follow it, and so do the rows.

```python
import pandas as pd

df = pd.read_parquet("results/my-study/universality.parquet")  # models.seeds: [23, 7, 11]
df[df.seed == "7"]  # the neurons of seed 7
df.groupby("seed").universal.mean()  # 23, 7, 11
list(df.seed.cat.categories)  # ['23', '7', '11']
df.seed.astype(str)  # plain text
```

Parts have plain text, since they don't depend on the order.

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
