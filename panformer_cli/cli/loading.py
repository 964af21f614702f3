"""A first line of output before PyTorch and other large packages are imported, which takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import click

from panformer_cli.errors import PanformerError
from panformer_cli.verbosity import current

_MODELS: dict[str, tuple[str, ...]] = {
    "predict": ("checkpoint",),
    "checkpoint": ("checkpoint",),
    "robustness": ("checkpoint",),
    "tune": ("checkpoint",),
    "train": ("replay", "resume", "init_from", "recipe"),
    "benchmark": ("model",),
    "visualize": ("predictions", "data", "run"),
    "import": ("file",),
}
"""Commands that import large packages, and the parameters that name what they load; the first one that is given
counts."""
_DEFAULTS = {"predict": "r50"}
"""Published weights that a command uses if there is no run."""


class TorchAnnouncer(MetaPathFinder):
    """An import hook that finds nothing, but prints a line to stderr when the import of torch begins."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return None, so that the other finders are asked."""
        del path, target
        if name == "torch":
            _announce("PyTorch")
        return None


def announce_torch() -> None:
    """Print a line as soon as a command begins to import PyTorch, or `announce_model` is called."""
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, TorchAnnouncer())


def announce_model(context: click.Context) -> None:
    """Print which model a command loads, if it loads one and nothing was printed yet."""
    names = _MODELS.get(str(context.command.name))
    if names is None or not any(isinstance(finder, TorchAnnouncer) for finder in sys.meta_path):
        return
    given = [context.params[name] for name in names if isinstance(context.params.get(name), (str, Path))]
    if given:
        _announce(str(given[0]))
    elif "checkpoint" in names:
        _announce(_newest(_DEFAULTS.get(str(context.command.name))))


def _newest(default: str | None) -> str:
    """Return the checkpoint that a command uses if none is given; without any, the command reports the error."""
    from panformer_cli.engine.runs import newest_checkpoint_name

    try:
        return newest_checkpoint_name(default)
    except PanformerError:
        return "PyTorch"


def _announce(what: str) -> None:
    """Print the line once."""
    # Not in place: an import may be reading the list.
    sys.meta_path = [finder for finder in sys.meta_path if not isinstance(finder, TorchAnnouncer)]
    current().record("INFO", f"Loading {what} ...")
    if not current().quiet:
        click.echo(f"Loading {what} ...", err=True)
