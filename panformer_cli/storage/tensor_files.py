"""Files of weights, told apart by their content and read without running anything that is in them."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from panformer_cli.errors import CheckpointError

Kind = Literal["safetensors", "torch zip", "torch legacy"]

TORCH_LEGACY_MARK = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""The number that `torch.save` pickled first, until torch 1.6 came with zip archives."""

LONGEST_HEADER = 100_000_000
"""Bytes; safetensors refuses a longer one."""

DOWNLOAD_AGAIN = "download or copy it again"

OTHER_KINDS = (
    (b"<", "is a web page (HTML or XML), not weights: the download went wrong; fetch the file itself again"),
    (b"%pdf", "is a PDF document, not weights; give a .safetensors file or a .pth file that torch.save wrote"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`"),
    (b"\x1f\x8b", "is a gzip archive; unpack it first"),
    (b"\x80", "is a pickle that torch.save did not write; a pickle can run code, so it was not run; give its tensors as"
              " a .safetensors file"),
)  # fmt: skip
"""How files begin that are taken for weights, in lower case, and what to say of them."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name, on the CPU; a leading `module.` is dropped.

    path: a safetensors file or what `torch.save` wrote (zip or legacy form), whatever its suffix: a plain state dict,
        or one under `state_dict` or `model`. Zip archives are mapped into memory, so that only the tensors which are
        used are read from the disk.

    Raises:
        CheckpointError: missing, damaged, of another kind, without a state dict, or a pickle that wants more than
            tensors and plain containers; such a pickle is not run.
    """
    kind = kind_of(path)
    content = _load_safetensors(path) if kind == "safetensors" else _unpickle(path, kind)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"weights {path}: the file holds no state dict; expected tensors by name")
    return {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def check_whole(path: Path) -> None:
    """Look for damage without reading the tensors: of a zip archive every check sum, of safetensors the sizes.

    Raises:
        CheckpointError: no file of weights, damaged, or cut short.
    """
    kind = kind_of(path)
    if kind == "torch zip":
        _check_archive(path)
        _check_sums(path)
    elif kind == "safetensors":
        read_header(path)


def read_header(path: Path) -> tuple[dict[str, str], list[str]]:
    """Metadata of a safetensors file, and the names of its tensors.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, list(file.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(path) from error


def kind_of(path: Path) -> Kind:
    """What kind of weight file lies at `path`, told from its first bytes.

    Raises:
        CheckpointError: none of those that panformer reads; the sentence says what it is instead.
    """
    if path.is_dir():
        raise CheckpointError(f"weights {path}: this is a folder; give a .safetensors or .pth file in it")
    if not path.is_file():
        raise CheckpointError(f"weights {path}: no such file; give the path of a .safetensors or .pth file")
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
        "is neither in safetensors form nor one that torch.save wrote, or it is corrupt or truncated; "
        f"{DOWNLOAD_AGAIN}, or give another"
    )


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path) from error


def _unpickle(path: Path, kind: Kind) -> Any:
    if kind == "torch zip":
        _check_archive(path)
    mapped = kind == "torch zip" and path.suffix != ".safetensors"  # torch.load goes by that suffix of a path
    try:
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(NUMPY_STAND_INS):
            warnings.simplefilter("ignore")  # of an old torch or pickle form; it can be read, or the error says more
            return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle may raise anything
        raise _refused(path, error) from error


def _check_archive(path: Path) -> None:
    """Raises CheckpointError unless the zip archive is whole and holds what `torch.save` writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception as error:  # beside BadZipFile, whatever damaged names and numbers lead to
        raise _damaged(path) from error
    if "data.pkl" not in members:
        raise CheckpointError(
            f"weights {path}: the file is a zip archive that torch.save did not write; give the file of weights itself"
        )
    if "constants.pkl" in members:
        raise CheckpointError(
            f"weights {path}: the file is a TorchScript program, which was not run; give its weights as a state dict"
        )


def _check_sums(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.save writes zeros where it is told to do without them.
            bad = archive.testzip() if any(member.CRC for member in archive.infolist()) else None
    except Exception as error:  # whatever damaged numbers lead to
        raise _damaged(path) from error
    if bad is not None:
        raise _damaged(path)


def _refused(path: Path, error: Exception) -> CheckpointError:
    """What to say of the exception that `torch.load` raised."""
    wanted = re.search(r"GLOBAL ([\w.<>]+)", str(error))
    if wanted:
        return CheckpointError(
            f"weights {path}: the pickle holds more than tensors and plain containers: it wants {wanted[1]}, and was "
            "not run; give a file of weights alone"
        )
    if isinstance(error, pickle.UnpicklingError):
        return CheckpointError(
            f"weights {path}: the pickle is damaged, or holds more than tensors and plain containers; it was not run; "
            f"{DOWNLOAD_AGAIN}, or give a file of weights alone"
        )
    return _damaged(path)


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"weights {path}: the file is corrupt or truncated; {DOWNLOAD_AGAIN}")


class _Forgotten:
    """Stands for a numpy value in a pickle: takes whatever it was made from, and keeps nothing."""

    def __init__(self, *parts: object) -> None:
        del parts

    def __setstate__(self, state: object) -> None:
        del state


def _stand_in(module: str, name: str) -> type[_Forgotten]:
    """A `_Forgotten` that torch takes for `module.name`; nothing of numpy is called."""
    return type(name, (_Forgotten,), {"__module__": module})


NUMPY_STAND_INS: list[Any] = [
    _stand_in("numpy.core.multiarray", "scalar"),
    _stand_in("numpy._core.multiarray", "scalar"),
    _stand_in("numpy", "dtype"),
]
"""MMCV notes the best score so far beside the weights, often as a numpy number; nobody here asks for it."""
