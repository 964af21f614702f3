"""Models that another library saved in a folder, as the engine sees them; `families.py` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from panformer_cli.settings import DataSettings, InferenceSettings, ModelSettings

if TYPE_CHECKING:
    from panformer_cli.data.categories import CategoryTable
    from panformer_cli.models.base import PanopticModel


class SavedModel(Protocol):
    """What the files of a folder say about a model.

    Attributes:
        path: the folder.
        model: settings of the model.
        inference: its thresholds.
        data: sides of its input; the other settings are the defaults.
        categories: category table of the results.
        notes: what a user should know about the labels, one sentence each.
    """

    @property
    def path(self) -> Path: ...

    @property
    def model(self) -> ModelSettings: ...

    @property
    def inference(self) -> InferenceSettings: ...

    @property
    def data(self) -> DataSettings: ...

    @property
    def categories(self) -> CategoryTable: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def load(self) -> PanopticModel:
        """Return the model with its weights, float32, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: the weights are corrupt, incomplete or do not fit the configuration.
        """
