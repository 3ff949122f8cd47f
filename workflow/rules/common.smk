import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

from universal_neurons.prepare import corpus
from universal_neurons.prepare.contents import digests
from universal_neurons.models import hub
from universal_neurons.errors import UserError
from universal_neurons.forks.scripts import run_scripts_as_forks
from universal_neurons.method import METHOD_VERSION
from universal_neurons.plan import pruned
from universal_neurons.plan.config import resolve
from universal_neurons.plan.cost import asked
from universal_neurons.plan.disk import shards_note
from universal_neurons.plan.grid import model_directory, parse_layers
from universal_neurons.plan.records import keep_records
from universal_neurons.plan.once import ask_once
from universal_neurons.plan.ready import classes_note, notes, ready_grid
from universal_neurons.plan.shares import summary
from universal_neurons.plan.sizes import Sizes
from universal_neurons.plan.turns import take_turns
from universal_neurons.store.files import check_writable

try:
    config.update(resolve(config))
    GRID = ready_grid(config)
    TEXT = corpus.source_files(config["corpus"])
    # In place of their times: a file that was touched or copied makes nothing again.
    CONTENTS = digests(TEXT, known=".snakemake/universal_neurons/contents.json")
    # Activations that were dropped (`make prune`).
    PRUNED = pruned.read_pruned(f"results/{config['run']}")
except UserError as error:
    raise WorkflowError(str(error)) from None

SCREENED = config["correlate"]["mode"] == "screened"
TRAINED = config["models"]["source"] == "train"
HUB = config["models"]["source"] == "hub"
# Sums over classes of tokens: without stored activations only where memory holds them.
HAS_CLASSES = Sizes(GRID).has_classes
# Whether documents' part in what is left given the token is measured.
MEASURES_GIVEN = Sizes(GRID).measured_means > 0

RESULTS = f"results/{config['run']}"
keep_records(RESULTS)
ask_once()
if not (config["capture"]["keep"] and config["correlate"]["keep_sums"]):
    take_turns()
# Tables that have a part per step, and others.
OF_STEPS = ["matches", "universality", "fractions", "groups", "nulls", "token_budget"]
OF_STEPS += ["screening", "similarity"]
TABLES = [*OF_STEPS, "ablation", "doses", "effects", "mediation"]
TABLES += ["persistence", "trajectories", "neurons", "models"]
if GRID.config.corpus.has_subsets:
    TABLES.append("subsets")

# What all neurons are for and what makes them fire.
OF_MODELS = ["roles", "families"]
# Of contexts, which are chosen at the last step, and of what tokens are.
OF_CONTEXTS = ["examples", "histograms", "activating_tokens"]
DESCRIBED = [*OF_MODELS, *OF_CONTEXTS, "contexts", "vocabulary"]

