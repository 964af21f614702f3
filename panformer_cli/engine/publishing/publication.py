"""What is published about a checkpoint. Nothing of it names a folder, a machine or a user of this computer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PureWindowsPath
from typing import Any

from panformer_cli.engine.checkpoints.checkpoint import Checkpoint
from panformer_cli.engine.publishing.evaluation import EvaluationSummary
from panformer_cli.engine.runs import RunFolder
from panformer_cli.recipe import Recipe

_VERSIONS = ("panformer", "python", "torch")
"""Keys of a record in environment.json that are versions; `libraries` has the others."""


@dataclass(frozen=True)
class DataFile:
    """A file that the weights depend on, such as the annotations of the training split.

    Attributes:
        role: `train`, `val` or `init_from`, as in environment.json.
        size: In bytes.
        sha256: 64 hexadecimal digits.
    """

    role: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Publication:
    """All facts that config.json and the model card contain.

    Attributes:
        repository: `USER/NAME` on the Hub.
        license: Identifier of the license, such as `apache-2.0`.
        data_name: Name of the training data for people; None to call it by its splits only.
        checkpoint: Its recipe has no folders.
        parameters: Number of parameters.
        data: Files that the weights depend on; empty if the run does not record them.
        versions: Versions of Python and of the packages that the run was trained with, by name.
        evaluation: Results of these weights; None if they were not evaluated.
    """

    repository: str
    license: str
    data_name: str | None
    checkpoint: Checkpoint
    parameters: int
    data: tuple[DataFile, ...]
    versions: Mapping[str, str]
    evaluation: EvaluationSummary | None

    @property
    def name(self) -> str:
        """The repository without its owner."""
        return self.repository.partition("/")[2]

    @property
    def is_trained(self) -> bool:
        """Whether panformer trained the weights; False for imported ones."""
        return self.checkpoint.progress.step > 0


def without_folders(recipe: Recipe) -> Recipe:
    """Return the recipe without the folders of this machine: no `data.root`, and only the names of files."""
    weights = PureWindowsPath(recipe.model.backbone_weights).name  # both separators, "/" and "\"
    model = replace(recipe.model, backbone_weights=weights)
    return replace(recipe, data=replace(recipe.data, root=""), model=model)


def data_of(checkpoint: Checkpoint) -> tuple[DataFile, ...]:
    """Return the annotations and initial weights of the run of a checkpoint, of all its starts."""
    files = [
        DataFile(role, file["bytes"], file["sha256"])
        for start in _starts(checkpoint)
        for role, file in start.get("files", {}).items()
    ]
    return tuple(dict.fromkeys(files))


def versions_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the versions of the last start of the run; without a run, the one of panformer that wrote the file."""
    starts = _starts(checkpoint)
    record: dict[str, Any] = starts[-1] if starts else {"panformer": checkpoint.version}
    versions = {name: record[name] for name in _VERSIONS if name in record} | record.get("libraries", {})
    return {name: str(version) for name, version in versions.items()}


def _starts(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Return the records of the run that wrote the checkpoint; empty if it is not one of its files."""
    run = RunFolder(checkpoint.path.parent)
    return run.starts if checkpoint.path in (run.best, run.last, *run.step_checkpoints) else []
