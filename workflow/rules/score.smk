# Scores of every neuron at a step: standard errors, nulls, tables.


# One job for all pairs at a step: every model's activations are read once.
rule influence:
    input:
        matches=pair_parts,
        activations=measured_activations,
        moments=lambda wildcards: expand(
            MOMENTS, shard=GRID.shards, seed=GRID.by_name, step=wildcards.step
        ),
        calibration=expand(CALIBRATION, seed=GRID.by_name, allow_missing=True),
        given=(expand(GIVEN, seed=GRID.by_name, allow_missing=True) if MEASURES_GIVEN else []),
        tokens=f"{CORPUS}/tokens.npy",
        clusters=f"{CORPUS}/clusters.npy",
        about=f"{CORPUS}/corpus.json",
    output:
        directory(INFLUENCE),
    log:
        log_of("influence/step{step}"),
    benchmark:
        benchmark_of("influence/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("influence")
    resources:
        **asks("influence"),
    params:
        seeds=GRID.by_name,
        version=METHOD_VERSION["influence"],
    script:
        "../scripts/influence.py"


# What two models match that read different sequences, on a sample from the first shard.
rule permuted:
    input:
        a=activations_of("seed", "other", GRID.shards[:1]),
        b=activations_of("other", "seed", GRID.shards[:1]),
        moments_a=shards(MOMENTS),
        moments_b=shards(MOMENTS.replace("{seed}", "{other}")),
        calibration_a=CALIBRATION,
        calibration_b=CALIBRATION.replace("{seed}", "{other}"),
        rotations=ROTATIONS,
    output:
        directory(PERMUTED),
    log:
        log_of(PERMUTED),
    benchmark:
        benchmark_of(PERMUTED)
    conda:
        ENVIRONMENT
    threads: threads_of("permuted")
    resources:
        **asks("permuted"),
    params:
        context_length=config["corpus"]["context_length"],
        rotating=ROTATING,
        kernel=config["correlate"]["kernel"],
        version=METHOD_VERSION["permuted"],
    script:
        "../scripts/permuted.py"


# Two models with random weights, for grids without a step 0.
rule untrained:
    input:
        model=lambda wildcards: model_of(GRID.by_name[0], GRID.steps[0]),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        rotations=ROTATIONS,
    output:
        UNTRAINED,
    log:
        log_of("untrained"),
    benchmark:
        benchmark_of("untrained")
    conda:
        ENVIRONMENT
    threads: threads_of("untrained")
    resources:
        **asks("untrained"),
    params:
        capture=CAPTURE,
        rotating=ROTATING,
        kernel=config["correlate"]["kernel"],
        version=METHOD_VERSION["untrained"],
    script:
        "../scripts/untrained.py"


# What neurons match among random directions of the other seeds' real MLP inputs. One job for all
# pairs at a step: every model is run once.
rule random_directions:
    input:
        models=lambda wildcards: model_directories(wildcards, GRID.by_name),
        weights=lambda wildcards: weights_files(model_directories(wildcards, GRID.by_name)),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        rotations=ROTATIONS,
    output:
        directory(RANDOM_DIRECTIONS),
    log:
        log_of("random_directions/step{step}"),
    benchmark:
        benchmark_of("random_directions/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("random_directions")
    resources:
        **asks("random_directions"),
    params:
        seeds=GRID.by_name,
        capture=CAPTURE,
        drawing=DRAWING,
        rotating=ROTATING,
        kernel=config["correlate"]["kernel"],
        version=METHOD_VERSION["random_directions"],
    script:
        "../scripts/random_directions.py"


rule score:
    input:
        parts=pair_parts,
        moments=lambda wildcards: expand(
            MOMENTS, shard=GRID.shards, seed=GRID.seeds, step=wildcards.step
        ),
        # There are none without activations.
        influence=INFLUENCE if config["capture"]["store"] else [],
        permuted=permuted_pairs,
        given=expand(given_token(GIVEN), seed=GRID.by_name, allow_missing=True),
        untrained=untrained_scores,
        similarity=similar_pairs,
        random_directions=RANDOM_DIRECTIONS if DRAWING["draws"] else [],
    output:
        matches=BY_STEP.replace("{table}", "matches"),
        universality=BY_STEP.replace("{table}", "universality"),
        fractions=BY_STEP.replace("{table}", "fractions"),
        groups=BY_STEP.replace("{table}", "groups"),
        token_budget=BY_STEP.replace("{table}", "token_budget"),
        nulls=BY_STEP.replace("{table}", "nulls"),
        screening=BY_STEP.replace("{table}", "screening"),
        similarity=BY_STEP.replace("{table}", "similarity"),
    log:
        log_of("score/step{step}"),
    benchmark:
        benchmark_of("score/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("score")
    resources:
        **asks("score"),
    params:
        universality=config["universality"],
        version=METHOD_VERSION["score"],
    script:
        "../scripts/score.py"
