"""A local stand-in for the Hugging Face Hub: the part of its HTTP interface that huggingface_hub uses for models.

It serves files of revisions (small ones itself, large ones by redirecting to a second server, the storage), creates
repositories, accepts uploads and commits, and answers like the Hub to what is missing, private, gated or not permitted.
Every request is recorded.

    def test_download(hub: HubServer) -> None:  # the fixture `hub` of conftest.py
        hub.add("user/model", {"config.json": b"{}"})
        huggingface_hub.hf_hub_download("user/model", "config.json")
        assert hub.fetched() == ["user/model/main/config.json"]
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

TOKEN = "hf_standInToken0123456789"
"""The token of the user `user`, who can write to `user/` only."""
LARGE = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".npz")
"""Suffixes of the files that go through the storage."""
CLOSED = "http://127.0.0.1:9"
"""An address that refuses connections."""

Files = Mapping[str, bytes]


@dataclass
class Repository:
    """A model repository.

    Attributes:
        commits: the files of each commit, by its hash.
        refs: commit of each branch, tag and pull request: "main", "v1", "refs/pr/1".
        private: whether only its owner can see it.
        gated: whether its files are only for its owner.
        authors: author of each pull request, by its number.
        messages: message of each commit, by its hash.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    authors: dict[int, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str, files: Files, message: str = "") -> str:
        """Add a commit with these files to a branch; return its hash."""
        content = [f"{len(self.commits)} {revision}", *(f"{name} {sha256(data)}" for name, data in files.items())]
        commit = hashlib.sha1("\n".join(content).encode()).hexdigest()
        self.commits[commit], self.refs[revision], self.messages[commit] = dict(files), commit, message
        return commit

    def find(self, revision: str) -> str | None:
        """Return the commit of a branch, tag, pull request or hash."""
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass(frozen=True)
class Request:
    """A request that was received. `server` is "hub" or "storage"; `path` has no query and is not quoted."""

    server: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def token(self) -> str | None:
        """The token that was sent."""
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None


@dataclass(frozen=True)
class Failure:
    """How one request fails, once.

    Attributes:
        method: HTTP method.
        path: pattern found in the path.
        status: status code of the answer; 0 closes the connection.
        cut: the answer is as usual but ends after this many bytes of the body.
        message: header X-Error-Message.
    """

    method: str
    path: str
    status: int = 0
    cut: int | None = None
    message: str = "failed as the test asked"


