"""What a declaration of a table says, and how rows are held to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    # A plan reads what tables are declared to be, and not a row.
    import pandas as pd

# Seeds are text; where the run's seeds are known, categories in the order of the configuration.
TYPES = {
    "text": pa.large_string(),
    "seed": pa.large_string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "list<int32>": pa.list_(pa.int32()),
    "list<int64>": pa.list_(pa.int64()),
    "list<float32>": pa.list_(pa.float32()),
}

# A column of one kind is stored as another of the same kind if no value changes.
KINDS: tuple[Callable[[pa.DataType], bool], ...] = (
    lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
)


@dataclass(frozen=True)
class Column:
    """A column of a result table.

    Attributes
    ----------
    name
        As files have it.
    type
        One of `TYPES`.
    unit
        Of its values; empty where they have none.
    meaning
        One sentence, or less.
    nullable
        Whether values may be missing (null in files, NaN or None in pandas).
    """

    name: str
    type: str
    unit: str
    meaning: str
    nullable: bool = False

    def accepts(self, found: pa.DataType) -> bool:
        """Whether values of a type are of this column's kind; no values at all are of any."""
        own = TYPES[self.type]
        if pa.types.is_dictionary(found):
            found = found.value_type
        if pa.types.is_list(own) and (pa.types.is_list(found) or pa.types.is_large_list(found)):
            own, found = own.value_type, found.value_type
        return pa.types.is_null(found) or any(kind(found) and kind(own) for kind in KINDS)


@dataclass(frozen=True)
class Table:
    """A result table.

    Attributes
    ----------
    name
        Of its file, without ``.parquet``.
    about
        What it holds.
    keys
        Columns that no two rows have alike: there is one row for each.
    values
        The others.
    """

    name: str
    about: str
    keys: tuple[Column, ...]
    values: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns in order."""
        return self.keys + self.values

    @property
    def names(self) -> list[str]:
        """Names of all columns in order."""
        return [column.name for column in self.columns]

    def conform(self, rows: pd.DataFrame | pa.Table) -> pa.Table:
        """Rows with the declared columns in their order and type.

        Raises
        ------
        ValueError
            If a column is undeclared, missing, of another kind, or lacks values that it must have.
        """
        found = rows
        if not isinstance(found, pa.Table):
            found = pa.Table.from_pandas(found, preserve_index=False)
        if undeclared := set(found.column_names) - set(self.names):
            raise ValueError(f"{self.name} has undeclared columns: {', '.join(sorted(undeclared))}")
        if missing := set(self.names) - set(found.column_names):
            raise ValueError(f"{self.name} has no column {', '.join(sorted(missing))}")
        for column in self.columns:
            values = found[column.name]
            if not column.accepts(values.type):
                raise ValueError(f"{self.name}.{column.name} is {values.type}, not {column.type}")
            if values.null_count and not column.nullable:
                raise ValueError(f"{self.name}.{column.name} lacks values")
        fields = [pa.field(column.name, TYPES[column.type]) for column in self.columns]
        return found.select(self.names).cast(pa.schema(fields))

    def check_keys(self, rows: pa.Table) -> None:
        """Refuse conforming rows of which two have the same keys, as a ValueError."""
        names = [column.name for column in self.keys]
        # Sorting numbers is much faster than grouping rows.
        keys = [
            rows[name].combine_chunks().dictionary_encode("encode").indices.to_numpy()
            for name in names
        ]
        order = np.lexsort(keys)
        if np.all([np.diff(key[order]) == 0 for key in keys], axis=0).any():
            raise ValueError(f"rows have the same {', '.join(names)}")

    def order(self, rows: pa.Table, seeds: Sequence[str]) -> pa.Table:
        """Make the seeds of conforming rows ordered categories, and sort the rows by them.

        Rows are sorted by the keys up to the last seed among them; else they keep their order.

        Parameters
        ----------
        rows
            As `conform` returns them.
        seeds
            In their order; the empty label of a mean over seeds, where there is one, comes first.

        Raises
        ------
        ValueError
            If a row is of another seed.
        """
        places = [i for i, key in enumerate(self.keys) if key.type == "seed"]
        for i in places:
            labels = rows[self.keys[i].name].combine_chunks()
            mean = [""] if pc.any(pc.equal(labels, "")).as_py() else []
            known = pa.array([*mean, *seeds], pa.large_string())
            codes = pc.index_in(labels, known)
            if codes.null_count:
                raise ValueError(f"{self.name}.{self.keys[i].name} has seeds not of the run")
            ordered = pa.DictionaryArray.from_arrays(codes, known, ordered=True)
            rows = rows.set_column(i, self.keys[i].name, ordered)
        if not places:
            return rows
        leading = [rows[key.name].combine_chunks() for key in self.keys[: max(places) + 1]]
        by = [getattr(key, "indices", key).to_numpy() for key in leading]
        return rows.take(np.lexsort(by[::-1]))


STEP = Column("step", "int64", "", "Training step.")
SEED = Column("seed", "seed", "", "Label of an independently trained model.")
LAYER = Column("layer", "int32", "", "Transformer block, counted from 0.")
NEURON = Column("neuron", "int32", "", "Index into the hidden width of the layer's MLP, from 0.")
# In place of a layer.
ALL_LAYERS = -1
LAYER_OR_ALL = Column("layer", "int64", "", "Transformer block, counted from 0; −1 for all.")
# As `arange` makes them.
WIDE_LAYER, WIDE_NEURON = replace(LAYER, type="int64"), replace(NEURON, type="int64")

EXCESS = Column(
    "excess_corr",
    "float64",
    "correlation",
    "Excess correlation: largest correlation less its rotated baseline, mean over the other seeds.",
)
UNIVERSAL = Column(
    *("universal", "bool", ""),
    "Whether the excess correlation is above the threshold, see `universality`.",
)
