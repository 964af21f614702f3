"""Import rules: the order of the folders, the order of the modules of a model, and lazy imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "panformer_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))
RECIPE = ("recipe", "recipe_checks", "recipe_io", "recipe_library")
"""Top-level modules that depend on a folder: the settings in a recipe are those of its model family."""
ORDER = (
    *("storage", "data", "metrics", "models", *RECIPE),
    *("visualization", "pages", "prepare", "verify", "submission", "engine", "api", "cli", "python"),
)
"""The folders of the package. A module imports from its own folder, earlier folders, and the top-level modules."""
OUTPUT_MODULES: dict[str, tuple[str, ...]] = {
    "console": ("cli", "api"),
    "verbosity": ("cli", "console"),
    "log_file": ("verbosity",),
    "__main__": (),
}
"""Top-level modules that print, and the only folders that may import them."""
MODEL_ORDER = (
    "layers",
    "backbones",
    "(base|candidates|official|published|saved_model)",
    "panoptic_segformer/(neck|encoder|location_decoder|mask_decoder|query_selection|output)"
    "|knet/(pyramid|fusion|initial_kernels|kernel_update|output)",
    "panoptic_segformer/(matcher|criterion)",
    "(panoptic_segformer|knet)/settings",
    "(panoptic_segformer|knet)/(postprocessing|merge_cache)",
    "(panoptic_segformer|knet)/(model|random_weights|build|official|family)",
    "hugging_face/(architectures|settings|query_masks|local_config)",
    "hugging_face/(preprocessor|input_image|labels|merging|detr_merging|instances|transformers_merging)",
    "hugging_face/(prediction|threshold_cache)",
    "hugging_face/(model|random_weights)",
    "hugging_face/(folder|loading|family)",
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


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """Return the path of a module inside the package without `.py`, such as `models/build`."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


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


def may_import(own: str, other: str | None) -> bool:
    """Return whether modules of the part `own` may import from the part `other`; None is outside the package."""
    if other is None or other == own or other == "__version__":
        return True
    if other in OUTPUT_MODULES:
        return own in OUTPUT_MODULES[other]
    return own == "__main__" or rank(other) < rank(own) or rank(other) == rank(own) == 0


@pytest.mark.slow
def test_imports_go_one_way() -> None:
    assert [
        f"{name_of(path)} imports {name}"
        for path in MODULES
        for name in imported(parse(path))
        if not may_import(part(path), inner_part(name))
    ] == []


@pytest.mark.parametrize(
    ("own", "other", "allowed"),
    [
        ("engine", "models", True),
        ("models", "engine", False),
        ("data", "errors", True),
        ("errors", "data", False),
        ("cli", "console", True),
        ("engine", "console", False),
        ("models", None, True),
        ("__main__", "cli", True),
    ],
)
def test_the_rule_of_the_order(own: str, other: str | None, allowed: bool) -> None:
    assert may_import(own, other) == allowed


def model_rank(name: str) -> int | None:
    """Return the position of a module such as `panoptic_segformer/matcher` in `MODEL_ORDER`; None if it has none."""
    return next((number for number, part in enumerate(MODEL_ORDER) if re.match(rf"({part})(/|$)", name)), None)


def test_networks_do_not_import_losses_nor_losses_postprocessing() -> None:
    wrong = []
    for path in [path for path in MODULES if part(path) == "models"]:
        own = model_rank(name_of(path).removeprefix("models/"))
        for name in imported(parse(path)):
            if own is not None and name.startswith("panformer_cli.models."):
                other = model_rank(name.removeprefix("panformer_cli.models.").replace(".", "/"))
                if other is not None and other > own:
                    wrong.append(f"{name_of(path)} imports {name}")
    assert wrong == []


def test_the_order_contains_every_module_of_a_model() -> None:
    paths = [path.relative_to(PACKAGE / "models") for path in MODULES if part(path) == "models"]
    ranks = {path.as_posix(): model_rank(path.with_suffix("").as_posix()) for path in paths if path.stem != "__init__"}
    assert [path for path, found in ranks.items() if found is None] == []
    assert set(ranks.values()) == set(range(len(MODEL_ORDER)))


def test_a_folder_of_models_is_shared_or_a_family() -> None:
    folders = {path.name for path in (PACKAGE / "models").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {"layers", "backbones", *FAMILIES}
    assert {"panoptic_segformer", "knet"} <= set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_table_of_families_imports_a_family(family: str) -> None:
    """The engine and the rest of the package use any family through `models.base` and `models.families`."""
    importers = {
        name_of(path)
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


@pytest.mark.slow
def test_only_wrappers_import_wrapped_packages() -> None:
    wrong = []
    for path in MODULES:
        for name in imported(parse(path)):
            wrappers = WRAPPERS.get(name.split(".")[0])
            if wrappers is not None and name_of(path) not in wrappers and part(path) not in wrappers:
                wrong.append(f"{name_of(path)} imports {name}; {sorted(wrappers)} wraps it")
    assert wrong == []


@pytest.mark.slow
def test_kernels_are_imported_when_they_are_used() -> None:
    kernels = {f"panformer_cli/{module}".replace("/", ".") for module in KERNELS}
    assert [
        f"{name_of(path)} imports {name} at load time"
        for path in MODULES
        if name_of(path) not in KERNELS
        for name in imported_at_load(parse(path))
        if any(name == kernel or name.startswith(f"{kernel}.") for kernel in kernels)
    ] == []


def test_commands_import_heavy_packages_when_they_run() -> None:
    light = {"click", *sys.stdlib_module_names}
    assert [
        f"{name_of(path)} imports {name} at load time"
        for path in MODULES
        if part(path) == "cli"
        for name in imported_at_load(parse(path))
        if inner_part(name) not in {"cli", "errors", "verbosity", "wording", "__version__"}
        and name.split(".")[0] not in light
    ] == []


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
        if any(folder in path.parents for folder in folders) and name_of(path) not in KERNELS
    ]
    assert len(names) > 30
    command = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)


@pytest.mark.slow
def test_the_engine_and_below_never_print_or_exit() -> None:
    forbidden = {"print", "exit", "quit", "sys.exit", "os._exit"}
    assert [
        f"{name_of(path)}:{node.lineno} calls {ast.unparse(node.func)}"
        for path in MODULES
        if part(path) not in {"cli", *OUTPUT_MODULES}
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and ast.unparse(node.func) in forbidden
    ] == []


@pytest.mark.slow
def test_links_are_resolved_in_one_way() -> None:
    """`Path.resolve` treats loops of links differently in each Python version; `files.resolve_links` does not."""
    assert [
        f"{name_of(path)}:{node.lineno} uses resolve instead of files.resolve_links"
        for path in MODULES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and node.attr == "resolve"
    ] == []


@pytest.mark.slow
def test_only_these_modules_know_a_type_of_gpu() -> None:
    """Everything else works on any device: CPU, CUDA and Apple's `mps`."""
    known = {
        *("engine/distributed/group", "engine/distributed/runtime", "engine/doctor/devices"),  # which there are
        *("engine/checkpoints/random_state", "engine/environment", "engine/precision"),  # what it can do
        *(
            "engine/benchmarking/meters",
            "engine/training/memory/device_memory",
            "engine/training/memory/probe",
            "engine/training/numerics",
            "models/layers/sampling/triton",
        ),
    }
    users = set()
    for path in MODULES:
        names = {ast.unparse(node) for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute)}
        if any(name.startswith(("torch.cuda.", "torch.mps.")) or name.endswith(".cuda") for name in names):
            users.add(path.relative_to(PACKAGE).with_suffix("").as_posix())
    assert users <= known
