"""The list of top neurons names them, and says which are one neuron in several seeds."""

from __future__ import annotations

import pandas as pd
import synthetic

from universal_neurons.report.top import top_neurons, top_table

SCORES = pd.DataFrame(
    [
        ("a", 1, 10, 0.9),
        ("b", 0, 3, 0.85),
        ("c", 0, 7, 0.8),
        ("a", 0, 0, 0.7),
        ("b", 1, 1, 0.2),
    ],
    columns=["seed", "layer", "neuron", "excess_corr"],
).assign(step=7, excess_se=0.01, q_value=0.001)

PAIRS = [
    # L1N10 of a and L0N3 of b are each other's best match, and L0N3 of b and L0N7 of c.
    ("a", 1, 10, "b", 0, 3, True),
    ("b", 0, 3, "a", 1, 10, True),
    ("b", 0, 3, "c", 0, 7, True),
    ("c", 0, 7, "b", 0, 3, True),
    # One-sided.
    ("a", 1, 10, "c", 0, 7, False),
    ("c", 0, 7, "a", 0, 0, False),
    ("a", 0, 0, "b", 0, 3, False),
    ("a", 0, 0, "c", 0, 9, True),
    ("b", 1, 1, "a", -1, -1, False),
    ("b", 1, 1, "c", 0, 7, False),
]
COLUMNS = ["seed", "layer", "neuron", "other_seed", "best_layer", "best_neuron", "mutual"]
MATCHES = pd.DataFrame(PAIRS, columns=COLUMNS).assign(step=7, best_corr=0.95)


def models(**sha256):
    return pd.DataFrame({"step": 7, "seed": list(sha256), "sha256": list(sha256.values())})


def test_mutual_best_matches_of_a_neuron_further_up_are_marked_as_the_same():
    top = top_neurons(SCORES.sample(frac=1, random_state=0), MATCHES, 4)
    assert top["excess_corr"].tolist() == [0.9, 0.85, 0.8, 0.7]
    # c's by way of b's, as its own best match in a is another one.
    assert top["same_as"].tolist() == [0, 1, 1, 0]


def test_the_table_names_neurons_by_layer_and_index_with_their_matches():
    table = top_table(SCORES, MATCHES, models(a="x", b="y", c="z"))
    first, second, *_, last = table.rows
    assert first["neuron"] == "L1N10"
    assert first["same as"] == "–"
    assert first["in seed a"] == "–"
    assert first["in seed b"] == "L0N3 (0.95)"
    assert first["excess"] == "0.90 ± 0.01"
    assert second["same as"] == "no. 1"
    assert last["in seed a"] == "–", "it has no match"


def test_neurons_of_copied_models_are_marked():
    table = top_table(SCORES, MATCHES, models(a="x", b="x", c="z"))
    assert [row["same as"] for row in table.rows] == [
        "–",
        "no. 1, copied model",
        "no. 1",
        "–",
        "copied model",
    ]


def test_the_top_of_a_run_are_the_largest_of_all_seeds_at_the_last_step():
    made = synthetic.tables()
    table = top_table(made["universality"].query("step == 1000"), made["matches"], made["models"])
    assert len(table.rows) == 20
    assert {f"in seed {seed}" for seed in "01234"} <= set(table.columns)
