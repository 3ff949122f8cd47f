"""How large and how fast the explorer of GPT-2 Small is: 1,500 made-up neurons of every seed.

    .venv/bin/python benchmarks/explorer.py [--steps 5] [--folder FOLDER]

Prints the bytes of its files by kind, and, where Debian's chromium is installed, how long the first
page and neurons' pages take until all is drawn. Takes some minutes and 10 GB of memory.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from explored import Size, explored

GPT2_SMALL = Size(
    seeds=("0", "1", "2", "3", "4"),
    steps=(80000, 160000, 240000, 320000, 400000),
    n_layers=12,
    d_mlp=3072,
    chosen=1500,
    vocabulary=50257,
)

# Neurons of a seed, far from each other.
ROWS = {
    "with contexts": "run.chosen[seed][(i * 331) % run.chosen[seed].length]",
    "without contexts": "[...Array(99).keys()].map(k => (i * 7919 + k) % 36864)"
    ".find(row => !run.places[seed].has(row))",
}
# Opens 40 pages, and says how long each took.
OPEN = """
    const done = arguments[0];
    const frame = () => new Promise((end) => requestAnimationFrame(() => setTimeout(end)));
    (async () => {
      const times = [];
      for (let i = 0; i < 40; i++) {
        const seed = i %% 5;
        const row = %s;
        const start = performance.now();
        location.hash = run.address(seed, run.last, row);
        while (page?.row !== row || page.seed !== seed) await frame();
        await frame();
        times.push(performance.now() - start);
      }
      done(times);
    })();
"""


def measure_sizes(folder: Path) -> None:
    """Print megabytes by kind of file."""
    sizes: Counter[str] = Counter()
    for file in folder.rglob("*.*"):
        kind = file.stem.split("-")[0] if file.parent.name == "data" else "pages"
        sizes[kind] += file.stat().st_size
    for kind, size in sizes.most_common():
        print(f"{kind:12} {size / 1e6:6.1f} MB")
    print(f"{'all':12} {sizes.total() / 1e6:6.1f} MB")


def measure_times(index: Path) -> None:
    """Print milliseconds until pages are drawn."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1400,900"):
        options.add_argument(f"--{option}")
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    driver.set_script_timeout(60)
    listed = "return performance.now()"
    firsts = []
    for _ in range(5):
        driver.get("about:blank")
        driver.get(index.as_uri())
        while not driver.execute_script("return document.querySelectorAll('.row').length"):
            time.sleep(0.005)
        firsts.append(driver.execute_script(listed))
    print(f"first page   {np.median(firsts):.0f} ms (slowest {max(firsts):.0f})")
    for kind, row in ROWS.items():
        opened = driver.execute_async_script(OPEN % row)
        slow = f"slowest {max(opened):.0f}, first {opened[0]:.0f}"
        print(f"a neuron {kind:17} {np.median(opened):.0f} ms ({slow})")
    driver.quit()


def main() -> None:
    """Make the explorer and measure it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to keep it")
    parser.add_argument("--steps", type=int, default=5, help="saved steps of every model")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp())
    steps = tuple(400000 * (i + 1) // asked.steps for i in range(asked.steps))
    index = folder / "explorer/index.html"
    if not index.exists():
        start = time.monotonic()
        explored(folder, replace(GPT2_SMALL, steps=steps))
        print(f"made in      {time.monotonic() - start:.0f} s, tables included")
    measure_sizes(index.parent)
    measure_times(index)


if __name__ == "__main__":
    main()
