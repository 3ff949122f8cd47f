"""Texts that break off, are none or lack a name are refused with file, line or row, and key."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from universal_neurons.errors import UserError
from universal_neurons.plan.config import resolve
from universal_neurons.prepare.text import check_first, documents

LINES = [f"Sentence number {i * 7919 % 10007} of a text.\n" for i in range(40_000)]
CONTENT = {
    "txt": "".join(LINES).encode(),
    "jsonl": "".join(json.dumps({"text": line}) + "\n" for line in LINES).encode(),
}


def streamed(content):
    """As the command zstd writes from a pipe: nothing says how much text there is."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(content) + compressor.flush()


COMPRESS = {"gz": gzip.compress, "zst": zstandard.compress, "piped.zst": streamed}


def refusal(path, text_key="text", subset_key=None):
    with pytest.raises(UserError) as error:
        list(documents([path], text_key, subset_key))
    assert str(path) in str(error.value)
    return str(error.value).replace(str(path), path.name)


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("how", COMPRESS)
def test_a_compressed_text_that_breaks_off_is_refused(tmp_path, kind, how):
    content = COMPRESS[how](CONTENT[kind])
    path = tmp_path / f"a.{kind}.{how.removeprefix('piped.')}"
    path.write_bytes(content)
    whole = "".join(document.text for document in documents([path]))
    assert whole == "".join(LINES)
    for left in (1, 3, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:left])
        assert refusal(path).startswith(f"corpus.path: {path.name}: can't be read: ")
        path.write_bytes(content[:-left])
        assert refusal(path).startswith(f"corpus.path: {path.name}: can't be read: ")


def test_the_parts_of_a_compressed_text_are_all_read_and_none_may_break_off(tmp_path):
    path = tmp_path / "a.txt.zst"
    half = zstandard.compress(CONTENT["txt"])
    path.write_bytes(half + half)
    assert sum(len(document.text) for document in documents([path])) == 2 * len(CONTENT["txt"])
    path.write_bytes(half + half[:-5])
    assert "can't be read" in refusal(path)


def test_half_a_character_is_named_with_its_line(tmp_path):
    """JSON can write it, no text has it, and no tokenizer takes it."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "whole \\ud83d\\ude42"}\n\n{"text": "a \\ud83d half", "of": "x"}\n')
    assert refusal(path) == (
        r"corpus.text_key: a.jsonl:3: 'text' is no text: it has half a character, \ud83d, at "
        "position 2"
    )
    path.write_text('{"text": "whole", "of": "\\udc00"}\n')
    assert r"corpus.subset_key: a.jsonl:1: 'of' is no text: it has half a" in refusal(
        path, "text", "of"
    )
    path.write_text('{"\\ud83d": "whole"}\n')
    said = refusal(path)
    assert said == r"corpus.text_key: a.jsonl:1 has no text 'text'; it has \ud83d"
    said.encode()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 5}', "what is there is of type int"),
        ('{"text": ["a"]}', "what is there is of type list"),
        ('{"text": null, "body": "a"}', "it has text, body"),
        ('{"body": "a", "id": 1}', "it has body, id"),
    ],
)
def test_what_is_no_text_is_named_with_what_there_is(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a"}}\n{line}\n')
    assert refusal(path) == f"corpus.text_key: a.jsonl:2 has no text 'text'; {message}"


COLUMNS = {
    "int64": pa.array([1, 2]),
    "double": pa.array([1.5, 2]),
    "bool": pa.array([True, False]),
    "binary": pa.array([b"a", b"b"]),
    "list<element: string>": pa.array([["a"], ["b"]]),
    "struct<a: int64>": pa.array([{"a": 1}, {"a": 2}]),
    "null": pa.array([None, None]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_that_is_no_text_is_named_with_its_type_before_any_job(tmp_path, kind):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": COLUMNS[kind]}), path)
    assert refusal(path) == (
        f"corpus.text_key: a.parquet: column 'text' holds {kind}; expected text (string)"
    )
    pq.write_table(pa.table({"text": ["a", "b"], "of": COLUMNS[kind]}), path)
    said = refusal(path, "text", "of")
    assert said.startswith("corpus.subset_key: a.parquet, row 1 has no text 'of'; ")
    with pytest.raises(UserError, match="row 1 has no text 'of'"):
        check_first(path, "text", "of")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_every_kind_of_text_in_columns_is_read(tmp_path, kind):
    path = tmp_path / "a.parquet"
    for column in (pa.array(["a", None, "b"], kind), pa.array(["a", "b"]).dictionary_encode()):
        pq.write_table(pa.table({"text": column}), path)
        assert [document.text for document in documents([path])] == ["a", "b"]


def test_two_columns_of_a_name_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    columns = [pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "text"]), path)
    assert refusal(path) == "corpus.text_key: a.parquet has several columns 'text'; rename them"


@pytest.mark.parametrize("name", ["", " ", "\n"])
def test_an_empty_subset_is_refused_with_its_line_or_row(tmp_path, name):
    """It was no subset, and the labels of all later tokens were moved to earlier ones."""
    rows = [{"text": "a", "of": {"set": "x"}}, {"text": "b", "of": {"set": name}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for file, where in (("a.jsonl", ":2"), ("a.parquet", ", row 2")):
        said = refusal(tmp_path / file, "text", "of.set")
        assert said.startswith(f"corpus.subset_key: {file}{where} has an empty 'of.set'; ")


@pytest.mark.parametrize(("key", "source"), [("path", "text"), ("dataset", "hub")])
@pytest.mark.parametrize("name", ["", " "])
def test_a_corpus_without_a_name_among_named_ones_is_refused(key, source, name):
    corpus = {"source": source, key: {"x": "a", name: "b"}}
    sizes = {"tokens": 320, "heldout_tokens": 160, "context_length": 16}
    models = {"seeds": ["a", "b"], "steps": [10]}
    with pytest.raises(UserError, match=f"corpus.{key}: '{name}' is wrong; expected names of subs"):
        resolve({"run": "r", "models": models, "corpus": {**corpus, **sizes}})
