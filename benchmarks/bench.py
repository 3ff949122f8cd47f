"""Measure the workflow's speed and accuracy on this machine, side by side with the older procedure.

`make bench` runs it and writes results/bench.json; docs/performance.md explains the figures. Every
ratio is of two things measured in turns in this one run. Times are medians.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from universal_neurons import capture, models, products, screening
from universal_neurons.activations import Activations
from universal_neurons.calibration import Calibration, write_calibration
from universal_neurons.correlation import Baseline, Neurons, match
from universal_neurons.encoding import Ranges
from universal_neurons.jobs import keep_memory
from universal_neurons.one_pass import LayerPass
from universal_neurons.rotations import write_rotated_std, write_rotations
from universal_neurons.rounding import Dither, bits, stored
from universal_neurons.store import (
    RowWriter,
    create_array,
    new_store,
    write_arrays,
)

WIDTH = 3072  # neurons per layer of GPT-2 Small
CONTEXT = 512
DRAWS = 5
TARGET_TOKENS = 5_000_000
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


def kernel() -> float:
    """Rate of partial sums at 3,072 × 36,864 neurons, from arrays in memory, G op/s."""
    rng = np.random.default_rng(0)
    tokens = products.block_tokens(WIDTH)
    a = rng.integers(-127, 128, (tokens, WIDTH), dtype=np.int8)
    others = [rng.integers(-127, 128, (tokens, WIDTH), dtype=np.int8) for _ in range(2)]
    totals = [np.zeros((WIDTH, WIDTH), np.int64) for _ in range(12)]

    def work() -> None:
        for i, total in enumerate(totals):
            products.add_products(total, a, others[i % 2], "int8")

    work()
    return 2 * tokens * WIDTH * WIDTH * 12 / seconds(work) / 1e9


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

    def batch(length: int) -> list[torch.Tensor]:
        noise = torch.randn(length // CONTEXT, CONTEXT, factors, generator=generator)
        for t in range(1, CONTEXT):
            noise[:, t] = 0.7 * noise[:, t - 1] + 0.714 * noise[:, t]
        shared = noise.reshape(-1, factors)
        found = []
        for w in loading:
            own = torch.randn(length, n, generator=generator)
            found.append(torch.nn.functional.gelu(1.2 * (shared @ w) + 0.6 * own - 0.5))
        return found

    sample = batch(8192)
    runs = []
    for which in range(2):
        x = sample[which]
        low, high = x.amin(0).numpy(), x.amax(0).numpy()
        ranges = Ranges((high - low) / 2 * 1.5 / 127, (high + low) / 2)
        centre = x.double().mean(0).numpy()
        layers = [
            Calibration(Ranges(ranges.scale[s], ranges.offset[s]), centre[s])
            for s in (slice(i * WIDTH, (i + 1) * WIDTH) for i in range(n_layers))
        ]
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
                }
                group = stack.enter_context(new_store(path, attributes))
                writers = [
                    RowWriter(create_array(group, f"layer{i}", (size, WIDTH), np.int8))
                    for i in range(n_layers)
                ]
                index = create_array(group, "token_index", (size,), np.int64)
                index[:] = np.arange(shard * size, (shard + 1) * size)
                passes = [
                    LayerPass(layer, Dither("ab"[which], 0, i, WIDTH, CPU), "int8", CPU)
                    for i, layer in enumerate(run["layers"])
                ]
                open_runs.append((writers, passes))
            for start in range(0, size, 8192):
                rows = torch.arange(8192)
                place = np.arange(start, start + 8192) + shard * size
                for (writers, passes), x in zip(open_runs, batch(8192), strict=True):
                    for i, (writer, layer) in enumerate(zip(writers, passes, strict=True)):
                        own = x[:, i * WIDTH : (i + 1) * WIDTH]
                        writer.append(bits(layer.add(own, rows, place)))
                for writers, _ in open_runs:
                    RowWriter.write_full(writers, threads)
            for writers, _ in open_runs:
                RowWriter.close(writers, threads)
        for run, (_, passes) in zip(runs, open_runs, strict=True):
            path = run["where"] / f"moments{shard}.zarr"
            run["moments"].append(path)
            write_arrays(path, capture.moment_arrays(passes, size).items(), {})
    return runs


class Pair:
    """A pair of models over the first shards of the synthetic activations."""

    def __init__(self, runs: list[dict], shards: int, rotations: Path) -> None:
        self.stores = [[Activations(p) for p in run["activations"][:shards]] for run in runs]
        self.neurons, self.baseline = [], []
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
                draws=DRAWS,
                attributes={},
            )
            self.neurons.append(neurons)
            self.baseline.append(Baseline.read(neurons, rotations, rotated))
        self.layers = list(range(len(runs[0]["layers"])))

    @property
    def n_tokens(self) -> int:
        return self.neurons[0].n_tokens

    def exact(self, layers: list[int] | None = None) -> tuple:
        """All pairs on all tokens, and the baseline."""
        total: dict[str, np.ndarray] = {}
        layers = self.layers if layers is None else layers
        for a, b in zip(*self.stores, strict=True):
            for name, sums in products.cross_sums(a, b, layers, "int8"):
                if name in total:
                    total[name] += sums
                else:
                    total[name] = sums
        return match(
            total,
            *self.neurons,
            layers,
            baseline_a=self.baseline[0],
            baseline_b=self.baseline[1],
        )

    def screened(self, where: Path) -> tuple:
        """The screened mode with its defaults."""
        path = where / "screen.zarr"
        found = screening.screen(
            *self.stores,
            *self.neurons,
            self.layers,
            baseline_a=self.baseline[0],
            baseline_b=self.baseline[1],
            sample=0.1,
            candidates=16,
            context_length=CONTEXT,
            kernel="int8",
        )
        write_arrays(path, found.items(), {"layers": self.layers})
        return screening.refine(*self.stores, *self.neurons, [path], kernel="int8")


def reference(pair: Pair, n_tokens: int) -> float:
    """Seconds of the procedure published with 2401.12181, on the same activations.

    As its code does it: float16 activations in batches; per pair of layers a float32 product of
    the batch, added to float64; sums and squares of both; then everything once more with the second
    model's layers multiplied by a random matrix with normalised rows.
    """
    batch = 16384
    acts = [
        [
            torch.from_numpy(stores[0].activations(layer, slice(0, n_tokens))).half()
            for layer in pair.layers
        ]
        for stores in pair.stores
    ]
    rotation = torch.randn(WIDTH, WIDTH)
    rotation /= rotation.norm(dim=1, keepdim=True)
    start = time.perf_counter()
    for rotate in (False, True):
        sums = [
            [torch.zeros(WIDTH, WIDTH, dtype=torch.float64) for _ in pair.layers]
            for _ in pair.layers
        ]
        means = [[torch.zeros(2, WIDTH, dtype=torch.float64) for _ in pair.layers] for _ in "ab"]
        for first in range(0, n_tokens, batch):
            rows = slice(first, first + batch)
            one = [x[rows].float() for x in acts[0]]
            other = [x[rows].float() for x in acts[1]]
            if rotate:
                other = [torch.einsum("tn,mn->tm", x, rotation) for x in other]
            for side, layers in enumerate((one, other)):
                for total, x in zip(means[side], layers, strict=True):
                    total[0] += x.sum(0)
                    total[1] += (x**2).sum(0)
            for i, x in enumerate(one):
                for j, y in enumerate(other):
                    sums[i][j] += torch.einsum("tn,tm->nm", x, y)
        for i in pair.layers:
            for j in pair.layers:
                mean_a, square_a = means[0][i] / n_tokens
                mean_b, square_b = means[1][j] / n_tokens
                corr = sums[i][j] / n_tokens - torch.outer(mean_a, mean_b)
                corr /= (square_a - mean_a**2).sqrt()[:, None] * (square_b - mean_b**2).sqrt()
                corr.max(1)
    return time.perf_counter() - start


def fit(tokens: list[int], times: list[float]) -> tuple[float, float]:
    """Seconds at `TARGET_TOKENS` by a straight line, and the exponent of the growth."""
    slope, fixed = np.polyfit(tokens, times, 1)
    exponent = np.polyfit(np.log(tokens), np.log(times), 1)[0]
    return float(max(fixed, 0) + slope * TARGET_TOKENS), float(exponent)


def capture_overhead(where: Path) -> dict[str, float]:
    """Time of hooks, encoding, moments and writing over that of the bare forward pass."""
    torch.manual_seed(0)
    module = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    blocks = tuple(module.transformer.h)
    found = {}
    for name, n_sequences, repeats in (("bfloat16", 16, 6), ("float32", 8, 4)):
        tokens = np.random.default_rng(0).integers(0, 50257, (n_sequences, CONTEXT))
        module = module.to(getattr(torch, name))
        model = models.Model(module, blocks, tuple(b.mlp.c_proj for b in blocks), CPU)
        options = {"exclude": (), "encoding": "int8", "batch_tokens": 4096}
        calibration = capture.calibrate(
            model, tokens[:2], seed="0", step=0, headroom=0.5, **options
        )
        bare, whole = [], []
        for _ in range(repeats):  # the first of each warms up
            bare.append(seconds(lambda m=model: list(capture.forward(m, tokens, 4096)), 1))
            whole.append(
                seconds(
                    lambda m=model, c=calibration, o=options: capture.capture(
                        m,
                        tokens,
                        seed="0",
                        step=0,
                        start=0,
                        stop=len(tokens),
                        calibration=c,
                        activations=where / "a.zarr",
                        moments=where / "m.zarr",
                        attributes={},
                        **o,
                    ),
                    1,
                )
            )
        found[name] = float(np.median(whole[1:]) / np.median(bare[1:]) - 1)
        found[f"{name}_tokens_per_second"] = tokens.size / float(np.median(whole[1:]))
    size = sum(f.stat().st_size for f in (where / "a.zarr").rglob("*") if f.is_file())
    found["bytes_per_activation"] = size / (tokens.size * sum(model.d_mlp))
    return found


def encoding_rate() -> float:
    """Activations encoded and measured per second, in units of 1e9."""
    calibration = Calibration(
        Ranges(np.full(WIDTH, 0.05, np.float32), np.zeros(WIDTH, np.float32)), np.zeros(WIDTH)
    )
    layer = LayerPass(calibration, Dither("0", 0, 0, WIDTH, CPU), "int8", CPU)
    x = torch.randn(4096, WIDTH)
    rows, place = torch.arange(4096), np.arange(4096)
    layer.add(x, rows, place)
    return x.numel() / seconds(lambda: layer.add(x, rows, place), 7) / 1e9


def accuracy(n_tokens: int = 200_000, d: int = 256) -> dict[str, float]:
    """Largest and root mean square error of correlations by encoding, against float64."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(n_tokens, d, generator=generator)
    xs = [
        torch.nn.functional.gelu(0.8 * shared + 0.6 * torch.randn(n_tokens, d, generator=generator))
        for _ in "ab"
    ]
    truth = np.corrcoef(*(x.double().numpy().T for x in xs))[:d, d:]
    std = [x.double().std(0, correction=0).numpy() for x in xs]
    found = {}
    for encoding in ("int8", "bfloat16", "float32"):
        codes, scale = [], []
        for which, x in enumerate(xs):
            low, high = x.amin(0).numpy(), x.amax(0).numpy()
            offset = x.mean(0).numpy()
            if encoding == "int8":
                ranges = Ranges((high - low) / 2 * 1.5 / 127, (high + low) / 2)
                layer = LayerPass(
                    Calibration(ranges, offset.astype(float)),
                    Dither("ab"[which], 0, 0, d, CPU),
                    "int8",
                    CPU,
                )
                values = layer.add(x, torch.arange(n_tokens), np.arange(n_tokens))
                codes.append(values.numpy().astype(np.float64))
                scale.append(ranges.scale)
            else:
                codes.append(stored(x, encoding).float().numpy().astype(np.float64) - offset)
                scale.append(np.ones(d))
        centred = [c - c.mean(0) for c in codes]
        corr = (centred[0].T @ centred[1] / n_tokens) * np.outer(
            scale[0] / std[0], scale[1] / std[1]
        )
        found[f"error_max_{encoding}"] = float(np.abs(corr - truth).max())
        found[f"error_rms_{encoding}"] = float(np.sqrt(np.mean((corr - truth) ** 2)))
    return found


