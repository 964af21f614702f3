"""The declared packages, from setup.cfg or from metadata."""

from __future__ import annotations

from importlib import import_module, metadata

import pytest

from panformer_cli.engine.doctor import requirements
from panformer_cli.engine.doctor.requirements import Requirement, declared, is_older


def test_what_setup_cfg_declares() -> None:
    found = {requirement.name: requirement for requirement in declared()}
    assert found["torch"] == Requirement("torch", ">= 2.6")
    assert found["zlib-ng"].marker.startswith("platform_machine in")
    assert found["wandb"].extra == "wandb"
    assert not {"pytest", "ruff", "mkdocs"} & set(found), "only developers need these"


def test_the_metadata_of_an_installed_package_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2.6", 'mlflow>=2.10; extra == "mlflow"', 'pytest>=8; extra == "test"']
    monkeypatch.setattr(requirements, "_of_source", lambda: pytest.fail("there is no setup.cfg"))
    monkeypatch.setattr(requirements, "SOURCE", requirements.SOURCE / "no-such-folder")
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert declared() == [Requirement("torch", ">=2.6"), Requirement("mlflow", ">=2.10", "mlflow")]


def test_every_required_package_can_be_imported_by_its_name() -> None:
    for requirement in declared():
        if not requirement.extra and requirement.name not in ("torch", "torchvision", "timm"):
            import_module(requirement.module)


def test_a_variant_of_opencv_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "opencv-python-headless":
            raise metadata.PackageNotFoundError
        return "4.9"

    monkeypatch.setattr(metadata, "version", version)
    assert Requirement("opencv-python").installed() == ("opencv-python-headless", "4.9")
    assert Requirement("numpy").installed() is None


@pytest.mark.parametrize(
    ("version", "minimum", "older"),
    [
        ("2.5.1", "2.6", True),
        ("2.14.1+cu130", "2.6", False),
        ("1.10", "1.9", False),
        ("2", "2.0", False),
        ("2026.1", "2027", True),
        ("5.0.0.93", "4.8.1", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, minimum: str, older: bool) -> None:
    assert is_older(version, minimum) == older
