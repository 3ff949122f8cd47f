from universal_neurons import hub
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    hub.fetch(
        hub.Name(*snakemake.params.name),
        snakemake.output[0],
        prune_cache=snakemake.params.prune_cache,
    )
