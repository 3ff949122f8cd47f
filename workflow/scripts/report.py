from pathlib import Path

from universal_neurons.jobs import job
from universal_neurons.report.page import write_report
from universal_neurons.report.results import read_benchmarks, read_tables, subset_preferences
from universal_neurons.store.arrays import attributes_of
from universal_neurons.store.files import read_json
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, results = snakemake.input, Path(snakemake.output[0]).parent
    corpus = read_json(given.about)
    scored_tokens = sum(attributes_of(store)["n_tokens"] for store in given.moments)
    write_report(
        read_tables(results),
        Path(given.figures[0]).parent,
        Path(given.captions[0]).parent,
        config=snakemake.config,
        provenance=provenance(
            snakemake.config, token_hash=corpus["sha256"], scored_tokens=scored_tokens
        ),
        out=Path(snakemake.output[0]),
        subsets=subset_preferences(results) if given.get("subsets") else None,
        benchmarks=read_benchmarks(results / "benchmarks"),
    )
