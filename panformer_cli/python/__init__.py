"""Panoptic segmentation in Python: load a model, call it with images, and look at the segments.

    import panformer

    model = panformer.load("r50")
    result = model("street.jpg")
    for segment in result.segments:
        print(segment.name, segment.score, segment.area)
    result.save("out/")

This package only has the names; each is imported from `panformer_cli.api` when it is first used, so that
`import panformer` needs neither PyTorch nor NumPy. Every error that a user can fix is a `PanformerError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from panformer_cli import __version__ as __version__
from panformer_cli.errors import CheckpointError as CheckpointError
from panformer_cli.errors import DataError as DataError
from panformer_cli.errors import NonFiniteError as NonFiniteError
from panformer_cli.errors import PanformerError as PanformerError
from panformer_cli.errors import RecipeError as RecipeError
from panformer_cli.errors import WriteError as WriteError

if TYPE_CHECKING:
    from panformer_cli.api.evaluation import Evaluation as Evaluation
    from panformer_cli.api.evaluation import evaluate as evaluate
    from panformer_cli.api.model import Model as Model
    from panformer_cli.api.model import load as load
    from panformer_cli.api.preparation import Prepared as Prepared
    from panformer_cli.api.preparation import prepare as prepare
    from panformer_cli.api.result import Result as Result
    from panformer_cli.api.result import Segment as Segment
    from panformer_cli.api.training import Run as Run
    from panformer_cli.api.training import train as train
    from panformer_cli.storage.download import DownloadError as DownloadError

_HOMES = {
    "load": "api.model",
    "Model": "api.model",
    "Result": "api.result",
    "Segment": "api.result",
    "evaluate": "api.evaluation",
    "Evaluation": "api.evaluation",
    "train": "api.training",
    "Run": "api.training",
    "prepare": "api.preparation",
    "Prepared": "api.preparation",
    "DownloadError": "storage.download",
}
"""The module of `panformer_cli` that has each name."""

__all__ = [
    "CheckpointError",
    "DataError",
    "DownloadError",
    "Evaluation",
    "Model",
    "NonFiniteError",
    "PanformerError",
    "Prepared",
    "RecipeError",
    "Result",
    "Run",
    "Segment",
    "WriteError",
    "__version__",
    "evaluate",
    "load",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"panformer_cli.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
