"""Text of a data set on the Hub: the real client, a small hub of our own, no more than needed."""

from __future__ import annotations

import json

import hub as server
import pandas as pd
import pytest
import zstandard

OPTIONS = {
    "dataset": "org/pile",
    "name": None,
    "revision": "main",
    "split": "train",
    "text_key": "text",
    "seed": 0,
    "shuffle_buffer": 10,
}
SCRIPT = """
import json
from itertools import islice
from universal_neurons.prepare import datasets
with job(None):
    options = json.loads({options!r})
    commit = datasets.commit(options)
    texts = [text for text, _ in islice(datasets.documents(options, commit), {limit})]
    print("RESULT", json.dumps([commit, texts]))
"""


def lines(texts) -> bytes:
    return "".join(json.dumps({"text": text, "meta": {"a": 1}}) + "\n" for text in texts).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("datasets")
    pile, table = where / "pile", where / "table"
    (pile / "train").mkdir(parents=True)
    for file in range(3):
        texts = [f"{file} {i}" for i in range(50)]
        (pile / f"train/{file:02}.jsonl.zst").write_bytes(zstandard.compress(lines(texts)))
    for name in ("english", "french"):
        (table / name).mkdir(parents=True)
        pd.DataFrame({"content": [f"{name} {i}" for i in range(9)]}).to_parquet(
            table / name / "train-00000-of-00001.parquet"
        )
    configs = [
        {"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("english", "french")
    ]
    (table / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    return where


@pytest.fixture
def hub(folder):
    with server.serving() as running:
        running.add("org/pile", "main", folder / "pile", "datasets")
        running.add("org/table", "main", folder / "table", "datasets")
        running.add("org/private", "main", folder / "table", "datasets")
        running.gated["datasets/org/private"] = "hf_secret"
        yield running


@pytest.fixture
def client(tmp_path, hub):
    return server.Client(tmp_path, hub.url)


def stream(client, *, limit: int | None = None, env: dict | None = None, **options):
    """Commit and documents; or what is printed, where the job fails."""
    given = json.dumps({**OPTIONS, **options})
    said = client.python(SCRIPT.format(options=given, limit=limit), **(env or {}))
    if client.code:
        return said
    return json.loads(said.partition("RESULT")[2].partition("\n")[0])


@pytest.mark.slow
def test_every_document_of_the_split_comes_once_in_a_seeded_order(hub, client):
    commit, texts = stream(client)
    assert commit == hub.commit("org/pile", "main", "datasets")
    every = [f"{file} {i}" for file in range(3) for i in range(50)]
    assert sorted(texts) == sorted(every)
    assert texts != every
    assert stream(client)[1] == texts
    assert stream(client, limit=40)[1] == texts[:40], "asking for more keeps the earlier ones"
    other = stream(client, seed=1)[1]
    assert sorted(other) == sorted(every)
    assert other != texts


@pytest.mark.slow
def test_a_configuration_and_a_column_are_chosen_by_name(client):
    _, texts = stream(client, dataset="org/table", name="french", text_key="content")
    assert sorted(texts) == [f"french {i}" for i in range(9)]


def test_no_more_is_fetched_than_is_asked_for(hub, client, tmp_path):
    large = tmp_path / "large"
    large.mkdir()
    # The client reads some 16 MB ahead.
    (large / "train.jsonl").write_bytes(lines(f"{i:08}" * 1000 for i in range(10_000)))
    hub.add("org/large", "main", large, "datasets")
    _, texts = stream(client, dataset="org/large", limit=50)
    assert len(texts) == 50
    assert hub.sent < sum(file.stat().st_size for file in large.iterdir()) / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "org/none"}, "corpus.dataset: org/none does not exist or is private"),
        ({"dataset": "a/b/c"}, "corpus.dataset: 'a/b/c' is no repository name"),
        ({"dataset": "org/private"}, "corpus.dataset: org/private is gated"),
        ({"revision": "v2"}, "corpus.revision: org/pile has no revision v2"),
        ({"split": "test"}, "corpus.split: org/pile: Bad split: test. Available splits: ["),
        (
            {"text_key": "body"},
            "corpus.text_key: org/pile has no text 'body'; it has",
        ),
        ({"dataset": "org/table", "name": "dutch"}, "corpus.name, corpus.split: org/table: "),
    ],
)
def test_what_is_wrong_is_said_with_its_key(options, message, client):
    said = stream(client, **options)
    assert client.code == 1
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize("env", [{"HF_HUB_OFFLINE": "1"}, server.NO_NETWORK])
def test_without_network_the_error_says_what_to_do(env, client):
    said = stream(client, env=env)
    assert client.code == 1
    assert "org/pile can't be streamed" in said
    assert "use corpus.source text" in said
    assert "Traceback" not in said