# Paths by wildcards; {seed} and {other} are a pair.
CORPUS = f"{RESULTS}/corpus"
# Which subset of the corpus every token is of, where it has subsets.
CORPUS_SUBSETS = {"subsets": f"{CORPUS}/subsets.npy"} if "subsets" in TABLES else {}
TOKENIZER = f"{RESULTS}/tokenizer"
# Where the tokenizer is said to be; the workflow makes or fetches others.
GIVEN_TOKENIZER = config["models"]["tokenizer"] or (
    None if TRAINED or HUB else config["models"]["path"]
)
# With `corpus.align` every seed has its own.
ALIGNED = config["corpus"]["align"] != "none"
OWN_TOKENIZER = f"{TOKENIZER}/seed{{seed}}" if ALIGNED else TOKENIZER
TOKENIZERS = expand(OWN_TOKENIZER, seed=GRID.seeds) if ALIGNED else [TOKENIZER]
TOKENIZERS = [] if GIVEN_TOKENIZER else TOKENIZERS
# What the corpus depends on beside them, whose sequences and positions follow from all tokenizers.
OF_TOKENIZERS = {"seeds": GRID.by_name, "vocabulary": GRID.vocabulary or 0} if ALIGNED else {}
# Of the models that the workflow makes or fetches.
MODELS = f"{RESULTS}/models/{GRID.training_key(CONTENTS)}" if TRAINED else f"{RESULTS}/models"
MODEL = f"{MODELS}/seed{{seed}}/step{{step}}"
CALIBRATION = f"{RESULTS}/calibration/seed{{seed}}/step{{step}}.zarr"
MODEL_FACTS = f"{RESULTS}/calibration/seed{{seed}}/step{{step}}.json"
ACTIVATIONS = f"{RESULTS}/activations/seed{{seed}}/step{{step}}/shard{{shard}}.zarr"
RESTORED = f"{RESULTS}/restored/seed{{seed}}/step{{step}}/shard{{shard}}.zarr"
MOMENTS = f"{RESULTS}/moments/seed{{seed}}/step{{step}}/shard{{shard}}.zarr"
WITHIN = f"{RESULTS}/within/seed{{seed}}/step{{step}}/shard{{shard}}.zarr"
CLASSES = f"{RESULTS}/classes/seed{{seed}}/step{{step}}/shard{{shard}}.zarr"
ROTATIONS = f"{RESULTS}/rotations.zarr"
ROTATED = f"{RESULTS}/rotated/seed{{seed}}/step{{step}}.zarr"
GIVEN = f"{RESULTS}/given/seed{{seed}}/step{{step}}.zarr"
SUMS = f"{RESULTS}/sums/step{{step}}/{{seed}}/{{other}}/layers{{layers}}/shard{{shard}}.zarr"
MATCHES = f"{RESULTS}/matches/step{{step}}/{{seed}}/{{other}}/layers{{layers}}.zarr"
SIMILARITY = f"{RESULTS}/similarity/step{{step}}/{{seed}}/{{other}}.zarr"
SCREEN = f"{RESULTS}/screen/step{{step}}/{{seed}}/{{other}}/layers{{layers}}.zarr"
REFINED = f"{RESULTS}/refined/step{{step}}/{{seed}}/{{other}}.zarr"
INFLUENCE = f"{RESULTS}/influence/step{{step}}.zarr"
PERMUTED = f"{RESULTS}/permuted/step{{step}}/{{seed}}/{{other}}.zarr"
RANDOM_DIRECTIONS = f"{RESULTS}/random_directions/step{{step}}.zarr"
UNTRAINED = f"{RESULTS}/untrained.parquet"
BY_STEP = f"{RESULTS}/tables/{{table}}/step{{step}}.parquet"
BY_MODEL = f"{RESULTS}/tables/{{table}}/seed{{seed}}/step{{step}}.parquet"
ABLATION = BY_MODEL.replace("{table}", "ablation/{kind}")
TRACE = BY_MODEL.replace("{table}", "trace")

# What ablated activations are replaced with.
KINDS = config["ablation"]["kinds"]

# One caption per figure, which gives the figure its name, and one for the whole workflow.
CAPTIONS = sorted(map(str, Path(str(workflow.current_basedir), "..", "report").glob("*.rst")))
FIGURES = sorted({Path(caption).stem for caption in CAPTIONS} - {"workflow"})

ENVIRONMENT = "../../envs/universal-neurons.yaml"

