# Corpus to token sequences, and models where the workflow makes them.


rule tokenizer:
    input:
        text_inputs,
    output:
        directory(f"{RESULTS}/tokenizer"),
    log:
        f"{RESULTS}/logs/tokenizer.log",
    benchmark:
        f"{RESULTS}/benchmarks/tokenizer.tsv"
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        corpus={k: config["corpus"][k] for k in ("source", "path", "text_key")},
        vocab_size=config["models"]["train"]["vocab_size"],
        version=METHOD_VERSION["train"],
    script:
        "../scripts/tokenizer.py"


rule corpus:
    input:
        text=text_inputs,
        tokenizers=tokenizer_directories,
    output:
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
    log:
        f"{RESULTS}/logs/corpus.log",
    benchmark:
        f"{RESULTS}/benchmarks/corpus.tsv"
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        corpus={
            k: config["corpus"][k]
            for k in ("source", "path", "text_key", "context_length", "seed")
        },
        version=METHOD_VERSION["corpus"],
    script:
        "../scripts/corpus.py"


rule selection:
    input:
        f"{CORPUS}/corpus.json",
    output:
        f"{CORPUS}/selection.json",
    log:
        f"{RESULTS}/logs/selection.log",
    benchmark:
        f"{RESULTS}/benchmarks/selection.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        tokens=config["corpus"]["tokens"],
        heldout_tokens=config["corpus"]["heldout_tokens"],
        train=config["models"]["source"] == "train",
    script:
        "../scripts/selection.py"


rule train:
    input:
        tokens=f"{CORPUS}/tokens.npy",
        # Only the check that the corpus suffices is wanted; its figures don't enter the training.
        selection=ancient(f"{CORPUS}/selection.json"),
        tokenizer=f"{RESULTS}/tokenizer",
    output:
        [directory(MODEL.replace("{step}", str(step))) for step in GRID.steps],
    log:
        f"{RESULTS}/logs/train/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: config["models"]["train"]["threads"]
    resources:
        mem_mb=4000,
        runtime=720,
    params:
        steps=GRID.steps,
        options=config["models"]["train"],
        version=METHOD_VERSION["train"],
        # Not an output: it outlives a killed job, so that training goes on where it was.
        work=f"{RESULTS}/training/seed{{seed}}",
    script:
        "../scripts/train.py"