def layer_job(where: str) -> None:
    """In a process of its own, for its memory: one layer of GPT-2 Small against twelve."""
    a, b = Activations(f"{where}/one.zarr"), Activations(f"{where}/twelve.zarr")
    for store in ("one", "twelve"):
        for file in Path(where, f"{store}.zarr").rglob("c/*/*"):
            with open(file, "rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    keep_memory()
    start = time.perf_counter()
    for _ in products.cross_sums(a, b, [0], "int8"):
        pass
    took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"tokens": a.n_tokens, "seconds": took, "peak_gb": peak}))


def from_zarr(where: Path) -> dict[str, float]:
    """Rate of the same sums from compressed stores, not in the page cache; and its memory."""
    runs = synthetic(where / "source", 32768, 1, 1)
    a, b = (Activations(run["activations"][0]) for run in runs)
    block = [a.stored(0), b.stored(0)]
    result = {}
    for n_tokens in (65536, 131072):
        for store, n_layers, which in (("one", 1, 0), ("twelve", 12, 1)):
            attributes = {**a.attributes, "d_mlp": [WIDTH] * n_layers, "n_tokens": n_tokens}
            shutil.rmtree(where / f"{store}.zarr", ignore_errors=True)
            with new_store(where / f"{store}.zarr", attributes) as group:
                for i in range(n_layers):
                    array = create_array(group, f"layer{i}", (n_tokens, WIDTH), np.int8)
                    for start in range(0, n_tokens, 32768):
                        array[start : start + 32768] = block[which]
        rates = []
        for _ in range(3 if n_tokens == 131072 else 1):
            output = subprocess.run(
                [sys.executable, __file__, "layer_job", str(where)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            found = json.loads(output)
            rates.append(2 * n_tokens * WIDTH * WIDTH * 12 / found["seconds"] / 1e9)
            result[f"peak_gb_{n_tokens}"] = found["peak_gb"]
        result[f"gops_{n_tokens}"] = float(np.median(rates))
    return result


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
            zarr_gops=zarr_rates["gops_131072"],
            zarr_ratio=zarr_rates["gops_131072"] / peak["int8"],
            zarr_peak_gb=zarr_rates["peak_gb_131072"],
            zarr_peak_gb_half_the_tokens=zarr_rates["peak_gb_65536"],
        )
        overhead = capture_overhead(where)
        report(
            capture_overhead=overhead["bfloat16"],
            capture_overhead_float32=overhead["float32"],
            capture_tokens_per_second=overhead["bfloat16_tokens_per_second"],
            bytes_per_activation=overhead["bytes_per_activation"],
            encoding_g_per_second=encoding_rate(),
        )
        report(**accuracy())

        n_layers, shards, shard_tokens = 2, 4, 65536
        runs = synthetic(where / "pair", shards * shard_tokens, n_layers, shards)
        rotations = where / "rotations.zarr"
        write_rotations(
            rotations,
            [(WIDTH, i) for i in range(n_layers)],
            draws=DRAWS,
            seed=0,
            attributes={},
        )
        tokens, exact, screened = [], [], []
        for count in (1, 2, 4):
            pair = Pair(runs, count, rotations)
            tokens.append(pair.n_tokens)
            results = []
            exact.append(seconds(lambda p=pair, r=results: r.append(p.exact()), 2))
            screened.append(seconds(lambda p=pair, r=results: r.append(p.screened(where)), 2))
        truth, found = results[0], results[-1]
        certified = np.concatenate([side.certified for side in found])
        wrong = sum(int((f.index != t.index).sum()) for f, t in zip(found, truth, strict=True))
        one_layer = seconds(lambda: pair.exact([0]), 2)
        old_tokens = [16384, 32768]
        old = [reference(pair, n) for n in old_tokens]
        old_at, _ = fit(old_tokens, old)
        exact_at, exponent = fit(tokens, exact)
        screened_at, _ = fit(tokens, screened)
        report(
            reference_gops=2 * 2 * old_tokens[-1] * (n_layers * WIDTH) ** 2 / old[-1] / 1e9,
            reference_speedup=old_at / exact_at,
            screened_speedup=old_at / screened_at,
            screened_certified=float(certified.mean()),
            screened_wrong=float(wrong),
            token_exponent=exponent,
            # One layer against two, then two against two: the same as doubling the neurons once.
            neuron_exponent=float(2 * np.log2(exact[-1] / one_layer)),
            exact_seconds_262144=exact[-1],
            screened_seconds_262144=screened[-1],
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
    if sys.argv[1:2] == ["layer_job"]:
        layer_job(sys.argv[2])
    else:
        Path("results").mkdir(exist_ok=True)
        main()
