"""Import rules: the order of the folders, the order of the modules of a model, and lazy imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "panformer_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))
RECIPE = ("recipe", "recipe_checks", "recipe_io")
"""Top-level modules that depend on a folder: the settings in a recipe are those of its model family."""
ORDER = (
    *("storage", "data", "metrics", "models", *RECIPE),
    *("visualization", "pages", "prepare", "verify", "submission", "engine", "cli"),
)
"""The folders of the package. A module imports from its own folder, earlier folders, and the top-level modules."""
OUTPUT_MODULES = {"console": "cli", "__main__": ""}
"""Top-level modules that belong to the command line, and the only folder that may import them."""
MODEL_ORDER = (
    "layers",
    "backbones",
    "(base|official|published)",
    "panoptic_segformer/(neck|encoder|location_decoder|mask_decoder|query_selection|output)",
    "panoptic_segformer/(matcher|criterion)",
    "panoptic_segformer/settings",
    "panoptic_segformer/(postprocessing|merge_cache)",
    "panoptic_segformer/(model|random_weights|build|official|family)",
    "(families|build)",
)
"""Order inside `models`, as regular expressions of paths: layers do not import settings, networks do not import losses,
losses do not import postprocessing, and a family does not import the table of families."""
FAMILIES = sorted(path.parent.name for path in PACKAGE.glob("models/*/family.py"))
SAMPLING = "models/layers/sampling"
COMPILERS = {
    "numba": {f"{SAMPLING}/cpu_kernels", "compiled"},
    "llvmlite": {f"{SAMPLING}/cpu_kernels"},
    "triton": {f"{SAMPLING}/triton_kernels"},
}
KERNELS = {name for names in COMPILERS.values() for name in names} | {"data/coco/png_filters", "prepare/coco/run_loops"}
"""Modules that import a compiler."""
WRAPPERS = {
    "click": {"cli"},
    "rich": {"console"},
    "cv2": {"data/opencv"},
    "yaml": {"storage/plain_yaml"},
    "jinja2": {"pages/base"},
    **COMPILERS,
}
"""Third-party packages that only one module or folder imports, by its path without `.py`."""

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the full names of all modules that `tree` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_at_load(tree: ast.Module) -> Iterator[str]:
    """Yield what is imported when the module itself is imported; as `imported`."""
    for statement in tree.body:
        is_typing = isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)
        if not is_typing and not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield from imported(statement)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def part(path: Path) -> str:
    """Return the subpackage or top-level module, such as `models` or `recipe`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def inner_part(name: str) -> str | None:
    """Return the part that an imported name belongs to; None outside the package."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "panformer_cli" and len(pieces) > 1 else None


def rank(name: str) -> int:
    """Return the position of a folder or module in `ORDER`; 0 for other top-level modules."""
    return ORDER.index(name) + 1 if name in ORDER else 0


def test_the_order_contains_every_folder() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"recipes"} == set(ORDER) - set(RECIPE)
    assert all((PACKAGE / f"{name}.py").is_file() for name in RECIPE)


@every_module
def test_imports_go_one_way(path: Path) -> None:
    own = part(path)
    for name in imported(parse(path)):
        other = inner_part(name)
        if other is None or other == own or other == "__version__":
            continue
        if other in OUTPUT_MODULES:
            assert own == OUTPUT_MODULES[other], f"{own} imports {name}"
        elif own != "__main__":
            assert rank(other) < rank(own) or rank(other) == rank(own) == 0, f"{own} imports {name}"


def model_rank(name: str) -> int | None:
    """Return the position of a module such as `panoptic_segformer/matcher` in `MODEL_ORDER`; None if it has none."""
    return next((number for number, part in enumerate(MODEL_ORDER) if re.match(rf"{part}(/|$)", name)), None)


@pytest.mark.parametrize("path", [path for path in MODULES if part(path) == "models"], ids=lambda path: path.stem)
def test_networks_do_not_import_losses_nor_losses_postprocessing(path: Path) -> None:
    own = model_rank(path.relative_to(PACKAGE / "models").with_suffix("").as_posix())
    for name in imported(parse(path)):
        if own is not None and name.startswith("panformer_cli.models."):
            other = model_rank(name.removeprefix("panformer_cli.models.").replace(".", "/"))
            assert other is None or other <= own, f"{path.name} imports {name}"


def test_the_order_contains_every_module_of_a_model() -> None:
    paths = [path.relative_to(PACKAGE / "models") for path in MODULES if part(path) == "models"]
    ranks = {path.as_posix(): model_rank(path.with_suffix("").as_posix()) for path in paths if path.stem != "__init__"}
    assert [path for path, found in ranks.items() if found is None] == []
    assert set(ranks.values()) == set(range(len(MODEL_ORDER)))


def test_a_folder_of_models_is_shared_or_a_family() -> None:
    folders = {path.name for path in (PACKAGE / "models").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {"layers", "backbones", *FAMILIES}
    assert "panoptic_segformer" in FAMILIES


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_table_of_families_imports_a_family(family: str) -> None:
    """The engine and the rest of the package use any family through `models.base` and `models.families`."""
    importers = {
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in MODULES
        if PACKAGE / "models" / family not in path.parents
        and any(f"{name}.".startswith(f"panformer_cli.models.{family}.") for name in imported(parse(path)))
    }
    assert importers == {"models/families"}


@pytest.mark.slow
def test_there_are_no_import_cycles() -> None:
    names = {path: ".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in MODULES}
    known = set(names.values())
    graph = {
        names[path]: {
            module
            for name in imported_at_load(parse(path))
            for module in (name, name.rpartition(".")[0])
            if module in known and module != names[path]
        }
        for path in MODULES
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


@every_module
def test_only_wrappers_import_wrapped_packages(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").as_posix()
    for name in imported(parse(path)):
        wrappers = WRAPPERS.get(name.split(".")[0])
        allowed = wrappers is None or own in wrappers or part(path) in wrappers
        assert allowed, f"{own} imports {name}; {sorted(wrappers or ())} wraps it"


@every_module
def test_kernels_are_imported_when_they_are_used(path: Path) -> None:
    if path.relative_to(PACKAGE).with_suffix("").as_posix() in KERNELS:
        return
    kernels = {f"panformer_cli/{module}".replace("/", ".") for module in KERNELS}
    for name in imported_at_load(parse(path)):
        used = any(name == kernel or name.startswith(f"{kernel}.") for kernel in kernels)
        assert not used, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", [path for path in MODULES if part(path) == "cli"], ids=lambda path: path.stem)
def test_commands_import_heavy_packages_when_they_run(path: Path) -> None:
    light = {"click", *sys.stdlib_module_names}
    for name in imported_at_load(parse(path)):
        ours = inner_part(name) in {"cli", "errors", "wording", "__version__"}
        assert ours or name.split(".")[0] in light, f"{path.name} imports {name} at load time"


@pytest.mark.parametrize("module", ["recipe_io", "recipe_checks", "models.families"])
def test_recipes_are_checked_without_torch(module: str) -> None:
    command = f"import sys, panformer_cli.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)


@pytest.mark.slow
def test_preparing_data_does_not_import_torch() -> None:
    """Importing torch takes seconds and hundreds of megabytes in each process."""
    folders = [PACKAGE / folder for folder in ("prepare", "verify", "submission")]
    names = [
        path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".")
        for path in MODULES
        if any(folder in path.parents for folder in folders)
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
def test_links_are_resolved_in_one_way(path: Path) -> None:
    """`Path.resolve` treats loops of links differently in each Python version; `files.resolve_links` does not."""
    names = {node.attr for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute)}
    assert "resolve" not in names, "use files.resolve_links"
