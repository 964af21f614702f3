"""The installed package: its modules, requirements and recipes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from panformer_cli import __version__
from panformer_cli.recipe_io import built_in_recipes
from tests.conftest import REPOSITORY

IMPORT_NAMES = {"opencv-python": "cv2", "pillow": "PIL", "pyyaml": "yaml", "zlib-ng": "zlib_ng"}
NOT_IMPORTED = {"torchvision": "needed by timm and the tests"}


FOR_TYPES = {"pandas", "supervision"}
"""Packages of extras whose types are in annotations; they are imported by name when a result is converted."""
WITH_TORCH = {"triton"}
"""Packages that torch requires where they are supported; panformer works without them."""


OF_EXTRAS = {"huggingface_hub", "transformers"}
"""Packages of extras that are imported where they are used. timm requires the first one, too, for its weights."""


@pytest.fixture(scope="module")
def setup_cfg() -> ConfigParser:
    parser = ConfigParser(inline_comment_prefixes=None)
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def rows(text: str) -> list[str]:
    return [row.strip() for row in text.splitlines() if row.strip() and not row.strip().startswith("#")]


def names(text: str) -> set[str]:
    return {re.split(r"[ ><=\[;]", row)[0].lower() for row in rows(text)}


def test_every_package_is_listed(setup_cfg: ConfigParser) -> None:
    package = REPOSITORY / "panformer_cli"
    tree = {".".join(path.parent.relative_to(REPOSITORY).parts) for path in package.rglob("*.py")}
    mapped = {"panformer", "panformer_cli.recipes"}
    assert set(rows(setup_cfg["options"]["packages"])) == tree - {"panformer_cli.python"} | mapped
    assert not list((REPOSITORY / "recipes").glob("*.py"))


@pytest.mark.slow
def test_every_requirement_is_used_and_every_import_is_required(setup_cfg: ConfigParser) -> None:
    required = {IMPORT_NAMES.get(name, name) for name in names(setup_cfg["options"]["install_requires"])}
    imported = set()
    for path in (REPOSITORY / "panformer_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    outside = imported - set(sys.stdlib_module_names) - {"panformer_cli"}
    assert outside - WITH_TORCH - FOR_TYPES - OF_EXTRAS == required - set(NOT_IMPORTED)


def test_every_requirement_has_a_minimum_version(setup_cfg: ConfigParser) -> None:
    for row in rows(setup_cfg["options"]["install_requires"]):
        assert re.fullmatch(r"[a-z0-9-]+ >= [0-9.]+( ; platform_machine in .+)?", row), row


def test_pyproject_does_not_repeat_setup_cfg() -> None:
    sections = re.findall(r"^\[+([\w.-]+)\]", (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert "project" not in sections
    assert all(name == "build-system" or name.split(".")[:2][0] == "tool" for name in sections)
    assert "tool.setuptools" not in sections


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    _copy_checkout(folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(folder / "source")], check=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_contains_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name.startswith(f"panformer-{__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    assert {f"panformer_cli/recipes/{name}.yaml" for name in built_in_recipes()} <= inside
    templates = "panformer_cli/pages/templates"
    assert {name for name in inside if name.startswith(templates)} == {
        f"{templates}/{path.name}" for path in (REPOSITORY / templates).iterdir()
    }
    assert {"panformer_cli/py.typed", "panformer/py.typed", "panformer/__init__.py"} <= inside
    assert not [name for name in inside if name.startswith("panformer_cli/python")]
    assert any(name.endswith("LICENSE") for name in inside)
    assert not [name for name in inside if name.startswith(("tests", "recipes", "docs", "tools", "benchmarks"))]


@pytest.mark.slow
def test_a_wheel_works_in_an_environment_of_its_own(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    # The requirements are those of this environment: without a network, and without copying 6 GB.
    [site] = environment.glob("lib/python*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib"))

    def output(*words: str) -> str:
        return subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    assert output(str(environment / "bin" / "panformer"), "--version") == f"panformer {__version__}"
    command = "import panformer_cli.recipe_io as io; print(io.find_recipe('recipes/r50.yaml'))"
    assert Path(output(str(python), "-c", command)) == site / "panformer_cli" / "recipes" / "r50.yaml"
    # The clone of the repository is often a folder of this name, and the working directory is searched first.
    (tmp_path / "panformer").mkdir()
    (tmp_path / "panformer" / "panformer.py").touch()
    assert output(str(environment / "bin" / "panformer"), "--version") == f"panformer {__version__}"
    assert output(str(python), "-m", "panformer", "--version") == f"panformer {__version__}"
    command = "import panformer; print(panformer.__file__); assert panformer.prepare"
    assert Path(output(str(python), "-c", command)) == site / "panformer" / "__init__.py"


def _copy_checkout(target: Path) -> None:
    """Copy the files that a build needs, so that it leaves no folders in the checkout."""
    patterns = ["setup.cfg", "pyproject.toml", "LICENSE", "README.md", "recipes/*"]
    for pattern in [*patterns, *(f"panformer_cli/**/*.{kind}" for kind in ("py", "typed", "css", "js", "html", "svg"))]:
        for path in REPOSITORY.glob(pattern):
            copy = target / path.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
