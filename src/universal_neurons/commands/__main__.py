"""The command line: ``universal-neurons COMMAND``, which the make targets call too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from universal_neurons.errors import UserError


def _estimate(given: argparse.Namespace) -> str:
    from universal_neurons.commands import estimate

    return estimate.page(given.config, given.snakefile)


def _status(given: argparse.Namespace) -> str:
    from universal_neurons.commands import status

    if given.watch:
        status.watch(given.config, given.snakefile, stream=sys.stdout)
        return ""
    return status.of_run(given.config, given.snakefile)[0]


def _prune(given: argparse.Namespace) -> str:
    from universal_neurons.commands import prune

    return prune.of_run(given.config, given.what, given.snakefile)


def _compare(given: argparse.Namespace) -> str:
    from universal_neurons.commands import compare

    return compare.page(given.a, given.b, given.output, given.figure)


def _compare_published(given: argparse.Namespace) -> str:
    from universal_neurons.commands import published

    return published.page(given.results)


def _show(given: argparse.Namespace) -> str:
    from universal_neurons.api.run import open_run

    return str(open_run(given.results).neuron_at(given.neuron))


def _export_csv(given: argparse.Namespace) -> str:
    from universal_neurons.commands import export

    return export.csv(given.results, given.table, given.output)


def _export_gurnee(given: argparse.Namespace) -> str:
    from universal_neurons.commands import export

    return export.gurnee(given.results, given.seed, given.step, given.output)


def _export_rosetta(given: argparse.Namespace) -> str:
    from universal_neurons.commands import export

    return export.rosetta(given.results, given.seeds, given.step, given.output)


def _export_neuronpedia(given: argparse.Namespace) -> str:
    from universal_neurons.commands import export

    return export.neuronpedia(given.results, given.seed, given.model_id, given.output)


# Commands import what they need when they are called: pandas and torch take seconds.
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="universal-neurons",
        description="What surrounds a run of the workflow; snakemake itself runs it.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, about: str, run: object) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=about, description=about)
        found.set_defaults(run=run)
        return found

    estimate = add("estimate", "Jobs, bytes and time, of all and of what is to do.", _estimate)
    status = add("status", "How far a run is, what failed and what takes room on disk.", _status)
    prune = add(
        "prune", "Drop activations, partial sums or sums by class of a finished run.", _prune
    )
    for command in (estimate, status, prune):
        command.add_argument(
            "config",
            nargs="?",
            type=Path,
            default=Path("config.yaml"),
            help="the run's configuration (config.yaml)",
        )
        command.add_argument(
            "--snakefile", type=Path, help="the workflow's (Snakefile in this folder)"
        )
    status.add_argument(
        "--watch", action="store_true", help="show it again every few seconds until all is done"
    )
    prune.add_argument(
        "--what",
        choices=("activations", "sums", "classes"),
        default="activations",
        help="what to drop (activations)",
    )
    compare = add("compare", "How far two runs over the same models agree.", _compare)
    for name in ("a", "b"):
        compare.add_argument(name, type=Path, help="a run's directory, results/<run>")
    compare.add_argument("--output", type=Path, help="write the table: FILE.csv or .parquet")
    compare.add_argument("--figure", type=Path, help="draw it: FILE.svg or .png")
    published = add(
        "compare-published",
        "Universal neurons of a run of GPT-2 or Pythia 160M beside the published counts.",
        _compare_published,
    )
    show = add("show", "The card of a neuron: scores, partners, training, examples.", _show)
    for command in (published, show):
        command.add_argument("results", type=Path, help="the run's directory, results/<run>")
    show.add_argument("neuron", help="seed/step/layer/neuron, as 0/400/1/86")
    export = add("export", "Results in the formats of other tools.", None)
    _add_exports(export.add_subparsers(required=True, metavar="KIND"))
    return parser


def _add_exports(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def add(name: str, about: str, run: object, output: str) -> argparse.ArgumentParser:
        found = kinds.add_parser(name, help=about, description=about)
        found.set_defaults(run=run)
        found.add_argument("results", type=Path, help="the run's directory, results/<run>")
        found.add_argument("--output", type=Path, help=f"what to write ({output})")
        return found

    csv = add("csv", "A table as CSV.", _export_csv, "TABLE.csv")
    csv.add_argument("table", help="its name, as universality; docs/tables.md has all")
    gurnee = add(
        "gurnee", "The columns of universal.csv of 2401.12181.", _export_gurnee, "universal.csv"
    )
    rosetta = add(
        "rosetta",
        "Mutual matches of two seeds as best_buddies.json.",
        _export_rosetta,
        "best_buddies.json",
    )
    rosetta.add_argument("--seeds", nargs=2, metavar="SEED", help="which (the first two)")
    for command in (gurnee, rosetta):
        command.add_argument("--step", type=int, help="which step (the last)")
    neuronpedia = add(
        "neuronpedia",
        "Features and activations of a seed for Neuronpedia.",
        _export_neuronpedia,
        "neuronpedia/",
    )
    neuronpedia.add_argument("--model-id", required=True, help="the model's name there")
    for command in (gurnee, neuronpedia):
        command.add_argument("--seed", help="which seed (the first)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and print what it says; a mistake ends with its message alone.

    Parameters
    ----------
    arguments
        Of the command line; those of the process if None.
    """
    given = _parser().parse_args(arguments)
    try:
        if said := given.run(given):
            print(said)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
