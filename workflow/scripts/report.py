from universal_neurons.jobs import job
from universal_neurons.report.page import report_run

with job(snakemake.log[0]):
    given, out, config = snakemake.input, snakemake.output[0], snakemake.config
    inputs = {name: given[name] for name in ("figures", "captions", "about", "moments")}
    report_run(out, **inputs, config=config)
