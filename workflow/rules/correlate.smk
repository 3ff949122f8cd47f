# Partial sums of pairs and their best matches, exact or screened.


# The rotations are the same for all models: made once, they cost nothing when a step is added.
rule rotations:
    output:
        directory(ROTATIONS),
    log:
        log_of("rotations"),
    benchmark:
        benchmark_of("rotations")
    conda:
        ENVIRONMENT
    threads: threads_of("rotations")
    resources:
        **asks("rotations"),
    params:
        layers=GRID.layer_kinds,
        baseline={key: config["baseline"][key] for key in ("draws", "seed")},
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
        log_of(ROTATED),
    benchmark:
        benchmark_of(ROTATED)
    conda:
        ENVIRONMENT
    threads: threads_of("rotated_std")
    resources:
        **asks("rotated_std"),
    params:
        rotating=ROTATING,
        version=METHOD_VERSION["rotate"],
    script:
        "../scripts/rotated_std.py"


if HAS_CLASSES:

    rule given:
        input:
            sums=shards(MOMENTS),
            within=shards(WITHIN),
            classes=shards(CLASSES),
            calibration=CALIBRATION,
            rotations=ROTATIONS,
        output:
            directory(GIVEN),
        log:
            log_of(GIVEN),
        benchmark:
            benchmark_of(GIVEN)
        conda:
            ENVIRONMENT
        threads: threads_of("given")
        resources:
            **asks("given"),
        params:
            **CONDITIONING,
            rotating=ROTATING,
            version=METHOD_VERSION["given"],
        script:
            "../scripts/given.py"


# Without stored activations the models themselves give the partial sums (direct.smk).
if config["capture"]["store"]:

    rule correlate:
        input:
            a=activations_of("seed", "other"),
            b=activations_of("other", "seed"),
        output:
            sum_store(SUMS),
        log:
            log_of(SUMS),
        benchmark:
            benchmark_of(SUMS)
        conda:
            ENVIRONMENT
        threads: threads_of("correlate")
        resources:
            **asks("correlate"),
            # Not a parameter: sums are the same whatever is held at a time.
            layers=lambda wildcards: GRID.layers_of_job(wildcards.seed, wildcards.other),
        params:
            layers=layers_of,
            kernel=config["correlate"]["kernel"],
            version=METHOD_VERSION["correlate"],
        script:
            "../scripts/correlate.py"


rule match:
    input:
        sums=sums_of_block,
        moments_a=shards(MOMENTS),
        moments_b=shards(MOMENTS.replace("{seed}", "{other}")),
        calibration_a=CALIBRATION,
        calibration_b=CALIBRATION.replace("{seed}", "{other}"),
        rotations=ROTATIONS,
        rotated_a=ROTATED,
        rotated_b=ROTATED.replace("{seed}", "{other}"),
        given_a=given_token(GIVEN),
        given_b=given_token(GIVEN.replace("{seed}", "{other}")),
    output:
        directory(MATCHES),
    log:
        log_of(MATCHES),
    benchmark:
        benchmark_of(MATCHES)
    conda:
        ENVIRONMENT
    threads: threads_of("match")
    resources:
        **asks("match"),
    params:
        layers=layers_of,
        version=METHOD_VERSION["match"],
    script:
        "../scripts/match.py"


# Exact mode: whole layers, from the same sums.
rule similarity:
    input:
        sums=sums_of_layers,
        moments_a=shards(MOMENTS),
        moments_b=shards(MOMENTS.replace("{seed}", "{other}")),
        within_a=shards(WITHIN),
        within_b=shards(WITHIN.replace("{seed}", "{other}")),
        calibration_a=CALIBRATION,
        calibration_b=CALIBRATION.replace("{seed}", "{other}"),
    output:
        directory(SIMILARITY),
    log:
        log_of(SIMILARITY),
    benchmark:
        benchmark_of(SIMILARITY)
    conda:
        ENVIRONMENT
    threads: threads_of("similarity")
    resources:
        **asks("similarity"),
    params:
        version=METHOD_VERSION["similarity"],
    script:
        "../scripts/similarity.py"


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
        clusters=f"{CORPUS}/clusters.npy",
        about=f"{CORPUS}/corpus.json",
    output:
        directory(SCREEN),
    log:
        log_of(SCREEN),
    benchmark:
        benchmark_of(SCREEN)
    conda:
        ENVIRONMENT
    threads: threads_of("screen")
    resources:
        **asks("screen"),
    params:
        layers=layers_of,
        sampling={k: config["correlate"][k] for k in ("sample", "candidates", "kernel")},
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
        rotations=ROTATIONS,
        rotated_a=ROTATED,
        rotated_b=ROTATED.replace("{seed}", "{other}"),
        given_a=given_token(GIVEN),
        given_b=given_token(GIVEN.replace("{seed}", "{other}")),
    output:
        directory(REFINED),
    log:
        log_of(REFINED),
    benchmark:
        benchmark_of(REFINED)
    conda:
        ENVIRONMENT
    threads: threads_of("refine")
    resources:
        **asks("refine"),
    params:
        kernel=config["correlate"]["kernel"],
        version=[METHOD_VERSION["screen"], METHOD_VERSION["match"]],
    script:
        "../scripts/refine.py"