# What captured values depend on; not how many tokens are run at a time, nor what is stored and kept.
CAPTURE = {
    key: config["capture"][key]
    for key in ("encoding", "dtype", "device", "calibration_tokens", "headroom")
}
CAPTURE |= {key: config["corpus"][key] for key in ("exclude_token_ids", "exclude_positions")}
# How the baseline rotates neurons, besides the rotations themselves.
ROTATING = {key: config["baseline"][key] for key in ("draws", "standardise")}
# What correlations are conditioned by; not a parameter where it is the token alone, as it ever was.
CONDITIONING = {"kinds": config["correlate"]["given"]}
CONDITIONING = {} if CONDITIONING["kinds"] == ["token"] else CONDITIONING
# How random directions are drawn, and what they are matched on.
DRAWING = {key: config["nulls"]["random_directions"][key] for key in ("draws", "seed")}
DRAWING["sequences"] = GRID.sequences_of_directions()
# What neurons are described on, and the step at which their contexts are chosen.
DESCRIBING = {"n": GRID.described_sequences()}
DESCRIBING["exclude"] = config["corpus"]["exclude_token_ids"]
DESCRIBING["positions"] = config["corpus"]["exclude_positions"]
HOME = GRID.steps[-1]
# How models are loaded that are run without being captured.
LOAD = {key: config["capture"][key] for key in ("dtype", "device")}


wildcard_constraints:
    seed="|".join(map(re.escape, GRID.seeds)),
    other="|".join(map(re.escape, GRID.seeds)),
    step="|".join(map(str, GRID.steps)),
    shard=r"\d+",
    layers=r"\d+-\d+",
    kind="|".join(KINDS) or "none",


def asks(rule):
    """Memory and run time that a rule's jobs ask a scheduler for: once as much more each attempt."""
    needed = asked(GRID, rule)
    amounts = {"mem_mb": needed.mem_mb, "runtime": needed.minutes}
    return {name: growing(amount) for name, amount in amounts.items()}


def growing(amount):
    """A resource as a function of the attempt."""
    return lambda wildcards, attempt: attempt * amount


def threads_of(rule):
    """Threads of a rule's jobs."""
    return asked(GRID, rule).threads


def log_of(name):
    """A job's log: by a name with its wildcards, or by the store that it makes."""
    return f"{RESULTS}/logs/{_stem(name)}.log"


def benchmark_of(name):
    """A job's time and memory, as `log_of`."""
    return f"{RESULTS}/benchmarks/{_stem(name)}.tsv"


def _stem(name):
    return name.removeprefix(f"{RESULTS}/").removesuffix(".zarr")


def model_of(seed, step):
    """Directory of a model, wherever it is from."""
    if TRAINED or HUB:
        return MODEL.format(seed=seed, step=step)
    return model_directory(config, seed, step)


def model_directories(wildcards, seeds=None):
    """Directories of a job's model, or of several seeds at its step."""
    return [model_of(seed, wildcards.step) for seed in seeds or [wildcards.seed]]


def later_model(wildcards):
    """Directory of a job's seed at the next step."""
    return [model_of(wildcards.seed, next_step(wildcards))]


def weights_files(directories):
    """Files of weights in local model directories: a directory's own time says nothing of them."""
    if TRAINED or HUB:
        return []
    files = (file for directory in directories for file in sorted(Path(directory).glob("*")))
    return [str(file) for file in files if file.suffix in (".safetensors", ".bin")]


def next_step(wildcards):
    """The step after a job's."""
    return GRID.steps[GRID.steps.index(int(wildcards.step)) + 1]


def hub_name(wildcards):
    """Repository and revision of a job's model on the Hub."""
    name = hub.name_of(config["models"], wildcards.seed, int(wildcards.step))
    return [name.repo, name.revision]


def pair_parts(wildcards):
    """The match stores of all pairs at a step."""
    if SCREENED:
        return [REFINED.format(step=wildcards.step, seed=a, other=b) for a, b in GRID.pairs]
    return [
        MATCHES.format(step=wildcards.step, seed=a, other=b, layers=layers)
        for a, b in GRID.pairs
        for layers in GRID.layer_blocks(a, b)
    ]


def permuted_pairs(wildcards):
    """The stores of permuted matches of all pairs at a step; there are none without activations."""
    if not config["capture"]["store"]:
        return []
    return [PERMUTED.format(step=wildcards.step, seed=a, other=b) for a, b in GRID.pairs]


