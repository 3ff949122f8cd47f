"""Planted worlds: loss at equal energy, from the neurons' sizes and costs to what is said of it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import synthetic
import torch
from architectures import held_out

from universal_neurons.ablate import doses as module
from universal_neurons.ablate.measure import Measured
from universal_neurons.ablate.subject import Subject
from universal_neurons.report.ablation import on_equal_energy
from universal_neurons.report.figures.response import energy_response
from universal_neurons.report.findings import Findings
from universal_neurons.report.response import Response, at_equal_energy

SEEDS, N, SEQUENCES = "abcde", 400, 64
HOW = SimpleNamespace(dtype="float32", error=np.nan)


class Planted(Subject):
    """A model of one layer, whose output weights are unit vectors."""

    def replacement(self, *_, **__):
        return None


def world(monkeypatch, *, worth=1.0, times=5.0, power=1.0, seeds=SEEDS, given=None):
    """Findings of models whose loss is the summed squared sizes to a power, times 10⁻³.

    One neuron in twelve is universal and has `times` the squared size of another; it costs `worth`
    times as much as another of its size would. Of the universal a share `given` is so given the
    token, which is not known if None.
    """
    tables = []
    for i, seed in enumerate(seeds):
        rng = np.random.default_rng(i)
        universal = rng.permutation(N) < N / 12
        squares = np.exp(0.5 * rng.normal(size=N)) * np.where(universal, times, 1.0)
        cost = squares * np.where(universal, worth, 1.0) * np.exp(0.5 * rng.normal(size=N) - 0.125)
        noise = 0.1 * rng.normal(size=(N, SEQUENCES))

        def measure(accuracy, subject, text, runs, *_, made=(squares, cost, noise), **__):
            squares, cost, noise = made
            sets = [run.neurons.neurons for run in runs]
            energy = np.stack([np.full(SEQUENCES, squares[one].sum()) for one in sets])
            own = np.stack([(cost[one, None] * (1 + noise[one])).sum(0) for one in sets])
            delta = 1e-3 * own * energy ** (power - 1)
            clean = np.full(SEQUENCES, 2.0)
            documents = np.arange(SEQUENCES)
            return Measured(
                HOW, documents, clean, clean, delta, delta, delta, delta, energy, energy
            )

        monkeypatch.setattr(module, "measure_as_asked", measure)
        model = SimpleNamespace(d_mlp=(N,), has_head=True, output_weight=lambda _: torch.eye(N))
        subject = Planted(model, seed, 1, np.zeros(N), np.sqrt(squares), np.full(N, 0.5))
        excess = rng.random(N) / 3 + 0.6 * universal
        text = held_out(np.zeros((1, 2), int))
        past = None if given is None else universal & (rng.random(N) < given)
        scores = pd.DataFrame(
            {"excess_corr": excess, "universal": universal, "universal_given_token": past}
        )
        tables.append(module.doses(subject, text, scores))
    return Findings({"doses": pd.concat(tables)}, synthetic.excess_above(0.5))


def rows(found):
    return found.equal_energy.set_index(["neuron_set", "dose"])


@pytest.mark.parametrize("power", [0.8, 1.0, 1.2])
def test_neurons_that_are_only_larger_cost_as_much_as_others_at_equal_energy(monkeypatch, power):
    found = world(monkeypatch, power=power)
    table = found.last_doses
    each = table["delta_loss"] / table["n_neurons"]
    # As they are, they cost some five times as much.
    of = table["neuron_set"]
    assert each[of == "universal"].mean() > 3.5 * each[of == "others"].median()
    for _, row in rows(found).iterrows():
        assert row["n_within"] == len(SEEDS)
        assert row["verdict"] == "undecided"
        assert row["low"] < 1 < row["high"]
        assert row["ratio"] == pytest.approx(1, abs=0.1)
    text = on_equal_energy(found)
    assert text.count("not distinguishable from 1") == 4
    assert "more" not in text


@pytest.mark.parametrize(("worth", "says"), [(1.6, "more"), (0.5, "less")])
def test_neurons_that_cost_more_or_less_at_equal_energy_are_found(monkeypatch, worth, says):
    found = world(monkeypatch, worth=worth)
    row = rows(found).xs("universal").iloc[0]
    assert row["verdict"] == says
    assert row["ratio"] == pytest.approx(worth, rel=0.1)
    assert row["low"] < worth < row["high"]
    assert row["high"] - row["low"] < 0.8
    text = on_equal_energy(found)
    assert (
        f"{row['ratio']:.2f} with all neurons replaced that are universal (95\u00a0% interval"
        in text
    )
    assert f"5 seeds): {says};" in text


def test_neurons_universal_given_the_token_are_a_set_of_their_own(monkeypatch):
    found = world(monkeypatch, worth=1.6, given=0.5)
    of = found.last_doses.groupby("neuron_set")["n_neurons"].sum()
    assert 0 < of["universal_given_token"] < of["universal"]
    row = rows(found).xs("universal_given_token").iloc[0]
    assert row["verdict"] == "more"
    assert row["low"] < 1.6 < row["high"]
    said = f"{row['ratio']:.2f} with all neurons replaced that are universal given the token"
    assert said in on_equal_energy(found)
    labels = [text.get_text() for text in energy_response(found).legends[0].get_texts()]
    assert labels == ["others", "top by excess", "universal", "universal given the token"]
    # Where there are none nothing is added.
    none = world(monkeypatch, worth=1.6, given=0.0).last_doses
    pd.testing.assert_frame_equal(none, world(monkeypatch, worth=1.6).last_doses)


def test_nothing_is_said_where_no_others_reach_the_energy(monkeypatch):
    found = world(monkeypatch, worth=3.0, times=100.0)
    row = rows(found).xs("universal").iloc[0]
    assert row["verdict"] == "not comparable"
    assert row["n_within"] == 0
    assert np.isnan([row["ratio"], row["low"], row["high"]]).all()
    text = on_equal_energy(found)
    assert (
        "an unknown factor with all neurons replaced that are universal: in none of 5 seeds do"
        in text
    )
    assert "more" not in text


def test_others_that_change_the_loss_by_nothing_clear_are_no_measure(monkeypatch):
    found = world(monkeypatch)
    noisy = found.last_doses.assign(delta_loss_se=1.0)
    compared = at_equal_energy(noisy, "universal")
    assert compared["expected"].notna().all()
    assert compared["ratio"].isna().all()


def test_one_seed_has_a_ratio_and_no_interval(monkeypatch):
    found = world(monkeypatch, seeds="a")
    assert (rows(found)["verdict"] == "not known").all()
    assert "(1 seed; no interval)" in on_equal_energy(found).replace("one seed", "1 seed")


def test_the_loss_per_energy_is_interpolated_in_the_logarithm_of_the_energy():
    """Draws of a size are averaged; beyond the others' energies there is nothing."""
    others = pd.DataFrame(
        {
            "dose": [0.1, 0.1, 0.3],
            "energy": [1.0, 3.0, 8.0],
            "delta_loss": [0.02, 0.04, 0.24],
            "delta_loss_se": [0.002, 0.002, 0.008],
        }
    )
    curve = Response(others)
    # Means: energy 2, loss 0.03 (0.015 per energy); energy 8, loss 0.24 (0.03 per energy).
    np.testing.assert_allclose(curve(np.array([2, 4, 8])), [0.03, 4 * 0.0225, 0.24])
    assert np.isnan(curve(np.array([1.9, 8.1]))).all()
    np.testing.assert_allclose(curve.error(np.array([2, 4])), [0.002, 4 * 0.001])


def test_the_band_of_the_figure_is_the_interval_over_seeds(monkeypatch):
    found = world(monkeypatch)
    ax = energy_response(found).axes[0]
    labels = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert labels == ["others", "top by excess", "universal"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert len(ax.collections) == 2
    for line in ax.lines:
        assert np.isfinite(line.get_ydata()).all()


def test_tables_without_sets_of_others_say_so(monkeypatch):
    found = world(monkeypatch)
    old = found.last_doses
    bare = Findings({"doses": old[old["neuron_set"] != "others"]}, found.criterion)
    assert "No sets of other neurons" in on_equal_energy(bare)
