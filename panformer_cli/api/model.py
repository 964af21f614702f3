"""Load a model and segment images with it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from panformer_cli.api.arrays import ColorOrder, check_color
from panformer_cli.api.inputs import is_one_image, read
from panformer_cli.api.overrides import overrides_of
from panformer_cli.api.reporters import reporter_of
from panformer_cli.api.result import Result
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.distributed.runtime import Process, explained_out_of_memory
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.precision import Precision, PrecisionChoice
from panformer_cli.engine.runs import find_checkpoint
from panformer_cli.errors import PanformerError, RecipeError
from panformer_cli.recipe_io import override_recipe
