"""Versions of the method, which results depend on."""

# Version of the method behind each kind of result. A change here makes Snakemake run again what
# depends on it; a change of code that can't change results leaves it alone.
METHOD_VERSION = {
    "corpus": 3,
    "train": 1,
    "fetch": 1,
    "capture": 4,
    "correlate": 2,
    "rotate": 3,
    "given": 1,
    "match": 5,
    "screen": 5,
    "similarity": 1,
    "influence": 5,
    "permuted": 4,
    "untrained": 2,
    "random_directions": 2,
    "score": 17,
    "ablate": 5,
    "persist": 4,
    "trace": 1,
    "describe": 2,
    "examples": 1,
    "report": 14,
    "explorer": 3,
}
