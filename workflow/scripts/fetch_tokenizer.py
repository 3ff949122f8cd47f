from universal_neurons.jobs import job
from universal_neurons.models import hub

with job(snakemake.log[0]):
    models = snakemake.config["models"]
    seed = snakemake.wildcards.get("seed", models["seeds"][0])
    name = hub.name_of(models, seed, models["steps"][0])
    hub.fetch_tokenizer(name, snakemake.output[0])
