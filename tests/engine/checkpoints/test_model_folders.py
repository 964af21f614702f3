"""`hf:OWNER/NAME` and `hf:FOLDER`: what is downloaded, and what is refused, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from panformer_cli.engine.checkpoints import model_folders
from panformer_cli.engine.checkpoints.checkpoint import load_model, read_checkpoint
from panformer_cli.engine.runs import find_checkpoint, results_folder
from panformer_cli.errors import CheckpointError, PanformerError
from tests.golden.hf_models import tiny_network
from tests.helpers import files_of, made_once
from tests.hub_server import CLOSED, HubServer, connect
from tests.prepare.reporters import RecordingReporter
from tests.saved_models import save_tiny

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(request: pytest.FixtureRequest) -> Path:
    """A complete model; it must not be changed."""
    return made_once(request, "tiny_saved_model", save_tiny)


@pytest.fixture
def folder(tmp_path: Path, saved: Path) -> Path:
    """A copy of the model."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def found(text: str | Path, reporter: RecordingReporter | None = None) -> Path:
    return find_checkpoint(Path(text), reporter or RecordingReporter())


def refusal(text: str | Path) -> str:
    """Return why a checkpoint cannot be loaded."""
    with pytest.raises(PanformerError) as caught:
        load_model(read_checkpoint(found(text)))
    return str(caught.value)


