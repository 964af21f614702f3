"""A recipe: all settings of a model, its data, its training and its inference, typed and validated.

The defaults are the published R-50 run on COCO (docs/model.md). A YAML file lists the differences; `recipe_io` reads
it. Only `build_model`, the data pipeline and the engine see a recipe. Layers take plain arguments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated

from panformer_cli.models.families import DEFAULT_FAMILY, FAMILIES
from panformer_cli.setting_types import Range, Section
from panformer_cli.settings import DataSettings, InferenceSettings, ModelSettings, TrainSettings
from panformer_cli.wording import truncated


@dataclass(frozen=True)
class Recipe(Section):
    """All settings of a run."""

    name: str = "custom"
    """Short name. Runs are written to runs/<name>/. Range: letters, digits, `.`, `-` and `_`."""
    published_pq: Annotated[float, Range(0, 100)] | None = None
    """PQ in the paper on COCO val2017, in percent. Null: nothing is published."""
    model: ModelSettings = field(default_factory=FAMILIES[DEFAULT_FAMILY].model_settings)
    """The model's architecture and initial weights; the keys depend on `model.family`."""
    data: DataSettings = field(default_factory=DataSettings)
    """Data set and transforms."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """Optimization and logging."""
    inference: InferenceSettings = field(default_factory=FAMILIES[DEFAULT_FAMILY].inference_settings)
    """Postprocessing; the keys depend on `model.family`."""

    def problems(self) -> list[str]:
        """Return one message for each problem that a range cannot express."""
        found = []
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            found.append(
                f"name is {self.name!r}: expected letters, digits, '.', '-' and '_', because it names a folder"
            )
        for key in ("checkpoint", "compile"):
            names, parts = getattr(self.train, key), self.model.parts
            if not set(names) <= set(parts) or len(set(names)) < len(names):
                found.append(
                    f"train.{key} is {truncated(repr(list(names)), 60)}: expected each part at most once, from "
                    f"{', '.join(parts)}"
                )
        return found
