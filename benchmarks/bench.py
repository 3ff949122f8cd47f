"""Measure the workflow's speed and accuracy on this machine, side by side with the older procedure.

`make bench` runs it and writes results/bench.json; docs/performance.md explains the figures. Every
ratio is of two things measured in turns in this one run. Times are medians.
"""

from __future__ import annotations

import datetime
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import ablation
import numpy as np
import torch
from accuracy import accuracy, calibration_of
from corals_top import against_corals
from disk import peak_disk_ratio
from planning import plan_seconds
from repeated import RepeatedLayer, repeated
from transformers import GPT2Config, GPT2LMHeadModel

from universal_neurons.activations import kernels, products
from universal_neurons.activations.calibration import write_calibration
from universal_neurons.activations.codes import Codes, Escapes
from universal_neurons.activations.reader import Activations
from universal_neurons.activations.rounding import Dither, bits
from universal_neurons.capture import capture
from universal_neurons.capture.layer_pass import LayerPass
from universal_neurons.correlate import refine
from universal_neurons.correlate.audit import SHARE
from universal_neurons.correlate.candidates import Screens
from universal_neurons.correlate.exact_sums import Wanted, exact_sums
from universal_neurons.correlate.match import match
from universal_neurons.correlate.neurons import Neurons
from universal_neurons.correlate.rotations import (
    Baseline,
    Rotating,
    rotation,
    write_rotated_std,
    write_rotations,
)
from universal_neurons.correlate.screen import Sampling, Side
from universal_neurons.correlate.screen import screen as screen_layers
from universal_neurons.jobs import keep_memory
from universal_neurons.models import load as models
from universal_neurons.models.forward import forward
from universal_neurons.prepare.clusters import LEAST_SEQUENCES
from universal_neurons.prepare.reading import Documents
from universal_neurons.store.arrays import create_array, new_store, write_arrays
from universal_neurons.store.rows import RowWriter

WIDTH = 3072  # neurons per layer of GPT-2 Small
DEPTH = 12  # layers
LAYERS = 3  # of its layers that a job holds, at the default of correlate.memory_gb
OTHERS = 4  # layers of the other model that such a job of the screened mode is measured with
CONTEXT = 512
DRAWS = 5
TARGET_TOKENS = 5_000_000
# Share of codes beyond int8's in `kernel`: that of the synthetic activations, reported beside it.
ESCAPING = 3.8e-5
CPU = torch.device("cpu")


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median time of some work."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def peaks() -> dict[str, float]:
    """Rates of square-ish matrix products at each precision, G operations per second."""
    tokens, wide = 16384, 8192
    found = {}
    for name, dtype in (("int8", torch.int8), ("bf16", torch.bfloat16), ("f32", torch.float32)):
        a = torch.ones(WIDTH, tokens, dtype=dtype)
        b = torch.ones(tokens, wide, dtype=dtype)
        product = torch._int_mm if dtype == torch.int8 else torch.mm
        out = torch.empty(WIDTH, wide, dtype=torch.int32 if dtype == torch.int8 else dtype)
        work = lambda product=product, a=a, b=b, out=out: product(a, b, out=out)  # noqa: E731
        work()
        found[name] = 2 * a.numel() * wide / seconds(work, 5 if name == "int8" else 2) / 1e9
    return found


def random_codes(rng: np.random.Generator, tokens: int) -> Codes:
    """Codes of a layer, of which as many escape as of the synthetic activations."""
    dense = rng.integers(-127, 128, (tokens, WIDTH), dtype=np.int8)
    place = np.sort(rng.choice(dense.size, int(ESCAPING * dense.size), replace=False))
    row, neuron = place // WIDTH, (place % WIDTH).astype(np.int32)
    code = rng.integers(128, 400, len(place)).astype(np.float32)
    dense[row, neuron] = 127
    return Codes(dense, Escapes(row, neuron, code))


