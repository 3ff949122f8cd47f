from pathlib import Path

from universal_neurons.describe.vocabulary import vocabulary
from universal_neurons.jobs import job
from universal_neurons.plan.grid import tokenizer_directory
from universal_neurons.prepare.tokens import read_facts
from universal_neurons.store.columns.examples import VOCABULARY
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    directory = Path(*snakemake.input.tokenizer or [tokenizer_directory(snakemake.config)])
    size = max(snakemake.params.size, 1 + read_facts(snakemake.input.about)["max_token_id"])
    rows = vocabulary(directory, size)
    write_table(snakemake.output[0], VOCABULARY, rows, provenance(snakemake.config, "examples"))