def change_config(folder: Path, **changes: object) -> None:
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(content | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def in_shards(folder: Path, first: str = "model-1.safetensors", without: str = "", index: str | None = None) -> None:
    """Split the weights into two files, except `without`, and write their index, or `index` instead."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {first: names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        if Path(file).name == file != without:
            save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / INDEX).write_text(index or json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.slow
def test_a_repository_is_downloaded_once(saved: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {**files_of(saved), "pytorch_model.bin": b"pickle", "README.md": b"", "code.py": b"raise SystemExit"}
    commit = hub.add("user/model", files)
    reporter = RecordingReporter()
    folder = found("hf:user/model", reporter)
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS}
    assert read_checkpoint(folder).recipe.name == "user--model"
    assert model_folders.shown_name(folder) == "hf:user/model"
    assert results_folder(folder) == Path("evaluation/user--model")
    before = len(hub.requests)
    assert found(f"hf:user/model@{commit}") == folder
    assert len(hub.requests) == before + 1
    connect(monkeypatch, CLOSED, folder.parents[3])
    assert found("hf:user/model") == folder
    assert len(reporter.messages) == 2


@pytest.mark.slow
def test_shards_are_downloaded_and_loaded(saved: Path, folder: Path, hub: HubServer) -> None:
    in_shards(folder)
    (folder / "preprocessor_config.json").write_text("{}")
    hub.add("user/model", files_of(folder))
    loaded, expected = load_model(read_checkpoint(found("hf:user/model"))), load_model(read_checkpoint(saved))
    assert len(list(found("hf:user/model").iterdir())) == 5
    weights = expected.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "has no config.json"),
        ({CONFIG: b'{"model_type": "bert"}', WEIGHTS: b""}, "the model type is 'bert', which is not supported"),
        (
            {CONFIG: b'{"model_type": "eomt"}', "pytorch_model.bin": b"", "a.pth": b""},
            "repository user/model: it has its weights only as a.pth, pytorch_model.bin, a pickle",
        ),
        ({CONFIG: b'{"model_type": "eomt"}'}, "repository user/model: it has no weights"),
        (
            {CONFIG: b'{"library_name": "panformer"}', WEIGHTS: b""},
            "a model of panformer, not of transformers",
        ),
        (
            {CONFIG: b'{"model_type": "eomt"}', INDEX: b'{"weight_map": {"a": "../b.safetensors"}}'},
            "lists '../b.safetensors'; expected names of safetensors files in the same folder",
        ),
        (
            {CONFIG: b'{"model_type": "eomt"}', INDEX: b'{"weight_map": {"a": "b.safetensors"}}'},
            "has no b.safetensors",
        ),
    ],
)
def test_repositories_without_a_model_are_refused(files: dict[str, bytes], sentence: str, hub: HubServer) -> None:
    hub.add("user/model", {"README.md": b"", **files})
    with pytest.raises(CheckpointError, match=sentence):
        found("hf:user/model")
    assert not any(request.server == "storage" for request in hub.requests)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hf:", "the folder does not exist, and '' is not the name of a repository"),
        ("hf:model", "'model' is not the name of a repository"),
        ("hf:a/b/c", "'a/b/c' is not the name of a repository"),
        ("hf:a/b@", "the revision ''; expected a branch, a tag, a commit or refs/pr/N"),
        ("hf:./model", "hf:./model: model does not exist; expected the folder of a model"),
        ("hf:../a/b", "does not exist; expected the folder"),
        ("hf:/a/b", "does not exist; expected the folder"),
        ("hf:~/no such", "does not exist; expected the folder"),
        ("hf:~nobody here/model", "~nobody here/model does not exist; expected the folder"),
        ("hf:file.txt", "file.txt is a file; expected the folder"),
        ("hf:https://huggingface.co/a/b", "is not the name of a repository"),
        ("HF:a/b", "no such file"),
    ],
)
def test_odd_references_are_refused(text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").touch()
    with pytest.raises(CheckpointError) as caught:
        found(text)
    assert sentence in str(caught.value)


def test_an_existing_folder_has_priority_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("user/model").mkdir(parents=True)
    assert refusal("hf:user/model") == (
        "checkpoint user/model: it has no config.json; expected a folder that transformers saved"
    )


def test_transformers_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folders, "version", lambda name: "4.57.1")
    with pytest.raises(CheckpointError, match="transformers 4.57.1 is too old; expected 5 or newer"):
        found("hf:a/b")

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(model_folders, "version", missing)
    with pytest.raises(CheckpointError, match=r"is not installed; install it with: pip install 'panformer\[hf\]'"):
        found("hf:a/b")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "it has no weights; expected model.safetensors"),
    "only a pickle": (
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
        "it has its weights only as pytorch_model.bin, a pickle, which can run code",
    ),
    "no config": (lambda folder: (folder / CONFIG).unlink(), "it has no config.json"),
    "config cut": (lambda folder: (folder / CONFIG).write_text('{"a"'), "config.json: not valid JSON, or truncated"),
    "config a list": (lambda folder: (folder / CONFIG).write_text("[1]"), "config.json: it contains [1]"),
    "config empty": (lambda folder: (folder / CONFIG).write_text("{}"), "the model type is None, which is not"),
    "unknown type": (lambda folder: change_config(folder, model_type="vit"), "'vit', which is not supported; expected"),
    "video": (
        lambda folder: change_config(folder, model_type="videomt"),
        "'videomt', which is not supported; expected",
    ),
    "custom code": (
        lambda folder: change_config(folder, model_type="mine", auto_map={"AutoModel": "code.Mine"}),
        "'mine', which is not supported; the code that it names (auto_map) is never run",
    ),
    "other shapes": (lambda folder: change_config(folder, num_queries=7), "do not belong together"),
    "other size": (lambda folder: change_config(folder, hidden_size=48), "do not belong together"),
    "cut weights": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000]),
        "model.safetensors: the file is corrupt or truncated",
    ),
    "empty weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "model.safetensors"),
    "a web page": (lambda folder: (folder / WEIGHTS).write_text("<html>"), "is a web page (HTML or XML), not weights"),
    "a pointer": (
        lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`",
    ),
    "not a number": (
        lambda folder: change_weights(folder, lambda tensors: tensors["class_predictor.bias"].fill_(float("nan"))),
        "has non-finite values (NaN or infinity) in 1 tensor; the first is network.class_predictor.bias",
    ),
    "only boxes": (
        lambda folder: change_config(folder, model_type="detr", architectures=["DetrForObjectDetection"]),
        "this DETR predicts boxes without masks (DetrForObjectDetection); use one for panoptic segmentation",
    ),
    "huge sides": (
        lambda folder: change_config(folder, image_size=10**6),
        "data.long_side is 1000000: expected 32 to 16384 pixels); correct config.json",
    ),
    "no head": (
        lambda folder: change_weights(folder, lambda tensors: tensors.pop("class_predictor.weight")),
        "it lacks 1 tensor of the network, such as class_predictor.weight",
    ),
    "no blocks": (
        lambda folder: change_weights(folder, lambda tensors: [tensors.pop(n) for n in [*tensors] if "layers.1" in n]),
        "of the network, such as layers.1",
    ),
    "shard missing": (
        lambda folder: in_shards(folder, without="model-2.safetensors"),
        "lists model-2.safetensors, which is not in the folder",
    ),
    "shard outside": (lambda folder: in_shards(folder, "../out.safetensors"), "lists '../out.safetensors'; expected"),
    "absolute shard": (lambda folder: in_shards(folder, "/etc/a.safetensors"), "lists '/etc/a.safetensors'; expected"),
    "index cut": (lambda folder: in_shards(folder, index="{"), "index.json: not valid JSON"),
    "index empty": (lambda folder: in_shards(folder, index="{}"), "it has no weight_map"),
    "original keys": (
        lambda folder: save_file({"network.a": torch.zeros(1)}, folder / WEIGHTS),
        "in the format of the original EoMT repository",
    ),
    "labels a list": (lambda folder: change_config(folder, id2label=["a", "b"]), "id2label is ['a', 'b']"),
    "labels with a gap": (
        lambda folder: change_config(folder, id2label={"0": "a", "2": "b"}),
        "id2label has the labels",
    ),
    "size text": (
        lambda folder: change_config(folder, image_size="big"),
        "image_size is 'big'; expected a side in pixels",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_are_refused(damage: str, folder: Path) -> None:
    apply, sentence = DAMAGE[damage]
    apply(folder)
    assert sentence in (message := refusal(f"hf:{folder}"))
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "sentence"),
    [
        ({"backbone": "owner/name"}, "the backbone is 'owner/name', which would be looked up elsewhere"),
        ({"backbone": "resnet50", "use_timm_backbone": True}, "config.json and the weights do not belong together"),
        (
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf_hub:owner/name"}},
            "the backbone is 'hf_hub:owner/name', which would be looked up elsewhere",
        ),
    ],
)
def test_a_backbone_elsewhere_is_refused_without_a_request(
    backbone: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask the Hub for it, even if only local files are allowed."""
    tiny_network("mask2former").save_pretrained(tmp_path)
    change_config(tmp_path, **{"backbone_config": None, **backbone})
    requests: list[object] = []

    def refused(host: object, *args: object, **options: object) -> None:
        requests.append(host)
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", refused)
    assert sentence in refusal(f"hf:{tmp_path}")
    assert requests == []


@pytest.mark.slow
def test_code_in_a_folder_is_not_run_but_the_model_is_loaded(folder: Path) -> None:
    change_config(folder, auto_map={"AutoModel": "code.Mine"})
    (folder / "code.py").write_text("raise SystemExit('was run')")
    assert "network.class_predictor.weight" in load_model(read_checkpoint(found(f"hf:{folder}"))).state_dict()
