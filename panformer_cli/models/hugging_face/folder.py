"""A folder that transformers saved a network to: what its files say, without reading tensors.

`read_folder` gives the settings and the categories of the model, and `loading.load` the model with its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import CheckpointError, RecipeError
from panformer_cli.models.hugging_face.architectures import ARCHITECTURES, ArchitectureName
from panformer_cli.models.hugging_face.labels import LabelNames, match_labels
from panformer_cli.models.hugging_face.local_config import local_config
from panformer_cli.models.hugging_face.preprocessor import Preprocessing, preprocessing_of
from panformer_cli.models.hugging_face.settings import HuggingFaceSettings, QueryMergingSettings
from panformer_cli.settings import DataSettings
from panformer_cli.storage.files import resolve_links
from panformer_cli.storage.hub import hub_name
from panformer_cli.storage.model_folder import CONFIG, PREPROCESSOR, read_json, weight_names
from panformer_cli.storage.tensor_files import kind_of, read_header
from panformer_cli.wording import listing, short

if TYPE_CHECKING:
    from panformer_cli.models.hugging_face.model import HuggingFaceModel

USUAL_SQUARE = 640
"""Side of EoMT's input in pixels if the config does not have it."""
BOXES_ONLY = "DetrForObjectDetection"
"""The class of DETR's models for detection, whose model type is also `detr`."""


@dataclass(frozen=True)
class HuggingFaceFolder:
    """A checkpoint that transformers saved.

    Attributes:
        path: the folder.
        model: settings of the model.
        inference: thresholds of the original project.
        data: sides of the input; the other settings are the defaults.
        categories: category table of the results.
        notes: what a user should know, one sentence each.
    """

    path: Path
    model: HuggingFaceSettings
    inference: QueryMergingSettings
    data: DataSettings
    categories: CategoryTable
    notes: tuple[str, ...]

    def load(self) -> HuggingFaceModel:
        """Return the model with its weights; see `loading.load`."""
        from panformer_cli.models.hugging_face.loading import load  # imports torch

        return load(self)


def read_folder(
    folder: Path, categories: CategoryTable | None = None, label_map: Mapping[str, int] | None = None
) -> HuggingFaceFolder:
    """Return what the files of a folder say about a model; arguments and errors as `families.read_saved_folder`."""
    config = read_json(folder, CONFIG)
    name = _architecture(config, folder)
    weight_files(folder)
    preprocessing = _preprocessing(folder)
    is_detr = name == "detr"
    names = LabelNames(_label_names(config, folder), str(folder), is_detr, preprocessing.thing_labels)
    labels = match_labels(names, categories, label_map)
    return HuggingFaceFolder(
        path=folder,
        model=HuggingFaceSettings(
            architecture=name,
            config=str(folder / CONFIG),
            labels=labels.category_ids,
            stuff_labels=labels.stuff_labels,
            image_mean=preprocessing.mean,
            image_std=preprocessing.std,
        ),
        inference=QueryMergingSettings(score_threshold=ARCHITECTURES[name].score_threshold),
        data=_data_settings(config, name, labels.data_set, preprocessing, folder),
        categories=labels.categories,
        notes=(*labels.notes, *_notes(config, name, folder)),
    )


