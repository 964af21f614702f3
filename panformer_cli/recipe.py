"""A recipe: every setting of a model, its data, its training and its inference, typed and checked.

The defaults are the published R-50 run on COCO (spec, sections 2 to 8). A YAML file states what differs; `recipe_io`
reads it. Only `build_model`, the data pipeline and the engine see a recipe: layers take plain arguments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from panformer_cli.errors import RecipeError
from panformer_cli.models.families import DEFAULT_FAMILY, FAMILIES
from panformer_cli.settings import DataSettings, InferenceSettings, ModelSettings, TrainSettings


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a run."""

    name: str = "custom"
    """Short name; runs go to runs/<name>/."""
    published_pq: float | None = None
    """PQ of the paper on COCO val2017, percent; None where nothing is published."""
    model: ModelSettings = field(default_factory=FAMILIES[DEFAULT_FAMILY].model_settings)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    inference: InferenceSettings = field(default_factory=FAMILIES[DEFAULT_FAMILY].inference_settings)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise RecipeError(
                f"name is {self.name!r}: expected letters, digits, '.', '-' and '_', since it becomes a folder"
            )
