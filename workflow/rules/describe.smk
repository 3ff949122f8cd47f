# What single neurons do: in which contexts they are active, here and in other models.


# One job for both, as loading the model takes a small study longer than either.
rule describe:
    input:
        **CORPUS_SUBSETS,
        model=model_directories,
        facts=MODEL_FACTS,
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        vocabulary=f"{RESULTS}/vocabulary.parquet",
    output:
        roles=BY_MODEL.replace("{table}", "roles"),
        families=BY_MODEL.replace("{table}", "families"),
    log:
        log_of("describe/seed{seed}/step{step}"),
    benchmark:
        benchmark_of("describe/seed{seed}/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("describe")
    resources:
        **asks("describe"),
    params:
        text=DESCRIBING,
        cutoffs={"roles": config["roles"], "families": config["families"]},
        load=LOAD,
        version=METHOD_VERSION["describe"],
    script:
        "../scripts/describe.py"


# Contexts are those of the last step: a later step has its own, and all models read them again.
rule examples:
    input:
        **CORPUS_SUBSETS,
        model=model_directories,
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        moments=shards(MOMENTS),
        universality=expand(BY_STEP, table="universality", step=GRID.steps),
        groups=expand(BY_STEP, table="groups", step=GRID.steps),
        effects=expand(BY_MODEL, table="single", allow_missing=True) if KINDS else [],
    output:
        examples=BY_MODEL.replace("{table}", "examples"),
        histograms=BY_MODEL.replace("{table}", "histograms"),
        activating_tokens=BY_MODEL.replace("{table}", "activating_tokens"),
    log:
        log_of("examples/seed{seed}/step{step}"),
    benchmark:
        benchmark_of("examples/seed{seed}/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("examples")
    resources:
        **asks("examples"),
    params:
        text=DESCRIBING,
        neurons=config["explorer"]["neurons"],
        random_seed=config["explorer"]["seed"],
        load=LOAD,
        version=METHOD_VERSION["examples"],
    script:
        "../scripts/examples.py"


rule contexts:
    input:
        model=model_directories,
        facts=MODEL_FACTS,
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        examples=examples_read,
        matches=matches_read,
    output:
        BY_MODEL.replace("{table}", "contexts"),
    log:
        log_of("contexts/seed{seed}/step{step}"),
    benchmark:
        benchmark_of("contexts/seed{seed}/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("contexts")
    resources:
        **asks("contexts"),
    params:
        load=LOAD,
        version=METHOD_VERSION["examples"],
    script:
        "../scripts/contexts.py"


rule vocabulary:
    input:
        tokenizer=TOKENIZERS,
        about=f"{CORPUS}/corpus.json",
    output:
        f"{RESULTS}/vocabulary.parquet",
    log:
        log_of("vocabulary"),
    benchmark:
        benchmark_of("vocabulary")
    conda:
        ENVIRONMENT
    threads: threads_of("vocabulary")
    resources:
        **asks("vocabulary"),
    params:
        size=GRID.vocabulary or 0,
        version=METHOD_VERSION["examples"],
    script:
        "../scripts/vocabulary.py"
