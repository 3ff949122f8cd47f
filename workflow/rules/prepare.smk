# Corpus to token sequences, and models where the workflow makes them.


if config["corpus"]["source"] == "hub":

    localrules:
        corpus,


# Models of the Hub, each once, by the machine that runs Snakemake: cluster nodes often have no
# network. A failed download is tried again; what was whole stays in the client's cache.
if HUB:

    localrules:
        fetch,
        fetch_tokenizer,

    rule fetch:
        output:
            directory(MODEL),
        log:
            f"{RESULTS}/logs/fetch/seed{{seed}}/step{{step}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/fetch/seed{{seed}}/step{{step}}.tsv"
        retries: 2
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=growing(cost(GRID, "fetch").mem_mb),
            runtime=growing(120),
        params:
            name=hub_name,
            prune_cache=config["models"]["prune_cache"],
            version=METHOD_VERSION["fetch"],
        script:
            "../scripts/fetch.py"

    # Of the first model; of all of them, as the capture makes sure. The name is looked up by the
    # script: were it among the params, another first seed would make the corpus again.
    rule fetch_tokenizer:
        output:
            directory(TOKENIZER),
        log:
            f"{RESULTS}/logs/fetch_tokenizer.log",
        benchmark:
            f"{RESULTS}/benchmarks/fetch_tokenizer.tsv"
        retries: 2
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=growing(1000),
            runtime=growing(30),
        params:
            templates=lambda wildcards: [config["models"][k] for k in ("repo", "revision")],
            version=METHOD_VERSION["fetch"],
        script:
            "../scripts/fetch_tokenizer.py"


if TRAINED:

    rule tokenizer:
        input:
            TEXT,
        output:
            directory(TOKENIZER),
        log:
            f"{RESULTS}/logs/tokenizer.log",
        benchmark:
            f"{RESULTS}/benchmarks/tokenizer.tsv"
        conda:
            ENVIRONMENT
        threads: 2
        resources:
            mem_mb=growing(2000),
            runtime=growing(30),
        params:
            corpus={k: config["corpus"][k] for k in ("source", "path", "text_key")},
            vocab_size=config["models"]["train"]["vocab_size"],
            version=METHOD_VERSION["train"],
        script:
            "../scripts/tokenizer.py"


rule corpus:
    input:
        text=TEXT,
        # The models themselves are no input: a seed added or removed would make the corpus, and so
        # everything, again. The capture of every model compares its tokenizer.
        tokenizer=[TOKENIZER] if TRAINED or HUB else [],
    output:
        **CORPUS_SUBSETS,
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
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        corpus=corpus.sequence_options(config["corpus"]),
        models=lambda wildcards: None if TRAINED or HUB else config["models"]["path"],
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
        mem_mb=growing(1000),
        runtime=growing(5),
    params:
        **corpus.selection_options(config),
    script:
        "../scripts/selection.py"


# Models already there are not among the outputs: a step added later would otherwise make Snakemake
# take all of them, and what depends on them, for changed. Other training options or another corpus
# have another folder (MODEL). A job goes on from the last state that its seed left.
MISSING = [
    step
    for step in GRID.steps
    if TRAINED and not all(Path(MODEL.format(seed=s, step=step)).exists() for s in GRID.seeds)
]

if MISSING:

    rule train:
        input:
            tokens=f"{CORPUS}/tokens.npy",
            about=f"{CORPUS}/corpus.json",
            tokenizer=TOKENIZER,
        output:
            [directory(MODEL.replace("{step}", str(step))) for step in MISSING],
        log:
            f"{RESULTS}/logs/train/seed{{seed}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/train/seed{{seed}}.tsv"
        conda:
            ENVIRONMENT
        threads: config["models"]["train"]["threads"]
        resources:
            mem_mb=growing(4000),
            runtime=growing(720),
        params:
            steps=MISSING,
            options=config["models"]["train"],
            # Not an output: it outlives a killed job, so that training goes on where it was.
            work=f"{RESULTS}/training/seed{{seed}}",
        script:
            "../scripts/train.py"
