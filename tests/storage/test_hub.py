"""Reading repositories of the Hugging Face Hub; the stand-in of tests/hub_server.py is the server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.storage.download import DownloadError
from panformer_cli.storage.hub import HubReference, HubSnapshot, open_snapshot
from panformer_cli.storage.hub_upload import Destination, UploadError, check_destination
from tests.hub_server import CLOSED, TOKEN, Failure, HubServer, connect
from tests.prepare.reporters import RecordingReporter as Messages

FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 40, "README.md": b"hello"}


def opened(text: str = "user/model", reporter: Messages | None = None) -> HubSnapshot:
    return open_snapshot(HubReference.parse(text), "hf", reporter or Messages())


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("a/b", "a/b", "main"),
        ("tue-mps/coco_panoptic_eomt_large_640", "tue-mps/coco_panoptic_eomt_large_640", "main"),
        ("a/b.c@v1.0", "a/b.c", "v1.0"),
        ("a/b@refs/pr/12", "a/b", "refs/pr/12"),
        (f"a/b@{'0a' * 20}", "a/b", "0a" * 20),
    ],
)
def test_references(text: str, repository: str, revision: str) -> None:
    assert HubReference.parse(text) == HubReference(repository, revision)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/",
        "/b",
        "a/b/c",
        "a b/c",
        "a/b c",
        "../b",
        "a/..",
        "a/.b",
        "a/b.git",
        "a--x/b",
        "a/é",
        "a/b@",
        "a/b@ ",
    ]
    + ["a/b@..", "a/b@v1:x", "a/b@/x", "a/b@x/", "a/b@a//b", "a/b@v1@v2", "a/" + "b" * 95, "a\\b", "a/b\0", "a/b@x\n"],
)
def test_other_references_are_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="expected"):
        HubReference.parse(text)


def test_only_files_that_are_asked_for_are_downloaded_once_and_of_one_commit(hub: HubServer) -> None:
    commit = hub.add("user/model", FILES)
    snapshot = opened()
    assert snapshot.names == set(FILES)
    config = snapshot.fetch("config.json", Messages())
    hub.add("user/model", {**FILES, "model.safetensors": b"newer"})
    weights = snapshot.fetch("model.safetensors", Messages())
    assert weights.read_bytes() == FILES["model.safetensors"]
    assert config.parent == weights.parent == snapshot.folder
    assert snapshot.folder.name == commit
    snapshot.fetch("config.json", Messages())
    assert hub.fetched() == [f"user/model/{commit}/{name}" for name in ("config.json", "model.safetensors")]
    assert [request.method for request in hub.requests if request.server == "storage"] == ["GET"]


def test_without_network_the_cache_is_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("user/model", FILES)
    folder = opened().fetch("config.json", Messages()).parent
    hub.failures.append(Failure("GET", "/api/models", 503))
    reporter = Messages()
    assert opened(reporter=reporter).fetch("config.json", reporter).parent == folder
    assert "out of order (it responded 503); using the copy" in reporter.messages[0]
    connect(monkeypatch, CLOSED, folder.parents[3])
    snapshot = opened()
    assert snapshot.names == {"config.json"}
    with pytest.raises(DownloadError, match=rf"could not reach {CLOSED}.*no copy of model.safetensors.*fill {folder}"):
        snapshot.fetch("model.safetensors", Messages())


def test_without_network_the_folder_to_fill_is_named_and_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connect(monkeypatch, CLOSED, tmp_path)
    with pytest.raises(DownloadError, match="or fill .* or give a folder that has them as hf:FOLDER") as caught:
        opened("user/model@v1")
    folder = Path(str(caught.value).partition("fill ")[2].partition(" with")[0])
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert opened("user/model@v1").fetch("config.json", Messages()).read_text() == "{}"


def test_what_cannot_be_used_is_named(hub: HubServer) -> None:
    hub.add("user/model", FILES)
    hub.add("other/private", FILES, private=True)
    hub.add("other/gated", FILES, gated=True)
    for text, sentence in {
        "user/unknown": "has no repository user/unknown, or it is private; check the name, or log in",
        "other/private": "has no repository other/private, or it is private",
        "user/model@v2": "the repository user/model has no revision v2; give a branch",
        "user/model": "the repository user/model on the Hugging Face Hub has no other.json",
        "other/gated": "the repository other/gated is gated: accept its license on .*/other/gated, then log in with",
    }.items():
        with pytest.raises(PanformerError, match=sentence):
            opened(text).fetch("config.json" if "gated" in text else "other.json", Messages())


def test_the_author_of_a_pull_request_is_reported(hub: HubServer) -> None:
    hub.add("user/model", FILES)
    hub.add_pull_request("user/model", FILES, 1, "SFconvertbot")
    hub.add_pull_request("user/model", FILES, 2, "mallory")
    reporter = Messages()
    opened("user/model@refs/pr/1", reporter)
    assert reporter.messages == [
        "user/model@refs/pr/1 is a pull request of SFconvertbot, the Hub's converter to safetensors"
    ]
    opened("user/model@refs/pr/2", reporter)
    assert "user/model@refs/pr/2 is a pull request of mallory, not of SFconvertbot" in reporter.warnings[0]


def test_a_token_is_not_shown(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("user/private", FILES, private=True)
    reporter = Messages()
    snapshot = opened("user/private", reporter)
    assert json.loads(snapshot.fetch("config.json", reporter).read_text()) == {"a": 1}
    hub.failures.append(Failure("HEAD", "model.safetensors", 403, message=f"token {TOKEN}"))
    with pytest.raises(PanformerError) as caught:
        snapshot.fetch("model.safetensors", reporter)
    assert TOKEN not in str(caught.value) + str(reporter.messages)
    assert not any(TOKEN in path.read_text(errors="replace") for path in snapshot.folder.parents[3].rglob("*.json"))


def test_the_login_of_a_mirror_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = CLOSED.removeprefix("http://")
    connect(monkeypatch, f"http://alice:secret@{host}", tmp_path)
    with pytest.raises(DownloadError, match=f"could not reach http://{re.escape(host)} ") as caught:
        opened()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UploadError, match=f"could not reach http://{re.escape(host)} ") as refused:
        check_destination(Destination("user/model"), (), Messages())
    assert "secret" not in f"{caught.value} {refused.value}"
