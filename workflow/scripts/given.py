from universal_neurons.correlate.given import write_given
from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.rotations import Rotating
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, config = snakemake.input, snakemake.config
    model = Captured(given.sums, given.calibration)
    how = {"rotating": Rotating(**snakemake.params.rotating), "kinds": config["correlate"]["given"]}
    where = {name: given[name] for name in ("within", "classes", "rotations")}
    write_given(snakemake.output[0], model, **where, **how, attributes=provenance(config, "given"))
