"""`hub:USER/NAME`: models that were published with `weights push`, from a stand-in for the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import panformer
from panformer_cli.engine.checkpoints.hub_models import find_hub_model
from panformer_cli.engine.evaluation.compare_inputs import checkpoint_of
from panformer_cli.engine.publishing.push import PushRequest, write_folder
from panformer_cli.engine.runs import find_checkpoint, published_weights_of, results_folder
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.families import FAMILIES
from panformer_cli.reporting import SilentReporter
from panformer_cli.storage.download import DownloadError
from tests.color_family import FAMILY, ColorFamily, color_checkpoint, street
from tests.helpers import files_of
from tests.hub_server import CLOSED, HubServer, connect

REPORTER = SilentReporter()
GIVEN = Path("hub:user/model")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a published model."""
    monkeypatch.setitem(FAMILIES, FAMILY, ColorFamily())
    checkpoint = color_checkpoint(tmp_path / "run" / "best.safetensors")
    write_folder(PushRequest(checkpoint, "user/model", "mit"), tmp_path / "published", REPORTER)
    return files_of(tmp_path / "published")


def test_only_the_configuration_and_the_weights_are_fetched(hub: HubServer, files: dict[str, bytes]) -> None:
    commit = hub.add("user/model", files | {"pytorch_model.bin": b"a pickle", "code.py": b"import os"})
    path = find_checkpoint(GIVEN, REPORTER)
    assert path.read_bytes() == files["model.safetensors"]
    assert path.is_relative_to(os.environ["HF_HUB_CACHE"])
    assert hub.fetched() == [f"user/model/{commit}/{name}" for name in ("config.json", "model.safetensors")]
    assert find_checkpoint(GIVEN, REPORTER) == path
    assert len(hub.fetched()) == 2, "the cache has the files"


def test_a_revision(hub: HubServer, files: dict[str, bytes]) -> None:
    first = hub.add("user/model", files)
    hub.add("user/model", {"notes.txt": b""})
    hub.repositories["user/model"].refs["v1"] = first
    for revision in ("v1", first):
        assert find_checkpoint(Path(f"hub:user/model@{revision}"), REPORTER).parent.name == first
    with pytest.raises(CheckpointError, match=r"the repository user/model on the Hugging Face Hub has no config.json"):
        find_checkpoint(GIVEN, REPORTER)
    with pytest.raises(CheckpointError, match="has no revision v2"):
        find_checkpoint(Path("hub:user/model@v2"), REPORTER)


def test_panformer_load(hub: HubServer, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add("user/model", files)
    model = panformer.load("hub:user/model", device="cpu", verbose=False)
    assert repr(model).startswith("Model(hub:user/model, 3 categories")
    expected = panformer.load(tmp_path / "run", device="cpu")(street())
    assert [(s.name, s.area) for s in model(street()).segments] == [(s.name, s.area) for s in expected.segments]


def test_results_are_not_written_to_the_cache(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("user/model", files)
    assert results_folder(find_checkpoint(GIVEN, REPORTER)) == Path("evaluation", "user--model")
    assert checkpoint_of(GIVEN) == find_checkpoint(GIVEN, REPORTER)
    assert published_weights_of(GIVEN) is None


def test_without_a_network_the_cache_is_used(
    hub: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add("user/model", files)
    path = find_checkpoint(GIVEN, REPORTER)
    connect(monkeypatch, CLOSED, Path(os.environ["HF_HOME"]))
    assert find_checkpoint(GIVEN, REPORTER) == path
    connect(monkeypatch, CLOSED, tmp_path)
    with pytest.raises(DownloadError, match="could not reach .* and the cache has no copy"):
        find_checkpoint(GIVEN, REPORTER)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"config.json": b'{"model_type": "detr"}'},
            "has no model of panformer: .*; models of .* as hf:user",
        ),
        ({"config.json": b"{}"}, "has no model of panformer: its config.json does not name panformer$"),
        ({"config.json": b"[]"}, r"user--model.*config.json: it contains \[\]; expected an object$"),
        ({"config.json": b"{"}, "user--model.*config.json: not valid JSON, or truncated"),
        ({"model.safetensors": b"\x80\x02cos\nsystem\n"}, "it was not loaded, because a pickle can run code"),
        ({"model.safetensors": b"version https://git-lfs"}, "is a Git LFS pointer"),
    ],
)
def test_other_files_are_refused(
    changed: dict[str, bytes], problem: str, hub: HubServer, files: dict[str, bytes]
) -> None:
    hub.add("user/model", files | changed)
    with pytest.raises(CheckpointError, match=problem):
        find_hub_model(GIVEN, REPORTER)
    if "config.json" in changed:
        assert len(hub.fetched()) == 1, "the weights are not downloaded"


def test_weights_as_saved_by_other_programs_are_refused(hub: HubServer, files: dict[str, bytes]) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    hub.add("user/model", files | {"model.safetensors": len(header).to_bytes(8, "little") + header})
    with pytest.raises(CheckpointError, match="model.safetensors of the repository user/model is not a checkpoint of"):
        find_hub_model(GIVEN, REPORTER)


@pytest.mark.parametrize("name", ["hub:", "hub:model", "hub:../model", "hub:user/../model", "hub:user/model@../x"])
def test_names_that_lead_out_of_the_cache_are_refused(name: str, hub: HubServer) -> None:
    with pytest.raises(PanformerError, match="expected"):
        find_checkpoint(Path(name), REPORTER)
    assert not hub.requests


def test_private_repositories_need_a_login(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("user/model", files, private=True)
    with pytest.raises(CheckpointError, match="has no repository user/model, or it is private; check the name, or log"):
        find_checkpoint(GIVEN, REPORTER)


@pytest.mark.parametrize("token", ["hf_broken\x07Token0123", "hf_br\u00f6ken0123456789"])
def test_a_token_that_cannot_be_sent_is_not_shown(
    token: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("user/model", {})
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PanformerError) as raised:
        find_checkpoint(GIVEN, REPORTER)
    assert token[:6] not in str(raised.value) + caplog.text
