"""Publish a checkpoint: describe it, write its files, and upload them in one commit."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from panformer_cli import __version__
from panformer_cli.engine.checkpoints.checkpoint import (
    check_finite,
    is_own_checkpoint,
    load_model,
    read_checkpoint,
)
from panformer_cli.engine.publishing.evaluation import find_evaluation
from panformer_cli.engine.publishing.folder import FILES, write_publication
from panformer_cli.engine.publishing.publication import Publication, data_of, versions_of, without_folders
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.base import PanopticModel
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import atomic_folder
from panformer_cli.storage.hub import HubReference
from panformer_cli.storage.hub_upload import Destination, check_destination, upload
from panformer_cli.wording import short

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_TOKEN = re.compile(r"hf_\w{8,}")
_LONGEST_NAME = 100  # characters


@dataclass(frozen=True)
class PushRequest:
    """What to publish.

    Attributes:
        checkpoint: The checkpoint file.
        repository: `USER/NAME` on the Hub.
        license: Identifier of the license on the Hub, such as `apache-2.0`.
        data_name: Name of the training data in the model card; None to leave it out.
        evaluation: Folder of an evaluation of the checkpoint; None for the one beside it, if there is one.

    Raises:
        PanformerError: A name cannot be used.
    """

    checkpoint: Path
    repository: str
    license: str
    data_name: str | None = None
    evaluation: Path | None = None

    def __post_init__(self) -> None:
        _check_repository(self.repository)
        if not _LICENSE.fullmatch(self.license):
            raise PanformerError(
                f"--license is {short(self.license)}; expected an identifier of the Hub in lower case, such as "
                "apache-2.0, mit, cc-by-4.0 or other"
            )
        name = self.data_name
        if name is not None and (not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME):
            raise PanformerError(
                f"--data-name is {short(name)}; expected a name of 1 to {_LONGEST_NAME} characters in one line"
            )


def write_folder(request: PushRequest, out: Path, reporter: Reporter) -> None:
    """Write the files of the publication to a new or empty folder, without any connection.

    Raises:
        PanformerError: The checkpoint or its evaluation cannot be used, or the folder cannot be written.
    """
    publication, model = _described(request, reporter)
    with atomic_folder(out) as folder:
        write_publication(folder, publication, model)


def push(request: PushRequest, destination: Destination, reporter: Reporter) -> str:
    """Upload a checkpoint with its model card and return the address of the commit.

    Raises:
        PanformerError: The checkpoint or its evaluation cannot be used, or it cannot be uploaded.
    """
    parent = check_destination(destination, FILES, reporter)
    publication, model = _described(request, reporter)
    with tempfile.TemporaryDirectory(prefix="panformer-") as temporary:
        folder = Path(temporary)
        write_publication(folder, publication, model)
        files = {name: folder / name for name in FILES}
        size = sum(path.stat().st_size for path in files.values())
        reporter.message(f"Uploading {size / 1e6:.1f} MB to {destination.repository}")
        return upload(destination, files, parent, f"Upload model with panformer {__version__}")


def _described(request: PushRequest, reporter: Reporter) -> tuple[Publication, PanopticModel]:
    """Return what is published, and the model, whose weights are the averaged ones if the checkpoint has them."""
    path = request.checkpoint
    if not is_own_checkpoint(path):
        raise CheckpointError(
            f"{path} is not a checkpoint of panformer; convert it first, if its license allows you to publish it: "
            f"panformer weights import {path} --out DIR"
        )
    checkpoint = read_checkpoint(path)
    model = load_model(checkpoint)
    check_finite(model, checkpoint)
    publication = Publication(
        repository=request.repository,
        license=request.license,
        data_name=request.data_name,
        checkpoint=replace(checkpoint, recipe=without_folders(checkpoint.recipe)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=data_of(checkpoint),
        versions=versions_of(checkpoint),
        evaluation=find_evaluation(path, request.evaluation, reporter),
    )
    return publication, model


def _check_repository(name: str) -> None:
    if _TOKEN.search(name):
        raise PanformerError("--repo has a token in it, which is not shown here; expected USER/NAME without it")
    reference = HubReference.parse(name)
    if str(reference) != name or "@" in name:
        raise PanformerError(f"--repo is {short(name)}; expected USER/NAME without a revision: main is published")
