# Partial sums straight from the models (`capture.store: false`): in place of capture and correlate.
# One job runs all seeds of a step over a shard, for as many layers as its memory holds sums of.

BLOCKS = GRID.layer_blocks(*GRID.pairs[0])


def sums_of_pairs(**wildcards):
    """The partial sums of all pairs."""
    return [
        expand(SUMS, seed=a, other=b, allow_missing=True, **wildcards)[0] for a, b in GRID.pairs
    ]


def of_all_seeds(pattern, **wildcards):
    """A path pattern for every seed, its other wildcards left to the job."""
    return expand(pattern, seed=GRID.by_name, allow_missing=True, **wildcards)


def sums_over_classes(**wildcards):
    """Those of every seed as outputs, where there are any."""
    stores = list(map(sum_store, of_all_seeds(CLASSES, **wildcards)))
    return {"classes": stores} if HAS_CLASSES else {}


OF_CLASSES = {"clusters": f"{CORPUS}/clusters.npy"} if HAS_CLASSES else {}


rule direct_first:
    input:
        **CORPUS_SUBSETS,
        **OF_CLASSES,
        model=lambda wildcards: model_directories(wildcards, GRID.by_name),
        weights=lambda wildcards: weights_files(model_directories(wildcards, GRID.by_name)),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
    output:
        **sums_over_classes(shard=0),
        sums=list(map(sum_store, sums_of_pairs(layers=BLOCKS[0], shard=0))),
        moments=list(map(directory, of_all_seeds(MOMENTS, shard=0))),
        within=list(map(directory, of_all_seeds(WITHIN, shard=0))),
        calibration=list(map(directory, of_all_seeds(CALIBRATION))),
        facts=of_all_seeds(MODEL_FACTS),
    log:
        log_of("direct/step{step}/shard0"),
    benchmark:
        benchmark_of("direct/step{step}/shard0")
    conda:
        ENVIRONMENT
    threads: threads_of("direct")
    resources:
        **asks("direct"),
    params:
        seeds=GRID.by_name,
        pairs=GRID.pairs,
        layers=parse_layers(BLOCKS[0]),
        sequences=GRID.shard_range(0),
        capture=CAPTURE,
        kernel=config["correlate"]["kernel"],
        version=[METHOD_VERSION["capture"], METHOD_VERSION["correlate"]],
    script:
        "../scripts/direct_first.py"


rule direct:
    input:
        **CORPUS_SUBSETS,
        **OF_CLASSES,
        model=lambda wildcards: model_directories(wildcards, GRID.by_name),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        calibration=of_all_seeds(CALIBRATION),
    output:
        **sums_over_classes(),
        sums=list(map(sum_store, sums_of_pairs(layers=BLOCKS[0]))),
        moments=list(map(directory, of_all_seeds(MOMENTS))),
        within=list(map(directory, of_all_seeds(WITHIN))),
    log:
        log_of("direct/step{step}/shard{shard}"),
    benchmark:
        benchmark_of("direct/step{step}/shard{shard}")
    wildcard_constraints:
        shard=r"[1-9]\d*",
    conda:
        ENVIRONMENT
    threads: threads_of("direct")
    resources:
        **asks("direct"),
    params:
        seeds=GRID.by_name,
        pairs=GRID.pairs,
        layers=parse_layers(BLOCKS[0]),
        sequences=lambda wildcards: GRID.shard_range(int(wildcards.shard)),
        capture=CAPTURE,
        kernel=config["correlate"]["kernel"],
        version=[METHOD_VERSION["capture"], METHOD_VERSION["correlate"]],
    script:
        "../scripts/direct.py"


rule direct_more:
    input:
        **CORPUS_SUBSETS,
        model=lambda wildcards: model_directories(wildcards, GRID.by_name),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        calibration=of_all_seeds(CALIBRATION),
    output:
        sums=list(map(sum_store, sums_of_pairs())),
    log:
        log_of("direct/step{step}/shard{shard}_layers{layers}"),
    benchmark:
        benchmark_of("direct/step{step}/shard{shard}_layers{layers}")
    wildcard_constraints:
        layers="|".join(BLOCKS[1:]) or "none",
    conda:
        ENVIRONMENT
    threads: threads_of("direct")
    resources:
        **asks("direct"),
    params:
        seeds=GRID.by_name,
        pairs=GRID.pairs,
        layers=layers_of,
        sequences=lambda wildcards: GRID.shard_range(int(wildcards.shard)),
        capture=CAPTURE,
        kernel=config["correlate"]["kernel"],
        version=[METHOD_VERSION["capture"], METHOD_VERSION["correlate"]],
    script:
        "../scripts/direct_more.py"
