from universal_neurons.jobs import job
from universal_neurons.prepare import text as corpus
from universal_neurons.prepare import training

with job(snakemake.log[0]):
    options = snakemake.params.corpus
    files = corpus.all_text_files(options["source"], options["path"])
    documents = corpus.documents(files, options["text_key"])
    training.train_tokenizer(documents, snakemake.params.vocab_size, snakemake.output[0])
