"""The report of a run: its numbers in sentences, how far to trust them, figures and tables."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from docutils.core import publish_parts
from markupsafe import Markup

from universal_neurons.errors import UserError
from universal_neurons.report.figures.registry import FIGURES
from universal_neurons.report.findings import Findings
from universal_neurons.report.gallery import Shown, read_gallery
from universal_neurons.report.headlines import Headline, headlines
from universal_neurons.report.origin import origin
from universal_neurons.report.questions import OPENING_FIGURE, QUESTIONS, Question, belongs
from universal_neurons.report.results import (
    Tables,
    check_rows,
    read_benchmarks,
    read_tables,
    subset_preferences,
)
from universal_neurons.report.tables import short_tables
from universal_neurons.report.tiles import tiles
from universal_neurons.report.trust import trust, warnings
from universal_neurons.report.words import ShortTable
from universal_neurons.score.criterion import Criterion
from universal_neurons.store.arrays import attributes_of
from universal_neurons.store.files import read_record, replacing


@dataclass(frozen=True)
class More:
    """What a report shows of runs that have it.

    Attributes
    ----------
    benchmarks
        As `results.read_benchmarks` returns them.
    subsets
        As `results.subset_preferences` returns them.
    gallery
        As `gallery.read_gallery` returns it.
    """

    benchmarks: Mapping[str, Mapping[str, float]] | None = None
    subsets: pd.DataFrame | None = None
    gallery: Sequence[Shown] = ()


def write_report(
    tables: Tables,
    figures: str | Path,
    captions: str | Path,
    *,
    config: Mapping[str, Any],
    provenance: Mapping[str, str | int],
    out: str | Path,
    more: More = More(),
) -> None:
    """Write ``report.html``: one file that needs no other and loads nothing.

    Parameters
    ----------
    tables
        As `results.read_tables` returns them.
    figures
        Directory with ``<name>.svg`` for every name of `registry.FIGURES`.
    captions
        Directory with ``<name>.rst`` for each of these, and ``workflow.rst``.
    config
        The run's configuration, defaults filled in.
    provenance
        What to list as the run's origin, see `origin.origin`.
    out
        Path of the HTML file.
    more
        What not every run has.

    Raises
    ------
    UserError
        If a figure or caption is missing, or a table is empty.
    """
    check_rows(tables, tables, "report")
    findings = Findings(tables, Criterion.of(config["universality"]))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("universal_neurons.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    opening, *said = headlines(findings, config)
    short = short_tables(findings, more.benchmarks, more.subsets)
    drawn = {name: _figure(name, Path(figures), Path(captions)) for name in FIGURES}
    page = environment.get_template("report.html.j2").render(
        run=config["run"],
        warnings=warnings(findings, config),
        tiles=tiles(findings),
        opening=opening,
        gallery=more.gallery,
        opening_figure=drawn[OPENING_FIGURE],
        sections=[_section(question, said, drawn, short) for question in QUESTIONS],
        introduction=_caption(Path(captions) / "workflow.rst"),
        trust=trust(findings, config, int(provenance["scored tokens"])),
        configuration=_as_yaml(config),
        provenance=provenance,
    )
    with replacing(Path(out)) as temporary:
        temporary.write_text(page, encoding="utf-8")


def report_run(
    out: str | Path,
    *,
    figures: Sequence[str | Path],
    captions: Sequence[str | Path],
    about: str | Path,
    moments: Sequence[str | Path],
    config: Mapping[str, Any],
) -> None:
    """Write the report of a finished run into the folder of its results.

    Parameters
    ----------
    out
        HTML file to make, in the folder with the run's tables and its ``benchmarks``.
    figures, captions
        Files of the directories that `write_report` takes, at least one each.
    config
        See `write_report`.
    about
        What is known of the corpus (``corpus.json``).
    moments
        Stores of all shards of any model: all are scored on the same tokens.
    """
    corpus, results = read_record(about, {"sha256": str, "subsets": list}), Path(out).parent
    scored = sum(attributes_of(store)["n_tokens"] for store in moments)
    write_report(
        read_tables(results),
        Path(figures[0]).parent,
        Path(captions[0]).parent,
        config=config,
        provenance=origin(config, corpus, scored),
        out=out,
        more=More(
            read_benchmarks(results / "benchmarks"),
            subset_preferences(results) if corpus["subsets"] else None,
            read_gallery(results),
        ),
    )


def _section(
    question: Question,
    headlines: Sequence[Headline],
    figures: Mapping[str, Mapping[str, Any]],
    tables: Sequence[ShortTable],
) -> dict[str, Any]:
    """What the report shows for a question; figures that show nothing are sentences."""
    chosen = [figures[name] for name in question.figures]
    by_title = {table.title: table for table in tables}
    return {
        "anchor": question.anchor,
        "title": question.title,
        "headlines": [each for each in headlines if belongs(each.topic, question)],
        "figures": [figure for figure in chosen if not figure["nothing"]],
        "not_drawn": [figure for figure in chosen if figure["nothing"]],
        "tables": [by_title[title] for title in question.tables if title in by_title],
    }


def _figure(name: str, figures: Path, captions: Path) -> dict[str, Any]:
    path = figures / f"{name}.svg"
    if not path.is_file():
        raise UserError(f"{path} is missing: draw the figures first")
    svg = path.read_bytes()
    # Of `figures.style.message`.
    said = re.search(rb"<dc:description>(.*?)</dc:description>", svg, re.DOTALL)
    # Matplotlib gives the size in points, of which 72 make 96 CSS pixels.
    width = re.search(rb'<svg[^>]*? width="([\d.]+)pt"', svg)
    return {
        "name": name,
        "title": FIGURES[name].title,
        "nothing": unescape(said[1].decode()) if said else "",
        "caption": _caption(captions / f"{name}.rst"),
        "source": f"data:image/svg+xml;base64,{b64encode(svg).decode()}",
        "width": round(float(width[1]) * 96 / 72) if width else 900,
    }


def _caption(path: Path) -> Markup:
    if not path.is_file():
        raise UserError(f"{path} is missing: every figure needs a caption")
    parts = publish_parts(
        path.read_text(encoding="utf-8"),
        writer="html5",
        settings_overrides={"file_insertion_enabled": False, "raw_enabled": False},
    )
    return Markup(parts["body"])


def _as_yaml(config: Mapping[str, Any]) -> str:
    # By way of JSON, because Snakemake's config may hold its own kinds of dict.
    plain = json.loads(json.dumps(config, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None)
