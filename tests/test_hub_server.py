"""The stand-in for the Hub behaves like the Hub, as huggingface_hub sees it."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import pytest

from tests.hub_server import TOKEN, Failure, HubServer

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (pip install 'panformer[hub]')")
errors = pytest.importorskip("huggingface_hub.errors", reason="needs huggingface_hub (pip install 'panformer[hub]')")

FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 40}


def fetch(file: str, revision: str | None = None, name: str = "user/model") -> bytes:
    return Path(huggingface_hub.hf_hub_download(name, file, revision=revision)).read_bytes()


def test_files_of_a_revision_are_served(hub: HubServer) -> None:
    first = hub.add("user/model", FILES)
    hub.add("user/model", {"config.json": b"{}"})
    hub.add_pull_request("user/model", {"config.json": b"[]"}, 3, author="somebody")
    assert fetch("config.json") == b"{}"
    assert fetch("config.json", first) == FILES["config.json"]
    assert fetch("model.safetensors", first) == FILES["model.safetensors"]
    assert fetch("config.json", "refs/pr/3") == b"[]"
    asked = ["main/config.json", f"{first}/config.json", f"{first}/model.safetensors", "refs/pr/3/config.json"]
    assert hub.fetched() == [f"user/model/{name}" for name in asked]
    assert huggingface_hub.HfApi().get_discussion_details("user/model", 3).author == "somebody"
    info = huggingface_hub.HfApi().model_info("user/model", revision=first)
    assert (info.sha, {file.rfilename for file in info.siblings}) == (first, set(FILES))
    (large,) = [row for row in huggingface_hub.HfApi().list_repo_tree("user/model", revision=first) if row.lfs]
    assert large.lfs.sha256 == hashlib.sha256(FILES["model.safetensors"]).hexdigest()


def test_what_is_missing_gated_or_private_is_refused(hub: HubServer) -> None:
    hub.add("user/model", FILES)
    hub.add("other/gated", FILES, gated=True)
    hub.add("user/private", FILES, private=True)
    with pytest.raises(errors.EntryNotFoundError):
        fetch("missing.json")
    with pytest.raises(errors.RevisionNotFoundError):
        fetch("config.json", "v9")
    with pytest.raises(errors.GatedRepoError):
        fetch("config.json", name="other/gated")
    for name in ("user/missing", "user/private"):
        with pytest.raises(errors.RepositoryNotFoundError):
            fetch("config.json", name=name)


def test_a_cut_download_resumes_and_the_storage_gets_no_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("user/private", FILES, private=True)
    hub.failures.append(Failure("GET", "/objects/", cut=1000))
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100)  # it resumes after a whole chunk
    with suppress(Exception):  # huggingface_hub 1 resumes when it is called again
        fetch("model.safetensors", name="user/private")
    assert fetch("model.safetensors", name="user/private") == FILES["model.safetensors"]
    assert [request.headers.get("range") for request in hub.requests if request.server == "storage"][1] == "bytes=1000-"
    assert all((request.token == TOKEN) == (request.server == "hub") for request in hub.requests)


def test_a_commit_uploads_small_and_large_files(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    api = huggingface_hub.HfApi()
    api.create_repo("user/new", private=True)
    done = api.upload_folder(repo_id="user/new", folder_path=tmp_path, commit_message="First")
    assert {name: hub.files("user/new")[name] for name in FILES} == FILES
    assert hub.repositories["user/new"].messages[done.oid] == "First"
    assert [request.path for request in hub.requests if request.method == "PUT"] == [
        f"/objects/{hashlib.sha256(FILES['model.safetensors']).hexdigest()}"
    ]
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        api.create_repo("user/new")
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        api.create_repo("other/new")


def test_writing_needs_a_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.HfHubHTTPError, match="401"):
        huggingface_hub.HfApi().create_repo("user/new")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials"):
        huggingface_hub.HfApi().create_repo("user/new")
    assert not hub.repositories
