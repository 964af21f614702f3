"""Files of tensors: safetensors are written; other formats of weights are also read, without running code in them."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from panformer_cli.errors import CheckpointError
from panformer_cli.storage.files import atomic_write, temporary_folder

Kind = Literal["safetensors", "torch zip", "torch legacy"]

TORCH_LEGACY_MARK = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""The number that `torch.save` pickled first before torch 1.6 introduced zip archives."""

LONGEST_HEADER = 100_000_000
"""Bytes; safetensors rejects longer headers."""

DOWNLOAD_AGAIN = "download or copy it again"

OTHER_KINDS = (
    (b"<", "is a web page (HTML or XML), not weights: the download failed; download the file again"),
    (b"%pdf", "is a PDF document, not weights; pass a .safetensors file or a .pth file written by torch.save"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`"),
    (b"\x1f\x8b", "is a gzip archive; unpack it first"),
    (b"\x80", "is a pickle that was not written by torch.save; it was not loaded, because a pickle can run code; save"
              " its tensors as a .safetensors file"),
)  # fmt: skip
"""First bytes, in lower case, of files that are mistaken for weights, and what to report."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name, on the CPU, without a leading `module.`.

    Args:
        path: a safetensors file or a file written by `torch.save` (zip or legacy format), with any suffix. It contains
            a state dict, or one under `state_dict` or `model`. Zip archives are memory-mapped, so only the tensors
            that are used are read from disk.

    Raises:
        CheckpointError: the file is missing, corrupt, of another format or without a state dict, or it is a pickle that
            needs more than tensors and plain containers. Such a pickle is not loaded.
    """
    kind = kind_of(path)
    content = _load_safetensors(path) if kind == "safetensors" else _unpickle(path, kind)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"weights {path}: the file contains no state dict; expected tensors by name")
    return {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically.

    Args:
        path: The file.
        tensors: Dense tensors by name, on any device.
        metadata: Texts by name.

    Raises:
        WriteError: The file cannot be written.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        # safetensors writes to a random name beside its file; in our temporary folder, a killed process leaves nothing.
        with temporary_folder(temporary.with_suffix(".parts.tmp")) as parts:
            file = parts / path.name
            try:
                save_file(stored, file, dict(metadata))
            except SafetensorError as error:
                raise _as_os_error(error) from error
            file.chmod(mode)  # safetensors creates files that only the owner can read
            _sort_metadata(file)
            file.replace(temporary)


def _as_os_error(error: SafetensorError) -> OSError:
    """Return the operating system's error that is in the message of safetensors."""
    number = re.search(r"(?:\(os error |code: )(\d+)", str(error))  # "code" before safetensors 0.6
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def _sort_metadata(path: Path) -> None:
    """Sort the metadata: safetensors writes its entries in a random order."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size, "sorting does not change the size"
        file.seek(8)
        file.write(text)


def check_whole(path: Path) -> None:
    """Check a file without loading its tensors: all checksums of a zip archive, the sizes in a safetensors header.

    Raises:
        CheckpointError: the file does not contain weights, or is corrupt or truncated.
    """
    kind = kind_of(path)
    if kind == "torch zip":
        _check_archive(path)
        _check_sums(path)
    elif kind == "safetensors":
        read_header(path)


def read_header(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the metadata of a safetensors file, and the names of its tensors.

    Raises:
        CheckpointError: the file is corrupt.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, list(file.keys())
    except (SafetensorError, OSError) as error:
        if path.is_file():
            kind_of(path)  # raises with what the file is, such as a Git LFS pointer
        raise _corrupt(path) from error


def kind_of(path: Path) -> Kind:
    """Return the format of a file of weights, from its first bytes.

    Raises:
        CheckpointError: panformer does not read this format; the message says what the file is.
    """
    if path.is_dir():
        raise CheckpointError(f"weights {path}: this is a folder; pass a .safetensors or .pth file inside it")
    if not path.is_file():
        raise CheckpointError(f"weights {path}: no such file; pass the path of a .safetensors or .pth file")
    with path.open("rb") as file:
        start = file.read(256)
    if start.startswith(b"PK\x03\x04"):
        return "torch zip"
    if start.startswith(b"\x80") and TORCH_LEGACY_MARK in start[:32]:
        return "torch legacy"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER:
        return "safetensors"
    raise CheckpointError(f"weights {path}: the file {_other_kind(start)}")


def _other_kind(start: bytes) -> str:
    if not start:
        return f"is empty (0 bytes); {DOWNLOAD_AGAIN}"
    visible = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for mark, what in OTHER_KINDS:
        if visible.startswith(mark):
            return what
    return (
        "is neither a safetensors file nor written by torch.save, or it is corrupt or truncated; "
        f"{DOWNLOAD_AGAIN}, or pass another"
    )


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _corrupt(path) from error


def _unpickle(path: Path, kind: Kind) -> Any:
    if kind == "torch zip":
        _check_archive(path)
    mapped = kind == "torch zip" and path.suffix != ".safetensors"  # torch.load treats that suffix differently
    try:
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(NUMPY_STAND_INS):
            warnings.simplefilter("ignore")  # about old torch or pickle formats: loading works or raises
            return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a corrupt pickle may raise anything
        raise _load_error(path, error) from error


def _check_archive(path: Path) -> None:
    """Raise CheckpointError unless the zip archive can be read and was written by `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception as error:  # corrupt names and numbers raise more than BadZipFile
        raise _corrupt(path) from error
    if "data.pkl" not in members:
        raise CheckpointError(
            f"weights {path}: the file is a zip archive that torch.save did not write; pass the weights file itself"
        )
    if "constants.pkl" in members:
        raise CheckpointError(
            f"weights {path}: the file is a TorchScript program, which was not run; pass its weights as a state dict"
        )


def _check_sums(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.save can be configured to write zeros instead of checksums.
            bad = archive.testzip() if any(member.CRC for member in archive.infolist()) else None
    except Exception as error:  # corrupt numbers raise more than BadZipFile
        raise _corrupt(path) from error
    if bad is not None:
        raise _corrupt(path)


def _load_error(path: Path, error: Exception) -> CheckpointError:
    """Return the error to raise for an exception of `torch.load`."""
    name = re.search(r"GLOBAL ([\w.<>]+)", str(error))
    if name:
        return CheckpointError(
            f"weights {path}: the pickle needs {name[1]}, more than tensors and plain containers, and was not loaded; "
            "pass a file that contains only weights"
        )
    if isinstance(error, pickle.UnpicklingError):
        return CheckpointError(
            f"weights {path}: the pickle is corrupt, or needs more than tensors and plain containers, and was not "
            f"loaded; {DOWNLOAD_AGAIN}, or pass a file that contains only weights"
        )
    return _corrupt(path)


def _corrupt(path: Path) -> CheckpointError:
    return CheckpointError(f"weights {path}: the file is corrupt or truncated; {DOWNLOAD_AGAIN}")


class _Ignored:
    """Placeholder for a numpy value in a pickle: accepts any arguments and state, and keeps nothing."""

    def __init__(self, *parts: object) -> None:
        del parts

    def __setstate__(self, state: object) -> None:
        del state


def _stand_in(module: str, name: str) -> type[_Ignored]:
    """Return a subclass of `_Ignored` that torch accepts as `module.name`, without calling numpy."""
    return type(name, (_Ignored,), {"__module__": module})


NUMPY_STAND_INS: list[Any] = [
    _stand_in("numpy.core.multiarray", "scalar"),
    _stand_in("numpy._core.multiarray", "scalar"),
    _stand_in("numpy", "dtype"),
]
"""MMCV stores the best score beside the weights, often as a numpy number, which is not needed here."""
