"""`panformer weights push` against a stand-in for the Hugging Face Hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from panformer_cli.models.families import FAMILIES
from tests.color_family import FAMILY, ColorFamily, color_checkpoint
from tests.helpers import files_of, run
from tests.hub_server import CLOSED, TOKEN, Failure, HubServer, connect

FILES = {"README.md", "config.json", "model.safetensors"}
PUSH = ("weights", "push", "run", "--repo", "user/model", "--license", "mit")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run."""
    monkeypatch.setitem(FAMILIES, FAMILY, ColorFamily())
    monkeypatch.chdir(tmp_path)
    color_checkpoint(tmp_path / "run" / "best.safetensors")
    return tmp_path


@pytest.fixture
def login(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The Hub, with the user's token in the environment."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Return the error of a command that must fail with exit code 2."""
    assert run(*PUSH, *options) == 2
    error = capsys.readouterr().err
    assert TOKEN not in error
    return error


def test_all_files_are_in_one_commit(login: HubServer, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*PUSH, "--dry-run", "--out", "dry") == 0
    assert not login.requests
    assert run(*PUSH, "--private", "--verbose", "--log-file", "log.txt") == 0
    repository = login.repositories["user/model"]
    assert repository.private
    assert [commit for commit in repository.messages.values() if commit] == ["Upload model with panformer 0.2.0"]
    uploaded = login.files("user/model")
    assert {name: uploaded[name] for name in FILES} == files_of(work / "dry")
    out, err = capsys.readouterr()
    assert f"Published: {login.url}/user/model/commit/{repository.refs['main']}\n" in out
    assert "hub:user/model" in out
    for text in (out, err, (work / "log.txt").read_text(), *map(repr, uploaded.values())):
        assert TOKEN not in text
    assert {request.server for request in login.requests if request.token} == {"hub"}


def test_json(login: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*PUSH, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {
        "commit": f"{login.url}/user/model/commit/{login.repositories['user/model'].refs['main']}",
        "checkpoint": "hub:user/model",
    }


def test_without_a_token_nothing_is_asked(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert "log in with `hf auth login`, or set the environment variable HF_TOKEN" in refused(capsys)
    assert not hub.requests


def test_files_are_replaced_only_with_yes(login: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    first = login.add("user/model", {"README.md": b"mine", "notes.txt": b"kept", "config.json": b"{}"})
    error = refused(capsys)
    assert f"user/model already has config.json and README.md (commit {first[:7]}); replace them with --yes" in error
    assert login.repositories["user/model"].refs["main"] == first
    assert run(*PUSH, "--yes") == 0
    assert f"Replacing config.json and README.md of user/model; the old files stay in its history ({first[:7]})" in (
        capsys.readouterr().err
    )
    assert login.files("user/model")["notes.txt"] == b"kept"
    assert login.files("user/model")["README.md"].startswith(b"---\n")


def test_a_public_repository_does_not_become_private(login: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    first = login.add("user/model", {"notes.txt": b""})
    assert "user/model exists and is public, and --private is only for new repositories" in refused(capsys, "--private")
    assert login.repositories["user/model"].refs["main"] == first


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (Failure("GET", "/api/models/", 401), "does not accept your token; log in again with `hf auth login`"),
        (Failure("POST", "/repos/create", 403), "does not let you write to user/model; use a token with write access"),
        (Failure("POST", "/repos/create"), "could not reach http://127.0.0.1"),
        (Failure("POST", "/preupload/", 400), "refused the upload (it responded 400)"),
        (Failure("PUT", "/objects/", 400), "could not reach http://127.0.0.1"),
        (Failure("POST", "/commit/", 500), "refused the upload (it responded 500)"),
        (Failure("POST", "/commit/", 412), "has a newer commit of user/model, so nothing was uploaded"),
    ],
)
def test_a_failed_upload_leaves_no_file(
    failure: Failure, problem: str, login: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    login.failures.append(failure)
    error = refused(capsys)
    assert problem in error
    created = "user/model" in login.repositories
    assert not created or set(login.files("user/model")) == {".gitattributes"}
    assert ("the new repository user/model has no files of this model yet" in error) == created
    assert not login.failures, "the failure happened"


def test_a_card_that_the_hub_does_not_accept(login: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    login.failures.append(Failure("POST", "/validate-yaml", 400))
    assert "does not accept the model card (" in refused(capsys)
    assert set(login.files("user/model")) == {".gitattributes"}


def test_somebody_elses_repository(login: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "--repo", "other/model")
    assert "does not let you write to other/model; use a token with write access and an account that" in error


@pytest.mark.parametrize("token", ["hf_wrongButAToken0123", "hf_broken\x07Token0123", "hf_bröken0123456789"])
def test_a_token_that_is_not_valid_is_not_shown(
    token: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert run(*PUSH, "--verbose", "--log-file", "log.txt") == 2
    for text in (*capsys.readouterr(), Path("log.txt").read_text()):
        assert token[:9] not in text


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (pip install 'panformer[hub]')")
    connect(monkeypatch, CLOSED, tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert f"could not reach {CLOSED} (ConnectError); rerun the command later" in refused(capsys)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "install it with: pip install 'panformer[hub]'" in refused(capsys)
    assert run(*PUSH, "--dry-run", "--out", "dry") == 0


@pytest.mark.parametrize("options", [["--dry-run"], ["--out", "dry"]])
def test_a_dry_run_needs_a_folder(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "use both or neither" in refused(capsys, *options)


def test_a_dry_run_replaces_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "dry").mkdir()
    (work / "dry" / "mine.txt").write_text("mine")
    assert "dry already exists; expected a new or empty folder" in refused(capsys, "--dry-run", "--out", "dry")
    assert files_of(work / "dry") == {"mine.txt": b"mine"}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("run.pth", "run.pth is not a checkpoint of panformer; convert it first, if its license"),
        ("hf:facebook/model", "hf:facebook/model: models that transformers saved can be run"),
    ],
)
def test_only_checkpoints_of_panformer_are_published(
    given: str, problem: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": torch.ones(1)}, work / "run.pth")
    assert run("weights", "push", given, "--repo", "user/model", "--license", "mit", "--dry-run", "--out", "x") == 2
    assert problem in capsys.readouterr().err
    assert not (work / "x").exists()
