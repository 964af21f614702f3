"""Files of weights: told apart by content, read without running anything, and refused in one sentence."""

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

WAYS: dict[str, tuple[str, Write]] = {
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
@pytest.mark.parametrize("way", [way for way in WAYS if way != "protocol 4"])
@pytest.mark.parametrize("prefixed", [False, True])
def test_every_form_gives_the_same_tensors_whatever_its_suffix(
    way: str, suffix: str, prefixed: bool, tmp_path: Path
) -> None:
    kind, write = WAYS[way]
    path = tmp_path / f"weights{suffix}"
    write(with_module(STATE) if prefixed else STATE, path)
    assert kind_of(path) == kind
    torch.testing.assert_close(read_state(path), STATE, rtol=0, atol=0)


def test_an_archive_is_mapped_not_read(tmp_path: Path) -> None:
    """What changes in the file after reading shows in the tensor: its bytes are those of the file."""
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.full((64,), 7.0)}, path)
    state = read_state(path)
    before, after = torch.full((64,), 7.0).numpy().tobytes(), torch.full((64,), 9.0).numpy().tobytes()
    place = path.read_bytes().index(before)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(after)
    assert state["weight"].tolist() == [9.0] * 64


def test_the_header_of_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors", {"format": "mine"})
    metadata, names = read_header(tmp_path / "a.safetensors")
    assert (metadata, set(names)) == ({"format": "mine"}, set(STATE))


# Numbers of numpy in what MMCV writes beside the weights


NUMBERS = [np.float64(49.6), np.float32(1), np.int64(3), np.bool_(True), np.dtype("f8")]


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"], ids=["numpy 1", "numpy 2"])
def test_numpy_numbers_beside_the_weights_are_passed_over(module: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"meta": {"best_score": NUMBERS}, "state_dict": STATE}, path)
    change_pickle(path, lambda content: re.sub(rb"numpy\._?core\.multiarray", module, content))
    torch.testing.assert_close(read_state(path), STATE, rtol=0, atol=0)


def change_pickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Put another pickle into an archive of `torch.save`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, change(content) if name.endswith("/data.pkl") else content)


def test_nothing_of_numpy_is_called_and_nothing_stays_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


# What is refused


class Wants:
    """A pickle of this asks for `function` when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def run_in_pickle(path: str) -> None:
    Path(path).touch()


def refused(path: Path) -> str:
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
def test_a_pickle_that_wants_more_is_refused_by_name(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    name: str,
    zipped: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": STATE, "meta": Wants(function, *arguments)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    message = refused(tmp_path / "a.pth")
    assert "the pickle holds more than tensors and plain containers: it wants " in message
    assert name in message
    assert message.endswith("and was not run; give a file of weights alone")
    assert not (tmp_path / "ran").exists()


def test_the_trap_of_the_test_above_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Wants(run_in_pickle, str(tmp_path / "ran"))))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_is_not_even_opened(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"weight": Wants(run_in_pickle, str(tmp_path / "ran"))}, protocol=protocol))
    expected = "neither in safetensors form nor one that torch.save wrote" if protocol == 0 else "it was not run"
    assert expected in refused(path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_an_unknown_form_is_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Wants(run_in_pickle, str(tmp_path / "ran"))}, tmp_path / "a.pth", pickle_protocol=4)
    assert "the pickle is damaged, or holds more than tensors and plain containers; it was not run" in refused(
        tmp_path / "a.pth"
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("way", ["plain", "mmcv", "legacy", "mmcv legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, -1])
def test_a_file_cut_short_is_called_so(way: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    WAYS[way][1]({"weight": torch.zeros(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept > 0 else -1])
    assert "the file is corrupt or truncated; download or copy it again" in refused(path)


@pytest.mark.parametrize("way", ["plain", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [1, 3, 7, 9, 30, 60])
def test_a_file_of_which_little_is_left(way: str, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    WAYS[way][1](STATE, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "again" in refused(path) or "it was not run" in refused(path)


DAMAGED = "the file is corrupt or truncated; download or copy it again"


@pytest.mark.parametrize("way", WAYS)
def test_a_whole_file_is_whole(way: str, tmp_path: Path) -> None:
    WAYS[way][1](STATE, tmp_path / "a.pth")
    check_whole(tmp_path / "a.pth")


def test_one_bit_that_reading_does_not_see_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.full((64,), 7.0)}, path)
    seven, other = torch.tensor(7.0).numpy().tobytes() * 64, torch.tensor(7.5).numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(seven, seven[:-4] + other))
    assert read_state(path)["weight"][-1] == 7.5
    with pytest.raises(CheckpointError, match=f"a.pth: {DAMAGED}"):
        check_whole(path)


@pytest.mark.parametrize("way", ["plain", "mmcv", "safetensors"])
@pytest.mark.parametrize("kept", [20, 100, -1])
def test_a_file_cut_short_is_not_whole(way: str, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    WAYS[way][1](STATE, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"a.pth: {DAMAGED}"):
        check_whole(path)


def test_an_archive_without_sums_cannot_be_checked_by_them(tmp_path: Path) -> None:
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
        (b"%PDF-1.5\n%\xd0\xd4\xc5\xd8\n", "the file is a PDF document, not weights; give a .safetensors file"),
        (b"<!DOCTYPE html><html>", "the file is a web page (HTML or XML), not weights: the download went wrong"),
        (b"\xef\xbb\xbf\r\n  <html><head>", "the file is a web page (HTML or XML)"),
        (b'<?xml version="1.0"?><Error>', "the file is a web page (HTML or XML)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "the file is a Git LFS pointer, not the weights themselves"),
        (b"\x1f\x8b\x08\x00rest", "the file is a gzip archive; unpack it first"),
        (b"hello, world", "is neither in safetensors form nor one that torch.save wrote, or it is corrupt"),
        (b"\x89PNG\r\n\x1a\n", "is neither in safetensors form nor one that torch.save wrote"),
        (b"\xff" * 64, "is neither in safetensors form nor one that torch.save wrote"),
        (b"\x02\0\0\0\0\0\0\0{]", "the file is corrupt or truncated"),
    ],
)
def test_another_kind_of_file_is_named(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert expected in refused(path)


def test_other_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    assert "the file is a zip archive that torch.save did not write" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        for member in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{member}", b"")
    assert "the file is a TorchScript program, which was not run" in refused(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "no such file; give the path of a .safetensors or .pth file" in refused(tmp_path / "nowhere.pth")
    assert "this is a folder; give a .safetensors or .pth file in it" in refused(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, torch.zeros(2), {"state_dict": {"epoch": 3}}])
def test_a_file_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    assert "the file holds no state dict; expected tensors by name" in refused(tmp_path / "odd.pth")
