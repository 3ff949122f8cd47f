from universal_neurons.correlate.given import write_given
from universal_neurons.correlate.rotations import Rotating
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    write_given(
        snakemake.output[0],
        **dict(snakemake.input),
        rotating=Rotating(**snakemake.params.rotating),
        attributes=provenance(snakemake.config, "given"),
    )
