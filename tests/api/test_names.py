"""What `import panformer` has: its names, what it imports, and how long that takes."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import panformer
import panformer_cli.errors
from panformer_cli.errors import PanformerError
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "panformer_cli" / "python"

IMPORT = """
import sys, time
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("panformer", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
started = time.process_time()
sys.modules["panformer"] = module = module_from_spec(spec)
spec.loader.exec_module(module)
print(time.process_time() - started, *sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_every_name_can_be_used_and_is_documented() -> None:
    for name in panformer.__all__:
        value = getattr(panformer, name)
        if name != "__version__":
            assert inspect.getdoc(value), name
            assert value.__name__ == name
    assert dir(panformer) == sorted(panformer.__all__)
    assert sorted(panformer.__all__) == panformer.__all__


@pytest.mark.parametrize("name", [name for name in panformer.__all__ if name[0] != "_"])
def test_every_method_has_types_and_a_docstring(name: str) -> None:
    value = getattr(panformer, name)
    members = [value]
    if inspect.isclass(value):
        members += [member for key, member in vars(value).items() if key[0] != "_"]
    for member in members:
        function = getattr(member, "fget", None) or getattr(member, "__func__", None) or member
        if not inspect.isfunction(function):
            continue
        assert inspect.getdoc(function), function
        parameters = inspect.signature(function).parameters.values()
        assert all(item.annotation is not item.empty for item in parameters if item.name not in ("self", "cls"))
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty


def test_an_unknown_name_is_reported_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="module 'panformer' has no attribute 'lode'; it has .*load"):
        panformer.lode  # noqa: B018


def test_all_errors_can_be_caught_by_name() -> None:
    known = vars(panformer_cli.errors).values()
    errors = {value.__name__ for value in known if inspect.isclass(value) and issubclass(value, PanformerError)}
    assert errors <= set(panformer.__all__)
    assert issubclass(panformer.PanformerError, ValueError)


def test_importing_it_is_quick_and_imports_nothing_heavy() -> None:
    """Processor time, since other tests run at the same time: 0.2 s at most, of which the interpreter is no part."""
    done = subprocess.run([sys.executable, "-c", IMPORT, str(FOLDER)], capture_output=True, text=True, cwd=REPOSITORY)
    seconds, *modules = done.stdout.split()
    assert "panformer" in modules, done.stderr
    assert not {"torch", "numpy", "cv2", "PIL", "click", "rich"}.intersection(modules)
    assert float(seconds) < 0.2


def test_the_types_are_declared() -> None:
    assert (FOLDER / "py.typed").is_file()
    assert {path.name for path in FOLDER.iterdir()} - {"__pycache__"} == {"__init__.py", "__main__.py", "py.typed"}
