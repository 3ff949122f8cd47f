import json
from pathlib import Path

from universal_neurons import corpus
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    options, out = snakemake.params.corpus, snakemake.output
    directories = [Path(path) for path in snakemake.input.tokenizers]
    if options["source"] == "tokens":
        tokenizer = corpus.load_tokenizer(directories[0])
        corpus.copy_token_ids(options["path"], options["context_length"], out.tokens)
    else:
        tokenizer = corpus.common_tokenizer(directories)
        files = corpus.text_files(options["source"], options["path"])
        texts = corpus.documents(files, options["text_key"])
        corpus.tokenise(
            texts, tokenizer, options["context_length"], seed=options["seed"], out=out.tokens
        )
    about = corpus.describe(out.tokens, tokenizer, options["source"])
    Path(out.about).write_text(json.dumps(about, indent=1))
