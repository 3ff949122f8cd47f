"""A small Hugging Face Hub on this machine: what the real client asks for, and its misbehaviour."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

# Settings of a client without network: nothing listens there.
NO_NETWORK = {"HF_ENDPOINT": "http://127.0.0.1:9"}
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Hub:
    """Repositories served over HTTP.

    Attributes
    ----------
    repos
        ``models/org/name`` or ``datasets/org/name`` to branch to folder.
    gated
        Repository to the token that opens it.
    break_once
        Names of files whose next download breaks off half-way.
    requests
        Method and path of all requests so far, downloads with their range.
    sent
        Bytes sent of all contents.
    """

    url: str = ""
    repos: dict[str, dict[str, Path]] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    break_once: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    sent: int = 0

    def add(self, repo: str, branch: str, folder: Path, kind: str = "models") -> None:
        """Serve a folder as a branch of a repository."""
        self.repos.setdefault(f"{kind}/{repo}", {})[branch] = folder

    def commit(self, repo: str, branch: str, kind: str = "models") -> str:
        """The commit that a branch is at: a digest of its files."""
        sha = hashlib.sha1(f"{repo}/{branch}".encode())
        for file in files(self.repos[f"{kind}/{repo}"][branch]):
            sha.update(file.read_bytes())
        return sha.hexdigest()

    def downloads(self) -> list[str]:
        """Paths of the files sent."""
        return [line.split()[1] for line in self.requests if line.startswith("GET /")
                and "/resolve/" in line]  # fmt: skip

    def answer(self, path: str, token: str | None, form: dict[str, list[str]]) -> Answer:
        """What a request for a path gets."""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        is_api = parts[0] == "api"
        if not is_api and parts[0] != "datasets":
            parts = ["models", *parts]
        kind, *rest = parts[is_api:]
        repo, key = "/".join(rest[:2]), f"{kind}/{'/'.join(rest[:2])}"
        what, revision, *inner = rest[2:] or ["revision", "main"]
        if key not in self.repos:
            return self.error(401, "RepoNotFound")
        if self.gated.get(key, token) != token and what == "resolve":
            return self.error(401, "GatedRepo")
        branches = {**self.repos[key]}
        branches |= {self.commit(repo, name, kind): branches[name] for name in self.repos[key]}
        if revision not in branches:
            return self.error(404, "RevisionNotFound")
        folder = branches[revision]
        branch = next(name for name, where in self.repos[key].items() if where == folder)
        sha = self.commit(repo, branch, kind)
        if what == "resolve":
            return self.file(folder.joinpath(*inner), sha)
        entries = [entry(path, folder) for path in sorted(folder.rglob("*"))]
        if what == "tree":
            top = Path(*inner)
            if top != Path() and not (folder / top).is_dir():
                return self.error(404, "EntryNotFound")
            deep = "recursive=true" in path.lower()
            inside = [e for e in entries if top in Path(e["path"]).parents]
            return ok([e for e in inside if deep or Path(e["path"]).parent == top])
        if what == "paths-info":
            return ok([e for e in entries if e["path"] in form.get("paths", [])])
        siblings = [{"rfilename": e["path"]} for e in entries if e["type"] == "file"]
        return ok({"id": repo, "sha": sha, "siblings": siblings, "tags": [], "private": False})

    def file(self, file: Path, sha: str) -> Answer:
        """A file's content, with the headers that the client keys its cache by."""
        if not file.is_file():
            return self.error(404, "EntryNotFound", {"X-Repo-Commit": sha})
        body = file.read_bytes()
        return 200, {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}, body

    def error(self, status: int, code: str, more: dict[str, str] | None = None) -> Answer:
        """An error as the Hub puts it."""
        return status, {"X-Error-Code": code, "X-Error-Message": code, **(more or {})}, b"{}"


class Client:
    """Runs Python in processes of its own: the real client reads its settings once.

    Parameters
    ----------
    home
        Folder of its cache.
    url
        Of the hub.
    """

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.code = 0
        self.env = {"HF_HOME": str(home / "hf"), "HF_ENDPOINT": url}

    def run(self, *command: str, cwd: Path | None = None, **env: str) -> str:
        """What a command prints; `code` is then its exit status."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**clean, **self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.code = done.returncode
        return done.stdout

    def python(self, script: str, **env: str) -> str:
        """What a script prints, with `job` and nothing else imported."""
        script = f"from universal_neurons.jobs import job\n{script}"
        return self.run(sys.executable, "-c", script, **env)


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def entry(path: Path, folder: Path) -> dict:
    about = {"path": path.relative_to(folder).as_posix(), "oid": "0"}
    if path.is_dir():
        return {"type": "directory", **about}
    about["oid"] = hashlib.sha1(path.read_bytes()).hexdigest()
    return {"type": "file", "size": path.stat().st_size, **about}


def ok(content: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub on a free port, in threads, for the length of the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self, form: dict[str, list[str]] | None = None) -> None:
            span = self.headers.get("Range", "")
            hub.requests.append(f"{self.command} {self.path} {span}".strip())
            token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
            status, headers, body = hub.answer(self.path, token, form or {})
            if status == 200 and span:
                first, _, last = span.removeprefix("bytes=").partition("-")
                stop = min(int(last) + 1 if last else len(body), len(body))
                headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(body)}"
                status, body = 206, body[int(first) : stop]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            name = unquote(urlsplit(self.path).path).rpartition("/")[2]
            if status in (200, 206) and name in hub.break_once:
                hub.break_once.discard(name)
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(body)
            hub.sent += len(body)

        do_GET = do_HEAD = respond

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            is_json = "json" in self.headers.get("Content-Type", "")
            self.respond(json.loads(body) if is_json else parse_qs(body))

        def log_message(self, *_: object) -> None:
            """Say nothing: the requests are in `Hub.requests`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
