"""Segment images on a Ray cluster: lists the images, hands blocks of them to actors, and collects their reports."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.result_folders import is_result
from panformer_cli.engine.claimed_folder import claimed
from panformer_cli.engine.inputs.find import InputImages
from panformer_cli.engine.on_ray.actor import BlockActor, Job
from panformer_cli.engine.on_ray.blocks import FOLDER, Block, blocks_of, files_in, remove_unfinished
from panformer_cli.engine.on_ray.cluster import Actors, check_installed, connected
from panformer_cli.engine.on_ray.options import RayOptions, check_outputs
from panformer_cli.engine.on_ray.table import is_finished
from panformer_cli.engine.predict import PredictRequest, check_same_settings, settings_of
from panformer_cli.engine.predict_images import Failure
from panformer_cli.engine.results import MANIFEST, check_are_results
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.errors import PanformerError
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import resolve_links, write_json, writing
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.wording import counted

ENGINE = "ray"
"""What the settings in the manifest have as `engine`."""


@dataclass(frozen=True)
class RayResult:
    """The result of `predict_on_ray`.

    Attributes:
        folder: Folder of the Parquet files.
        images: Number of images, those that failed included.
        failures: The images that failed, in the order of the inputs.
        models_loaded: Number of times that a model was loaded: once per actor, and once per actor that was restarted.
    """

    folder: Path
    images: int
    failures: list[Failure]
    models_loaded: int


def predict_on_ray(
    request: PredictRequest, options: RayOptions, reporter: Reporter, sampling: SamplingName = "auto"
) -> RayResult:
    """Segment images with actors of a Ray cluster, and write `OUT/predictions/*.parquet` and `OUT/predict.json`.

    `OUT`, the checkpoint and local inputs must be in folders that all machines share. A corrupt image is a row with an
    error. If an actor is killed, Ray starts another one, which repeats its block.

    Args:
        request: As for `predict`; its outputs are columns.
        options: How the images are distributed.
        reporter: Shows the progress.
        sampling: Implementation of the sampling step of deformable attention.

    Raises:
        PanformerError: Ray is not installed or cannot be reached, the cluster is too small, no image is found, the
            checkpoint or the folder cannot be used, or another process uses it.
    """
    check_installed()
    check_outputs(request.output.save)
    checkpoint = request.changes.read(request.checkpoint, reporter)
    request.output.selection(checkpoint.categories)  # reports unknown categories
    del checkpoint
    found = request.find()
    for note in found.notes:
        reporter.message(note)
    files = resolve_links(request.out) / FOLDER
    with ExitStack() as stack:
        settings = _settings(request, found, options)
        blocks = _begin(request, found, settings, stack, reporter)
        reports: list[dict[str, Any]] = []
        if waiting := DiskList(block for block in blocks if not is_finished(files / block.name)):
            ray = stack.enter_context(connected())
            actors = _actors(ray, options, len(waiting))
            reporter.message(f"Predicting with {counted(actors.count, 'actor')} of a Ray cluster, on {actors.device}")
            shared = _for_actors(request), str(Path.cwd()), files, actors.device, actors.cpus
            job = Job(*shared, found.has_addresses, sampling)
            reports = _collected(_reports(ray, waiting, job, actors), waiting, files, reporter)
        failures = [failure for report in reports for failure in report["failures"]]
        remove_unfinished(files)
        _write_manifest(request.out, settings, len(found.images), failures)
    return RayResult(request.out / FOLDER, len(found.images), failures, len({report["actor"] for report in reports}))


def _collected(
    reports: Iterable[dict[str, Any]], blocks: Sequence[Block], files: Path, reporter: Reporter
) -> list[dict[str, Any]]:
    """Return the reports in the order of the blocks, and show the progress; errors as `_check`."""
    found = {}
    with reporter.progress("Predicting", sum(len(block.images) for block in blocks)) as progress:
        for report in reports:
            _check(report, files)
            found[report["block"]] = report
            for failure in report["failures"]:
                reporter.warn(failure["problem"])
            progress.advance(report["images"], status=report["block"])
    return [found[block.name] for block in blocks]


def _settings(request: PredictRequest, found: InputImages, options: RayOptions) -> dict[str, Any]:
    """Return the settings that the files depend on. The number of actors is none of them."""
    return {**settings_of(request, found), "engine": ENGINE, "block_size": options.block_size}


def _begin(
    request: PredictRequest, found: InputImages, settings: dict[str, Any], stack: ExitStack, reporter: Reporter
) -> Iterator[Block]:
    """Return the blocks, and lock and prepare the folder of results; without `resume` earlier files are deleted."""
    out = request.out
    files = out / FOLDER
    check_results_folder(out)
    if is_result(out):
        raise PanformerError(f"--out {out} has results of a prediction without --engine ray; choose another folder")
    with writing(files):
        files.mkdir(parents=True, exist_ok=True)
    stack.enter_context(claimed(out, "written", "a second prediction", reporter))
    check_are_results(out, MANIFEST)
    stored = _stored_settings(out)
    if stored is None and any(files_in(files)):
        raise PanformerError(
            f"{files} has Parquet files, but {out / MANIFEST}, which describes them, is missing; choose another folder "
            "with --out, or move the files"
        )
    if stored is not None and request.resume:
        check_same_settings(out, stored, settings)
    else:
        for path in files_in(files):
            path.unlink()
    remove_unfinished(files)
    _write_manifest(out, settings, len(found.images), [])
    return blocks_of(found.images, settings["block_size"])


def _stored_settings(out: Path) -> dict[str, Any] | None:
    """Return the settings of an earlier prediction on Ray in this folder; None if there is none."""
    try:
        stored = parse_json((out / MANIFEST).read_bytes())["settings"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return stored if isinstance(stored, dict) and stored.get("engine") == ENGINE else None


def _write_manifest(out: Path, settings: dict[str, Any], images: int, failures: Sequence[Failure]) -> None:
    write_json(out / MANIFEST, {"settings": settings, "images": images, "failures": [*failures]})


def _for_actors(request: PredictRequest) -> PredictRequest:
    """Return the request without the images, which are in the blocks."""
    return replace(request, inputs=(), checkpoint=request.checkpoint.absolute())


def _actors(ray: Any, options: RayOptions, blocks: int) -> Actors:
    """Return the actors for the cluster; no more than there are blocks."""
    resources = ray.cluster_resources()
    actors = Actors.of(options, int(resources.get("CPU", 1)), int(resources.get("GPU", 0)))
    return replace(actors, count=min(actors.count, blocks))


def _reports(ray: Any, blocks: Sequence[Block], job: Job, actors: Actors) -> Iterator[dict[str, Any]]:
    """Yield the reports of the blocks, in the order in which they are finished.

    Every block is a task of its own, so that only it is repeated if its actor is killed. Only names and reports go
    through Ray; images and results do not.

    Raises:
        PanformerError: Ray gives up, for example because machines are lost again and again.
    """
    data = import_module("ray.data")
    data.DataContext.get_current().enable_progress_bars = False
    rows = data.from_items([block.to_row() for block in blocks], override_num_blocks=len(blocks))
    reports = rows.map_batches(
        BlockActor,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="numpy",
        compute=data.ActorPoolStrategy(size=actors.count),
        num_cpus=actors.cpus,
        num_gpus=actors.gpus,
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans and progress; the import sets its own level
    try:
        for row in reports.iter_rows():
            yield json.loads(row["report"])
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise PanformerError(
            f"Ray ended the prediction ({last}); finished files are kept: run the command again with --resume"
        ) from error


def _check(report: dict[str, Any], files: Path) -> None:
    """Raise PanformerError if a block failed as a whole, or if its file is on another machine."""
    if report.get("fatal"):
        raise PanformerError(report["fatal"])
    if not (files / report["block"]).is_file():
        raise PanformerError(
            f"{files / report['block']} is missing, although an actor wrote it on its machine; expected a folder that "
            "all machines of the cluster share; choose one with --out"
        )
