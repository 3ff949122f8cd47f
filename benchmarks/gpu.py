"""What a GPU makes of a step of five seeds, in minutes: kernels, direct mode, stored mode.

    python benchmarks/gpu.py                       # a GPU if there is one
    python benchmarks/gpu.py --device cpu --layers 1 --tokens 4096   # the same code on the CPU

Models have GPT-2 Small's shape and random weights. Sums are first compared with the CPU's, bit by
bit. Rates are in operations per second (a multiplication and an addition are two), shares are of
the rate that this device reaches with one large int8 product. Results go to results/gpu.json, too.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config

from universal_neurons.activations import kernels, products
from universal_neurons.activations.codes import Codes, Escapes
from universal_neurons.activations.reader import Activations
from universal_neurons.capture.capture import Encoder, calibrate, capture
from universal_neurons.capture.direct import direct_sums
from universal_neurons.devices import device_of
from universal_neurons.models.load import Model, untrained

SEEDS = "01234"
CONTEXT, BATCH_TOKENS = 512, 8192
CALIBRATION = 16  # sequences
# Of the card's free memory, what sums may take.
FOR_SUMS = 0.7


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Median time of some work, after once without a clock."""
    times = []
    for _ in range(1 + repeats):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peaks(device: torch.device) -> dict[str, float]:
    """Rates of one large product, int8 and bfloat16."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (kernels.empty_codes(size, size, torch.int8, device).fill_(1) for _ in "ab")
    x, y = a.bfloat16(), b.bfloat16()
    work = {"int8": lambda: torch._int_mm(a.t(), b), "bfloat16": lambda: x.t() @ y}
    return {f"{name}_peak": 2 * size**3 / seconds(one, device) for name, one in work.items()}


def layouts(device: torch.device) -> dict[str, float]:
    """Rates of `add_products` by kernel, and of int8's with a token's neurons side by side."""
    tokens, width = (32768, 3072) if device.type == "cuda" else (8192, 1024)
    total = torch.zeros(width, width, dtype=torch.int64, device=device)
    by_neuron = kernels.empty_codes(tokens, width, torch.int8, device).fill_(1)
    by_token = torch.ones(tokens, width, dtype=torch.int8, device=device)
    made = [("int8", by_neuron), ("float32", by_neuron), ("int8_by_token", by_token)]
    if device.type == "cuda":
        made.append(("bfloat16", by_neuron))
    found = {}
    for name, dense in made:
        codes, kernel = Codes.of(dense), name.removesuffix("_by_token")
        try:
            took = seconds(lambda: kernels.add_products(total, codes, codes, kernel), device)  # noqa: B023
        except RuntimeError as error:  # a card may have no such product at all
            print(f"{name}: {error}")
            continue
        found[f"kernel_{name}"] = 2 * tokens * width**2 / took
    return found


def same_bits(device: torch.device) -> bool:
    """Whether sums with escapes are those of the CPU, by every kernel."""
    rng = np.random.default_rng(0)
    codes = []
    for d_mlp in (264, 320):
        dense = rng.integers(-127, 128, (5003, d_mlp), dtype=np.int8)
        row = np.sort(rng.choice(5003, 200, replace=False))
        neuron = rng.integers(0, d_mlp, 200).astype(np.int32)
        dense[row, neuron] = 127
        whole = rng.integers(128, 999, 200).astype(np.float32)
        codes.append(Codes(dense, Escapes(row, neuron, whole)))
    expected = kernels.add_products(np.zeros((264, 320), np.int64), *codes, "float32")
    names = ["int8", "float32"] + ["bfloat16"] * (device.type == "cuda")
    placed = [Codes(torch.from_numpy(x.dense), x.escapes) for x in codes]
    if device.type == "cuda":
        placed = [kernels.on_device(x, str(device)) for x in codes]
    found = [
        kernels.add_products(torch.zeros(264, 320, dtype=torch.int64).to(device), *placed, name)
        for name in names
    ]
    return all(np.array_equal(one.cpu().numpy(), expected) for one in found)


def step_of(device: torch.device, n_layers: int) -> Iterator[Model]:
    """A model per seed."""
    with tempfile.TemporaryDirectory() as where:
        GPT2Config(n_layer=n_layers).save_pretrained(where)
        for seed in SEEDS:
            yield untrained(where, int(seed), device=str(device))


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=262_144)
    options = parser.parse_args()
    device = device_of(options.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    found: dict[str, object] = {"device": str(device), "card": card, "torch": torch.__version__}
    found |= {"tokens": options.tokens, "layers": options.layers, "same_bits": same_bits(device)}
    found |= peaks(device) | layouts(device)
    rng = np.random.default_rng(0)
    sequences = rng.integers(0, 50257, (CALIBRATION + options.tokens // CONTEXT, CONTEXT))
    models = dict(zip(SEEDS, step_of(device, options.layers), strict=True))
    encoders = {
        seed: Encoder(
            seed,
            0,
            calibrate(
                model,
                sequences[:CALIBRATION],
                name=f"seed {seed}",
                exclude=(),
                encoding="int8",
                headroom=0.5,
                batch_tokens=BATCH_TOKENS,
                positions=(),
            ),
            "int8",
            (),
            BATCH_TOKENS,
        )
        for seed, model in models.items()
    }
    found |= direct(models, encoders, sequences, found["int8_peak"])
    found |= stored(models, encoders, sequences, found["int8_peak"], device)
    for name, value in found.items():
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
    path = Path("results/gpu.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def direct(models, encoders, sequences, peak) -> dict[str, float]:
    """All pairs side by side, nothing stored; as many layers as the card holds sums of."""
    first = models["0"]
    pairs, n = list(combinations(SEEDS, 2)), len(first.d_mlp)
    of_layer = 8 * len(pairs) * first.d_mlp[0] * sum(first.d_mlp)
    free = torch.cuda.mem_get_info(first.device)[0] if first.device.type == "cuda" else 4e9
    layers = range(max(1, min(n, int(FOR_SUMS * free / of_layer))))
    start = time.perf_counter()
    direct_sums(
        models,
        encoders,
        sequences,
        (CALIBRATION, len(sequences)),
        pairs=pairs,
        layers=layers,
        own={},
    )
    took = time.perf_counter() - start
    tokens = (len(sequences) - CALIBRATION) * CONTEXT
    operations = 2 * tokens * (len(layers) * of_layer / 8)
    return {
        "direct_layers": len(layers),
        "direct_tokens_per_second": tokens / took,
        "direct_share_of_peak": operations / took / peak,
    }


def stored(models, encoders, sequences, peak, device) -> dict[str, float]:
    """A pair's sums from stored codes, read while the ones before are multiplied."""
    some = (CALIBRATION, CALIBRATION + max(1, (len(sequences) - CALIBRATION) // 4))
    tokens = (some[1] - some[0]) * CONTEXT
    with tempfile.TemporaryDirectory() as where:
        stores = []
        for seed in SEEDS[:2]:
            path = Path(where) / f"{seed}.zarr"
            start = time.perf_counter()
            capture(
                models[seed],
                sequences,
                some,
                encoders[seed],
                path,
                attributes={"corpus_sha256": ""},
            )
            captured = tokens / (time.perf_counter() - start)
            stores.append(Activations(path))
        d_mlp = stores[0].d_mlp
        start = time.perf_counter()
        for _ in products.cross_sums(*stores, range(len(d_mlp)), "int8", str(device)):
            pass
        took = time.perf_counter() - start
    return {
        "capture_tokens_per_second": captured,
        "stored_tokens_per_second": tokens / took,
        "stored_share_of_peak": 2 * tokens * sum(d_mlp) ** 2 / took / peak,
    }


if __name__ == "__main__":
    main()
