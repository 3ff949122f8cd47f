from universal_neurons import corpus, training
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    options = snakemake.params.corpus
    texts = corpus.documents(
        corpus.text_files(options["source"], options["path"]), options["text_key"]
    )
    training.train_tokenizer(texts, snakemake.params.vocab_size, snakemake.output[0])
