from universal_neurons import hub
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    models = snakemake.config["models"]
    first = hub.name_of(models, models["seeds"][0], models["steps"][0])
    hub.fetch_tokenizer(first, snakemake.output[0])
