"""The folder that is published: weights, config.json and the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from panformer_cli import __version__
from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.checkpoint import FORMAT, save_checkpoint
from panformer_cli.engine.checkpoints.hub_models import LIBRARY
from panformer_cli.engine.publishing.card import model_card
from panformer_cli.engine.publishing.publication import Publication
from panformer_cli.models.base import PanopticModel
from panformer_cli.recipe_io import recipe_to_dict
from panformer_cli.storage.files import write_text
from panformer_cli.storage.model_folder import CONFIG, WEIGHTS

CARD = "README.md"
FILES = (WEIGHTS, CONFIG, CARD)
"""The files of a published model."""


def write_publication(folder: Path, publication: Publication, model: PanopticModel) -> None:
    """Write all files into a folder.

    Raises:
        WriteError: A file cannot be written.
    """
    checkpoint = publication.checkpoint
    save_checkpoint(folder / WEIGHTS, model, checkpoint.recipe, checkpoint.categories, checkpoint.progress)
    write_text(folder / CONFIG, json.dumps(_config(publication), indent=2, ensure_ascii=False) + "\n")
    write_text(folder / CARD, model_card(publication))


def _config(publication: Publication) -> dict[str, Any]:
    """Return what describes the model without reading its weights."""
    categories: CategoryTable = publication.checkpoint.categories
    return {
        "library_name": LIBRARY,
        "format": FORMAT,
        "version": __version__,
        "trained_with": publication.checkpoint.version,
        "license": publication.license,
        "parameters": publication.parameters,
        "recipe": recipe_to_dict(publication.checkpoint.recipe),
        "categories": categories.to_coco(),
    }
