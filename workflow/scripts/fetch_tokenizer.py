from universal_neurons.jobs import job
from universal_neurons.models import hub

with job(snakemake.log[0]):
    models = snakemake.config["models"]
    first = hub.name_of(models, models["seeds"][0], models["steps"][0])
    hub.fetch_tokenizer(first, snakemake.output[0])
