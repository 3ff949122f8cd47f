"""The tables of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from universal_neurons.errors import UserError
from universal_neurons.store.columns.registry import TABLES
from universal_neurons.store.tables import attributes_of, read_table


class Tables:
    """The tables of a run.

    Every table of ``docs/tables.md`` is an attribute of its name, such as ``run.universality`` or
    ``run.fractions``, a DataFrame that is read once.

    Parameters
    ----------
    path
        Folder ``results/<run>``.

    Raises
    ------
    UserError
        If the folder has no results of a run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "universality.parquet").is_file():
            raise UserError(
                f"{self.path}: no results of a run here (universality.parquet is missing); give "
                "the folder results/<run> of a run that has ended"
            )
        self._read: dict[str, pd.DataFrame] = {}

    @property
    def tables(self) -> list[str]:
        """Names of the tables that the run has."""
        return sorted(name for name in TABLES if self._file(name).is_file())

    def table(self, name: str) -> pd.DataFrame:
        """A table by name, read once.

        Raises
        ------
        UserError
            If the run has no such table, or it is damaged.
        """
        if name not in self._read:
            if not self._file(name).is_file():
                has = ", ".join(self.tables)
                raise UserError(f"{self.path}: this run has no table {name}; it has {has}")
            self._read[name] = read_table(self._file(name))
        return self._read[name]

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.parquet"

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name in TABLES:
            return self.table(name)
        raise AttributeError(f"a run has no {name!r}; run.tables says which tables it has")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.tables]

    @cached_property
    def about(self) -> dict[str, Any]:
        """Provenance: version of the package, hash of the configuration, processor."""
        return attributes_of(self._file("universality"))

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.about["run"])

    @cached_property
    def seeds(self) -> list[str]:
        """Its seeds, in the order of the configuration."""
        return [str(seed) for seed in self.universality["seed"].cat.categories]

    @cached_property
    def steps(self) -> list[int]:
        """Its steps, in ascending order."""
        return sorted(int(step) for step in self.universality["step"].unique())

    def rows(self, table: str, **where: Any) -> pd.DataFrame:
        """Rows of a table with certain values, such as ``run.rows("neurons", step=400, seed="0")``.

        Only these rows are read from the file.

        Raises
        ------
        UserError
            If the run has no such table or step or seed.
        """
        self.check(where)
        if not self._file(table).is_file():
            self.table(table)
        filters = [(key, "==", value) for key, value in where.items()]
        return read_table(self._file(table), filters=filters or None).reset_index(drop=True)

    def check(self, where: Mapping[str, Any]) -> None:
        """Refuse seeds and steps that the run doesn't have.

        Raises
        ------
        UserError
            If ``seed``, ``other_seed`` or ``step`` is of another run.
        """
        for key, known in (("seed", self.seeds), ("other_seed", self.seeds), ("step", self.steps)):
            if key in where and where[key] not in known:
                kind = "seeds, as text," if known is self.seeds else "steps"
                raise UserError(
                    f"{self.path}: no {key} {where[key]!r}; the run's {kind} are "
                    f"{', '.join(map(repr, known))}"
                )

    @cached_property
    def _pieces(self) -> dict[int, str]:
        """Text of the tokens; none where the run has no table of them."""
        if "vocabulary" not in self.tables:
            return {}
        known = self.table("vocabulary")
        return dict(zip(known["token_id"].tolist(), known["text"], strict=True))

    def text(self, token_ids: Iterable[int]) -> str:
        """Tokens as text; ``#17`` for one that has none."""
        return "".join(self._pieces.get(int(token), f"#{token}") for token in token_ids)
