from universal_neurons.activations.products import sum_pair
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, params, options = snakemake.input, snakemake.params, snakemake.config["correlate"]
    how = params.layers, params.kernel, snakemake.resources.layers, options["device"]
    about = provenance(snakemake.config, "correlate")
    sum_pair(*given.a, *given.b, *how, path=snakemake.output[0], attributes=about)
