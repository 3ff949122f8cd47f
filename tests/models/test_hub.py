"""Models of the Hub: the real client against a small hub of our own, then no network at all."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import hub as server
import pytest
import torch
from pipeline import gpt2
from safetensors.torch import load_file

from universal_neurons.models import load as models
from universal_neurons.models.hub import Name, name_of
from universal_neurons.prepare.text import Document
from universal_neurons.prepare.tokenizer import load_tokenizer
from universal_neurons.prepare.training import train_tokenizer
from universal_neurons.store.place import check_model

REPO = "org/seed-a"
HF = str(Path(sys.executable).with_name("hf"))


def save_pickled(module, where: Path, *, parts: int = 1) -> None:
    """Save as before safetensors: whole or in parts, tied weights under both of their names."""
    module.config.save_pretrained(where)
    weights = list(module.state_dict().items())
    if parts == 1:
        torch.save(dict(weights), where / "pytorch_model.bin")
        return
    names = [f"pytorch_model-{i + 1:05}-of-{parts:05}.bin" for i in range(parts)]
    for i, name in enumerate(names):
        torch.save(dict(weights[i::parts]), where / name)
    index = {key: names[i % parts] for i, (key, _) in enumerate(weights)}
    (where / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Revisions of a model, right and wrong ones."""
    where = tmp_path_factory.mktemp("revisions")
    for step in (10, 20):
        texts = [Document("some text to learn from")] * 9
        train_tokenizer(texts, 260, where / f"checkpoint-{step}")
        gpt2(step).module.save_pretrained(where / f"checkpoint-{step}")
    shutil.copytree(where / "checkpoint-10", where / "main")
    train_tokenizer(texts, 258, where / "other-tokenizer")
    shutil.copy(where / "main/config.json", where / "other-tokenizer")
    # What a published repository has beside the model, and what must not be fetched.
    (where / "checkpoint-10/onnx").mkdir()
    for name in ("onnx/model.safetensors", "optimizer.pt", "flax_model.msgpack"):
        (where / "checkpoint-10" / name).write_bytes(b"large")
    torch.save({}, where / "checkpoint-10/pytorch_model.bin")
    module = gpt2(10).module
    for parts, name in ((1, "pickled"), (3, "pickled-parts")):
        (where / name).mkdir()
        save_pickled(module, where / name, parts=parts)
    module.save_pretrained(where / "parts", max_shard_size="5kB")
    (where / "malicious").mkdir()
    module.config.save_pretrained(where / "malicious")

    class Harm:
        def __reduce__(self):
            return (Path.touch, (where / "harmed",))

    with (where / "malicious/pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": Harm()}, file)
    (where / "no-weights").mkdir()
    module.config.save_pretrained(where / "no-weights")
    (where / "no-config").mkdir()
    (where / "no-config/README.md").write_text("x")
    return where


@pytest.fixture
def hub(folder):
    with server.serving() as running:
        for branch in folder.iterdir():
            if branch.is_dir():
                running.add(REPO, branch.name, branch)
        running.add("org/private", "main", folder / "main")
        running.gated["models/org/private"] = "hf_secret"
        yield running


def fetch(client, revision: str, *, repo: str = REPO, out: str = "out", prune=False, **env: str):
    """Fetch to a directory in the client's home; what is printed."""
    call = f"fetch(Name({repo!r}, {revision!r}), {str(client.home / out)!r}, prune_cache={prune})"
    return client.python(
        f"from universal_neurons.models.hub import Name, fetch\nwith job(None): {call}", **env
    )


@pytest.fixture
def client(tmp_path, hub):
    return server.Client(tmp_path, hub.url)


def test_a_revision_is_fetched_by_commit_and_is_then_a_local_model(hub, client):
    said = fetch(client, "checkpoint-20")
    assert client.code == 0, said
    out = client.home / "out"
    about = json.loads((out / "hub.json").read_text())
    assert about == {
        "repo": REPO,
        "revision": "checkpoint-20",
        "commit": hub.commit(REPO, "checkpoint-20"),
    }
    check_model(out)
    assert json.loads((out / "place.json").read_text()) == {"place": f"{client.home.name}/out"}
    assert models.load(out).digest() == gpt2(20).digest() != gpt2(10).digest()
    assert len(load_tokenizer(out)) == 260


