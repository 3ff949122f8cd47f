# Best matches of pairs, exact or screened, and the scores of every step.


# The rotations are the same for all models: made once, they cost nothing when a step is added.
rule rotations:
    output:
        directory(ROTATIONS),
    log:
        f"{RESULTS}/logs/rotations.log",
    benchmark:
        f"{RESULTS}/benchmarks/rotations.tsv"
    conda:
        ENVIRONMENT
    threads: cost(GRID, "rotations").threads
    resources:
        mem_mb=growing(cost(GRID, "rotations").mem_mb),
        runtime=growing(cost(GRID, "rotations").minutes),
    params:
        layers=GRID.layer_kinds,
        baseline=config["baseline"],
        version=METHOD_VERSION["rotate"],
    script:
        "../scripts/rotations.py"


rule rotated_std:
    input:
        sums=shards(MOMENTS),
        within=shards(WITHIN),
        calibration=CALIBRATION,
        rotations=ROTATIONS,
    output:
        directory(ROTATED),
    log:
        ROTATED.replace(RESULTS, f"{RESULTS}/logs").replace(".zarr", ".log"),
    benchmark:
        ROTATED.replace(RESULTS, f"{RESULTS}/benchmarks").replace(".zarr", ".tsv")
    conda:
        ENVIRONMENT
    threads: cost(GRID, "rotated_std").threads
    resources:
        mem_mb=growing(cost(GRID, "rotated_std").mem_mb),
        runtime=growing(cost(GRID, "rotated_std").minutes),
    params:
        draws=config["baseline"]["draws"],
        version=METHOD_VERSION["rotate"],
    script:
        "../scripts/rotated_std.py"


rule match:
    input:
        sums=shards(SUMS),
        moments_a=shards(MOMENTS),
        moments_b=shards(MOMENTS.replace("{seed}", "{other}")),
        calibration_a=CALIBRATION,
        calibration_b=CALIBRATION.replace("{seed}", "{other}"),
        rotations=ROTATIONS,
        rotated_a=ROTATED,
        rotated_b=ROTATED.replace("{seed}", "{other}"),
    output:
        directory(MATCHES),
    log:
        MATCHES.replace(RESULTS, f"{RESULTS}/logs").replace(".zarr", ".log"),
    benchmark:
        MATCHES.replace(RESULTS, f"{RESULTS}/benchmarks").replace(".zarr", ".tsv")
    conda:
        ENVIRONMENT
    threads: cost(GRID, "match").threads
    resources:
        mem_mb=growing(cost(GRID, "match").mem_mb),
        runtime=growing(cost(GRID, "match").minutes),
    params:
        layers=layers_of,
        version=METHOD_VERSION["match"],
    script:
        "../scripts/match.py"


# Screened mode: all pairs on a sample of the tokens, then the candidates on all of them.
rule screen:
    input:
        a=activations_of("seed", "other"),
        b=activations_of("other", "seed"),
        moments_a=shards(MOMENTS),
        moments_b=shards(MOMENTS.replace("{seed}", "{other}")),
        calibration_a=CALIBRATION,
        calibration_b=CALIBRATION.replace("{seed}", "{other}"),
        rotations=ROTATIONS,
        rotated_a=ROTATED,
        rotated_b=ROTATED.replace("{seed}", "{other}"),
    output:
        directory(SCREEN),
    log:
        SCREEN.replace(RESULTS, f"{RESULTS}/logs").replace(".zarr", ".log"),
    benchmark:
        SCREEN.replace(RESULTS, f"{RESULTS}/benchmarks").replace(".zarr", ".tsv")
    conda:
        ENVIRONMENT
    threads: cost(GRID, "screen").threads
    resources:
        mem_mb=growing(cost(GRID, "screen").mem_mb),
        runtime=growing(cost(GRID, "screen").minutes),
    params:
        layers=layers_of,
        options={k: config["correlate"][k] for k in ("sample", "candidates", "kernel")},
        context_length=config["corpus"]["context_length"],
        version=METHOD_VERSION["screen"],
    script:
        "../scripts/screen.py"


