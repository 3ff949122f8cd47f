from pathlib import Path

from universal_neurons.jobs import job
from universal_neurons.models import hub
from universal_neurons.prepare.tokenizer import require_same

with job(snakemake.log[0]):
    models, out = snakemake.config["models"], Path(snakemake.output[0])
    own = [*snakemake.wildcards]
    first, *others = [hub.name_of(models, s, models["steps"][0]) for s in own or models["seeds"]]
    hub.fetch_tokenizer(first, out)
    require_same(map(hub.tokenizer_folder, others), out)
