"""Files of weights: detected by content, read without running code, and rejected with one sentence."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from panformer_cli.errors import CheckpointError
from panformer_cli.storage.tensor_files import check_whole, kind_of, read_header, read_state
from tests.release_files import save_as_mmcv

STATE = {"conv.weight": torch.arange(12.0).reshape(3, 4), "norm.bias": torch.ones(3)}
Write = Callable[[dict[str, Tensor], Path], Any]

FORMATS: dict[str, tuple[str, Write]] = {
    "plain": ("torch zip", lambda state, path: torch.save(state, path)),
    "legacy": ("torch legacy", lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False)),
    "protocol 4": (
        "torch legacy",
        lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False, pickle_protocol=4),
    ),
    "under model": ("torch zip", lambda state, path: torch.save({"model": state, "epoch": 3}, path)),
    "mmcv": ("torch zip", save_as_mmcv),
    "mmcv legacy": (
        "torch legacy",
        lambda state, path: save_as_mmcv(state, path, _use_new_zipfile_serialization=False),
    ),
    "safetensors": ("safetensors", save_file),
}


def with_module(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
@pytest.mark.parametrize("format", [name for name in FORMATS if name != "protocol 4"])
@pytest.mark.parametrize("prefixed", [False, True])
def test_every_format_gives_the_same_tensors_with_any_suffix(
    format: str, suffix: str, prefixed: bool, tmp_path: Path
) -> None:
    kind, write = FORMATS[format]
    path = tmp_path / f"weights{suffix}"
    write(with_module(STATE) if prefixed else STATE, path)
    assert kind_of(path) == kind
    torch.testing.assert_close(read_state(path), STATE, rtol=0, atol=0)


def test_an_archive_is_memory_mapped(tmp_path: Path) -> None:
    """Changes of the file after reading appear in the tensor, because it shares the bytes of the file."""
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.full((64,), 7.0)}, path)
    state = read_state(path)
    before, after = torch.full((64,), 7.0).numpy().tobytes(), torch.full((64,), 9.0).numpy().tobytes()
    offset = path.read_bytes().index(before)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(after)
    assert state["weight"].tolist() == [9.0] * 64


def test_the_header_of_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors", {"format": "mine"})
    metadata, names = read_header(tmp_path / "a.safetensors")
    assert (metadata, set(names)) == ({"format": "mine"}, set(STATE))


# numpy numbers that MMCV writes beside the weights


NUMBERS = [np.float64(49.6), np.float32(1), np.int64(3), np.bool_(True), np.dtype("f8")]


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"], ids=["numpy 1", "numpy 2"])
def test_numpy_numbers_beside_the_weights_are_ignored(module: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"meta": {"best_score": NUMBERS}, "state_dict": STATE}, path)
    change_pickle(path, lambda content: re.sub(rb"numpy\._?core\.multiarray", module, content))
    torch.testing.assert_close(read_state(path), STATE, rtol=0, atol=0)


def change_pickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace the pickle in an archive of `torch.save`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, change(content) if name.endswith("/data.pkl") else content)


def test_numpy_is_not_called_and_allowed_globals_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": STATE, "best_score": NUMBERS}, tmp_path / "a.pth")
    original, loaded, allowed = torch.load, [], set(torch.serialization.get_safe_globals())

    def spy(*arguments: Any, **options: Any) -> Any:
        loaded.append(original(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(torch, "load", spy)
    read_state(tmp_path / "a.pth")
    assert len(loaded[0]["best_score"]) == len(NUMBERS)
    assert not any(isinstance(number, (np.generic, np.dtype, float, int)) for number in loaded[0]["best_score"])
    assert set(torch.serialization.get_safe_globals()) == allowed


# Rejected files


class Calls:
    """Its pickle calls `function` when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def run_in_pickle(path: str) -> None:
    Path(path).touch()