def kernel() -> float:
    """Rate of partial sums at 3,072 × 36,864 neurons, from arrays in memory, G op/s."""
    rng = np.random.default_rng(0)
    tokens = products.block_tokens(WIDTH)
    a, *others = (random_codes(rng, tokens) for _ in range(3))
    totals = [np.zeros((WIDTH, WIDTH), np.int64) for _ in range(12)]

    def work() -> None:
        for i, total in enumerate(totals):
            kernels.add_products(total, a, others[i % 2], "int8")

    work()
    return 2 * tokens * WIDTH * WIDTH * 12 / seconds(work) / 1e9


def write_escapes(group: Path, layer: int, escapes: Escapes) -> None:
    """As `capture.capture` stores them."""
    for name, values in escapes.arrays().items():
        create_array(group, f"{name}{layer}", values.shape, values.dtype)[:] = values


def synthetic(where: Path, n_tokens: int, n_layers: int, shards: int) -> list[dict]:
    """Two models' activations with shared, slowly changing, heavy-tailed features; as captured.

    Half of the second model's neurons resemble one of the first, to any degree. Returns, per model,
    the paths of its stores.
    """
    rng = np.random.default_rng(0)
    n, factors = n_layers * WIDTH, 512
    loading = [rng.standard_normal((factors, n)) * (rng.random((factors, n)) < 0.02) for _ in "ab"]
    shared = rng.random(n) < 0.5
    weight = rng.random(n)
    partner = rng.permutation(n)
    loading[1] = np.where(
        shared, weight * loading[0][:, partner] + np.sqrt(1 - weight**2) * loading[1], loading[1]
    )
    loading = [
        torch.from_numpy((w / (np.linalg.norm(w, axis=0) + 1e-9)).astype(np.float32))
        for w in loading
    ]
    generator = torch.Generator().manual_seed(0)
    # Drawing noise afresh for every batch would take most of the benchmark's time.
    own = [torch.randn(3 * 8192, n, generator=generator) for _ in "ab"]

    def batch(length: int) -> list[torch.Tensor]:
        noise = torch.randn(length // CONTEXT, CONTEXT, factors, generator=generator)
        for t in range(1, CONTEXT):
            noise[:, t] = 0.7 * noise[:, t - 1] + 0.714 * noise[:, t]
        shared = noise.reshape(-1, factors)
        found = []
        for w, noise in zip(loading, own, strict=True):
            start = int(rng.integers(0, len(noise) - length))
            x = 1.2 * (shared @ w) + 0.6 * noise[start : start + length] - 0.5
            found.append(torch.nn.functional.gelu(x))
        return found

    sample = batch(8192)
    runs = []
    for which in range(2):
        layers = [calibration_of(x) for x in sample[which].split(WIDTH, 1)]
        run = {"layers": layers, "where": where / "ab"[which], "activations": [], "moments": []}
        write_calibration(run["where"] / "calibration.zarr", layers, {})
        runs.append(run)
    size = n_tokens // shards // 8192 * 8192
    for shard in range(shards):
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(2))
            open_runs = []
            for which, run in enumerate(runs):
                path = run["where"] / f"shard{shard}.zarr"
                run["activations"].append(path)
                attributes = {
                    "d_mlp": [WIDTH] * n_layers,
                    "n_tokens": size,
                    "encoding": "int8",
                    "corpus_sha256": "",
                    "sequences": [shard * size, (shard + 1) * size],
                    "exclude": [],
                    "exclude_positions": [],
                }
                group = stack.enter_context(new_store(path, attributes))
                writers = [
                    RowWriter(create_array(group, f"layer{i}", (size, WIDTH), np.int8))
                    for i in range(n_layers)
                ]
                for i, layer in enumerate(run["layers"]):
                    for name in ("scale", "offset"):
                        array = create_array(group, f"{name}{i}", (WIDTH,), np.float32)
                        array[:] = getattr(layer.ranges, name)
                index = create_array(group, "token_index", (size,), np.int64)
                index[:] = np.arange(shard * size, (shard + 1) * size)
                passes = [
                    LayerPass(layer, Dither("ab"[which], 0, i, WIDTH, CPU), "int8", CPU)
                    for i, layer in enumerate(run["layers"])
                ]
                escapes = [capture.EscapeList(WIDTH, n_layers) for _ in passes]
                open_runs.append((group, writers, passes, escapes))
            for start in range(0, size, 8192):
                rows = torch.arange(8192)
                place = np.arange(start, start + 8192) + shard * size
                for (_, writers, passes, escapes), x in zip(open_runs, batch(8192), strict=True):
                    for i, (writer, layer) in enumerate(zip(writers, passes, strict=True)):
                        codes = layer.add(x[:, i * WIDTH : (i + 1) * WIDTH], rows, place)
                        writer.append(bits(codes.dense))
                        escapes[i].append(codes)
                for _, writers, _, _ in open_runs:
                    RowWriter.write_full(writers, threads)
            for group, writers, _, escapes in open_runs:
                RowWriter.close(writers, threads)
                for i, found in enumerate(escapes):
                    write_escapes(group, i, found.joined())
        for run, (_, _, passes, _) in zip(runs, open_runs, strict=True):
            path = run["where"] / f"moments{shard}.zarr"
            run["moments"].append(path)
            write_arrays(path, capture.moment_arrays(passes, size).items(), {})
    return runs


