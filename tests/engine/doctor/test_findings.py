"""What each examination finds, also when something is broken."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from panformer_cli.engine.doctor import devices, doctor, folders, packages, self_test
from panformer_cli.engine.doctor.finding import Finding, examined
from panformer_cli.engine.doctor.requirements import Requirement
from panformer_cli.models.layers import sampling
from panformer_cli.models.layers.sampling.portable import gather_sampling


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_an_error_is_a_finding_of_one_line() -> None:
    def fail() -> Iterable[Finding]:
        yield Finding("A", "first", "ok", "")
        raise RuntimeError("line 1\nline 2")

    first, second = examined("A", "b", fail, "pip install x")
    assert (first.name, second) == ("first", Finding("A", "b", "failed", "line 1", "pip install x"))


def required(monkeypatch: pytest.MonkeyPatch, requirement: Requirement) -> Finding:
    monkeypatch.setattr(packages, "declared", lambda: [requirement])
    return by_name(packages.versions())[requirement.name]


def test_a_missing_package_has_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = required(monkeypatch, Requirement("no-such-package", ">= 1.5"))
    assert (found.status, found.found) == ("failed", "not installed")
    assert found.fix == "pip install 'no-such-package>=1.5'"


def test_a_package_for_some_systems_is_only_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert required(monkeypatch, Requirement("no-such-package", marker="platform_machine in 'x'")).status == "warning"


def test_an_old_package_is_upgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = required(monkeypatch, Requirement("click", ">= 999"))
    assert found.status == "failed"
    assert "expected 999 or later" in found.found
    assert found.fix == "pip install --upgrade 'click>=999'"


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (ImportError("libGL.so.1: cannot open shared object file"), "opencv-python-headless"),
        (RuntimeError("built for NumPy 1"), "pip install --force-reinstall 'opencv-python>=4.8.1'"),
    ],
)
def test_a_package_that_cannot_be_imported_is_one_line(
    error: Exception, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(packages, "import_module", fail)
    monkeypatch.setattr(Requirement, "installed", lambda self: (self.name, "4.9"))
    found = required(monkeypatch, Requirement("opencv-python", ">= 4.8.1"))
    assert found.status == "failed"
    assert found.found == f"4.9 cannot be imported: {error}"
    assert fix in found.fix


def test_optional_packages_are_not_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "declared", lambda: [Requirement("no-such-tracker", extra="tracker")])
    found = by_name(packages.extras())
    assert found["no-such-tracker"].status == "missing"
    assert found["no-such-tracker"].fix == "pip install 'panformer[tracker]'"
    assert "failed" not in {finding.status for finding in found.values()}


def test_image_formats() -> None:
    found = by_name(packages.image_formats())
    assert {"jpg", "png", "tif"} <= set(found["image files"].found.split())
    assert "video files" in found


@pytest.mark.slow
def test_the_cpu() -> None:
    found = by_name(devices.devices())
    assert "usable" in found["CPU"].found
    assert found["default"].found.startswith(("cpu", "cuda", "mps"))
    if not torch.cuda.is_available():
        assert found["CUDA"].status in ("missing", "warning")


@pytest.mark.parametrize(
    ("driver", "cuda", "status", "fix"),
    [
        (None, "13.0", "missing", ""),
        ("570.1", None, "warning", "pip install --force-reinstall torch torchvision"),
        ("470.1", "13.0", "warning", "install a newer driver"),
    ],
)
def test_a_gpu_that_pytorch_cannot_use(
    driver: str | None, cuda: str | None, status: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_nvidia_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    [found] = devices._cuda()
    assert found.status == status
    assert found.fix.startswith(fix)


def test_gpus_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA X", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ((10 + index) * 2**30, 80 * 2**30))
    found = by_name(devices._cuda())
    assert found["cuda:1"].found == "NVIDIA X, 11.0 of 80.0 GiB free, compute capability 9.0"


@pytest.mark.slow  # numba is imported
def test_kernels_name_what_auto_uses_and_why_others_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "default_device", lambda: torch.device("cpu"))
    found = by_name(devices.kernels())
    assert found["--sampling auto"].found == "uses cpu, since the default device is cpu"
    assert found["cpu"].status == "ok"
    monkeypatch.setitem(sys.modules, "numba", None)
    found = by_name(devices.kernels())
    assert found["--sampling auto"].found.startswith("uses portable")
    assert found["cpu"].status == "warning"
    assert "numba cannot be imported" in found["cpu"].found


@pytest.mark.slow
def test_the_self_test_passes_here_and_fails_with_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_name(self_test.self_test())
    assert {name: one.status for name, one in found.items()} == {"model": "ok", "PNG": "ok"}
    monkeypatch.setattr(sampling, "_fastest", lambda device: "gather")
    monkeypatch.setattr(sampling, "gather_sampling", lambda *inputs: 1.01 * gather_sampling(*inputs))
    monkeypatch.setattr(self_test, "default_device", lambda: torch.device("cpu"))
    [model] = self_test._model()
    assert model.status == "failed"
    assert "--sampling portable" in model.fix


def test_a_png_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from panformer_cli.data.coco import panoptic_png

    assert [one.status for one in self_test._png()] == ["ok"]
    monkeypatch.setattr(panoptic_png, "read_panoptic_png", lambda path: np.zeros((60, 80), np.int32))
    assert [one.status for one in self_test._png()] == ["failed"]


def test_folders_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANFORMER_HOME", str(tmp_path / "new" / "cache"))
    found = by_name(folders.folders())
    assert found["cache"].found.startswith(str(tmp_path / "new" / "cache"))
    assert list(tmp_path.iterdir()) == [], "nothing is created"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    [found] = folders._folder("cache", tmp_path / "x", "PANFORMER_HOME")
    assert found.status == "failed"
    assert found.found == f"{tmp_path / 'x'} cannot be written in {tmp_path}: Permission denied"
    assert found.fix == "export PANFORMER_HOME=DIR"


def test_little_space_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9, total=64 * 2**20))
    [found] = folders._folder("cache", tmp_path, "PANFORMER_HOME")
    assert (found.status, found.found) == ("warning", f"{tmp_path}, 1.0 GB free")
    [shared] = folders._shared()
    assert shared.status == "warning"
    assert "--shm-size=8g" in shared.fix


def test_nothing_is_raised_whatever_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Iterable[Finding]:
        raise OSError("broken")

    monkeypatch.setattr(doctor, "_EXAMINATIONS", [(section, name, fail) for section, name, _ in doctor._EXAMINATIONS])
    found = list(doctor.examine())
    assert {finding.status for finding in found} == {"failed"}
    assert len(found) == 7
