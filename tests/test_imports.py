"""Who may import whom, `cli -> engine -> {models, losses, data, panoptic, metrics} -> base`, and what when."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "panformer_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))
MIDDLE = ("models", "losses", "data", "panoptic", "metrics")
RANKS = {"cli": 3, "__main__": 4, "console": 2, "engine": 2, **dict.fromkeys(MIDDLE, 1)}
BASE_IMPORTS_ONLY = {"yaml"}
SAMPLING = "models/sampling"
COMPILERS = {
    "numba": {f"{SAMPLING}/cpu_kernels", "compiled"},
    "llvmlite": {f"{SAMPLING}/cpu_kernels"},
    "triton": {f"{SAMPLING}/triton_kernels"},
}
KERNELS = {home for homes in COMPILERS.values() for home in homes} | {"data/png_filters", "data/prepare/coco/run_loops"}
"""Modules whose import takes that of a compiler."""
HOMES = {"click": {"cli"}, "rich": {"console"}, "cv2": {"data/opencv"}, "yaml": {"plain_yaml"}, **COMPILERS}
"""Third-party packages that one place wraps, by the path of that place without `.py`."""

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that `tree` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_once(tree: ast.Module) -> Iterator[str]:
    """As `imported`, of what runs when the module is imported."""
    for statement in tree.body:
        is_typing = isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)
        if not is_typing and not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield from imported(statement)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def part(path: Path) -> str:
    """The subpackage, or the module of the base: `models`, `recipe`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def inner_part(name: str) -> str | None:
    """The part that an imported name belongs to; None outside the package."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "panformer_cli" and len(pieces) > 1 else None


def test_the_parts_are_there() -> None:
    assert {"cli", "engine", *MIDDLE} <= {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert len(MODULES) > 20


@every_module
def test_imports_go_one_way(path: Path) -> None:
    own = part(path)
    for name in imported(parse(path)):
        other = inner_part(name)
        if other is None or other == own or other == "__version__":
            continue
        rank = RANKS.get(own, 0)
        lower = RANKS.get(other, 0) < rank or RANKS.get(other, 0) == rank == 0 or (own in MIDDLE and other in MIDDLE)
        assert lower, f"{own} imports {name}"


def test_the_middle_has_no_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MIDDLE}
    for path in MODULES:
        if part(path) in MIDDLE:
            others = {inner_part(name) for name in imported(parse(path))} & set(MIDDLE) - {part(path)}
            graph[part(path)] |= {other for other in others if other}
    assert set(TopologicalSorter(graph).static_order()) == set(MIDDLE)
    assert not graph["data"], "data imports none of its siblings"


@every_module
def test_wrapped_packages_stay_at_home(path: Path) -> None:
    place = path.relative_to(PACKAGE).with_suffix("").as_posix()
    for name in imported(parse(path)):
        homes = HOMES.get(name.split(".")[0])
        allowed = homes is None or place in homes or part(path) in homes
        assert allowed, f"{place} imports {name}; {sorted(homes or ())} wraps it"


@every_module
def test_what_a_compiler_wants_is_imported_when_it_is_used(path: Path) -> None:
    if path.relative_to(PACKAGE).with_suffix("").as_posix() in KERNELS:
        return
    kernels = {f"panformer_cli/{home}".replace("/", ".") for home in KERNELS}
    for name in at_once(parse(path)):
        assert not any(name == home or name.startswith(f"{home}.") for home in kernels), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", [path for path in MODULES if part(path) == "cli"], ids=lambda path: path.stem)
def test_commands_import_what_is_heavy_when_they_run(path: Path) -> None:
    light = {"click", *sys.stdlib_module_names}
    for name in at_once(parse(path)):
        ours = inner_part(name) in {"cli", "errors", "__version__"}
        assert ours or name.split(".")[0] in light, f"{path.name} imports {name} at once"


def test_preparing_data_does_without_torch() -> None:
    """It takes seconds to load and hundreds of megabytes, which every process would have."""
    homes = [PACKAGE / "data" / folder for folder in ("prepare", "verify", "submission")]
    names = [
        path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".")
        for path in MODULES
        if any(home in path.parents for home in homes)
        and path.relative_to(PACKAGE).with_suffix("").as_posix() not in KERNELS
    ]
    assert len(names) > 30
    command = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if part(path) not in {"cli", "console", "__main__"}],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_the_engine_and_below_never_print_or_exit(path: Path) -> None:
    called = {ast.unparse(node.func) for node in ast.walk(parse(path)) if isinstance(node, ast.Call)}
    assert not called & {"print", "exit", "quit", "sys.exit", "os._exit"}


@every_module
def test_links_are_followed_in_one_way(path: Path) -> None:
    """`Path.resolve` treats links in a circle differently in each Python version; `files.resolve_links` does not."""
    names = {node.attr for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute)}
    assert "resolve" not in names, "use files.resolve_links"