def similar_pairs(wildcards):
    """The stores of similarity of all pairs at a step, where there are any."""
    if SCREENED or not config["correlate"]["similarity"]:
        return []
    return [SIMILARITY.format(step=wildcards.step, seed=a, other=b) for a, b in GRID.pairs]


def sums_of_block(wildcards):
    """The partial sums of a block of layers of a pair, of all shards."""
    block = GRID.sum_block(wildcards.seed, wildcards.other, wildcards.layers)
    return expand(SUMS, shard=GRID.shards, **{**wildcards, "layers": block})


def sums_of_layers(wildcards):
    """A pair's partial sums of all blocks of layers, of each all shards."""
    blocks = GRID.sum_blocks(wildcards.seed, wildcards.other)
    return expand(SUMS, layers=blocks, shard=GRID.shards, **wildcards)


def examples_read(wildcards):
    """Examples whose contexts a model reads: of its own seed, or at the last step of the others."""
    last = wildcards.step == str(HOME)
    seeds = [seed for seed in GRID.by_name if (seed != wildcards.seed) == last]
    return expand(BY_MODEL, table="examples", seed=seeds, step=HOME)


def matches_read(wildcards):
    """What says which neurons of a model are partners of the others'."""
    return [BY_STEP.format(table="matches", step=HOME)] if wildcards.step == str(HOME) else []


def untrained_scores(wildcards):
    """Scores of untrained models, which those of a step are held against: step 0's, if there is."""
    if 0 not in GRID.steps:
        return UNTRAINED
    return BY_STEP.format(table="universality", step=0) if wildcards.step != "0" else []


def given_token(pattern):
    """What a model is given classes of tokens, where there are sums over these."""
    return pattern if HAS_CLASSES else []


def screens(wildcards):
    """The stores of a pair's screening."""
    return expand(SCREEN, layers=GRID.layer_blocks(wildcards.seed, wildcards.other), **wildcards)


def activation_store(path):
    """Activations as an output: kept, or deleted once their sums are made (`capture.keep`)."""
    return directory(path) if config["capture"]["keep"] else temp(directory(path))


def sum_store(path):
    """Partial sums as an output: kept, or deleted once they are read (`correlate.keep_sums`)."""
    return directory(path) if config["correlate"]["keep_sums"] else temp(directory(path))


def activations_of(own, other, shards=GRID.shards):
    """An input function: activations of a pair's seed `own`, of the job's shard or of some."""

    def stores(wildcards):
        step, found = int(wildcards.step), []
        for shard in [int(wildcards.shard)] if "shard" in wildcards.keys() else shards:
            cell, with_it = (wildcards[own], step, shard), (wildcards[other], step, shard)
            pattern = RESTORED if pruned.to_restore(PRUNED, cell, with_it) else ACTIVATIONS
            found.append(pattern.format(seed=cell[0], step=step, shard=shard))
        return found

    return stores


def measured_activations(wildcards):
    """All seeds' activations that errors are measured on, by shard, then by seed."""
    cells = [
        (seed, int(wildcards.step), shard)
        for shard in GRID.measured_shards
        for seed in GRID.by_name
    ]
    found = []
    for cell in cells:
        again = any(pruned.to_restore(PRUNED, cell, other) for other in cells)
        pattern = RESTORED if again else ACTIVATIONS
        found.append(pattern.format(**dict(zip(("seed", "step", "shard"), cell))))
    return found


def shards(pattern):
    """An input function: a path pattern for all shards, its other wildcards left to the job."""
    return lambda wildcards: expand(pattern, shard=GRID.shards, **wildcards)


def layers_of(wildcards):
    """Layers of a block of layers."""
    return parse_layers(wildcards.layers)


def cells(pattern, **more):
    """A path pattern for every step and seed of the grid, in the order of joined rows."""
    return expand(pattern, step=GRID.steps, seed=GRID.seeds, **more)


def ablated(pattern, **more):
    """A path pattern for every model that is ablated: none if no kind of ablation is asked for."""
    return cells(pattern, **more) if KINDS else []