def check_config(folder: Path) -> None:
    """Check, from config.json alone, that the model of a folder is supported.

    Raises:
        CheckpointError: the file is missing or corrupt, or its model is not supported.
    """
    _architecture(read_json(folder, CONFIG), folder)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder.

    Raises:
        CheckpointError: there are none, one of them is missing or corrupt, or they contain only differences to the
            weights of another model.
    """
    files = [folder / name for name in weight_names(folder)]
    for file in files:
        if kind_of(file) != "safetensors":
            raise CheckpointError(
                f"weights {file}: the file was written by torch.save, not as safetensors; it was not loaded, because a "
                "pickle can run code; save the model with transformers 5, or look for a conversion"
            )
    tensors = [name for file in files for name in read_header(file)[1]]
    if tensors and all(name.startswith("network.") for name in tensors):
        raise CheckpointError(
            f"checkpoint {folder}: its tensors are in the format of the original EoMT repository, possibly as "
            "differences to DINOv3's weights; convert them there, and save them with transformers"
        )
    return files


def _architecture(config: Mapping[str, Any], folder: Path) -> ArchitectureName:
    name = config.get("model_type")
    if name not in ARCHITECTURES:
        code = "; the code that it names (auto_map) is never run" if "auto_map" in config else ""
        if name is None and config.get("library_name") == "panformer":
            raise CheckpointError(
                f"{folder / CONFIG}: this is a model of panformer, not of transformers; give a folder without hf:, and "
                "a model of the Hub as hub:USER/NAME"
            )
        raise CheckpointError(
            f"{folder / CONFIG}: the model type is {short(name)}, which is not supported{code}; expected one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    local_config(config, folder / CONFIG)  # checks the name of the backbone
    if BOXES_ONLY in (config.get("architectures") or ()):
        raise CheckpointError(
            f"{folder / CONFIG}: this DETR predicts boxes without masks ({BOXES_ONLY}); use one for panoptic "
            "segmentation, such as hf:facebook/detr-resnet-101-panoptic"
        )
    backbone = config.get("backbone_config")
    if isinstance(backbone, Mapping) and backbone.get("model_type") == "dinat" and find_spec("natten") is None:
        raise CheckpointError(f"checkpoint {folder}: its backbone DiNAT needs the package natten; install it")
    return cast(ArchitectureName, name)


def _label_names(config: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Return the names of the labels, by default those of transformers: LABEL_0, LABEL_1 ..."""
    given = config.get("id2label")
    if given is None:
        number = config.get("num_labels", 2)
        if type(number) is not int or number < 1:
            raise CheckpointError(f"{folder / CONFIG}: num_labels is {short(number)}; expected 1 or more")
        return tuple(f"LABEL_{label}" for label in range(number))
    expected = "expected a name for each label, by number from 0"
    if not isinstance(given, Mapping) or not given:
        raise CheckpointError(f"{folder / CONFIG}: id2label is {short(given)}; {expected}")
    if set(given) != {str(label) for label in range(len(given))}:
        raise CheckpointError(f"{folder / CONFIG}: id2label has the labels {listing(map(short, given), 5)}; {expected}")
    return tuple(str(given[str(label)]) for label in range(len(given)))


def _preprocessing(folder: Path) -> Preprocessing:
    path = folder / PREPROCESSOR
    return preprocessing_of(read_json(folder, PREPROCESSOR), path) if path.is_file() else Preprocessing()


def _data_settings(
    config: Mapping[str, Any], name: ArchitectureName, data_set: str, preprocessing: Preprocessing, folder: Path
) -> DataSettings:
    """Return the sides of the input: those of the config or its processor, or else those of the original project."""
    architecture = ARCHITECTURES[name]
    if architecture.rounding == "square":
        side = config.get("image_size", USUAL_SQUARE)
        if type(side) is not int:
            raise CheckpointError(f"{folder / CONFIG}: image_size is {short(side)}; expected a side in pixels")
        sides = (side, side)
    else:
        sides = preprocessing.sides or architecture.sides.get(data_set, architecture.sides[""])
    try:
        return DataSettings(short_side=sides[0], long_side=sides[1])
    except RecipeError as error:
        reason = "; ".join(str(error).splitlines())
        source = CONFIG if architecture.rounding == "square" else PREPROCESSOR
        raise CheckpointError(
            f"checkpoint {folder}: the sides of its input cannot be used ({reason}); correct {source}"
        ) from error


def _notes(config: Mapping[str, Any], name: ArchitectureName, folder: Path) -> list[str]:
    notes = []
    name_of_model = hub_name(folder) or resolve_links(folder).name
    if "semantic" in f"{name_of_model} {config.get('_name_or_path', '')}".lower():
        notes.append(
            f"{folder}: the name says that it was trained for semantic segmentation; adjacent things of one class "
            "are then one segment"
        )
    if name == "maskformer":
        notes.append(
            f"{folder}: MaskFormer has no rule for instances; box AP and mask AP are computed by that of Mask2Former"
        )
    if name == "oneformer":
        notes.append(
            f"{folder}: OneFormer's published box AP and mask AP are those of another task, instance; here they are of "
            "the task panoptic"
        )
    return notes