class Pair:
    """A pair of models over the first shards of the synthetic activations."""

    def __init__(self, runs: list[dict], shards: int, rotations: Path) -> None:
        self.stores = [[Activations(p) for p in run["activations"][:shards]] for run in runs]
        self.neurons, self.baseline, self.rotated = [], [], []
        self.rotations = rotations
        for run in runs:
            paths = run["moments"][:shards]
            neurons = Neurons.read(paths, run["where"] / "calibration.zarr")
            within = run["where"] / f"within{shards}.zarr"
            rotated = run["where"] / f"rotated{shards}.zarr"
            total: dict[str, np.ndarray] = {}
            for path in run["activations"][:shards]:
                for name, sums in products.within_sums(Activations(path), "int8"):
                    total[name] = total.get(name, 0) + sums
            write_arrays(within, total.items(), {})
            write_rotated_std(
                rotated,
                sums=paths,
                within=[within],
                calibration=run["where"] / "calibration.zarr",
                rotations=rotations,
                rotating=Rotating(DRAWS),
                attributes={},
            )
            self.neurons.append(neurons)
            self.rotated.append(rotated)
            self.baseline.append(Baseline.read(neurons, rotations, rotated))

    @property
    def n_tokens(self) -> int:
        return self.neurons[0].n_tokens

    def sums(self) -> dict[str, np.ndarray]:
        """The exact mode's sums of all pairs on all tokens."""
        total: dict[str, np.ndarray] = {}
        for a, b in zip(*self.stores, strict=True):
            for name, sums in products.cross_sums(a, b, [0], "int8"):
                if name in total:
                    total[name] += sums
                else:
                    total[name] = sums
        return total

    def match(self, sums: dict[str, np.ndarray]) -> tuple:
        """The exact mode's matches, baseline included."""
        return match(
            sums, *self.neurons, [0], baseline_a=self.baseline[0], baseline_b=self.baseline[1]
        )

    @property
    def sides(self) -> list[Side]:
        """Both models as the screened mode takes them."""
        own = zip(self.stores, self.neurons, self.baseline, strict=True)
        return [Side(*of_one) for of_one in own]

    def repeated(self, *layers: int) -> list[Side]:
        """Both models with their layer so many times each."""
        own = zip(self.stores, self.neurons, self.rotated, layers, strict=True)
        return [repeated(stores, one, self.rotations, std, n) for stores, one, std, n in own]

    @property
    def documents(self) -> Documents:
        """Of eight sequences each, in any order, as scored ones are, of `TARGET_TOKENS`.

        These tokens are a part of them: so a sample has as many sequences of a document as one of
        the target that is as large.
        """
        cluster = np.arange(TARGET_TOKENS // CONTEXT) // LEAST_SEQUENCES
        cluster = np.random.default_rng(0).permutation(cluster)
        return Documents("", "", CONTEXT, cluster[: self.n_tokens // CONTEXT])

    def screen(self, sides: list[Side], sample: float) -> Screens:
        """The screened mode's look at a sample, baseline included."""
        layers = range(len(sides[0].neurons.d_mlp))
        return screen_layers(*sides, layers, Sampling(sample, 16, "int8"), self.documents)


def reference(pair: Pair, n_tokens: int) -> float:
    """Seconds of the procedure published with 2401.12181, on the same activations of one layer.

    As its code does it: float16 activations in batches; per pair of layers a float32 product of
    the batch, added to float64; sums and squares of both; then everything once more with the second
    model's layer multiplied by a random matrix with normalised rows.
    """
    batch = 16384
    acts = [
        torch.from_numpy(stores[0].activations(0, slice(0, n_tokens))).half()
        for stores in pair.stores
    ]
    rotation = torch.randn(WIDTH, WIDTH)
    rotation /= rotation.norm(dim=1, keepdim=True)
    start = time.perf_counter()
    for rotate in (False, True):
        products_of = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
        sums = torch.zeros(2, 2, WIDTH, dtype=torch.float64)
        for first in range(0, n_tokens, batch):
            one, other = (x[first : first + batch].float() for x in acts)
            if rotate:
                other = torch.einsum("tn,mn->tm", other, rotation)
            for total, x in zip(sums, (one, other), strict=True):
                total[0] += x.sum(0)
                total[1] += (x**2).sum(0)
            products_of += torch.einsum("tn,tm->nm", one, other)
        mean, square = sums[:, 0] / n_tokens, sums[:, 1] / n_tokens
        std = (square - mean**2).sqrt()
        corr = (products_of / n_tokens - torch.outer(*mean)) / torch.outer(*std)
        corr.max(1)
    return time.perf_counter() - start


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Fixed part (not negative) and slope of a straight line."""
    slope, fixed = np.polyfit(x, y, 1)
    return max(0.0, float(fixed)), float(slope)


def capture_job(where: str) -> None:
    """In a process of its own: capture against the bare forward pass of GPT-2 Small, in turns."""
    keep_memory()
    torch.manual_seed(0)
    module = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    blocks = tuple(module.transformer.h)
    found = {}
    # About whole chunks: the rest of a last one is compressed too, which no long shard notices.
    for name, n_sequences, repeats in (("bfloat16", 43, 5), ("float32", 22, 4)):
        tokens = np.random.default_rng(0).integers(0, 50257, (n_sequences, CONTEXT))
        module = module.to(getattr(torch, name))
        model = models.Model(module, blocks, tuple(b.mlp.c_proj for b in blocks), CPU)
        calibration = capture.calibrate(
            model,
            tokens[:2],
            name="0",
            exclude=(),
            encoding="int8",
            headroom=0.5,
            batch_tokens=4096,
        )
        encoder = capture.Encoder("0", 0, calibration, "int8", (), 4096)
        bare, whole = [], []
        for _ in range(repeats):  # the first of each warms up
            start = time.perf_counter()
            for _ in forward(model, tokens, 4096):
                pass
            middle = time.perf_counter()
            capture.capture(
                model,
                tokens,
                (0, len(tokens)),
                encoder,
                f"{where}/a.zarr",
                f"{where}/m.zarr",
                attributes={},
            )
            bare.append(middle - start)
            whole.append(time.perf_counter() - middle)
        found[name] = float(np.median(whole[1:]) / np.median(bare[1:]) - 1)
        found[f"{name}_tokens_per_second"] = tokens.size / float(np.median(whole[1:]))
    files = Path(where, "a.zarr").rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    found["bytes_per_activation"] = size / (tokens.size * sum(model.d_mlp))
    print(json.dumps(found))


def child(job: str, where: Path) -> dict[str, float]:
    """What a job of this file prints, run in a process of its own."""
    script = Path(__file__).with_name("pair_job.py" if job == "pair_job" else Path(__file__).name)
    command = [sys.executable, str(script), *([] if job == "pair_job" else [job]), str(where)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def encoding_rate() -> float:
    """Activations encoded and measured per second, in units of 1e9."""
    x = torch.nn.functional.gelu(torch.randn(4096, WIDTH))
    layer = LayerPass(calibration_of(x), Dither("0", 0, 0, WIDTH, CPU), "int8", CPU)
    rows, place = torch.arange(4096), np.arange(4096)
    layer.add(x, rows, place)
    return x.numel() / seconds(lambda: layer.add(x, rows, place), 7) / 1e9


def from_zarr(where: Path) -> dict[str, float]:
    """Rate of the sums of a job from compressed stores, not in the page cache; and its memory.

    The first part of its layers finds memory that was never touched (`_first`), further ones don't.
    """
    runs = synthetic(where / "source", 32768, 1, 1)
    a, b = (Activations(run["activations"][0]) for run in runs)
    block = [a.codes(0), b.codes(0)]
    escaping = [len(codes.escapes) / codes.dense.size for codes in block]
    result: dict[str, float] = {}
    for n_tokens in (43_680, 87_360):
        for store, n_layers, which in (("some", LAYERS, 0), ("all", DEPTH, 1)):
            attributes = {**a.attributes, "d_mlp": [WIDTH] * n_layers, "n_tokens": n_tokens}
            shutil.rmtree(where / f"{store}.zarr", ignore_errors=True)
            with (
                new_store(where / f"{store}.zarr", attributes) as group,
                ThreadPoolExecutor(2) as threads,
            ):
                for i in range(n_layers):
                    writer = RowWriter(create_array(group, f"layer{i}", (n_tokens, WIDTH), np.int8))
                    parts = []
                    for start in range(0, n_tokens, 32768):
                        rows = slice(0, min(32768, n_tokens - start))
                        writer.append(block[which].dense[rows])
                        escapes = block[which].escapes.between(rows.start, rows.stop)
                        parts.append(escapes.moved(start))
                        RowWriter.write_full([writer], threads)
                    RowWriter.close([writer], threads)
                    write_escapes(group, i, Escapes.join(parts))
        found = [child("pair_job", where) for _ in range(3 if n_tokens == 87_360 else 1)]
        for name in found[0]:
            result[f"{name}_{n_tokens}"] = float(np.median([each[name] for each in found]))
    operations = 2e-9 * n_tokens * WIDTH**2 * DEPTH * LAYERS
    first, further, from_memory = (
        result[f"{name}_{n_tokens}"] for name in ("first", "further", "from_memory")
    )
    return {
        "zarr_gops": operations / further,
        "zarr_gops_first": operations / first,
        "zarr_fresh_memory_seconds": first - further,
        "zarr_not_hidden": 1 - from_memory / further,
        "zarr_memory_gb": result[f"peak_gb_{n_tokens}"],
        "zarr_memory_gb_half_the_tokens": result["peak_gb_43680"],
        "escaping": float(np.mean(escaping)),
    }


def compare(where: Path) -> dict[str, float]:
    """The exact mode, the screened mode and the reference, baseline included.

    Measured on one layer of GPT-2 Small's width against another, the screened mode's jobs with that
    layer as often as they have one. The speed ratios are for a pair of twelve-layer models and
    `TARGET_TOKENS`: what is done per pair of layers counts 144 times, and what grows with the
    tokens in proportion.
    """
    runs = synthetic(where / "pair", 4 * 131072, 1, 4)
    rotations = where / "rotations.zarr"
    write_rotations(rotations, [(WIDTH, 0)], draws=DRAWS, seed=0, attributes={})
    tokens, exact = [], []
    for count in (1, 2, 4):
        pair = Pair(runs, count, rotations)
        tokens.append(pair.n_tokens)
        exact.append(seconds(pair.sums))
    sums = pair.sums()
    matching = seconds(lambda: pair.match(sums))
    truth = pair.match(sums)

    # As many sampled tokens as 2.5 % of the target: no more certain than the real run.
    screens = pair.screen(pair.sides, 0.25)
    found, screening = refine.refine(*pair.sides, screens, "int8")
    told = screened_result(found, truth, screening)
    # Neurons of a twelve-layer model that are compared with all, audited ones among them; and pairs
    # of neurons with their candidates and lowest, per layer.
    n_rows = round(DEPTH * WIDTH * (1 - told["screened_certified"] + SHARE))
    n_pairs = sum(x.candidates.refined().sum() for x in (screens.forward, screens.backward))
    n_pairs = int(n_pairs) + 2 * WIDTH
    fraction = 0.05
    hours = {
        **screening_hours(pair, fraction),
        **refining_hours(pair, n_rows, DEPTH * n_pairs, told["screened_certified"] < 1),
    }
    screened_at = sum(hours.values()) * 3600
    fixed, slope = line(tokens, exact)
    exact_at = DEPTH**2 * (fixed + slope * TARGET_TOKENS + matching)
    old_tokens = [32768, 65536]
    old = [reference(pair, n) for n in old_tokens]
    fixed, slope = line(old_tokens, old)
    old_at = DEPTH**2 * (fixed + slope * TARGET_TOKENS)
    exponent = np.polyfit(np.log(tokens), np.log(exact), 1)[0]
    full = n_rows / (DEPTH * WIDTH)
    return {
        "reference_gops": 2 * 2 * old_tokens[-1] * WIDTH**2 / old[-1] / 1e9,
        "reference_hours_per_pair": old_at / 3600,
        "exact_hours_per_pair": exact_at / 3600,
        "screened_hours_per_pair": screened_at / 3600,
        "reference_speedup": old_at / exact_at,
        "screened_speedup": old_at / screened_at,
        **told,
        **{f"screened_hours_{name}": value for name, value in hours.items()},
        "screened_refined_per_neuron": n_pairs / (2 * WIDTH),
        "screened_operations_ratio": 1 / (fraction + 2 * full + n_pairs / WIDTH / (DEPTH * WIDTH)),
        "token_exponent": float(exponent),
        "match_seconds_per_layer_pair": matching,
        "rotation_seconds": seconds(lambda: rotation(0, 0, 0, WIDTH), 1),
    }


def screening_hours(pair: Pair, fraction: float) -> dict[str, float]:
    """Of all pairs of layers, from jobs on as many sampled tokens as the target's.

    Real jobs read fewer layers per pair of layers: 15 for 36 in place of 7 for 12.
    """
    sides = pair.repeated(LAYERS, OTHERS)
    whole = fraction * TARGET_TOKENS / pair.n_tokens
    samples = [whole / 8, whole]
    pair.screen(sides, samples[0])  # warms up
    took = [seconds(lambda f=f: pair.screen(sides, f), 1) for f in samples]
    jobs = DEPTH**2 / (LAYERS * OTHERS)
    fixed, _ = line(samples, took)
    # What does not grow with the sample is the baseline, for the most part.
    return {"sample": jobs * (took[1] - fixed) / 3600, "baseline": jobs * fixed / 3600}


def refining_hours(pair: Pair, n_rows: int, n_pairs: int, twice: bool) -> dict[str, float]:
    """Of one job of twelve layers each, from its sums over some chunks.

    It reads twice where neurons lack a certificate.
    """
    tokens = 12 * pair.stores[0][0].chunk_tokens
    stores = [[RepeatedLayer(own[0].path, DEPTH, tokens)] for own in pair.stores]
    rng = np.random.default_rng(0)
    # Sums of more rows are not held at a time either.
    held = min(WIDTH, n_rows)
    rows = [np.sort(rng.choice(DEPTH * WIDTH, held, replace=False)) for _ in "ab"]
    chosen = [rng.integers(0, DEPTH * WIDTH, n_pairs) for _ in "ab"]
    nothing = np.zeros(0, np.int64)
    wanted = {
        "dots": Wanted((rows[0], rows[1]), chosen[0], chosen[1]),
        "rows": Wanted((rows[0], rows[1]), nothing, nothing),
        "reading": Wanted((nothing, nothing), nothing, nothing),
    }
    exact_sums(*stores, wanted["dots"], "int8")  # warms up
    turns = [
        {n: seconds(lambda w=w: exact_sums(*stores, w, "int8"), 1) for n, w in wanted.items()}
        for _ in range(3)
    ]
    took = {name: float(np.median([turn[name] for turn in turns])) for name in wanted}
    scale = TARGET_TOKENS / tokens / 3600
    return {
        "reading": (1 + twice) * took["reading"] * scale,
        "rows": (took["rows"] - took["reading"]) * scale * n_rows / held,
        "dots": (took["dots"] - took["rows"]) * scale,
    }


def screened_result(found: tuple, truth: tuple, screening: tuple) -> dict[str, float]:
    """What the screened mode found, against the exact mode's matches and baselines.

    The audit's error is the share of audited certificates that were wrong; the baseline's bias the
    mean error of the estimated ones, by the mean of the exact ones.
    """
    pairs = list(zip(found, truth, strict=True))
    off = np.concatenate([(f.baseline - t.baseline)[:, f.certified].mean(0) for f, t in pairs])
    level = np.mean([t.baseline.mean() for t in truth])
    audited = sum(side.audited for side in screening)
    return {
        "screened_certified": float(np.mean([side.certified / WIDTH for side in screening])),
        "screened_wrong": sum(int((f.index != t.index).sum()) for f, t in pairs),
        "screened_audit_error": sum(side.wrong for side in screening) / max(1, audited),
        "screened_baseline_bias": float(off.mean() / level),
        "screened_baseline_error": float(np.sqrt(np.mean(off**2)) / level),
    }


def main() -> None:
    """Measure everything, print it and write results/bench.json."""
    started = time.perf_counter()
    keep_memory()  # as every job does
    where = Path(tempfile.mkdtemp(prefix="bench", dir="results"))
    bench: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{_processor()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }

    def report(**figures: float) -> None:
        for name, value in figures.items():
            bench[name] = value
            print(f"{name:32} {value:.4g}", flush=True)

    try:
        first = peaks()
        kernel_rate = kernel()
        zarr_rates = from_zarr(where)
        last = peaks()
        # The machine's speed wanders: the peak is that of before and after.
        peak = {name: (first[name] + last[name]) / 2 for name in first}
        report(**{f"{name}_peak_gops": value for name, value in peak.items()})
        report(
            kernel_gops=kernel_rate,
            kernel_ratio=kernel_rate / peak["int8"],
            zarr_ratio=zarr_rates["zarr_gops"] / peak["int8"],
            **zarr_rates,
        )
        overhead = child("capture_job", where)
        report(
            capture_overhead=overhead["bfloat16"],
            capture_overhead_float32=overhead["float32"],
            capture_tokens_per_second=overhead["bfloat16_tokens_per_second"],
            bytes_per_activation=overhead["bytes_per_activation"],
            encoding_g_per_second=encoding_rate(),
        )
        report(**accuracy())

        compared = compare(where)
        report(**compared)
        others = against_corals()
        # Without a baseline, from memory, in float32.
        pair = 2e-9 * TARGET_TOKENS * (DEPTH * WIDTH) ** 2
        report(**others)
        for name in ("by_hand", "corals_all"):
            if f"{name}_gops" in others:  # CorALS can't be installed without a package index
                hours = pair / others[f"{name}_gops"] / 3600
                report(**{f"{name}_speedup": hours / compared["exact_hours_per_pair"]})
        report(**plan_seconds())
        report(peak_disk_ratio=peak_disk_ratio())
        ablated = ablation.compare()
        # What an exact job takes from Zarr, and matching with its baseline.
        pair_hours = pair / zarr_rates["zarr_gops"] / 3600
        pair_hours += DEPTH**2 * compared["match_seconds_per_layer_pair"] / 3600
        correlation_hours = ablation.PAIRS * pair_hours
        report(
            **ablated,
            correlation_hours=correlation_hours,
            ablation_hours_ratio_float32=ablated["ablation_hours_float32"] / correlation_hours,
            ablation_hours_ratio=ablated["ablation_hours"] / correlation_hours,
        )
    finally:
        shutil.rmtree(where, ignore_errors=True)
    bench["seconds"] = round(time.perf_counter() - started)
    Path("results/bench.json").write_text(json.dumps(bench, indent=1) + "\n")
    print(f"results/bench.json written after {bench['seconds']} s")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        {"capture_job": capture_job}[sys.argv[1]](sys.argv[2])
    else:
        Path("results").mkdir(exist_ok=True)
        main()
