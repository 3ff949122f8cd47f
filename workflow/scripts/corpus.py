from pathlib import Path

from universal_neurons.jobs import job
from universal_neurons.plan.grid import first_model
from universal_neurons.prepare import corpus
from universal_neurons.prepare import tokens as tokens_module
from universal_neurons.store.files import write_json

with job(snakemake.log[0]):
    model = Path(*snakemake.input.tokenizer or [first_model(snakemake.config)])
    tokenizer = tokens_module.load_tokenizer(model)
    made = snakemake.output
    about = corpus.make(snakemake.params.corpus, tokenizer, made.tokens, made.get("subsets"))
    write_json(made.about, about)
