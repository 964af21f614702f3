"""A first line of output before PyTorch is imported, which takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import click


class TorchAnnouncer(MetaPathFinder):
    """An import hook that finds nothing, but prints a line to stderr when the import of torch begins."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return None, so that the other finders are asked."""
        del path, target
        if name == "torch":
            sys.meta_path = [finder for finder in sys.meta_path if finder is not self]  # not in place: it is being read
            click.echo("Loading PyTorch ...", err=True)
        return None


def announce_torch() -> None:
    """Print a line as soon as a command begins to import PyTorch."""
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, TorchAnnouncer())
