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
            log_of("fetch/seed{seed}/step{step}"),
        benchmark:
            benchmark_of("fetch/seed{seed}/step{step}")
        retries: 2
        conda:
            ENVIRONMENT
        threads: threads_of("fetch")
        resources:
            **asks("fetch"),
        params:
            name=hub_name,
            prune_cache=config["models"]["prune_cache"],
            version=METHOD_VERSION["fetch"],
        script:
            "../scripts/fetch.py"

    # Of the first model (with `corpus.align` of each seed's first one); of all of them, as the capture
    # makes sure. The name is looked up by the script: were it among the params, another first seed
    # would make the corpus again.
    rule fetch_tokenizer:
        output:
            directory(OWN_TOKENIZER),
        log:
            log_of(OWN_TOKENIZER),
        benchmark:
            benchmark_of(OWN_TOKENIZER)
        retries: 2
        conda:
            ENVIRONMENT
        threads: threads_of("fetch_tokenizer")
        resources:
            **asks("fetch_tokenizer"),
        params:
            templates=lambda wildcards: [config["models"][k] for k in ("repo", "revision")],
            version=METHOD_VERSION["fetch"],
        script:
            "../scripts/fetch_tokenizer.py"


if TRAINED:

    rule tokenizer:
        input:
            ancient(TEXT),
        output:
            directory(TOKENIZER),
        log:
            log_of("tokenizer"),
        benchmark:
            benchmark_of("tokenizer")
        conda:
            ENVIRONMENT
        threads: threads_of("tokenizer")
        resources:
            **asks("tokenizer"),
        params:
            corpus={k: config["corpus"][k] for k in ("source", "path", "text_key")},
            contents=CONTENTS,
            vocab_size=config["models"]["train"]["vocab_size"],
            version=METHOD_VERSION["train"],
        script:
            "../scripts/tokenizer.py"


rule corpus:
    input:
        text=ancient(TEXT),
        # The models themselves are no input: a seed added or removed would make the corpus, and so
        # everything, again. The capture of every model compares its tokenizer.
        tokenizer=TOKENIZERS,
    output:
        **CORPUS_SUBSETS,
        tokens=f"{CORPUS}/tokens.npy",
        clusters=f"{CORPUS}/clusters.npy",
        about=f"{CORPUS}/corpus.json",
    log:
        log_of("corpus"),
    benchmark:
        benchmark_of("corpus")
    conda:
        ENVIRONMENT
    threads: threads_of("corpus")
    resources:
        **asks("corpus"),
    params:
        **OF_TOKENIZERS,
        corpus=corpus.sequence_options(config["corpus"], GRID.loss_kind),
        contents=CONTENTS,
        models=lambda wildcards: GIVEN_TOKENIZER,
        version=METHOD_VERSION["corpus"],
    script:
        "../scripts/corpus.py"


rule selection:
    input:
        f"{CORPUS}/corpus.json",
    output:
        f"{CORPUS}/selection.json",
    log:
        log_of("selection"),
    benchmark:
        benchmark_of("selection")
    conda:
        ENVIRONMENT
    threads: threads_of("selection")
    resources:
        **asks("selection"),
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
            log_of("train/seed{seed}"),
        benchmark:
            benchmark_of("train/seed{seed}")
        conda:
            ENVIRONMENT
        threads: config["models"]["train"]["threads"]
        resources:
            **asks("train"),
        params:
            steps=MISSING,
            options=config["models"]["train"],
            # Not an output: it outlives a killed job, so that training goes on where it was.
            work_dir=f"{RESULTS}/training/seed{{seed}}",
        script:
            "../scripts/train.py"