def rejected(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_state(path)
    message = str(caught.value)
    assert message.startswith(f"weights {path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (run_in_pickle, ("ran",), "tests.storage.test_tensor_files.run_in_pickle"),
        (open, ("ran", "w"), "open"),
        (eval, ("open('ran', 'w')",), "eval"),
        (np.load, ("ran",), "numpy.load"),
        (np.array, ([1.0],), "numpy.array"),
        (nn.Linear, (2, 2), "torch.nn.modules.linear.Linear"),
        (Path, ("ran",), "pathlib."),
    ],
)
def test_a_pickle_that_needs_more_is_rejected_by_name(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    name: str,
    zipped: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": STATE, "meta": Calls(function, *arguments)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    message = rejected(tmp_path / "a.pth")
    assert "the pickle needs " in message and name in message
    assert message.endswith(
        "more than tensors and plain containers, and was not loaded; pass a file that contains only weights"
    )
    assert not (tmp_path / "ran").exists()


def test_loading_the_pickle_would_run_the_function(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Calls(run_in_pickle, str(tmp_path / "ran"))))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_is_not_loaded(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"weight": Calls(run_in_pickle, str(tmp_path / "ran"))}, protocol=protocol))
    expected = "neither a safetensors file nor written by torch.save" if protocol == 0 else "it was not loaded"
    assert expected in rejected(path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_with_an_unknown_protocol_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"weight": Calls(run_in_pickle, str(tmp_path / "ran"))}, tmp_path / "a.pth", pickle_protocol=4)
    assert "the pickle is corrupt, or needs more than tensors and plain containers, and was not loaded" in rejected(
        tmp_path / "a.pth"
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("format", ["plain", "mmcv", "legacy", "mmcv legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, -1])
def test_a_truncated_file_is_reported(format: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    FORMATS[format][1]({"weight": torch.zeros(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept > 0 else -1])
    assert CORRUPT in rejected(path)


@pytest.mark.parametrize("format", ["plain", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [1, 3, 7, 9, 30, 60])
def test_a_file_with_only_its_first_bytes(format: str, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    FORMATS[format][1](STATE, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "again" in rejected(path) or "it was not loaded" in rejected(path)


CORRUPT = "the file is corrupt or truncated; download or copy it again"


@pytest.mark.parametrize("format", FORMATS)
def test_a_complete_file_passes_the_check(format: str, tmp_path: Path) -> None:
    FORMATS[format][1](STATE, tmp_path / "a.pth")
    check_whole(tmp_path / "a.pth")


def test_the_checksum_detects_changes_that_reading_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.full((64,), 7.0)}, path)
    seven, other = torch.tensor(7.0).numpy().tobytes() * 64, torch.tensor(7.5).numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(seven, seven[:-4] + other))
    assert read_state(path)["weight"][-1] == 7.5
    with pytest.raises(CheckpointError, match=f"a.pth: {CORRUPT}"):
        check_whole(path)


@pytest.mark.parametrize("format", ["plain", "mmcv", "safetensors"])
@pytest.mark.parametrize("kept", [20, 100, -1])
def test_a_truncated_file_fails_the_check(format: str, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    FORMATS[format][1](STATE, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"a.pth: {CORRUPT}"):
        check_whole(path)


def test_an_archive_without_checksums_passes_the_check(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is not None
    check_whole(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty (0 bytes); download or copy it again"),
        (b"%PDF-1.5\n%\xd0\xd4\xc5\xd8\n", "the file is a PDF document, not weights; pass a .safetensors file"),
        (b"<!DOCTYPE html><html>", "the file is a web page (HTML or XML), not weights: the download failed"),
        (b"\xef\xbb\xbf\r\n  <html><head>", "the file is a web page (HTML or XML)"),
        (b'<?xml version="1.0"?><Error>', "the file is a web page (HTML or XML)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "the file is a Git LFS pointer, not the weights themselves"),
        (b"\x1f\x8b\x08\x00rest", "the file is a gzip archive; unpack it first"),
        (b"hello, world", "is neither a safetensors file nor written by torch.save, or it is corrupt"),
        (b"\x89PNG\r\n\x1a\n", "is neither a safetensors file nor written by torch.save"),
        (b"\xff" * 64, "is neither a safetensors file nor written by torch.save"),
        (b"\x02\0\0\0\0\0\0\0{]", "the file is corrupt or truncated"),
    ],
)
def test_other_file_types_are_named(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert expected in rejected(path)


def test_other_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    assert "the file is a zip archive that torch.save did not write" in rejected(path)
    with zipfile.ZipFile(path, "w") as archive:
        for member in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{member}", b"")
    assert "the file is a TorchScript program, which was not run" in rejected(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "no such file; pass the path of a .safetensors or .pth file" in rejected(tmp_path / "nowhere.pth")
    assert "this is a folder; pass a .safetensors or .pth file inside it" in rejected(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, torch.zeros(2), {"state_dict": {"epoch": 3}}])
def test_a_file_without_a_state_dict_is_rejected(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    assert "the file contains no state dict; expected tensors by name" in rejected(tmp_path / "odd.pth")