def test_another_tokenizer_is_found_as_the_first_one_is_fetched(client):
    def compared(*others):
        return client.python(
            "from pathlib import Path\n"
            "from universal_neurons.models.hub import Name, fetch_tokenizer, tokenizer_folder\n"
            "from universal_neurons.prepare.tokenizer import require_same\n"
            f"first, *others = [Name({REPO!r}, one) for one in {('checkpoint-10', *others)}]\n"
            f"out = Path({str(client.home / 'first')!r})\n"
            "with job(None):\n"
            "    fetch_tokenizer(first, out)\n"
            "    require_same(map(tokenizer_folder, others), out)\n"
        )

    # One has no tokenizer but that of main.
    said = compared("checkpoint-20", "parts")
    assert client.code == 0, said
    said = compared("checkpoint-20", "other-tokenizer")
    assert client.code == 1
    assert "its tokenizer differs from the one the corpus is made with" in said
    assert "corpus.align: bytes" in said


def test_only_the_needed_files_are_fetched_and_safetensors_preferred(hub, client):
    said = fetch(client, "checkpoint-10")
    assert client.code == 0, said
    fetched = {Path(path).name for path in hub.downloads()}
    assert fetched == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
    }  # fmt: skip
    assert not any("onnx" in path for path in hub.downloads())
    assert models.load(client.home / "out").digest() == gpt2(10).digest()


def test_main_is_not_taken_for_the_last_step(hub, client):
    """Its weights are those of step 10 here."""
    said = fetch(client, "main")
    assert client.code == 0, said
    assert models.load(client.home / "out").digest() == gpt2(10).digest()
    about = json.loads((client.home / "out/hub.json").read_text())
    assert about["commit"] == hub.commit(REPO, "main") != hub.commit(REPO, "checkpoint-10")
    fetch(client, "checkpoint-400", out="last")
    assert client.code == 1
    assert not (client.home / "last").exists()


@pytest.mark.parametrize("revision", ["pickled", "pickled-parts", "parts"])
def test_every_form_of_weights_gives_the_same_model_as_safetensors(revision, hub, client):
    said = fetch(client, revision)
    assert client.code == 0, said
    out = client.home / "out"
    assert not list(out.glob("*.bin"))
    assert models.load(out).digest() == gpt2(10).digest()
    assert f"{REPO} at revision {revision} has no tokenizer; the one of revision main" in said
    assert len(load_tokenizer(out)) == 260


def test_stored_weights_keep_their_bits(hub, client, folder):
    """A conversion through the model would round float32 weights to the dtype config.json names."""
    module = gpt2(3).module
    module.config.dtype = "float16"
    where = client.home / "odd"
    where.mkdir()
    save_pickled(module, where)
    assert "float16" in (where / "config.json").read_text()
    hub.add("org/odd", "main", where)
    said = fetch(client, "main", repo="org/odd")
    assert client.code == 0, said
    weights = load_file(client.home / "out/model.safetensors")
    for key, weight in module.state_dict().items():
        assert torch.equal(weights[key], weight)


def test_a_pickle_that_would_execute_code_is_refused(client, folder):
    said = fetch(client, "malicious")
    assert client.code == 1
    assert "can't be loaded as weights alone" in said
    assert not (folder / "harmed").exists()
    assert not (client.home / "out").exists()


def test_a_connection_that_breaks_is_taken_up_where_it_was(hub, client):
    # The client keeps what it received in blocks of 10 MB.
    model = gpt2(1, d_mlp=100_000)
    model.module.save_pretrained(client.home / "large")
    hub.add("org/large", "main", client.home / "large")
    hub.break_once.add("model.safetensors")
    said = fetch(client, "main", repo="org/large")
    assert client.code == 0, said
    resumed = [line for line in hub.requests if "model.safetensors bytes=" in line]
    assert len(resumed) == 1
    assert "bytes=0-" not in resumed[0]
    assert models.load(client.home / "out").digest() == model.digest()


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        (REPO, "checkpoint-30", "models.revision: org/seed-a has no revision checkpoint-30"),
        ("org/none", "main", "models.repo: org/none does not exist or is private"),
        ("org/private", "main", "models.repo: org/private is gated: accept its terms"),
        ("a/b/c", "main", "models.repo: 'a/b/c' is no repository name"),
        (REPO, "no-weights", "has no weights for PyTorch; looked for model.safetensors"),
        (REPO, "no-config", "has no config.json"),
    ],
)
def test_what_is_wrong_with_a_name_is_said_with_its_key(repo, revision, message, client):
    said = fetch(client, revision, repo=repo)
    assert client.code == 1
    assert message in said
    assert "Traceback" not in said
    assert not (client.home / "out").exists()