rule refine:
    input:
        screens=screens,
        a=activations_of("seed", "other"),
        b=activations_of("other", "seed"),
        moments_a=shards(MOMENTS),
        moments_b=shards(MOMENTS.replace("{seed}", "{other}")),
        calibration_a=CALIBRATION,
        calibration_b=CALIBRATION.replace("{seed}", "{other}"),
    output:
        directory(REFINED),
    log:
        REFINED.replace(RESULTS, f"{RESULTS}/logs").replace(".zarr", ".log"),
    benchmark:
        REFINED.replace(RESULTS, f"{RESULTS}/benchmarks").replace(".zarr", ".tsv")
    conda:
        ENVIRONMENT
    threads: cost(GRID, "refine").threads
    resources:
        mem_mb=growing(cost(GRID, "refine").mem_mb),
        runtime=growing(cost(GRID, "refine").minutes),
    params:
        kernel=config["correlate"]["kernel"],
        version=[METHOD_VERSION["screen"], METHOD_VERSION["match"]],
    script:
        "../scripts/refine.py"


# One job for all pairs at a step: every model's activations are read once.
rule influence:
    input:
        matches=pair_parts,
        activations=measured_activations,
        moments=lambda wildcards: expand(
            MOMENTS, shard=GRID.shards, seed=GRID.seeds, step=wildcards.step
        ),
        calibration=expand(CALIBRATION, seed=GRID.seeds, allow_missing=True),
    output:
        directory(INFLUENCE),
    log:
        f"{RESULTS}/logs/influence/step{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/influence/step{{step}}.tsv"
    conda:
        ENVIRONMENT
    threads: cost(GRID, "influence").threads
    resources:
        mem_mb=growing(cost(GRID, "influence").mem_mb),
        runtime=growing(cost(GRID, "influence").minutes),
    params:
        seeds=GRID.seeds,
        context_length=config["corpus"]["context_length"],
        version=METHOD_VERSION["influence"],
    script:
        "../scripts/influence.py"


# What models match that read different sequences, on a sample from the first shard.
rule permuted:
    input:
        activations=lambda wildcards: measured_activations(wildcards)[: len(GRID.seeds)],
        moments=lambda wildcards: expand(
            MOMENTS, shard=GRID.shards, seed=GRID.seeds, step=wildcards.step
        ),
        calibration=expand(CALIBRATION, seed=GRID.seeds, allow_missing=True),
    output:
        directory(PERMUTED),
    log:
        f"{RESULTS}/logs/permuted/step{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/permuted/step{{step}}.tsv"
    conda:
        ENVIRONMENT
    threads: cost(GRID, "permuted").threads
    resources:
        mem_mb=growing(cost(GRID, "permuted").mem_mb),
        runtime=growing(cost(GRID, "permuted").minutes),
    params:
        seeds=GRID.seeds,
        context_length=config["corpus"]["context_length"],
        kernel=config["correlate"]["kernel"],
        version=METHOD_VERSION["permuted"],
    script:
        "../scripts/permuted.py"


# Two models with random weights, for grids without a step 0.
rule untrained:
    input:
        model=MODEL.format(seed=GRID.seeds[0], step=GRID.steps[0]),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        rotations=ROTATIONS,
    output:
        UNTRAINED,
    log:
        f"{RESULTS}/logs/untrained.log",
    benchmark:
        f"{RESULTS}/benchmarks/untrained.tsv"
    conda:
        ENVIRONMENT
    threads: cost(GRID, "untrained").threads
    resources:
        mem_mb=growing(cost(GRID, "untrained").mem_mb),
        runtime=growing(cost(GRID, "untrained").minutes),
    params:
        capture=CAPTURE,
        draws=config["baseline"]["draws"],
        kernel=config["correlate"]["kernel"],
        version=METHOD_VERSION["untrained"],
    script:
        "../scripts/untrained.py"


rule score:
    input:
        parts=pair_parts,
        # There are none without activations.
        influence=INFLUENCE if config["capture"]["store"] else [],
        permuted=PERMUTED if config["capture"]["store"] else [],
        untrained=untrained_scores,
    output:
        matches=BY_STEP.replace("{table}", "matches"),
        universality=BY_STEP.replace("{table}", "universality"),
        fractions=BY_STEP.replace("{table}", "fractions"),
        groups=BY_STEP.replace("{table}", "groups"),
        token_budget=BY_STEP.replace("{table}", "token_budget"),
        nulls=BY_STEP.replace("{table}", "nulls"),
    log:
        f"{RESULTS}/logs/score/step{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score/step{{step}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        threshold=config["universality"]["excess_threshold"],
        version=METHOD_VERSION["score"],
    script:
        "../scripts/score.py"
