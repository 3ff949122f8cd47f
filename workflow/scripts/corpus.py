import json
from pathlib import Path

from universal_neurons import corpus
from universal_neurons.grid import first_model
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    options, out = snakemake.params.corpus, snakemake.output
    directory = Path(*snakemake.input.tokenizer or [first_model(snakemake.config)])
    tokenizer = corpus.load_tokenizer(directory)
    if options["source"] == "tokens":
        corpus.copy_token_ids(options["path"], options["context_length"], out.tokens)
    else:
        files = corpus.text_files(options["source"], options["path"])
        texts = corpus.documents(files, options["text_key"])
        corpus.tokenise(
            texts, tokenizer, options["context_length"], seed=options["seed"], out=out.tokens
        )
    about = corpus.describe(out.tokens, tokenizer, options["source"])
    Path(out.about).write_text(json.dumps(about, indent=1))
