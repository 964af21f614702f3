"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from tests import hub_server
from tests.browser import Browser, browsing, find_browser
from tests.storage.file_server import CLOSED, FileServer, serving

REPOSITORY = Path(__file__).resolve().parent.parent

# Workers of pytest-xdist share the cores; with a thread for every core in each, PyTorch gets many times slower.
# Set before anything imports torch, and inherited by the programs that tests start.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
# pytest's debugger imports readline, which sets the variable where there is no terminal, and workers inherit it.
os.environ.pop("COLUMNS", None)


class Checkout(MetaPathFinder):
    """Lets `import panformer` find this checkout: only an installation maps the name to its folder."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != "panformer":
            return None
        folder = REPOSITORY / "panformer_cli" / "python"
        return spec_from_file_location(fullname, folder / "__init__.py", submodule_search_locations=[str(folder)])


sys.meta_path.insert(0, Checkout())  # imports it when a test does, which takes seconds


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded numbers and real images, beside the repository."""
    folder = Path(os.environ.get("PANFORMER_SHARED", REPOSITORY / ".." / "shared")).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs the recorded data: {folder} is missing (set PANFORMER_SHARED to its path)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def stay_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests from downloading published weights and from using the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANFORMER_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PANFORMER_WEIGHTS_URL", CLOSED)
        patch.setenv("no_proxy", "127.0.0.1")
        yield


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A web server with a file of 5000 random bytes."""
    with serving(random.Random(0).randbytes(5000)) as files:
        yield files


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[hub_server.HubServer]:
    """A stand-in for the Hugging Face Hub, which huggingface_hub uses, with an empty cache and without a token."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (pip install 'panformer[hub]')")
    with hub_server.serving() as running:
        hub_server.connect(monkeypatch, running.url, tmp_path_factory.mktemp("hub"))
        yield running
        import_module("huggingface_hub").close_session()  # ends the server's threads, one for each connection


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless browser with one tab."""
    program = find_browser()
    if program is None:
        pytest.skip("needs a browser: no Chromium or Chrome is installed (`apt-get install chromium`)")
    with browsing(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers for `--numprocesses auto`: of the slow tests, a third waits for other processes."""
    cores = os.cpu_count() or 1
    return cores if config.getoption("markexpr") == "not slow" else cores + (cores + 1) // 2


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests without garbage collections, which would search a million objects of imported modules each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the golden tests; `make golden` uses them."""
    parser.addoption("--recordings", metavar="DIR", help="folder of recorded numbers [tests/golden/data]")
    parser.addoption("--fidelity-table", metavar="FILE", help="write the measured differences into this page")