@dataclass
class HubServer:
    """The Hub; `url` is the value of HF_ENDPOINT.

    Attributes:
        storage_url: address of the server with large files.
        repositories: by name.
        objects: content of large files, by their SHA-256.
        located: the file that a client was sent to an object for, by the same.
        requests: all that were received.
        failures: of requests to come; each happens once.
        lock: held while a failure is chosen.
    """

    url: str = ""
    storage_url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    located: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self, name: str, files: Files, revision: str = "main", *, private: bool = False, gated: bool = False
    ) -> str:
        """Add a commit, and the repository if it is missing; return the commit's hash."""
        repository = self.repositories.setdefault(name, Repository())
        repository.private, repository.gated = private, gated
        return repository.commit(revision, files)

    def add_pull_request(self, name: str, files: Files, number: int = 1, author: str = "somebody") -> str:
        """Add a pull request with these files, whose revision is `refs/pr/NUMBER`; return the hash of its commit."""
        self.repositories[name].authors[number] = author
        return self.repositories[name].commit(f"refs/pr/{number}", files)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a revision."""
        repository = self.repositories[name]
        return repository.commits[repository.refs.get(revision, revision)]

    def fetched(self) -> list[str]:
        """Return the files whose content was requested, each once, in order: "user/model/main/config.json"."""
        files = []
        for request in self.requests:
            if request.method == "GET" and request.server == "storage":
                files.append(self.located[request.path.rpartition("/")[2]])
            elif request.method == "GET" and "/resolve/" in request.path and not is_large(request.path):
                files.append(request.path[1:].replace("/resolve/", "/"))
        return list(dict.fromkeys(files))

    def failure_of(self, method: str, path: str) -> Failure | None:
        """Return the next failure of such a request, which is used up."""
        with self.lock:
            for failure in self.failures:
                if failure.method == method and re.search(failure.path, path):
                    self.failures.remove(failure)
                    return failure
        return None


def sha256(content: bytes) -> str:
    """Return the SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    """Return the hash by which git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str) -> bool:
    """Return whether a file goes through the storage."""
    return name.endswith(LARGE)


class Problem(Exception):
    """An error of the request, with its status, X-Error-Code and X-Error-Message."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    """Receives one request, records it, lets it fail if a test asked for it, and sends the answer."""

    hub: HubServer
    server_name: str
    protocol_version = "HTTP/1.1"
    answers: Callable[[Handler, str, bytes], None]
    cut: int | None = None

    def handle_request(self) -> None:
        """Answer one request of any method."""
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.server_name, self.command, path, headers, body))
        failure = self.hub.failure_of(self.command, path)
        self.cut = failure.cut if failure else None
        try:
            if failure and failure.cut is None:
                if failure.status == 0:
                    self.close_connection = True
                    return
                raise Problem(failure.status, message=failure.message)
            type(self).answers(self, path, body)
        except Problem as problem:
            headers = {"X-Error-Code": problem.code, "X-Error-Message": problem.message}
            content = json.dumps({"error": problem.message}).encode()
            self.send(content, problem.status, {name: value for name, value in headers.items() if value})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def send(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer; the body is left out for HEAD, and cut if a test asked for it."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: self.cut])
        self.close_connection = self.close_connection or self.cut is not None

    def send_json(self, content: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send JSON."""
        self.send(json.dumps(content).encode(), headers={"Content-Type": "application/json", **(headers or {})})

    def send_range(self, content: bytes, headers: Mapping[str, str]) -> None:
        """Send a file, or the range of it that was requested."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            return self.send(content, headers=headers)
        start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
        part = {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}
        return self.send(content[start : end + 1], 206, part)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


def answer_storage(handler: Handler, path: str, body: bytes) -> None:
    """Answer a request to the storage: the content of an object, or its upload."""
    oid = path.rpartition("/")[2]
    if handler.command == "PUT":
        if sha256(body) != oid:
            raise Problem(400, message="the content does not have this hash")
        handler.hub.objects[oid] = body
        return handler.send(b"")
    if oid not in handler.hub.objects:
        raise Problem(404)
    return handler.send_range(handler.hub.objects[oid], {"ETag": f'"{oid}"'})


def answer_hub(handler: Handler, path: str, body: bytes) -> None:
    """Answer a request to the Hub."""
    routes: list[tuple[str, str, Callable[..., None]]] = [
        ("GET", r"/api/whoami-v2", who_am_i),
        ("POST", r"/api/repos/create", create),
        ("POST", r"/api/validate-yaml", validate_yaml),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", preupload),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", commit),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", lfs_batch),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/verify", lfs_verify),
        ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", model_info),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/(refs/pr/\d+|[^/]+)(?:/(.+))?", tree),
        ("GET", r"/api/models/([^/]+/[^/]+)/refs", refs),
        ("GET", r"/api/models/([^/]+/[^/]+)/discussions/(\d+)", discussion),
        ("GET", r"/([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", resolve),
    ]
    method = "GET" if handler.command == "HEAD" else handler.command
    for wanted, pattern, answer in routes:
        match = re.fullmatch(pattern, path)
        if match and wanted == method:
            return answer(handler, *match.groups(), body=body)
    raise Problem(404, message=f"The stand-in for the Hub has no {method} {path}")


def token_of(handler: Handler) -> str | None:
    """Return the token of a request.

    Raises:
        Problem: the token is not valid.
    """
    token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ") or None
    if token not in (None, TOKEN):
        raise Problem(401, message="Invalid credentials in Authorization header")
    return token


def writer(handler: Handler, name: str) -> None:
    """Check that the request may write to a repository."""
    if token_of(handler) is None:
        raise Problem(401, message="Invalid username or password.")
    if not name.startswith("user/"):
        raise Problem(403, message=f'You don\'t have the rights to create a model under the namespace "{name[:-1]}"')


def repository_of(handler: Handler, name: str) -> Repository:
    """Return a repository that the request may see."""
    known, owner = handler.hub.repositories.get(name), token_of(handler) is not None and name.startswith("user/")
    if known is None or known.private and not owner:
        raise Problem(404 if token_of(handler) else 401, "RepoNotFound", "Repository not found")
    return known


def commit_of(repository: Repository, revision: str | None) -> str:
    """Return the commit of a revision."""
    found = repository.find(revision or "main")
    if found is None:
        raise Problem(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return found


def who_am_i(handler: Handler, body: bytes) -> None:
    """Answer `whoami`."""
    if token_of(handler) is None:
        raise Problem(401, message="Invalid username or password.")
    handler.send_json({"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})


def create(handler: Handler, body: bytes) -> None:
    """Create a repository."""
    asked = json.loads(body)
    name = f"{asked.get('organization') or 'user'}/{asked['name']}"
    writer(handler, name)
    address = {"url": f"{handler.hub.url}/{name}"}
    if name in handler.hub.repositories:
        return handler.send(json.dumps(address).encode(), 409)
    private = asked.get("private") is True or asked.get("visibility") == "private"
    handler.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
    return handler.send_json(address)


def validate_yaml(handler: Handler, body: bytes) -> None:
    """Check the front matter of a model card, as far as its types go."""
    match = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
    errors = []
    try:
        data = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        data, errors = {}, [str(error)]
    if not isinstance(data.get("tags", []), list):
        errors.append('"tags" must be an array')
    for model in data.get("model-index", []):
        for result in model["results"]:
            for metric in result["metrics"]:
                if not {"type", "value"} <= set(metric):
                    errors.append('"model-index[0].results[0].metrics[0]" needs type and value')
    content = {"errors": [{"message": message} for message in errors], "warnings": []}
    handler.send(json.dumps(content).encode(), 400 if errors else 200)


def preupload(handler: Handler, name: str, revision: str, body: bytes) -> None:
    """Say how each file is to be uploaded."""
    writer(handler, name)
    repository = repository_of(handler, name)
    present = repository.commits[commit_of(repository, revision)]
    answers = []
    for file in json.loads(body)["files"]:
        path = file["path"]
        hashed = sha256 if is_large(path) else git_hash
        oid = {"oid": hashed(present[path])} if path in present else {}
        answers.append(
            {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False} | oid
        )
    handler.send_json({"files": answers})


def lfs_batch(handler: Handler, name: str, body: bytes) -> None:
    """Say where large files are to be uploaded; those that are known need no upload."""
    writer(handler, name)
    actions = []
    for item in json.loads(body)["objects"]:
        upload = {"href": f"{handler.hub.storage_url}/objects/{item['oid']}"}
        verify = {"href": f"{handler.hub.url}/{name}.git/info/lfs/verify"}
        known = item["oid"] in handler.hub.objects
        actions.append(item if known else item | {"actions": {"upload": upload, "verify": verify}})
    handler.send_json({"transfer": "basic", "objects": actions}, {"Content-Type": "application/vnd.git-lfs+json"})


def lfs_verify(handler: Handler, name: str, body: bytes) -> None:
    """Confirm that an upload arrived."""
    item = json.loads(body)
    if len(handler.hub.objects.get(item["oid"], b"")) != item["size"]:
        raise Problem(404, message="this object was not uploaded")
    handler.send_json({})


def commit(handler: Handler, name: str, revision: str, body: bytes) -> None:
    """Add a commit with all operations, or none of them."""
    writer(handler, name)
    repository = repository_of(handler, name)
    parent = commit_of(repository, revision)
    files, header = dict(repository.commits[parent]), {}
    for operation in map(json.loads, body.splitlines()):
        value = operation["value"]
        if operation["key"] == "header":
            header = value
        elif operation["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif operation["key"] == "lfsFile":
            if value["oid"] not in handler.hub.objects:
                raise Problem(400, message=f"{value['path']}: the object was not uploaded")
            files[value["path"]] = handler.hub.objects[value["oid"]]
        elif operation["key"] == "deletedFile":
            del files[value["path"]]
    if header.get("parentCommit", parent) != parent:
        raise Problem(412, message="A commit has happened since. Please refresh and try again.")
    oid = repository.commit(revision, files, header["summary"])
    handler.send_json({"commitUrl": f"{handler.hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})


def model_info(handler: Handler, name: str, revision: str | None, body: bytes) -> None:
    """Describe a revision; everybody can see that of a gated repository."""
    repository = repository_of(handler, name)
    found = commit_of(repository, revision)
    siblings = [{"rfilename": path} for path in sorted(repository.commits[found])]
    content: dict[str, Any] = {"_id": "0", "id": name, "modelId": name, "author": name.partition("/")[0], "sha": found}
    content |= {"private": repository.private, "gated": "manual" if repository.gated else False, "disabled": False}
    handler.send_json(content | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})


def tree(handler: Handler, name: str, revision: str, folder: str | None, body: bytes) -> None:
    """List the files of a revision, always recursively."""
    repository = repository_of(handler, name)
    files = repository.commits[commit_of(repository, revision)]
    rows = []
    for path, content in sorted(files.items()):
        if folder and not path.startswith(f"{folder}/"):
            continue
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        if is_large(path):
            row["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
        rows.append(row)
    handler.send_json(rows)


def refs(handler: Handler, name: str, body: bytes) -> None:
    """List branches and pull requests."""
    repository = repository_of(handler, name)
    rows = [
        {"name": ref, "ref": ref if ref.startswith("refs/") else f"refs/heads/{ref}", "targetCommit": oid}
        for ref, oid in repository.refs.items()
    ]
    requests = [row for row in rows if row["name"].startswith("refs/pr/")]
    branches = [row for row in rows if row not in requests]
    handler.send_json({"branches": branches, "converts": [], "tags": [], "pullRequests": requests})


def discussion(handler: Handler, name: str, number: str, body: bytes) -> None:
    """Describe a pull request."""
    author = repository_of(handler, name).authors.get(int(number))
    if author is None:
        raise Problem(404, message="Discussion not found")
    content = {"title": "Add weights", "num": int(number), "author": {"name": author}, "status": "open", "events": []}
    content |= {"createdAt": "2026-01-01T00:00:00.000Z", "repo": {"name": name, "type": "model"}}
    handler.send_json(
        content | {"isPullRequest": True, "changes": {"base": "refs/heads/main"}, "filesWithConflicts": []}
    )


def resolve(handler: Handler, name: str, revision: str, path: str, body: bytes) -> None:
    """Send a small file, or where a large one is."""
    repository = repository_of(handler, name)
    if repository.gated and not (token_of(handler) and name.startswith("user/")):
        message = f"Access to model {name} is restricted."
        raise Problem(403 if token_of(handler) else 401, "GatedRepo", message)
    found = commit_of(repository, revision)
    content = repository.commits[found].get(path)
    headers = {"X-Repo-Commit": found}
    if content is None:
        problem = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return handler.send(b"", 404, headers | problem)
    if not is_large(path):
        return handler.send_range(content, headers | {"ETag": f'"{git_hash(content)}"'})
    oid = sha256(content)
    handler.hub.objects[oid], handler.hub.located[oid] = content, f"{name}/{revision}/{path}"
    linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
    location = {"Location": f"{handler.hub.storage_url}/objects/{oid}"}
    return handler.send(b"", 302, headers | linked | location)


@contextmanager
def _listening(hub: HubServer, name: str, answers: Callable[[Handler, str, bytes], None]) -> Iterator[str]:
    kind = type("Mine", (Handler,), {"hub": hub, "server_name": name, "answers": answers})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True  # connections stay open until the client closes them
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.socket.close()
        thread.join()


@contextmanager
def serving() -> Iterator[HubServer]:
    """Run the Hub and its storage."""
    hub = HubServer()
    with ExitStack() as stack:
        hub.storage_url = stack.enter_context(_listening(hub, "storage", answer_storage))
        hub.url = stack.enter_context(_listening(hub, "hub", answer_hub))
        yield hub


def environment(address: str, folder: Path) -> dict[str, str]:
    """Return the environment variables of a process that uses a stand-in, with a cache and a login in `folder`."""
    return {
        "HF_ENDPOINT": address,
        "HF_HOME": str(folder),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def connect(monkeypatch: pytest.MonkeyPatch, address: str, folder: Path) -> None:
    """Make huggingface_hub in this process use a stand-in, with an empty cache and no token.

    huggingface_hub reads its environment variables when it is imported, so its constants change too.
    """
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(address, folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HOME", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(folder / "stored_tokens"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
