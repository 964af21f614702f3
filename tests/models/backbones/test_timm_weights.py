"""The files of timm's pretrained weights: download, cache, the notice of a license, and errors in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save, save_file

from panformer_cli.errors import CheckpointError
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.backbones.pretrained import load_backbone_weights
from panformer_cli.models.backbones.timm_weights import fetch_weights, pretrained_name, weights_file
from panformer_cli.reporting import SilentReporter
from tests.storage.file_server import CLOSED, FileServer

DINOV3 = "timm/convnext_tiny.dinov3_lvd1689m"
ATTO = "timm/convnext_atto.d2_in1k"


class Notices(SilentReporter):
    """Keeps warnings, each with the number of requests that the server has received by then."""

    def __init__(self, server: FileServer) -> None:
        self.server = server
        self.found: list[tuple[str, int]] = []

    def warn(self, text: str) -> None:
        self.found.append((text, len(self.server.paths) + len(self.server.heads)))


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give panformer and Hugging Face empty caches; return that of panformer's weights of backbones."""
    monkeypatch.setenv("PANFORMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home" / "weights" / "backbones"


def test_a_license_is_reported_once_before_the_download(
    server: FileServer, empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    reporter = Notices(server)
    fetch_weights(DINOV3, reporter)
    ((notice, requests),) = reporter.found
    assert requests == 0
    assert server.paths == ["/release/timm/convnext_tiny.dinov3_lvd1689m/resolve/main/model.safetensors"]
    for part in (
        "convnext_tiny.dinov3_lvd1689m",
        "DINOv3 License",
        "ai.meta.com/resources/models-and-libraries/dinov3-license",
    ):
        assert part in notice
    assert (empty_caches / "convnext_tiny.dinov3_lvd1689m.safetensors").read_bytes() == server.content
    note = empty_caches / "convnext_tiny.dinov3_lvd1689m.license.txt"
    assert note.read_text(encoding="utf-8") == f"{notice}\n"

    fetch_weights(DINOV3, reporter)
    assert (len(reporter.found), len(server.paths)) == (1, 1)
    note.unlink()  # the record is in the cache, not in this process
    fetch_weights(DINOV3, reporter)
    assert (len(reporter.found), len(server.paths)) == (2, 1)


def test_common_licenses_need_no_notice(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    reporter = Notices(server)
    fetch_weights("resnet18", reporter)
    assert (reporter.found, len(server.paths)) == ([], 1)


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_the_error_says_where_to_put_the_file(
    offline: bool, empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
    with pytest.raises(CheckpointError) as caught:
        fetch_weights(ATTO, SilentReporter())
    message = str(caught.value)
    assert "\n" not in message
    path = empty_caches / "convnext_atto.d2_in1k.safetensors"
    for part in (
        f"cannot download {CLOSED}/timm/convnext_atto.d2_in1k/resolve/main/model.safetensors: ",
        "HF_HUB_OFFLINE is set" if offline else "refused",
        f"or put the file at {path} yourself",
        "use a local file with --set model.backbone_weights=FILE, or ",
        "--set model.backbone_weights=none",
    ):
        assert part in message
    assert not path.exists()


def test_a_name_without_a_tag_means_the_same_file_as_its_default_tag() -> None:
    assert pretrained_name("timm/convnext_tiny") == "convnext_tiny.in12k_ft_in1k"
    assert weights_file("legacy_senet154.in1k").suffix == ".pth"  # not on the hub


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["panformer", "hub"])
def test_a_file_in_a_cache_is_loaded_without_a_network(cache: str, empty_caches: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    weights = timm.create_model("convnext_atto").state_dict()
    path = empty_caches / "convnext_atto.d2_in1k.safetensors"
    if cache == "hub":
        repository = tmp_path / "hub" / "models--timm--convnext_atto.d2_in1k"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        path = repository / "snapshots" / ("0" * 40) / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    backbone = build_backbone(ATTO, 0.0, None, True)
    fetch_weights(ATTO, SilentReporter())
    load_backbone_weights(backbone, "imagenet")
    assert torch.equal(backbone.body.get_parameter("stem_0.weight"), weights["stem.0.weight"])
    assert torch.equal(backbone.body.get_parameter("stages_3.blocks.1.gamma"), weights["stages.3.blocks.1.gamma"])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (save({"stem.0.weight": torch.zeros(1)})[:-2], "the file is corrupt or truncated"),
        (save({"stem.0.weight": torch.zeros(1)}), "the file does not have the weights convnext_atto.d2_in1k"),
        (b"<html>", "is a web page"),
    ],
    ids=["truncated", "another", "page"],
)
def test_a_file_in_the_cache_that_cannot_be_used(content: bytes, fault: str, empty_caches: Path) -> None:
    empty_caches.mkdir(parents=True)
    path = empty_caches / "convnext_atto.d2_in1k.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_backbone_weights(build_backbone(ATTO, 0.0, None, True), "imagenet")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"weights {path}: ")
    assert fault in message
    assert message.endswith("delete the file to download it again")
