"""Names that users have: padded steps, folders apart, spaces and brackets, files in a list."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import tiny
from grids import tokenizer

WORDS = [chr(ord("a") + i) for i in range(26)]


def test_models_and_texts_of_odd_names_are_planned_and_read(tmp_path):
    """Zero-padded names, a model elsewhere, a tokenizer apart, the home directory, a list."""
    config = tiny.make(tmp_path, seeds=("7", "8"), steps=(10, 200))
    home = tmp_path / "home"
    for seed, step in product(("7", "8"), (10, 200)):
        place = home / f"my models/00{seed}/ckpt_{step:06d}"
        place.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"models/{seed}/{step}").rename(place)
    (home / "my models/008/ckpt_000200").rename(tmp_path / "the last, really")
    tokenizer(WORDS).save_pretrained(tmp_path / "the tokenizer")
    rng = np.random.default_rng(0)
    for name in ("one, two.txt", "three [1].txt"):
        (home / name).write_text(" ".join(rng.choice(WORDS, 1500)))
    config["models"] |= {
        "seeds": [7, 8],
        "path": "~/my models/{seed:03d}/ckpt_{step:06d}",
        "paths": {8: {200: "the last, really"}},
        "tokenizer": "the tokenizer",
    }
    config["corpus"] |= {"source": "text", "path": ["~/one, two.txt", "~/three [1].txt"]}
    tiny.configure(tmp_path, config)
    jobs = tiny.planned(tmp_path, HOME=str(home))
    assert (jobs["capture_first"], jobs["ablate"], jobs["trace"]) == (4, 4, 2)
    made = "results/tiny/calibration/seed8/step200.json"
    tiny.finish(tmp_path, made, HOME=str(home))
    about = json.loads((tmp_path / "results/tiny/corpus/corpus.json").read_text())
    assert about["n_sequences"] == 2 * (1501 // tiny.CONTEXT)
    assert "Nothing to be done" in tiny.finish(tmp_path, made, HOME=str(home)).stdout
