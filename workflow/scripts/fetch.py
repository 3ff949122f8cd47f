from universal_neurons.jobs import job
from universal_neurons.models import hub

with job(snakemake.log[0]):
    hub.fetch(
        hub.Name(*snakemake.params.name),
        snakemake.output[0],
        prune_cache=snakemake.params.prune_cache,
    )
