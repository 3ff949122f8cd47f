from universal_neurons.correlate.rotations import Rotating, write_rotated_std
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    write_rotated_std(
        snakemake.output[0],
        **dict(snakemake.input),
        rotating=Rotating(**snakemake.params.rotating),
        attributes=provenance(snakemake.config, "rotate"),
    )
