from universal_neurons.activations.products import sum_pair
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    sum_pair(
        *(*snakemake.input.a, *snakemake.input.b),
        snakemake.params.layers,
        snakemake.params.kernel,
        snakemake.resources.layers,
        path=snakemake.output[0],
        attributes=provenance(snakemake.config, "correlate"),
    )
