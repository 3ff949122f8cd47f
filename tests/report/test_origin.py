"""The report says when, by which code and of which models and text it was made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from universal_neurons.method import METHOD_VERSION
from universal_neurons.plan.config import resolve
from universal_neurons.report.origin import commit_of, origin

CONFIG = {
    "run": "r",
    "models": {"seeds": ["a", "b"], "steps": [1], "path": "my/{seed}/{step}"},
    "corpus": {"source": "text", "path": "law.txt", "tokens": 1000},
}


def made(**sections):
    config = resolve({**CONFIG, **sections})
    return origin(config, {"sha256": "f00d"}, 900)


def test_date_versions_paths_and_tokens_are_there():
    found = made()
    assert found["report written"][:2] == "20"
    for package in ("torch", "transformers", "numpy", "zarr", "snakemake"):
        assert f"{package} " in found["versions"]
    for kind, version in METHOD_VERSION.items():
        assert f"{kind} {version}" in found["method versions"]
    assert found["models"] == str(Path.cwd() / "my/{seed}/{step}")
    assert found["text"] == f"text: {Path.cwd() / 'law.txt'}"
    assert found["tokens"].startswith("f00d")
    assert found["scored tokens"] == 900


def test_what_share_of_the_tokens_of_several_tokenizers_is_compared_is_said():
    assert "tokenizers" not in made()
    of_a = {"seeds": ["a", "b"], "shared": 0.745, "bytes_per_token": 4.25}
    of_c = {"seeds": ["c"], "shared": 1.0, "bytes_per_token": 5}
    config = resolve(CONFIG)
    said = origin(config, {"sha256": "f00d", "aligned": [of_a, of_c]}, 900)["tokenizers"]
    assert (
        "of a, b: 74.5\u00a0% of the tokens end where those of all do, 4.25 bytes per token" in said
    )
    assert "of c: 100\u00a0% of" in said
    assert "bits per byte" in said


def test_models_and_text_of_the_hub_and_several_corpora_are_named():
    hub = {"source": "hub", "seeds": ["a", "b"], "steps": [1]}
    hub |= {"repo": "org/{seed}", "revision": "step{step}"}
    corpus = {"source": "hub", "dataset": "org/text", "tokens": 1000}
    found = made(models=hub, corpus=corpus)
    assert found["models"].startswith("hub: org/{seed}, revision step{step}")
    assert found["text"].startswith("hub: org/text")
    several = made(corpus={"source": "text", "path": {"law": "l.txt", "code": "c"}, "tokens": 1000})
    assert several["text"].startswith(f"text: law {Path.cwd() / 'l.txt'}, code ")


def test_all_files_of_a_list_are_named():
    listed = made(corpus={"source": "text", "path": ["a.txt", "b.txt"], "tokens": 1000})
    assert listed["text"] == f"text: {Path.cwd() / 'a.txt'}, {Path.cwd() / 'b.txt'}"
    named = {"law": ["a.txt", "b.txt"], "code": "c.txt"}
    both = made(corpus={"source": "text", "path": named, "tokens": 1000})
    assert both["text"].endswith(
        f"law {Path.cwd() / 'a.txt'}, {Path.cwd() / 'b.txt'}, code {Path.cwd() / 'c.txt'}"
    )


def git(folder, *arguments):
    names = ("-c", "user.name=n", "-c", "user.email=e@x")
    subprocess.run(["git", "-C", folder, *names, *arguments], check=True, capture_output=True)


def test_the_commit_is_that_of_the_package_not_of_a_repository_around_it(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert commit_of(package) == "unknown (not a Git checkout)"
    git(tmp_path, "init")
    (tmp_path / "thesis.tex").write_text("")
    git(tmp_path, "add", "thesis.tex")
    git(tmp_path, "commit", "-m", "x")
    assert commit_of(package) == "unknown (not a Git checkout)"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "y")
    assert len(commit_of(package)) == 40
    (package / "__init__.py").write_text("1")
    assert commit_of(package).endswith(" with changes")


@pytest.mark.parametrize("source", ["train", "local"])
def test_every_source_of_models_says_where_they_are(source):
    models = {**CONFIG["models"], "source": source}
    if source == "train":
        models = {"source": "train", "seeds": [0, 1], "steps": [0, 5]}
    assert all(made(models=models).values())
