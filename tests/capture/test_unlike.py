"""What is captured of models behind two tokenizers has the same rows."""

from __future__ import annotations

import numpy as np
import two_tokenizers
from pipeline import run_capture, wrap

from universal_neurons.activations.class_sums import groups_of
from universal_neurons.activations.reader import Activations
from universal_neurons.prepare import corpus
from universal_neurons.prepare.reading import Corpus
from universal_neurons.store.files import write_json


def test_rows_of_both_are_where_tokens_end_at_the_same_byte(tmp_path):
    config = two_tokenizers.make(tmp_path)["corpus"]
    options = {**config, "path": str(tmp_path / config["path"]), "text_key": "text"}
    options |= {"subset_key": None, "seed": 0, "exclude_token_ids": "auto", "exclude_positions": []}
    directories = {seed: tmp_path / f"models/{seed}/10" for seed in "ac"}
    files = [tmp_path / name for name in ("tokens.npy", "clusters.npy")]
    write_json(tmp_path / "corpus.json", corpus.make(options, directories, *files))
    found, rows, classes = {}, {}, {}
    for seed, tokenizer in (("a", two_tokenizers.of_letters()), ("c", two_tokenizers.of_pairs())):
        one = Corpus(files[0], tmp_path / "corpus.json", clusters=files[1]).of_seed(seed)
        model = wrap(two_tokenizers.model_of(tokenizer, two_tokenizers.order_of(seed)))
        tokens = one.sequences[:60]
        [store] = run_capture(
            model, tokens, tmp_path / seed, seed=seed, exclude=[], encoding="float32"
        )
        found[seed] = Activations(store / "activations.zarr")
        place = np.argsort(two_tokenizers.order_of(seed))
        rows[seed] = [found[seed].activations(layer)[:, place] for layer in range(2)]
        index = found[seed].token_index()
        classes[seed] = groups_of(one.sequences, one.identity, one.halves, index)
    assert found["a"].n_tokens == found["c"].n_tokens > 500
    for a, c in zip(rows["a"], rows["c"], strict=True):
        np.testing.assert_allclose(a, c, atol=1e-5)
    # What a token is, is the same for both; the token before and the position are not.
    same = {
        kind: np.array_equal(classes["a"][kind].of_token, classes["c"][kind].of_token)
        for kind in classes["a"]
    }
    assert same == {"token": True, "previous_token": False, "position": False}