def test_a_gated_model_is_fetched_with_a_token(client):
    said = fetch(client, "main", repo="org/private", HF_TOKEN="hf_secret")
    assert client.code == 0, said
    assert models.load(client.home / "out").digest() == gpt2(10).digest()


@pytest.mark.slow
def test_without_network_and_cache_the_error_says_what_to_fetch_and_how(client):
    for env in (server.NO_NETWORK, {"HF_HUB_OFFLINE": "1"}):
        said = fetch(client, "checkpoint-10", **env)
        assert client.code == 1
        assert f"hf download {REPO} --revision checkpoint-10" in said
        assert "Traceback" not in said


def test_a_cache_that_lacks_the_weights_is_not_taken_for_a_model_without_any(client):
    config = ["download", REPO, "config.json", "--revision", "checkpoint-10"]
    client.run(HF, *config)
    said = fetch(client, "checkpoint-10", HF_HUB_OFFLINE="1")
    assert client.code == 1
    assert f"hf download {REPO} --revision checkpoint-10" in said


@pytest.mark.parametrize("env", [{"HF_HUB_OFFLINE": "1"}, server.NO_NETWORK])
def test_a_cache_filled_as_the_error_says_needs_no_network(env, client):
    command = ["download", REPO, "--revision", "checkpoint-20"]
    said = client.run(HF, *command)
    assert client.code == 0, said
    # To plan the workflow, and to fetch.
    planned = client.python(
        "from pathlib import Path\n"
        "from universal_neurons.models.hub import Name, config_directories\n"
        f"name = Name({REPO!r}, 'checkpoint-20')\n"
        "print((config_directories([name], [Path('none')])[0] / 'config.json').read_text())",
        **env,
    )
    assert '"n_inner": 40' in planned
    said = fetch(client, "checkpoint-20", **env)
    assert client.code == 0, said
    assert models.load(client.home / "out").digest() == gpt2(20).digest()


def test_a_directory_that_the_client_downloaded_to_is_a_local_model(client):
    where = client.home / "snapshots/a/20"
    command = ["download", REPO, "--revision", "checkpoint-20", "--local-dir", str(where)]
    said = client.run(HF, *command)
    assert client.code == 0, said
    assert models.load(where).digest() == gpt2(20).digest()


def test_the_cache_is_pruned_of_the_converted_revision_alone(client):
    fetch(client, "checkpoint-10", out="ten")
    said = fetch(client, "checkpoint-20", out="twenty", prune=True)
    assert client.code == 0, said
    assert "freed in the cache" in said
    fetch(client, "checkpoint-20", HF_HUB_OFFLINE="1")
    assert client.code == 1, "it is not in the cache any more"
    shutil.rmtree(client.home / "ten")
    said = fetch(client, "checkpoint-10", HF_HUB_OFFLINE="1")
    assert client.code == 0, said
    for name, seed in (("out", 10), ("twenty", 20)):
        assert models.load(client.home / name).digest() == gpt2(seed).digest()


def test_irregular_names_go_before_the_templates():
    section = {
        "repo": "org/{seed}",
        "revision": "step{step}",
        "revisions": {"a": {"20": {"revision": "main"}}, "b": {"10": {"repo": "other/{seed}-x"}}},
    }
    assert name_of(section, "a", 10) == Name("org/a", "step10")
    assert name_of(section, "a", 20) == Name("org/a", "main")
    assert name_of(section, "b", 10) == Name("other/b-x", "step10")
