"""The gallery shows the members of a group in the same contexts, as the tables have them."""

import re

import numpy as np
import pandas as pd
import pytest

from universal_neurons.report.gallery import CONTEXTS, read_gallery


@pytest.fixture(scope="module")
def results(local, tmp_path_factory):
    """The shared run, whose models have no group: three neurons and their matches are made ones."""
    run, where = local[0] / "results/exact", tmp_path_factory.mktemp("groups")
    for name in ("examples", "contexts", "vocabulary", "models"):
        (where / f"{name}.parquet").symlink_to(run / f"{name}.parquet")
    contexts = pd.read_parquet(run / "contexts.parquet")
    contexts = contexts[(contexts.other_step == 20) & (contexts.seed == "a")]
    rows = []
    firsts = contexts[["layer", "neuron"]].drop_duplicates()[:3].itertuples(index=False)
    for group, first in enumerate(firsts):
        own = contexts[(contexts.layer == first.layer) & (contexts.neuron == first.neuron)]
        others = own.drop_duplicates("other_seed")
        members = [("a", *first), *others[["other_seed", "other_layer", "other_neuron"]].values]
        rows += [{"group": group, "excess_corr": 0.1 * group, **_named(each)} for each in members]
    same = {"step": 20, "group_mean_corr": 0.8, "group_min_corr": 0.7}
    pd.DataFrame(rows).assign(**same).to_parquet(where / "groups.parquet")
    return where


def _named(member):
    return dict(zip(("seed", "layer", "neuron"), member, strict=True))


@pytest.fixture(scope="module")
def gallery(results):
    return read_gallery(results)


def test_the_groups_of_the_last_step_come_by_their_mean_excess(gallery, results):
    groups = pd.read_parquet(results / "groups.parquet")
    shown = [{(r.seed, r.name) for r in group.contexts[0]} for group in gallery]
    assert shown == [
        {(m.seed, f"{m.layer}.{m.neuron}") for m in groups[groups.group == g].itertuples()}
        for g in (2, 1, 0)
    ]


def test_every_member_is_read_in_the_first_ones_contexts(gallery, results):
    """Shares of each member's largest activation in the contexts shown."""
    examples = pd.read_parquet(results / "examples.parquet").query("band == 'top'")
    contexts = pd.read_parquet(results / "contexts.parquet").query("band == 'top'")
    text = pd.read_parquet(results / "vocabulary.parquet").set_index("token_id").text
    contexts = contexts[contexts.other_step == contexts.step]
    for group in gallery:
        first = group.contexts[0][0]
        layer, neuron = map(int, first.name.split("."))
        place = f"seed == {first.seed!r} & layer == {layer} & neuron == {neuron}"
        own = examples.query(place).set_index("rank")
        for rank, readings in enumerate(group.contexts):
            for reading in readings:
                rows = own
                if reading.seed != first.seed:
                    rows = contexts.query(f"{place} & other_seed == {reading.seed!r}")
                    rows = rows.set_index("rank")
                    there = rows[["other_layer", "other_neuron"]].iloc[0]
                    assert reading.name == f"{there.iloc[0]}.{there.iloc[1]}"
                largest = max(np.abs(x).max() for x in rows.activations[:CONTEXTS])
                shares = [token.share for token in reading.tokens]
                assert np.allclose(shares, rows.activations[rank] / largest)
                assert [t.text for t in reading.tokens] == text[own.token_ids[rank]].tolist()


def test_every_member_has_a_page_in_the_explorer(gallery, local):
    addresses = {reading.address for group in gallery for reading in group.contexts[0]}
    assert len(addresses) > 3
    for address in addresses:
        path, _, place = address.partition("#/")
        assert (local[0] / "results/exact" / path).is_file()
        assert re.fullmatch(r"(a|b-x21|1)/20/\d+/\d+", place)


def test_two_seeds_have_no_gallery(results, tmp_path):
    for name in ("groups", "models"):
        table = pd.read_parquet(results / f"{name}.parquet")
        table[table.seed.isin(["a", "1"])].to_parquet(tmp_path / f"{name}.parquet")
    assert read_gallery(tmp_path) == []
